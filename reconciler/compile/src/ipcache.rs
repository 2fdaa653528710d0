//! The ipcache: every address that is somebody's, and every prefix that policies mention.
use std::{collections::BTreeMap, net::IpAddr};

use weir_abi::identity;
use weir_plan::{Prefix4, Prefix6, Table};

use crate::{
    cidrs::CidrIdentities,
    entries::Enforced,
    identities::Identities,
    nodes::NodeIdentities,
    objects::{ObjectId, Objects},
    peers::families_named,
    policy::CidrSelector,
    state::strength,
};

/// Prefix to identity, and in the same order the object behind each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ipcache {
    pub v4: Table<Prefix4, u32>,
    pub v6: Table<Prefix6, u32>,
    pub owners4: Vec<Option<ObjectId>>,
    pub owners6: Vec<Option<ObjectId>>,
}

/// The prefixes that the policies of this node mention, each with its policy.
pub(crate) fn mentioned(enforced: &[Enforced<'_>]) -> Vec<(CidrSelector, ObjectId)> {
    let mut list = Vec::new();
    for one in enforced {
        let object = one.policy.object;
        for rule in &one.policy.rules {
            list.extend(rule.peers.cidrs.iter().map(|selector| (selector.clone(), object)));
            list.extend(families_named(&rule.peers).into_iter().map(|selector| (selector, object)));
        }
    }
    list
}

impl Ipcache {
    /// Prefixes of policies, then the claims to addresses, which are stronger.
    pub fn new(
        objects: &Objects<'_>,
        node: &str,
        host: &[(IpAddr, Option<ObjectId>)],
        endpoints: &Identities<'_>,
        nodes: &NodeIdentities<'_>,
        cidrs: &CidrIdentities,
        mentioned: &[(CidrSelector, ObjectId)],
    ) -> Self {
        let mut v4: Vec<(Prefix4, (u32, Option<ObjectId>))> = Vec::new();
        let mut v6: Vec<(Prefix6, (u32, Option<ObjectId>))> = Vec::new();

        let mut first: BTreeMap<ipnet::IpNet, ObjectId> = BTreeMap::new();
        for (selector, object) in mentioned {
            for net in std::iter::once(&selector.net).chain(&selector.except) {
                let owner = first.entry(*net).or_insert(*object);
                *owner = (*owner).min(*object);
            }
        }
        v4.extend(cidrs.v4.iter().map(|(net, number)| (*net, (*number, first.get(&net.to_ip_net()).copied()))));
        v6.extend(cidrs.v6.iter().map(|(net, number)| (*net, (*number, first.get(&net.to_ip_net()).copied()))));

        for claim in claims(objects, node, host, endpoints, nodes) {
            let value = (claim.number, claim.owner);
            match claim.address {
                IpAddr::V4(address) => v4.push((Prefix4::host(address), value)),
                IpAddr::V6(address) => v6.push((Prefix6::host(address), value)),
            }
        }

        let v4 = Table::from_unsorted(v4);
        let v6 = Table::from_unsorted(v6);
        Self {
            owners4: v4.iter().map(|(_, (_, owner))| *owner).collect(),
            owners6: v6.iter().map(|(_, (_, owner))| *owner).collect(),
            v4: v4.iter().map(|(prefix, (number, _))| (*prefix, *number)).collect(),
            v6: v6.iter().map(|(prefix, (number, _))| (*prefix, *number)).collect(),
        }
    }
}

/// Somebody's claim to an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub address: IpAddr,
    pub strength: u8,
    pub number: u32,
    pub owner: Option<ObjectId>,
}

/// From the weakest claim to the strongest: remote nodes, the hosts of others, the host, endpoints.
pub(crate) fn claims(
    objects: &Objects<'_>,
    node: &str,
    host: &[(IpAddr, Option<ObjectId>)],
    endpoints: &Identities<'_>,
    nodes: &NodeIdentities<'_>,
) -> Vec<Claim> {
    let mut claims = Vec::new();
    let mut put = |address: &IpAddr, strength, number, owner| {
        claims.push(Claim { address: *address, strength, number, owner });
    };
    for item in objects.nodes.iter().filter(|item| item.metadata.name != node) {
        let number = nodes.number(&item.metadata.name);
        item.spec.addresses.iter().for_each(|address| put(address, strength::REMOTE_NODE, number, Some(item.id)));
    }
    for item in objects.endpoints.iter().filter(|item| item.spec.attach.host.is_some() && item.spec.node != node) {
        let number = nodes.number(&item.spec.node);
        item.spec.addresses.iter().for_each(|address| put(address, strength::REMOTE_HOST, number, Some(item.id)));
    }
    host.iter().for_each(|(address, owner)| put(address, strength::HOST, identity::HOST, *owner));
    for (item, id) in objects.endpoints.iter().zip(&endpoints.of_endpoint) {
        let Some(id) = id else { continue };
        let number = endpoints.endpoints[*id as usize].number;
        item.spec.addresses.iter().for_each(|address| put(address, strength::ENDPOINT, number, Some(item.id)));
    }
    claims
}
