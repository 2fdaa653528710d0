//! `NetworkPolicy`, `CiliumNetworkPolicy` and `CiliumClusterwideNetworkPolicy`.
use std::sync::Arc;

use weir_abi::{DIRECTION_EGRESS, DIRECTION_INGRESS};
use weir_schema::{CidrRule, Entity, IcmpFamily, IcmpRule, LabelSelector, PolicyRule, PortNumber, PortRule};

use crate::{
    objects::{Item, ObjectId},
    policy::{CidrSelector, Peers, Policy, Rule, Subject},
    ports::{ICMP, ICMPV6, Transport},
    selector::{EndpointSelector, RESERVED_PREFIX, Scope, plain_key},
};

/// The rule sets of one object. `namespace` is where a namespaced policy selects, `None` for a clusterwide one.
pub(crate) fn policies(item: &Item<'_, [PolicyRule]>, namespace: Option<&Arc<str>>) -> Vec<Policy> {
    item.spec.iter().filter_map(|rule| policy(item.id, rule, namespace)).collect()
}

fn policy(object: ObjectId, rule: &PolicyRule, namespace: Option<&Arc<str>>) -> Option<Policy> {
    let subject = match (&rule.endpoint_selector, &rule.node_selector) {
        (Some(labels), _) => Subject::Endpoints(EndpointSelector {
            scope: namespace.map_or(Scope::Every, |namespace| Scope::One(Arc::clone(namespace))),
            labels: labels.clone(),
            own_labels_only: false,
        }),
        (None, Some(labels)) => Subject::Host(labels.clone()),
        // Refused by the schema.
        (None, None) => return None,
    };
    let mut rules = Vec::new();
    let mut add = |section: &str, index: usize, direction, deny, parts: Parts<'_>| {
        if parts.is_empty() {
            return;
        }
        let path = format!("{}.{section}[{index}]", rule.path);
        rules.push(Rule {
            direction,
            deny,
            peers: parts.peers(namespace),
            transports: transports(&path, parts.to_ports, parts.icmps),
        });
    };
    macro_rules! section {
        ($field:ident $name:literal $direction:ident $deny:literal:
            $endpoints:ident $cidr:ident $cidr_set:ident $entities:ident $nodes:ident) => {
            for (index, one) in rule.$field.iter().flatten().enumerate() {
                let parts = Parts {
                    endpoints: one.$endpoints.as_deref(),
                    cidr: one.$cidr.as_deref(),
                    cidr_set: one.$cidr_set.as_deref(),
                    entities: one.$entities.as_deref(),
                    nodes: one.$nodes.as_deref(),
                    to_ports: one.to_ports.as_deref(),
                    icmps: one.icmps.as_deref(),
                };
                add($name, index, $direction, $deny, parts);
            }
        };
    }
    section!(ingress "ingress" DIRECTION_INGRESS false: from_endpoints from_cidr from_cidr_set from_entities from_nodes);
    section!(ingress_deny "ingressDeny" DIRECTION_INGRESS true: from_endpoints from_cidr from_cidr_set from_entities from_nodes);
    section!(egress "egress" DIRECTION_EGRESS false: to_endpoints to_cidr to_cidr_set to_entities to_nodes);
    section!(egress_deny "egressDeny" DIRECTION_EGRESS true: to_endpoints to_cidr to_cidr_set to_entities to_nodes);

    let said = rule.enable_default_deny;
    // As in Cilium, an empty section is one that is not there; `- {}` is how default deny is written.
    let default_deny = [
        said.ingress.unwrap_or(some(&rule.ingress) || some(&rule.ingress_deny)),
        said.egress.unwrap_or(some(&rule.egress) || some(&rule.egress_deny)),
    ];
    Some(Policy { object, subject, default_deny, rules })
}

fn some<T>(section: &Option<Vec<T>>) -> bool {
    section.as_ref().is_some_and(|items| !items.is_empty())
}

/// The fields that the four kinds of rule share.
#[derive(Clone, Copy)]
struct Parts<'a> {
    endpoints: Option<&'a [LabelSelector]>,
    cidr: Option<&'a [String]>,
    cidr_set: Option<&'a [CidrRule]>,
    entities: Option<&'a [Entity]>,
    nodes: Option<&'a [LabelSelector]>,
    to_ports: Option<&'a [PortRule]>,
    icmps: Option<&'a [IcmpRule]>,
}

impl Parts<'_> {
    fn names_no_peers(&self) -> bool {
        self.endpoints.is_none()
            && self.cidr.is_none()
            && self.cidr_set.is_none()
            && self.entities.is_none()
            && self.nodes.is_none()
    }

    /// The rule `{}`: it says nothing, and only makes its section one that is there. As in Cilium, where it is how
    /// default deny is written.
    fn is_empty(&self) -> bool {
        self.names_no_peers()
            && self.to_ports.unwrap_or_default().is_empty()
            && self.icmps.unwrap_or_default().is_empty()
    }

    /// Without any peer field everybody; a field that is there and empty adds nobody.
    fn peers(&self, namespace: Option<&Arc<str>>) -> Peers {
        let mut peers = Peers { any: self.names_no_peers(), ..Peers::default() };
        for labels in self.endpoints.into_iter().flatten() {
            if is_reserved_all(labels) {
                peers.any = true;
            } else {
                peers.endpoints.push(EndpointSelector::cilium_peer(namespace, labels));
            }
        }
        let plain = self.cidr.into_iter().flatten().filter_map(|cidr| CidrSelector::parse(cidr, &[]));
        let sets = self.cidr_set.into_iter().flatten().filter_map(|set| CidrSelector::parse(&set.cidr, &set.except));
        peers.cidrs = plain.chain(sets).collect();
        for entity in self.entities.into_iter().flatten() {
            match entity {
                Entity::All => peers.any = true,
                Entity::WorldIpv4 => peers.cidrs.push(CidrSelector::family(true)),
                Entity::WorldIpv6 => peers.cidrs.push(CidrSelector::family(false)),
                other => peers.entities.push(*other),
            }
        }
        peers.nodes = self.nodes.unwrap_or_default().to_vec();
        peers
    }
}

/// `reserved:all` alone.
fn is_reserved_all(labels: &LabelSelector) -> bool {
    labels.match_expressions.is_empty()
        && labels.match_labels.len() == 1
        && labels.match_labels.keys().all(|key| plain_key(key).strip_prefix(RESERVED_PREFIX) == Some("all"))
}

/// Without `toPorts` and `icmps` every protocol, else the union of both.
fn transports(path: &str, to_ports: Option<&[PortRule]>, icmps: Option<&[IcmpRule]>) -> Vec<(Arc<str>, Transport)> {
    let (to_ports, icmps) = (to_ports.unwrap_or_default(), icmps.unwrap_or_default());
    if to_ports.is_empty() && icmps.is_empty() {
        return vec![(path.into(), Transport::Any)];
    }
    let mut list = Vec::new();
    for (index, rule) in to_ports.iter().enumerate() {
        if rule.ports.is_empty() {
            list.push((format!("{path}.toPorts[{index}]").into(), Transport::Any));
        }
        for (at, port) in rule.ports.iter().enumerate() {
            let protocol = port.protocol;
            let transport = match &port.port {
                PortNumber::Name(name) => Transport::Named { protocol, name: name.clone() },
                PortNumber::Number(0) if port.end_port.is_none_or(|end| end == 0) => Transport::all_ports(protocol),
                PortNumber::Number(first) => {
                    // `endPort: 0` is how Cilium writes "none".
                    let last = port.end_port.filter(|end| *end != 0).unwrap_or(*first);
                    Transport::Range { protocol, first: *first, last }
                }
            };
            list.push((format!("{path}.toPorts[{index}].ports[{at}]").into(), transport));
        }
    }
    for (index, rule) in icmps.iter().enumerate() {
        for (at, field) in rule.fields.iter().enumerate() {
            let protocol = match field.family {
                IcmpFamily::IPv4 => ICMP,
                IcmpFamily::IPv6 => ICMPV6,
            };
            let transport = Transport::Icmp { protocol, icmp_type: field.icmp_type.0 };
            list.push((format!("{path}.icmps[{index}].fields[{at}]").into(), transport));
        }
    }
    list
}
