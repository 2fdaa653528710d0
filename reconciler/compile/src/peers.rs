//! Whom a union of peers means, as identities.
use std::collections::BTreeMap;

use ipnet::IpNet;
use weir_abi::identity;
use weir_schema::{Entity, LabelSelector, NamedPort};

use crate::{
    cidrs::CidrIdentities,
    identities::{EndpointIdentity, Identities, NAMESPACE_NAME_LABEL, implied_labels},
    nodes::NodeIdentities,
    policy::{CidrSelector, Peers},
    selector::{
        EndpointSelector, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, RESERVED_PREFIX, Scope, matches, matches_plain,
        plain_key,
    },
    state::PeerState,
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

/// The identity of endpoints as one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointPeer {
    pub number: u32,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub ports: Vec<NamedPort>,
}

impl EndpointPeer {
    pub fn of(one: &EndpointIdentity<'_>) -> Self {
        Self {
            number: one.number,
            namespace: one.namespace.to_owned(),
            labels: one.labels.clone(),
            ports: one.ports.to_vec(),
        }
    }
}

/// One who may be a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer<'a> {
    Host,
    World,
    Node(u32, &'a BTreeMap<String, String>),
    Endpoint(&'a EndpointPeer),
    Cidr(u32, IpNet),
}

impl Peer<'_> {
    pub const fn number(&self) -> u32 {
        match self {
            Self::Host => identity::HOST,
            Self::World => identity::WORLD,
            Self::Node(number, _) | Self::Cidr(number, _) => *number,
            Self::Endpoint(peer) => peer.number,
        }
    }

    /// What `reserved:` labels it has.
    fn entities(&self) -> &'static [&'static str] {
        match self {
            Self::Host => &["all", "cluster", "host"],
            Self::World => &["all", "world"],
            Self::Node(..) => &["all", "cluster", "remote-node"],
            Self::Endpoint(_) => &[],
            Self::Cidr(_, IpNet::V4(_)) => &["all", "world", "world-ipv4"],
            Self::Cidr(_, IpNet::V6(_)) => &["all", "world", "world-ipv6"],
        }
    }
}

impl PeerState {
    /// Whether the union has this one: the same as [`Universe::select`], asked from the other end.
    pub fn has(&self, peers: &Peers, peer: &Peer<'_>) -> bool {
        peers.endpoints.iter().any(|selector| match peer {
            Peer::Endpoint(peer) => self.selects(selector, peer),
            _ if !selector.is_reserved() => false,
            _ => matches(&selector.labels, |key| {
                let entity = key.strip_prefix(RESERVED_PREFIX)?;
                peer.entities().contains(&entity).then_some("")
            }),
        }) || peers.entities.iter().any(|entity| match entity {
            Entity::Host => matches!(peer, Peer::Host),
            Entity::RemoteNode => matches!(peer, Peer::Node(..)),
            Entity::World => matches!(peer, Peer::World | Peer::Cidr(..)),
            Entity::Cluster => matches!(peer, Peer::Host | Peer::Node(..) | Peer::Endpoint(_)),
            _ => false,
        }) || match peer {
            Peer::Cidr(_, net) => peers
                .cidrs
                .iter()
                .any(|selector| selector.net.contains(net) && !selector.except.iter().any(|hole| hole.contains(net))),
            Peer::Node(_, labels) => peers.nodes.iter().any(|selector| matches_plain(selector, labels)),
            _ => false,
        }
    }

    /// Whether the selector matches an endpoint of this identity.
    pub fn selects(&self, selector: &EndpointSelector, peer: &EndpointPeer) -> bool {
        let EndpointSelector { scope, labels, own_labels_only } = selector;
        let in_scope = match scope {
            Scope::Every => true,
            Scope::One(namespace) => peer.namespace == **namespace,
            Scope::Matching(selector) => matches(selector, |key| self.namespace_label(&peer.namespace, key)),
        };
        in_scope && matches(labels, |key| self.label(peer, key, *own_labels_only))
    }

    fn namespace_label<'s>(&'s self, namespace: &'s str, key: &str) -> Option<&'s str> {
        match self.namespaces.get(namespace) {
            Some(labels) => labels.get(key).map(String::as_str),
            None => (key == NAMESPACE_NAME_LABEL).then_some(namespace),
        }
    }

    fn label<'s>(&'s self, peer: &'s EndpointPeer, key: &str, own_only: bool) -> Option<&'s str> {
        if !own_only {
            if key == NAMESPACE_LABEL {
                return Some(&peer.namespace);
            }
            if let Some(key) = key.strip_prefix(NAMESPACE_LABELS_PREFIX) {
                return self.namespace_label(&peer.namespace, key);
            }
            if let Some(entity) = key.strip_prefix(RESERVED_PREFIX) {
                return matches!(entity, "all" | "cluster").then_some("");
            }
        }
        peer.labels.get(key).map(String::as_str)
    }

    /// Every label, as `get` shows them.
    pub fn labels(&self, peer: &EndpointPeer) -> BTreeMap<String, String> {
        let mut labels = peer.labels.clone();
        labels.insert(NAMESPACE_LABEL.to_owned(), peer.namespace.clone());
        let own = self.namespaces.get(&peer.namespace).cloned();
        for (key, value) in own.unwrap_or_else(|| implied_labels(&peer.namespace)) {
            labels.insert(format!("{NAMESPACE_LABELS_PREFIX}{key}"), value);
        }
        labels
    }
}
