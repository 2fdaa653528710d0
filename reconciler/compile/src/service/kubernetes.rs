//! `v1 Service` and its slices.
use std::{net::IpAddr, sync::Arc};

use weir_schema::{
    BackendState, KubernetesServiceSpec, KubernetesServiceType, Object, ServiceProtocol, SliceEndpoint, Spec,
    TrafficPolicy,
};

use super::{
    definition::{Candidate, Definition, Frontend, PortRule, Readiness, Source, selection},
    index::Index,
};
use crate::objects::reference;

/// The label of a slice that names its service.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(super) fn definition<'o>(object: &'o Object, spec: &'o KubernetesServiceSpec, index: &Index) -> Definition<'o> {
    let slices = index.slices(&object.key.namespace, &object.key.name);
    let in_slices = !slices.is_empty();
    let source = match selection(object) {
        Some(selection) if !in_slices => Source::Endpoints(selection),
        _ => Source::Slices(slices, Readiness { all: spec.publish_not_ready_addresses }),
    };
    let frontends: Vec<Frontend<'o>> = spec
        .frontends()
        .into_iter()
        .map(|place| {
            let port = &spec.ports[place.of];
            let rule = match (&source, &port.target_port) {
                (Source::Slices(..), _) => PortRule::Slice(&port.name),
                (_, Some(target)) => PortRule::Target(target),
                // Of every frontend of the port, node ports included.
                (_, None) => PortRule::Own(port.port),
            };
            Frontend { address: place.address, port: place.port, protocol: place.protocol, kind: place.kind, rule }
        })
        .collect();
    let skipped = match () {
        () if spec.kind == KubernetesServiceType::ExternalName => {
            Some("it is a name in DNS (`ExternalName`): nothing is balanced")
        }
        () if spec.is_headless() => Some("it is headless: its clients find the backends by DNS"),
        () if frontends.is_empty() => Some("it has no address and no node port yet"),
        () => None,
    };
    Definition {
        object: reference(object),
        frontends,
        source,
        algorithm: object.metadata.algorithm(),
        no_backends: object.metadata.no_backends(),
        affinity: spec.affinity(),
        ranges: &spec.load_balancer_source_ranges,
        external_local: spec.external_traffic_policy == TrafficPolicy::Local,
        internal_local: spec.internal_traffic_policy == TrafficPolicy::Local,
        skipped: skipped.map(str::to_owned),
    }
}

/// The backends of a port by the service's name for it.
pub(super) fn backends(
    slices: &[Arc<Object>],
    name: &str,
    protocol: ServiceProtocol,
    readiness: Readiness,
    node: &str,
) -> Vec<(IpAddr, u16, Candidate)> {
    let mut found = Vec::new();
    for slice in slices {
        let Spec::EndpointSlice(slice) = &slice.spec else { continue };
        let named = |port: &&weir_schema::SlicePort| {
            port.name.as_deref().unwrap_or_default() == name && port.protocol == protocol
        };
        let Some(port) = slice.ports.iter().find(named).and_then(|port| port.port) else { continue };
        for (address, endpoint) in slice.backends() {
            let Some(state) = state(endpoint, readiness) else { continue };
            let here = endpoint.node_name.as_deref() == Some(node);
            found.push((address, port, Candidate { weight: 1, state, here }));
        }
    }
    found
}

fn state(endpoint: &SliceEndpoint, readiness: Readiness) -> Option<BackendState> {
    let conditions = &endpoint.conditions;
    let ready = conditions.ready.unwrap_or(true);
    let (serving, terminating) = (conditions.serving.unwrap_or(ready), conditions.terminating.unwrap_or(false));
    match () {
        () if readiness.all || ready && !terminating => Some(BackendState::Active),
        () if terminating && serving => Some(BackendState::Draining),
        () => None,
    }
}
