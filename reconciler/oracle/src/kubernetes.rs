//! `networking.k8s.io/v1 NetworkPolicy`.
use weir_schema::{
    KubernetesNetworkPolicySpec, NetworkPolicyPeer, NetworkPolicyPort, Object, PolicyType, PortProtocol, Protocol,
};

use crate::{
    RuleId,
    cilium::cidr_set_matches,
    labels::selects,
    peer::Peer,
    ports::port_matches,
    rank::{Match, PortMatch, PortShape},
    world::{Direction, Question, World},
};

/// Whether the policy isolates what it selects in this direction.
pub(crate) fn applies(spec: &KubernetesNetworkPolicySpec, direction: Direction) -> bool {
    match (spec.policy_types.as_deref().unwrap_or_default(), direction) {
        ([], Direction::Ingress) => true,
        ([], Direction::Egress) => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        (types, Direction::Ingress) => types.contains(&PolicyType::Ingress),
        (types, Direction::Egress) => types.contains(&PolicyType::Egress),
    }
}

/// Every match of a policy that selects the subject and [`applies`].
pub(crate) fn matches(
    world: &World<'_>,
    object: &Object,
    spec: &KubernetesNetworkPolicySpec,
    question: &Question<'_>,
) -> Vec<Match> {
    let rules: Vec<(&str, &[NetworkPolicyPeer], &[NetworkPolicyPort])> = match question.direction {
        Direction::Ingress => {
            spec.ingress.iter().flatten().map(|rule| ("ingress", &*rule.from, &*rule.ports)).collect()
        }
        Direction::Egress => spec.egress.iter().flatten().map(|rule| ("egress", &*rule.to, &*rule.ports)).collect(),
    };
    let mut found = Vec::new();
    for (i, (section, peers, ports)) in rules.into_iter().enumerate() {
        let any_peer = peers.is_empty();
        if !any_peer && !peers.iter().any(|named| peer_matches(world, object, named, question.peer)) {
            continue;
        }
        let mut push = |ports: PortMatch, path| {
            let any_peer = any_peer && !question.names_the_peer(ports);
            let rule = RuleId { object: object.key.clone(), path };
            found.push(Match { deny: false, ports: ports.shape, any_peer, rule });
        };
        if ports.is_empty() {
            push(PortMatch::number(PortShape::AnyProtocol), format!("spec.{section}[{i}]"));
        }
        for (k, port) in ports.iter().enumerate() {
            let port = PortProtocol {
                port: port.port.clone().unwrap_or(weir_schema::PortNumber::Number(0)),
                end_port: port.end_port,
                protocol: port.protocol.unwrap_or(Protocol::Tcp),
            };
            if let Some(ports) = port_matches(&port, question.protocol, world.receiver(question.receiver)) {
                push(ports, format!("spec.{section}[{i}].ports[{k}]"));
            }
        }
    }
    found
}

fn peer_matches(world: &World<'_>, policy: &Object, named: &NetworkPolicyPeer, peer: Peer<'_>) -> bool {
    if let Some(block) = &named.ip_block {
        return cidr_set_matches(&block.cidr, &block.except, peer);
    }
    let Peer::Endpoint(endpoint, _) = peer else { return false };
    let pod = |labels: &_| named.pod_selector.as_ref().is_none_or(|selector| selects(selector, labels));
    match (&named.namespace_selector, &named.pod_selector) {
        (None, None) => false,
        (None, Some(_)) => endpoint.key.namespace == policy.key.namespace && pod(&world.labels(peer)),
        (Some(namespaces), _) => {
            selects(namespaces, &world.namespace_labels(&endpoint.key.namespace)) && pod(&world.labels(peer))
        }
    }
}
