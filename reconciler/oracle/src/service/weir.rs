//! `Service` of `weir/v1alpha1`.
use std::net::IpAddr;

use weir_schema::{
    BackendState, Frontend as Written, FrontendType, LabelSelector, Object, PortNumber, ServiceSpec, TrafficPolicy,
};

use super::{Backend, Frontend, port_of_endpoint};
use crate::World;

pub(super) fn frontends<'a>(world: &World<'a>, object: &'a Object, spec: &'a ServiceSpec) -> Vec<Frontend<'a>> {
    let mut all = Vec::new();
    for written in &spec.frontends {
        let addresses = match written.kind {
            FrontendType::NodePort => world.own_addresses(),
            FrontendType::Cluster | FrontendType::External => written.address.into_iter().collect(),
        };
        for address in addresses {
            let answering = match &spec.selector {
                Some(selector) => selected(world, object, selector, written, address),
                None => listed(world, spec, written, address),
            };
            all.push(Frontend {
                service: &object.key,
                kind: written.kind,
                address,
                protocol: written.protocol,
                port: written.port,
                backends: answering,
                source_ranges: &spec.source_ranges,
                external_local: spec.external_traffic_policy == TrafficPolicy::Local,
                internal_local: spec.internal_traffic_policy == TrafficPolicy::Local,
            });
        }
    }
    all
}

/// A backend that drains or weighs nothing keeps its flows, and this is about new ones.
fn listed(world: &World<'_>, spec: &ServiceSpec, frontend: &Written, address: IpAddr) -> Vec<Backend> {
    let same_family = spec.backends.iter().filter(|backend| backend.address.is_ipv4() == address.is_ipv4());
    let active = same_family.filter(|backend| backend.state == BackendState::Active && backend.weight > 0);
    let port = |own: Option<u16>| match &frontend.target_port {
        Some(PortNumber::Number(number)) => *number,
        _ => own.unwrap_or(frontend.port),
    };
    active.map(|backend| world.backend(backend.address, port(backend.port))).collect()
}

fn selected(
    world: &World<'_>,
    object: &Object,
    selector: &LabelSelector,
    frontend: &Written,
    address: IpAddr,
) -> Vec<Backend> {
    let own = PortNumber::Number(frontend.port);
    let target = frontend.target_port.as_ref().unwrap_or(&own);
    let mut found = Vec::new();
    for endpoint in world.selected_endpoints(&object.key.namespace, selector) {
        let Some(port) = port_of_endpoint(target, endpoint, frontend.protocol) else { continue };
        let same_family = endpoint.addresses.iter().filter(|own| own.is_ipv4() == address.is_ipv4());
        found.extend(same_family.map(|own| world.backend(*own, port)));
    }
    found
}
