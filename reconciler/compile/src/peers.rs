//! Whom a union of peers means, as identities.
use weir_abi::identity;
use weir_schema::{Entity, LabelSelector};

use crate::{
    cidrs::CidrIdentities,
    identities::Identities,
    nodes::NodeIdentities,
    policy::{CidrSelector, Peers},
    selector::{EndpointSelector, RESERVED_PREFIX, matches, plain_key},
};

/// Everybody who can be a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Universe<'u, 'a> {
    pub endpoints: &'u Identities<'a>,
    pub nodes: &'u NodeIdentities<'a>,
    pub cidrs: &'u CidrIdentities,
}

impl Universe<'_, '_> {
    /// The numbers of a union of peers, ascending; [`Peers::any`] is the caller's matter.
    pub fn select(&self, peers: &Peers) -> Vec<u32> {
        let mut numbers = Vec::new();
        for selector in &peers.endpoints {
            self.endpoint_numbers(selector, &mut numbers);
            if selector.is_reserved() {
                self.reserved(&selector.labels, &mut numbers);
            }
        }
        peers.cidrs.iter().for_each(|selector| self.cidrs.select(selector, &mut numbers));
        peers.entities.iter().for_each(|entity| self.entity(*entity, &mut numbers));
        peers.nodes.iter().for_each(|selector| self.nodes.select(selector, &mut numbers));
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    fn endpoint_numbers(&self, selector: &EndpointSelector, to: &mut Vec<u32>) {
        let ids = self.endpoints.select(selector);
        to.extend(ids.iter().map(|id| self.endpoints.endpoints[*id as usize].number));
    }

    fn remote_nodes(&self, to: &mut Vec<u32>) {
        to.extend(self.nodes.remote.iter().map(|(number, _)| *number));
    }

    fn entity(&self, entity: Entity, to: &mut Vec<u32>) {
        match entity {
            Entity::Host => to.push(identity::HOST),
            Entity::RemoteNode => self.remote_nodes(to),
            Entity::World => {
                to.push(identity::WORLD);
                to.extend(self.cidrs.all());
            }
            Entity::Cluster => {
                to.push(identity::HOST);
                self.remote_nodes(to);
                to.extend(self.endpoints.endpoints.iter().map(|one| one.number));
            }
            // Turned into `any` and prefixes before.
            Entity::All | Entity::WorldIpv4 | Entity::WorldIpv6 => {}
            // There are none of these here.
            Entity::Health
            | Entity::Init
            | Entity::Unmanaged
            | Entity::KubeApiserver
            | Entity::Ingress
            | Entity::None => {}
        }
    }

    /// What a selector with `reserved:` labels matches beside endpoints.
    fn reserved(&self, selector: &LabelSelector, to: &mut Vec<u32>) {
        let mut push = |number: u32, entities: &[&str]| {
            let has = |key: &str| {
                let entity = key.strip_prefix(RESERVED_PREFIX)?;
                entities.contains(&entity).then_some("")
            };
            if matches(selector, has) {
                to.push(number);
            }
        };
        push(identity::HOST, &["all", "cluster", "host"]);
        for (number, _) in &self.nodes.remote {
            push(*number, &["all", "cluster", "remote-node"]);
        }
        push(identity::WORLD, &["all", "world"]);
        self.cidrs.v4.iter().for_each(|(_, number)| push(*number, &["all", "world", "world-ipv4"]));
        self.cidrs.v6.iter().for_each(|(_, number)| push(*number, &["all", "world", "world-ipv6"]));
    }
}

/// Whether a policy speaks of `reserved:world-ipv4` or `-ipv6`, so that the families must be told apart.
pub(crate) fn families_named(peers: &Peers) -> Vec<CidrSelector> {
    let mut list = Vec::new();
    for selector in peers.endpoints.iter().filter(|selector| selector.is_reserved()) {
        let expressions = selector.labels.match_expressions.iter().map(|requirement| &requirement.key);
        for key in selector.labels.match_labels.keys().chain(expressions) {
            match plain_key(key).strip_prefix(RESERVED_PREFIX) {
                Some("world-ipv4") => list.push(CidrSelector::family(true)),
                Some("world-ipv6") => list.push(CidrSelector::family(false)),
                _ => {}
            }
        }
    }
    list
}
