//! `v1 Service` and `discovery.k8s.io/v1 EndpointSlice`.
use std::{collections::BTreeMap, net::IpAddr};

use weir_schema::{
    EndpointSliceSpec, FrontendType, KubernetesServicePort, KubernetesServiceSpec, KubernetesServiceType,
    LabelSelector, Object, PortNumber, SliceAddressType, SliceEndpoint, Spec, TrafficPolicy,
};

use super::{Backend, Frontend, port_of_endpoint};
use crate::World;

/// Says whose slice it is.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(super) fn frontends<'a>(
    world: &World<'a>,
    object: &'a Object,
    spec: &'a KubernetesServiceSpec,
) -> Vec<Frontend<'a>> {
    let clusters: Vec<&String> = spec.cluster_ip.iter().chain(&spec.cluster_ips).collect();
    let headless = clusters.iter().any(|text| *text == "None");
    if headless || spec.kind == KubernetesServiceType::ExternalName {
        return Vec::new();
    }
    let mut addresses: BTreeMap<IpAddr, FrontendType> = BTreeMap::new();
    if spec.kind == KubernetesServiceType::LoadBalancer {
        addresses.extend(spec.load_balancer_ip.map(|address| (address, FrontendType::External)));
    }
    addresses.extend(spec.external_ips.iter().map(|address| (*address, FrontendType::External)));
    let cluster = clusters.iter().filter_map(|text| text.parse::<IpAddr>().ok());
    addresses.extend(cluster.map(|address| (address, FrontendType::Cluster)));
    let on_nodes = matches!(spec.kind, KubernetesServiceType::NodePort | KubernetesServiceType::LoadBalancer);

    let mut all = Vec::new();
    for port in &spec.ports {
        let mut places: Vec<(IpAddr, u16, FrontendType)> =
            addresses.iter().map(|(address, kind)| (*address, port.port, *kind)).collect();
        if let Some(number) = port.node_port.filter(|number| on_nodes && *number != 0) {
            places.extend(world.own_addresses().into_iter().map(|address| (address, number, FrontendType::NodePort)));
        }
        for (address, number, kind) in places {
            all.push(Frontend {
                service: &object.key,
                kind,
                address,
                protocol: port.protocol,
                port: number,
                backends: answering(world, object, spec, port, address.is_ipv4()),
                source_ranges: &spec.load_balancer_source_ranges,
                external_local: spec.external_traffic_policy == TrafficPolicy::Local,
                internal_local: spec.internal_traffic_policy == TrafficPolicy::Local,
            });
        }
    }
    all
}

fn answering(
    world: &World<'_>,
    object: &Object,
    spec: &KubernetesServiceSpec,
    port: &KubernetesServicePort,
    v4: bool,
) -> Vec<Backend> {
    let slices = slices(world, object);
    if slices.is_empty() {
        return selected(world, object, spec, port, v4);
    }
    // Whoever is on his way out gets new flows only where nobody else does.
    let active = in_slices(world, &slices, port, v4, |endpoint| {
        let (ready, _, terminating) = conditions(endpoint);
        spec.publish_not_ready_addresses || ready && !terminating
    });
    if !active.is_empty() {
        return active;
    }
    in_slices(world, &slices, port, v4, |endpoint| {
        let (_, serving, terminating) = conditions(endpoint);
        serving && terminating
    })
}

/// Ready, serving, terminating.
fn conditions(endpoint: &SliceEndpoint) -> (bool, bool, bool) {
    let ready = endpoint.conditions.ready.unwrap_or(true);
    (ready, endpoint.conditions.serving.unwrap_or(ready), endpoint.conditions.terminating.unwrap_or(false))
}

fn slices<'a>(world: &World<'a>, service: &Object) -> Vec<&'a EndpointSliceSpec> {
    let of_service = world.objects().iter().filter(|object| {
        object.key.namespace == service.key.namespace
            && object.metadata.labels.get(SERVICE_NAME).is_some_and(|name| **name == *service.key.name)
    });
    let slice = |spec: &'a Spec| match spec {
        Spec::EndpointSlice(slice) => Some(&**slice),
        _ => None,
    };
    of_service.filter_map(|object| slice(&object.spec)).collect()
}

fn in_slices(
    world: &World<'_>,
    slices: &[&EndpointSliceSpec],
    port: &KubernetesServicePort,
    v4: bool,
    wanted: impl Fn(&SliceEndpoint) -> bool,
) -> Vec<Backend> {
    let mut found: BTreeMap<(IpAddr, u16), Backend> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type != SliceAddressType::Fqdn) {
        let mut same = slice
            .ports
            .iter()
            .filter(|own| own.name.as_deref().unwrap_or_default() == port.name && own.protocol == port.protocol);
        let Some(number) = same.next().and_then(|own| own.port) else { continue };
        for endpoint in slice.endpoints.iter().filter(|endpoint| wanted(endpoint)) {
            // The others are of the same pod.
            let first = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok());
            let Some(address) = first.filter(|address| address.is_ipv4() == v4) else { continue };
            let here = endpoint.node_name.as_deref() == Some(world.node());
            let backend = found.entry((address, number)).or_insert_with(|| world.backend(address, number));
            backend.local |= here;
        }
    }
    found.into_values().collect()
}

/// Without slices: the endpoints that the service selects.
fn selected(
    world: &World<'_>,
    object: &Object,
    spec: &KubernetesServiceSpec,
    port: &KubernetesServicePort,
    v4: bool,
) -> Vec<Backend> {
    if spec.selector.is_empty() {
        return Vec::new();
    }
    let selector = LabelSelector { match_labels: spec.selector.clone(), ..LabelSelector::default() };
    let own = PortNumber::Number(port.port);
    let target = port.target_port.as_ref().unwrap_or(&own);
    let mut found = Vec::new();
    for endpoint in world.selected_endpoints(&object.key.namespace, &selector) {
        let Some(number) = port_of_endpoint(target, endpoint, port.protocol) else { continue };
        let same_family = endpoint.addresses.iter().filter(|own| own.is_ipv4() == v4);
        found.extend(same_family.map(|own| world.backend(*own, number)));
    }
    found
}
