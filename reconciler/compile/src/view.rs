//! What `get`, `describe` and `trace` show of the compiled set.
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use weir_abi::identity;
use weir_plan::{InterfaceName, ObjectRef};

use crate::{
    cidrs::CidrIdentities,
    endpoint::LocalEndpoints,
    identities::Identities,
    nodes::{NodeIdentities, host_endpoint},
    objects::Objects,
};

/// An identity that a table may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityView {
    pub number: u32,
    /// `reserved:…` and `cidr:…` labels for those that are no endpoint's.
    pub labels: BTreeMap<String, String>,
}

/// An endpoint of any node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    pub object: ObjectRef,
    pub node: Arc<str>,
    /// On this node.
    pub local: bool,
    pub host: bool,
    /// 0 for an endpoint of another node.
    pub number: u32,
    pub identity: u32,
    pub addresses: Vec<IpAddr>,
    /// Host side; `None` for another node's, the host's, and one that is pending.
    pub interface: Option<InterfaceName>,
}

/// Sorted by number.
pub(crate) fn identities(
    endpoints: &Identities<'_>,
    nodes: &NodeIdentities<'_>,
    cidrs: &CidrIdentities,
) -> Vec<IdentityView> {
    let reserved = |name: &str| (format!("reserved:{name}"), String::new());
    let mut list = vec![
        IdentityView { number: identity::HOST, labels: [reserved("host")].into() },
        IdentityView { number: identity::WORLD, labels: [reserved("world")].into() },
    ];
    for (number, labels) in &nodes.remote {
        let own = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        list.push(IdentityView { number: *number, labels: own.chain([reserved("remote-node")]).collect() });
    }
    let mut cidr = |number: u32, net: String| {
        let labels = match number {
            identity::WORLD_IPV4 => [reserved("world-ipv4")].into(),
            identity::WORLD_IPV6 => [reserved("world-ipv6")].into(),
            _ => [reserved("world"), (format!("cidr:{net}"), String::new())].into(),
        };
        list.push(IdentityView { number, labels });
    };
    cidrs.v4.iter().for_each(|(net, number)| cidr(*number, net.to_string()));
    cidrs.v6.iter().for_each(|(net, number)| cidr(*number, net.to_string()));
    list.extend(
        endpoints.endpoints.iter().map(|one| IdentityView { number: one.number, labels: endpoints.labels(one) }),
    );
    list.sort_by_key(|view| view.number);
    list
}

/// In the order of the objects.
pub(crate) fn endpoints(
    objects: &Objects<'_>,
    node: &str,
    identities: &Identities<'_>,
    nodes: &NodeIdentities<'_>,
    local: &LocalEndpoints,
    host_addresses: &[IpAddr],
) -> Vec<EndpointView> {
    let host_object = host_endpoint(objects, node).map(|item| item.id);
    let mut locals = local.endpoints.iter().peekable();
    let mut list = Vec::with_capacity(objects.endpoints.len());
    for (item, id) in objects.endpoints.iter().zip(&identities.of_endpoint) {
        let own = locals.next_if(|one| one.object == item.id);
        let is_host = host_object == Some(item.id);
        let identity = match id {
            Some(id) => identities.endpoints[*id as usize].number,
            None if item.spec.node == node => identity::HOST,
            None => nodes.number(&item.spec.node),
        };
        list.push(EndpointView {
            object: objects.reference(item.id).clone(),
            node: item.spec.node.as_str().into(),
            local: item.spec.node == node,
            host: id.is_none(),
            number: own.map_or(if is_host { local.host.number } else { 0 }, |one| one.number),
            identity,
            addresses: if is_host { host_addresses.to_vec() } else { item.spec.addresses.clone() },
            interface: own.and_then(|one| one.interface.clone()),
        });
    }
    list
}
