//! `diff --flows`: which flows meet another fate, for people and machines.
use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};
use weir_compile::{BackendFate, ChangedFlow, Compiled, Fate, FlowChange, Input, Side, flow_changes};
use weir_plan::Numbering;
use weir_schema::Inventory;

use crate::{Error, ObjectDocument, RuleDocument, Snapshot, trace::protocol_name};

/// One flow that passes before and not after, or the other way; to a service's address, also one that has other
/// backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowChangeDocument {
    /// The flow test that declares it; else it stands for a pair of identities and a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<ObjectDocument>,
    pub from: String,
    pub to: String,
    /// Whose policy it is: `ingress` is the receiver's, `egress` the sender's. Not of tests and the prefilter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// `any`: one that no rule names.
    pub protocol: String,
    /// `None`: one that no rule names. An ICMP type stands here, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The device by which it comes from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Whose address `to` is: it stands for all frontends of this service with the same backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ObjectDocument>,
    pub before: FateDocument,
    pub after: FateDocument,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FateDocument {
    /// `allow` or `deny`; `varies` by the backend.
    pub verdict: String,
    /// `None`: no rule speaks of it; and behind a service, whose backends have theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleDocument>,
    /// Why a service has no backend for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Those that a service may send it to, sorted by address and port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<BackendFateDocument>,
}

/// What becomes of a flow at one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendFateDocument {
    pub backend: String,
    /// `allow` or `deny`.
    pub verdict: String,
    /// `None`: no rule speaks of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleDocument>,
}

impl fmt::Display for FlowChangeDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} {}", self.from, self.to, self.protocol)?;
        match self.port {
            Some(port) => write!(f, "/{port}")?,
            None if self.protocol != "any" => f.write_str("/any")?,
            None => {}
        }
        self.direction.iter().try_for_each(|direction| write!(f, " {direction}"))?;
        self.interface.iter().try_for_each(|interface| write!(f, " by {interface}"))
    }
}

impl fmt::Display for FateDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.reason {
            return write!(f, "{} ({reason})", self.verdict);
        }
        if self.backends.is_empty() {
            f.write_str(&self.verdict)?;
            return by(self.rule.as_ref(), f);
        }
        for (at, alike) in alike(&self.backends).into_iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            let shown: Vec<&str> = alike.iter().take(SHOWN).map(|one| &*one.backend).collect();
            write!(f, "{separator}{} via {}", alike[0].verdict, shown.join(", "))?;
            if alike.len() > SHOWN {
                write!(f, " and {} more", alike.len() - SHOWN)?;
            }
            by(alike[0].rule.as_ref(), f)?;
        }
        Ok(())
    }
}

/// Backends of one verdict and rule that are named; the rest is counted.
const SHOWN: usize = 8;

fn by(rule: Option<&RuleDocument>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match rule {
        Some(rule) => write!(f, " by {rule}"),
        None => f.write_str(" by no rule"),
    }
}

/// Those together that have one verdict and one rule.
fn alike(backends: &[BackendFateDocument]) -> Vec<Vec<&BackendFateDocument>> {
    let mut groups: Vec<Vec<&BackendFateDocument>> = Vec::new();
    for backend in backends {
        let is_alike = |group: &&mut Vec<&BackendFateDocument>| {
            (&group[0].verdict, &group[0].rule) == (&backend.verdict, &backend.rule)
        };
        match groups.iter_mut().find(is_alike) {
            Some(group) => group.push(backend),
            None => groups.push(vec![backend]),
        }
    }
    groups
}

impl Snapshot {
    /// What becomes of flows under this one that did not under `before`; `None`: under nothing at all.
    pub fn flow_changes(&self, before: Option<&Self>) -> Result<Vec<FlowChangeDocument>, Error> {
        let nothing: Compiled;
        let former = match before {
            Some(before) => &*before.compiled,
            None => {
                let (inventory, node) = (Inventory::default(), &*self.node);
                let input = Input { inventory: &inventory, node, facts: &self.facts, sequence: 1 };
                nothing = weir_compile::compile(&input, &mut Numbering::default()).map_err(Error::Compile)?;
                &nothing
            }
        };
        let changes = flow_changes(former, &self.compiled);
        Ok(changes.iter().map(|change| self.flow_change(before, change)).collect())
    }

    fn flow_change(&self, before: Option<&Self>, change: &FlowChange) -> FlowChangeDocument {
        let ends = match &change.flow {
            ChangedFlow::Test(case) => [Some(case.probe.source), Some(case.probe.destination)],
            ChangedFlow::Prefilter { address, .. } => [Some(*address), None],
            ChangedFlow::Service { client, .. } => [client.address, None],
            ChangedFlow::Policy { .. } => [None, None],
        };
        let verdict = |passes: bool| if passes { "allow" } else { "deny" }.to_owned();
        let fate = |snapshot: Option<&Self>, fate: &Fate| {
            let rule = |rule: &Option<_>, ends| {
                snapshot.zip(rule.as_ref()).map(|(snapshot, rule)| snapshot.rule_between(rule, ends))
            };
            let backend = |one: &BackendFate| BackendFateDocument {
                backend: SocketAddr::new(one.address, one.port).to_string(),
                verdict: verdict(one.passes),
                rule: rule(&one.rule, [ends[0], Some(one.address)]),
            };
            let varies = !fate.passes && fate.backends.iter().any(|one| one.passes);
            FateDocument {
                verdict: if varies { "varies".to_owned() } else { verdict(fate.passes) },
                rule: rule(&fate.rule, ends),
                reason: fate.dropped.map(|reason| reason.name().to_owned()),
                backends: fate.backends.iter().map(backend).collect(),
            }
        };
        let (before, after) = (fate(before, &change.before), fate(Some(self), &change.after));
        let bare = FlowChangeDocument {
            test: None,
            from: String::new(),
            to: String::new(),
            direction: None,
            protocol: "any".to_owned(),
            port: None,
            interface: None,
            service: None,
            before,
            after,
        };
        match &change.flow {
            ChangedFlow::Test(case) => FlowChangeDocument {
                test: Some(ObjectDocument::from(&case.test)),
                from: case.probe.source.to_string(),
                to: case.probe.destination.to_string(),
                protocol: protocol_name(case.probe.protocol),
                port: (case.probe.port != 0).then_some(case.probe.port),
                interface: case.interface.as_ref().map(ToString::to_string),
                ..bare
            },
            ChangedFlow::Policy { subject, peer, egress, protocol, port } => {
                let subject = name(subject);
                let peer = peer.as_ref().map_or_else(|| "anybody".to_owned(), name);
                let (from, to) = if *egress { (subject, peer) } else { (peer, subject) };
                let direction = Some(if *egress { "egress" } else { "ingress" }.to_owned());
                let protocol = protocol.map_or_else(|| "any".to_owned(), protocol_name);
                FlowChangeDocument { from, to, direction, protocol, port: *port, ..bare }
            }
            ChangedFlow::Service { service, client, address, protocol, port } => FlowChangeDocument {
                from: name(client),
                to: address.to_string(),
                protocol: protocol_name(*protocol),
                port: Some(*port),
                service: service.as_ref().map(ObjectDocument::from),
                ..bare
            },
            ChangedFlow::Prefilter { interface, address, destination } => {
                let (from, to) = match destination {
                    false => (address.to_string(), ANYWHERE.to_owned()),
                    true => (ANYWHERE.to_owned(), address.to_string()),
                };
                FlowChangeDocument { from, to, interface: Some(interface.to_string()), ..bare }
            }
        }
    }
}

const ANYWHERE: &str = "anywhere";

/// `default/app=web (10.0.0.1)`, `cidr:192.0.2.0/24`, `world`.
fn name(side: &Side) -> String {
    let own = |(key, _): &(&String, &String)| *key != NAMESPACE && !key.starts_with(OF_NAMESPACE);
    let label = |(key, value): (&String, &String)| match (value.as_str(), key.strip_prefix("reserved:")) {
        ("", Some(reserved)) => reserved.to_owned(),
        ("", None) => key.clone(),
        (value, _) => format!("{key}={value}"),
    };
    let mut labels: Vec<String> = side.labels.iter().filter(own).map(label).collect();
    // It goes without saying.
    if labels.len() > 1 && labels.iter().any(|label| label.starts_with("cidr:")) {
        labels.retain(|label| label != "world");
    }
    let mut text = side.labels.get(NAMESPACE).map(|namespace| format!("{namespace}/")).unwrap_or_default();
    text.push_str(&if labels.is_empty() { "unlabelled".to_owned() } else { labels.join(",") });
    text.extend(side.address.iter().map(|address| format!(" ({address})")));
    text
}

const NAMESPACE: &str = "io.kubernetes.pod.namespace";
const OF_NAMESPACE: &str = "io.cilium.k8s.namespace.labels.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_as_people_call_them() {
        let side = |labels: &[(&str, &str)], address: Option<&str>| Side {
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            address: address.map(|address| address.parse().unwrap()),
        };
        let endpoint = [("app", "web"), (NAMESPACE, "default"), ("io.cilium.k8s.namespace.labels.a", "b")];
        assert_eq!(name(&side(&endpoint, None)), "default/app=web");
        assert_eq!(name(&side(&endpoint[1..], Some("10.0.0.1"))), "default/unlabelled (10.0.0.1)");
        assert_eq!(name(&side(&[("reserved:world", "")], None)), "world");
        assert_eq!(name(&side(&[("cidr:192.0.2.0/24", ""), ("reserved:world", "")], None)), "cidr:192.0.2.0/24");
    }
}
