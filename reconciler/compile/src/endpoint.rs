//! `Endpoint`: the endpoints of this node, their numbers and how they are attached.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use weir_abi::{EndpointInfo, identity};
use weir_plan::{Delivery, EndpointPair, InterfaceName, NodeFacts, Numbering, OutOfNumbers, Pending, Space};
use weir_schema::EndpointSpec;

use crate::{
    error::code,
    nodes::host_endpoint,
    objects::{Item, ObjectId, Objects, numbering_key},
    router::Router,
};

/// An endpoint of this node that is not the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalEndpoint {
    pub object: ObjectId,
    pub number: u32,
    pub identity: u32,
    pub incarnation: u32,
    /// Sorted.
    pub addresses: Vec<IpAddr>,
    /// Host side; `None` while it waits for its interface or namespace.
    pub interface: Option<InterfaceName>,
    /// What Weir makes for it.
    pub pair: Option<EndpointPair>,
    pub delivery: Delivery,
}

/// The host as an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostEndpoint {
    /// `None` where no object stands for it.
    pub object: Option<ObjectId>,
    pub number: u32,
    pub incarnation: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalEndpoints {
    /// In the order of the objects.
    pub endpoints: Vec<LocalEndpoint>,
    pub host: HostEndpoint,
    pub router: Option<Router>,
}

impl LocalEndpoints {
    pub fn new(
        objects: &Objects<'_>,
        node: &str,
        facts: &NodeFacts,
        identity_of: impl Fn(&Item<'_, EndpointSpec>) -> Option<u32>,
        numbering: &mut Numbering,
        sequence: u64,
        pending: &mut Vec<Pending>,
    ) -> Result<Self, OutOfNumbers> {
        let router = Router::new(objects, node);
        let mut endpoints = Vec::new();
        let mut names = BTreeSet::new();
        for item in objects.endpoints.iter().filter(|item| item.spec.node == node && item.spec.attach.host.is_none()) {
            let Some(identity) = identity_of(item) else { continue };
            let key = numbering_key(objects.reference(item.id));
            let mut addresses = item.spec.addresses.clone();
            addresses.sort_unstable();
            let (interface, mut pair) = attachment(item, &key, &addresses, objects, facts, &mut names, pending);
            if let (Some(pair), Some(router)) = (&mut pair, &router) {
                pair.router = router.toward(&addresses);
            }
            let fact = interface.as_ref().and_then(|name| facts.interfaces.iter().find(|one| one.name == *name));
            // What Weir makes ends in a namespace.
            let delivery =
                if pair.is_some() { Delivery::Peer } else { fact.map(|one| one.delivery).unwrap_or_default() };
            endpoints.push(LocalEndpoint {
                object: item.id,
                number: numbering.assign(Space::Endpoint, &key, sequence)?,
                identity,
                incarnation: numbering.assign(Space::Incarnation, &incarnation_key(&key, item.spec), sequence)?,
                addresses,
                interface,
                pair,
                delivery,
            });
        }
        let host = match host_endpoint(objects, node) {
            Some(item) => {
                let key = numbering_key(objects.reference(item.id));
                HostEndpoint {
                    object: Some(item.id),
                    number: numbering.assign(Space::Endpoint, &key, sequence)?,
                    incarnation: numbering.assign(Space::Incarnation, &incarnation_key(&key, item.spec), sequence)?,
                }
            }
            None => HostEndpoint {
                object: None,
                number: 0,
                incarnation: numbering.assign(Space::Incarnation, "host", sequence)?,
            },
        };
        Ok(Self { endpoints, host, router })
    }

    pub fn interfaces(&self) -> BTreeSet<&InterfaceName> {
        self.endpoints.iter().filter_map(|endpoint| endpoint.interface.as_ref()).collect()
    }

    /// By number, the host included where an object stands for it.
    pub fn by_number(&self) -> impl Iterator<Item = (u32, ObjectId)> {
        let host = self.host.object.map(|object| (self.host.number, object));
        self.endpoints.iter().map(|endpoint| (endpoint.number, endpoint.object)).chain(host)
    }

    /// Who has each address of this node, and the object that says so: an endpoint before the host.
    pub fn by_address(
        &self,
        host: &[(IpAddr, Option<ObjectId>)],
    ) -> BTreeMap<IpAddr, (EndpointInfo, Option<ObjectId>)> {
        let mut table = BTreeMap::new();
        for (address, owner) in host {
            let info = EndpointInfo {
                endpoint: self.host.number,
                identity: identity::HOST,
                incarnation: self.host.incarnation,
                ..EndpointInfo::default()
            };
            table.insert(*address, (info, *owner));
        }
        for endpoint in &self.endpoints {
            let info = EndpointInfo {
                endpoint: endpoint.number,
                identity: endpoint.identity,
                incarnation: endpoint.incarnation,
                ..EndpointInfo::default()
            };
            for address in &endpoint.addresses {
                table.insert(*address, (info, Some(endpoint.object)));
            }
        }
        table
    }
}

/// Devices of others that are endpoints' of this node, as the manifests say.
pub(crate) fn interfaces(objects: &Objects<'_>, node: &str) -> BTreeSet<InterfaceName> {
    let own = objects.endpoints.iter().filter(|item| item.spec.node == node && item.spec.attach.netns.is_none());
    own.filter_map(|item| item.spec.attach.interface.as_deref().map(InterfaceName::from)).collect()
}

/// An endpoint that is attached elsewhere or has other addresses is another one: its flows are new.
pub(crate) fn incarnation_key(key: &str, spec: &EndpointSpec) -> String {
    let mut addresses: Vec<String> = spec.addresses.iter().map(ToString::to_string).collect();
    addresses.sort_unstable();
    let attach = &spec.attach;
    let form = match (&attach.netns, &attach.interface) {
        (Some(netns), interface) => format!("netns {netns} {}", interface.as_deref().unwrap_or(DEFAULT_PEER)),
        (None, Some(interface)) => format!("interface {interface}"),
        (None, None) => "host".to_owned(),
    };
    format!("{key}|{form}|{}", addresses.join(","))
}

/// Name inside the namespace, unless the manifest says another.
const DEFAULT_PEER: &str = "eth0";

fn attachment(
    item: &Item<'_, EndpointSpec>,
    key: &str,
    addresses: &[IpAddr],
    objects: &Objects<'_>,
    facts: &NodeFacts,
    names: &mut BTreeSet<InterfaceName>,
    pending: &mut Vec<Pending>,
) -> (Option<InterfaceName>, Option<EndpointPair>) {
    let mut wait = |code, message| {
        pending.push(Pending { object: objects.reference(item.id).clone(), code, message });
        (None, None)
    };
    let attach = &item.spec.attach;
    if let Some(netns) = &attach.netns {
        if !facts.netns.iter().any(|one| one.netns == *netns && one.exists) {
            return wait(code::NETNS_MISSING, format!("there is no network namespace `{netns}`"));
        }
        let name = device_name(key, names);
        let peer = Arc::from(attach.interface.as_deref().unwrap_or(DEFAULT_PEER));
        let netns = netns.as_str().into();
        let pair = EndpointPair { netns, peer, addresses: addresses.to_vec(), router: Vec::new() };
        return (Some(name), Some(pair));
    }
    let Some(interface) = &attach.interface else { return (None, None) };
    let name = InterfaceName::from(interface.as_str());
    if facts.interfaces.iter().any(|one| one.name == name) {
        (Some(name), None)
    } else {
        wait(code::INTERFACE_MISSING, format!("there is no interface `{interface}`"))
    }
}

/// `wr` and ten hexadecimal digits of the object's key: stable, and short enough for a device. Two keys that collide
/// on one node (one chance in 2^40 a pair) take the next free name, in the order of the objects.
fn device_name(key: &str, names: &mut BTreeSet<InterfaceName>) -> InterfaceName {
    let mut hash = fnv1a(key.as_bytes());
    loop {
        let folded = (hash ^ (hash >> 40)) & 0xff_ffff_ffff;
        let name = InterfaceName(format!("wr{folded:010x}").into());
        if names.insert(name.clone()) {
            return name;
        }
        hash = hash.wrapping_add(1);
    }
}

/// FNV-1a, 64 bits: a published hash, because a device's name must not change with the standard library's.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_is_fnv() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn device_names_fit_and_differ() {
        let mut names = BTreeSet::new();
        let first = device_name("weir/Endpoint default/web", &mut names);
        let second = device_name("weir/Endpoint default/web", &mut names);
        assert_ne!(first, second);
        assert!(first.0.len() == 12 && first.0.starts_with("wr"));
        assert_eq!(first, device_name("weir/Endpoint default/web", &mut BTreeSet::new()));
    }
}
