//! What `get`, `describe` and `trace` show of the compiled set.
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use weir_abi::identity;
use weir_plan::{InterfaceName, ObjectRef, Owner, Prefix4, Prefix6, Space, Table};
use weir_schema::{Object, Spec};

use crate::{
    Compiled,
    cidrs::CidrIdentities,
    identities::{Identities, endpoint_key},
    nodes::NodeIdentities,
    objects::{numbering_key, reference},
    provenance::Owned,
    trace::peer,
};

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

/// Labels by number; `reserved:…` and `cidr:…` labels for those that are no endpoint's.
pub(crate) fn identities(
    endpoints: &Identities<'_>,
    nodes: &NodeIdentities<'_>,
    cidrs: &CidrIdentities,
) -> Table<u32, Arc<BTreeMap<String, String>>> {
    let mut list = vec![(identity::HOST, reserved("host").into()), (identity::WORLD, reserved("world").into())];
    for (number, labels) in &nodes.remote {
        let own = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        list.push((*number, Arc::new(own.chain(reserved("remote-node")).collect())));
    }
    list.extend(cidrs.v4.iter().map(|(net, number)| (*number, Arc::new(cidr_labels(*number, &net.to_string())))));
    list.extend(cidrs.v6.iter().map(|(net, number)| (*number, Arc::new(cidr_labels(*number, &net.to_string())))));
    list.extend(endpoints.endpoints.iter().map(|one| (one.number, Arc::new(endpoints.labels(one)))));
    Table::from_unsorted(list)
}

fn reserved(name: &str) -> BTreeMap<String, String> {
    [(format!("reserved:{name}"), String::new())].into()
}

/// Of a prefix that policies mention.
pub(crate) fn cidr_labels(number: u32, net: &str) -> BTreeMap<String, String> {
    match number {
        identity::WORLD_IPV4 => reserved("world-ipv4"),
        identity::WORLD_IPV6 => reserved("world-ipv6"),
        _ => {
            let mut labels = reserved("world");
            labels.insert(format!("cidr:{net}"), String::new());
            labels
        }
    }
}

impl Compiled {
    /// Every node's endpoints, in the order of the objects. Goes through all of them.
    pub fn endpoints(&self) -> Vec<EndpointView> {
        let all = self.provenance.inventory.of_kind("weir", "Endpoint");
        let mut views: Vec<EndpointView> = all.filter_map(|object| self.endpoint(&object)).collect();
        views.sort_by(|a, b| a.object.cmp(&b.object));
        views
    }

    /// Whose address it is.
    pub fn endpoint_at(&self, address: IpAddr) -> Option<ObjectRef> {
        let owner = match address {
            IpAddr::V4(address) => self.provenance.ipcache4.get(&Prefix4::host(address)),
            IpAddr::V6(address) => self.provenance.ipcache6.get(&Prefix6::host(address)),
        };
        owner.filter(|owner| &*owner.0.reference.kind == "Endpoint").map(Owner::reference)
    }

    /// An endpoint of this node.
    pub fn endpoint_numbered(&self, number: u32) -> Option<ObjectRef> {
        self.provenance.local.get(&number).map(Owner::reference)
    }

    fn endpoint(&self, object: &Arc<Object>) -> Option<EndpointView> {
        let Spec::Endpoint(spec) = &object.spec else { return None };
        let reference = reference(object);
        let (local, host) = (*spec.node == *self.basis.node, spec.attach.host.is_some());
        let key = numbering_key(&reference);
        let number = self.basis.numbering.get(Space::Endpoint, &key).filter(|_| local).unwrap_or(0);
        let identity = match host {
            false => {
                let key = endpoint_key(&object.metadata, spec);
                self.basis.numbering.get(Space::Identity, &key).unwrap_or(identity::UNKNOWN)
            }
            true if local => identity::HOST,
            true => spec.addresses.first().map_or(identity::REMOTE_NODE, |address| peer(&self.tables, *address)),
        };
        let own = |(_, owner): &&(InterfaceName, Owned)| owner.reference() == reference;
        let interface = || self.provenance.interfaces.iter().find(own).map(|(name, _)| name.clone());
        Some(EndpointView {
            node: spec.node.as_str().into(),
            local,
            host,
            number,
            identity,
            addresses: if host && local { self.host_addresses.clone() } else { spec.addresses.clone() },
            interface: if local && !host { interface() } else { None },
            object: reference,
        })
    }
}
