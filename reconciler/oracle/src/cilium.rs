//! `NetworkPolicy`, `CiliumNetworkPolicy` and `CiliumClusterwideNetworkPolicy`.
use std::net::IpAddr;

use ipnet::IpNet;
use weir_schema::{
    CidrRule, EgressDenyRule, EgressRule, Entity, IcmpRule, IngressDenyRule, IngressRule, LabelSelector, Object,
    PolicyRule, PortRule,
};

use crate::{
    RuleId,
    labels::{names_a_namespace, names_a_reserved_label, selects},
    peer::Peer,
    ports,
    rank::Match,
    world::{Direction, Question, World},
};

/// One item of `ingress`, `ingressDeny`, `egress` or `egressDeny`.
struct Item<'a> {
    deny: bool,
    path: String,
    endpoints: Option<&'a [LabelSelector]>,
    cidrs: Option<&'a [String]>,
    cidr_sets: Option<&'a [CidrRule]>,
    entities: Option<&'a [Entity]>,
    nodes: Option<&'a [LabelSelector]>,
    to_ports: Option<&'a [PortRule]>,
    icmps: Option<&'a [IcmpRule]>,
}

macro_rules! item {
    ($kind:ident { $endpoints:ident, $cidrs:ident, $cidr_sets:ident, $entities:ident, $nodes:ident }, $name:ident) => {
        fn $name<'a>(rule: &'a $kind, deny: bool, path: String) -> Item<'a> {
            Item {
                deny,
                path,
                endpoints: rule.$endpoints.as_deref(),
                cidrs: rule.$cidrs.as_deref(),
                cidr_sets: rule.$cidr_sets.as_deref(),
                entities: rule.$entities.as_deref(),
                nodes: rule.$nodes.as_deref(),
                to_ports: rule.to_ports.as_deref(),
                icmps: rule.icmps.as_deref(),
            }
        }
    };
}
item!(IngressRule { from_endpoints, from_cidr, from_cidr_set, from_entities, from_nodes }, ingress);
item!(IngressDenyRule { from_endpoints, from_cidr, from_cidr_set, from_entities, from_nodes }, ingress_deny);
item!(EgressRule { to_endpoints, to_cidr, to_cidr_set, to_entities, to_nodes }, egress);
item!(EgressDenyRule { to_endpoints, to_cidr, to_cidr_set, to_entities, to_nodes }, egress_deny);

fn items(rule: &PolicyRule, direction: Direction) -> Vec<Item<'_>> {
    let at = |section: &str, i: usize| format!("{}.{section}[{i}]", rule.path);
    match direction {
        Direction::Ingress => {
            let deny = rule.ingress_deny.iter().flatten().enumerate();
            let allow = rule.ingress.iter().flatten().enumerate();
            deny.map(|(i, rule)| ingress_deny(rule, true, at("ingressDeny", i)))
                .chain(allow.map(|(i, rule)| ingress(rule, false, at("ingress", i))))
                .collect()
        }
        Direction::Egress => {
            let deny = rule.egress_deny.iter().flatten().enumerate();
            let allow = rule.egress.iter().flatten().enumerate();
            deny.map(|(i, rule)| egress_deny(rule, true, at("egressDeny", i)))
                .chain(allow.map(|(i, rule)| egress(rule, false, at("egress", i))))
                .collect()
        }
    }
}

/// Whether this rule, which selects the subject, turns default deny on.
pub(crate) fn default_deny(rule: &PolicyRule, direction: Direction) -> bool {
    // A section without items says nothing, as in Cilium: `ingress: []` does not isolate, `ingress: [{}]` does.
    let (written, items) = match direction {
        Direction::Ingress => (
            rule.enable_default_deny.ingress,
            rule.ingress.as_ref().map_or(0, Vec::len) + rule.ingress_deny.as_ref().map_or(0, Vec::len),
        ),
        Direction::Egress => (
            rule.enable_default_deny.egress,
            rule.egress.as_ref().map_or(0, Vec::len) + rule.egress_deny.as_ref().map_or(0, Vec::len),
        ),
    };
    written.unwrap_or(items > 0)
}

/// Every match among the items of one `spec` that selects the subject. `namespace`: of the policy, `None` when it is
/// clusterwide.
pub(crate) fn matches(
    world: &World<'_>,
    object: &Object,
    rule: &PolicyRule,
    namespace: Option<&str>,
    question: &Question<'_>,
) -> Vec<Match> {
    let mut found = Vec::new();
    let receiver = world.receiver(question.receiver);
    for item in items(rule, question.direction) {
        let Some(any_peer) = peer_matches(world, &item, namespace, question.peer) else { continue };
        for (ports, rest) in ports::matches(item.to_ports, item.icmps, question.protocol, receiver) {
            let rule = RuleId { object: object.key.clone(), path: format!("{}{rest}", item.path) };
            found.push(Match {
                deny: item.deny,
                ports: ports.shape,
                any_peer: any_peer && !question.names_the_peer(ports),
                rule,
            });
        }
    }
    found
}

/// `Some(true)` when the item matches every peer, `Some(false)` when it matches this one by name.
fn peer_matches(world: &World<'_>, item: &Item<'_>, namespace: Option<&str>, peer: Peer<'_>) -> Option<bool> {
    let no_peer_field = item.endpoints.is_none()
        && item.cidrs.is_none()
        && item.cidr_sets.is_none()
        && item.entities.is_none()
        && item.nodes.is_none();
    if no_peer_field {
        let says_nothing =
            item.to_ports.is_none_or(|ports| ports.is_empty()) && item.icmps.is_none_or(|icmps| icmps.is_empty());
        return if says_nothing { None } else { Some(true) };
    }
    let by_name = item.endpoints.unwrap_or_default().iter().any(|s| selects_peer(world, s, namespace, peer))
        || item.cidrs.unwrap_or_default().iter().any(|cidr| cidr_matches(cidr, peer))
        || item.cidr_sets.unwrap_or_default().iter().any(|set| cidr_set_matches(&set.cidr, &set.except, peer))
        || item.entities.unwrap_or_default().iter().any(|entity| entity_matches(*entity, peer))
        || item.nodes.unwrap_or_default().iter().any(|selector| match peer {
            Peer::RemoteNode(..) => selects(selector, &world.labels(peer)),
            _ => false,
        });
    if by_name {
        return Some(false);
    }
    item.entities.unwrap_or_default().contains(&Entity::All).then_some(true)
}

/// An item of `fromEndpoints` or `toEndpoints`.
fn selects_peer(world: &World<'_>, selector: &LabelSelector, namespace: Option<&str>, peer: Peer<'_>) -> bool {
    if names_a_reserved_label(selector) {
        return selects(selector, &world.labels(peer));
    }
    let Peer::Endpoint(object, _) = peer else { return false };
    let in_scope = match namespace {
        Some(namespace) => names_a_namespace(selector) || &*object.key.namespace == namespace,
        None => true,
    };
    in_scope && selects(selector, &world.labels(peer))
}

/// Entities other than `all`, which is not a name for anybody.
fn entity_matches(entity: Entity, peer: Peer<'_>) -> bool {
    match entity {
        Entity::World => peer.is_world(),
        Entity::WorldIpv4 => matches!(peer, Peer::World(IpAddr::V4(_))),
        Entity::WorldIpv6 => matches!(peer, Peer::World(IpAddr::V6(_))),
        Entity::Cluster => !peer.is_world(),
        Entity::Host => matches!(peer, Peer::Host),
        Entity::RemoteNode => matches!(peer, Peer::RemoteNode(..)),
        Entity::All
        | Entity::Health
        | Entity::Init
        | Entity::Unmanaged
        | Entity::KubeApiserver
        | Entity::Ingress
        | Entity::None => false,
    }
}

/// `10.0.0.0/8` or a bare address.
fn cidr_matches(cidr: &str, peer: Peer<'_>) -> bool {
    let Peer::World(address) = peer else { return false };
    match cidr.parse::<IpNet>() {
        Ok(prefix) => prefix.contains(&address),
        Err(_) => cidr.parse::<IpAddr>() == Ok(address),
    }
}

/// Inside `cidr` and outside every `except`.
pub(crate) fn cidr_set_matches(cidr: &str, except: &[String], peer: Peer<'_>) -> bool {
    cidr_matches(cidr, peer) && !except.iter().any(|hole| cidr_matches(hole, peer))
}
