//! `networking.k8s.io/v1 NetworkPolicy` and `v1 Namespace`, read as they are.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    LabelSelector, PortNumber, Protocol, code,
    policy_check::{check_cidr_with_holes, check_port},
    problem::{Path, Problems},
};

/// A port as Kubernetes writes it: a number or a name.
pub type IntOrString = PortNumber;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesNetworkPolicySpec {
    /// Endpoints that match; alone, those of the policy's namespace.
    #[serde(default)]
    pub pod_selector: LabelSelector,
    /// Unset: Ingress always, Egress when there is an `egress` section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_types: Option<Vec<PolicyType>>,
    /// What may come in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<NetworkPolicyIngressRule>>,
    /// What may go out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<NetworkPolicyEgressRule>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyType {
    Ingress,
    Egress,
}

/// Empty or missing `from`: every source. Empty or missing `ports`: every port and protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyIngressRule {
    /// The sources; empty: every source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<NetworkPolicyPeer>,
    /// The destination ports; empty: every port and protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NetworkPolicyPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyEgressRule {
    /// The destinations; empty: every destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<NetworkPolicyPeer>,
    /// The destination ports; empty: every port and protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NetworkPolicyPort>,
}

/// `ipBlock`, or selectors (checked): `podSelector` alone selects in the policy's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyPeer {
    /// Endpoints that match; alone, those of the policy's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces that match, by the labels of their `Namespace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Addresses outside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpBlock {
    /// A CIDR.
    pub cidr: String,
    /// Prefixes inside `cidr` that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyPort {
    /// Unset: TCP (Kubernetes' default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// A number or a port's name; unset: every port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<IntOrString>,
    /// Last port of a range, at least `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_port: Option<u16>,
}

/// `v1 Namespace`: only its metadata matters; `spec` and `status` are accepted and ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSpec;

impl KubernetesNetworkPolicySpec {
    pub(crate) fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        self.pod_selector.check(&at.field("podSelector"), problems);
        let ingress = at.field("ingress");
        for (index, rule) in self.ingress.iter().flatten().enumerate() {
            let at = ingress.index(index);
            check_peers(&rule.from, &at.field("from"), problems);
            check_ports(&rule.ports, &at.field("ports"), problems);
        }
        let egress = at.field("egress");
        for (index, rule) in self.egress.iter().flatten().enumerate() {
            let at = egress.index(index);
            check_peers(&rule.to, &at.field("to"), problems);
            check_ports(&rule.ports, &at.field("ports"), problems);
        }
    }
}

fn check_peers(peers: &[NetworkPolicyPeer], at: &Path<'_>, problems: &mut Problems) {
    for (index, peer) in peers.iter().enumerate() {
        let at = at.index(index);
        let selectors = [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)];
        for (name, selector) in selectors {
            if let Some(selector) = selector {
                selector.check(&at.field(name), problems);
            }
        }
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match &peer.ip_block {
            Some(_) if selects => {
                problems
                    .push(code::RULE_FORM, &at.field("ipBlock"), "`ipBlock` and selectors exclude each other")
                    .at_key()
                    .help("write two peers");
            }
            None if !selects => {
                problems
                    .push(code::RULE_FORM, &at, "a peer needs `podSelector`, `namespaceSelector` or `ipBlock`")
                    .help("for every peer, leave the whole list out");
            }
            Some(block) => check_cidr_with_holes(&block.cidr, &block.except, &at.field("ipBlock"), problems),
            None => {}
        }
    }
}

fn check_ports(ports: &[NetworkPolicyPort], at: &Path<'_>, problems: &mut Problems) {
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        check_port(port.port.as_ref(), port.end_port, &at, problems);
        if port.protocol == Some(Protocol::Any) {
            problems
                .push(code::INVALID_VALUE, &at.field("protocol"), "Kubernetes' policies have no protocol `ANY`")
                .help("write `TCP`, `UDP` or `SCTP`, or leave `ports` out");
        }
        if port.port == Some(PortNumber::Number(0)) {
            problems.push(code::INVALID_PORT, &at.field("port"), "a port here is a number from 1 to 65535");
        }
    }
}
