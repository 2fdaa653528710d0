//! `networking.k8s.io/v1 NetworkPolicy`.
use std::sync::Arc;

use weir_abi::{DIRECTION_EGRESS, DIRECTION_INGRESS};
use weir_schema::{
    KubernetesNetworkPolicySpec, NetworkPolicyPeer, NetworkPolicyPort, PolicyType, PortNumber, Protocol,
};

use crate::{
    objects::Item,
    policy::{CidrSelector, Peers, Policy, Rule, Subject},
    ports::Transport,
    selector::{EndpointSelector, Scope},
};

pub(crate) fn policy(item: &Item<'_, KubernetesNetworkPolicySpec>, namespace: &Arc<str>) -> Policy {
    let spec = item.spec;
    let has = |wanted: PolicyType| match &spec.policy_types {
        Some(types) if !types.is_empty() => types.contains(&wanted),
        // As the API server defaults it: an `egress` that is there and empty does not count.
        _ => wanted == PolicyType::Ingress || spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
    };
    let default_deny = [has(PolicyType::Ingress), has(PolicyType::Egress)];
    let mut rules = Vec::new();
    // A section that policyTypes leaves out says nothing.
    if default_deny[usize::from(DIRECTION_INGRESS)] {
        for (index, rule) in spec.ingress.iter().flatten().enumerate() {
            rules.push(Rule {
                direction: DIRECTION_INGRESS,
                deny: false,
                peers: peers(&rule.from, namespace),
                transports: transports(&format!("spec.ingress[{index}]"), &rule.ports),
            });
        }
    }
    if default_deny[usize::from(DIRECTION_EGRESS)] {
        for (index, rule) in spec.egress.iter().flatten().enumerate() {
            rules.push(Rule {
                direction: DIRECTION_EGRESS,
                deny: false,
                peers: peers(&rule.to, namespace),
                transports: transports(&format!("spec.egress[{index}]"), &rule.ports),
            });
        }
    }
    let subject = Subject::Endpoints(EndpointSelector {
        scope: Scope::One(Arc::clone(namespace)),
        labels: spec.pod_selector.clone(),
        own_labels_only: true,
    });
    Policy { object: item.id, subject, default_deny, rules }
}

fn peers(list: &[NetworkPolicyPeer], namespace: &Arc<str>) -> Peers {
    if list.is_empty() {
        return Peers::any();
    }
    let mut peers = Peers::default();
    for peer in list {
        if let Some(block) = &peer.ip_block {
            peers.cidrs.extend(CidrSelector::parse(&block.cidr, &block.except));
            continue;
        }
        let scope = match &peer.namespace_selector {
            None => Scope::One(Arc::clone(namespace)),
            Some(labels) => Scope::Matching(labels.clone()),
        };
        let labels = peer.pod_selector.clone().unwrap_or_default();
        peers.endpoints.push(EndpointSelector { scope, labels, own_labels_only: true });
    }
    peers
}

fn transports(path: &str, ports: &[NetworkPolicyPort]) -> Vec<(Arc<str>, Transport)> {
    if ports.is_empty() {
        return vec![(path.into(), Transport::Any)];
    }
    let of = |(index, port): (usize, &NetworkPolicyPort)| {
        let protocol = port.protocol.unwrap_or(Protocol::Tcp);
        let transport = match &port.port {
            None => Transport::all_ports(protocol),
            Some(PortNumber::Name(name)) => Transport::Named { protocol, name: name.clone() },
            Some(PortNumber::Number(first)) => {
                Transport::Range { protocol, first: *first, last: port.end_port.unwrap_or(*first) }
            }
        };
        (format!("{path}.ports[{index}]").into(), transport)
    };
    ports.iter().enumerate().map(of).collect()
}
