//! The comparison of compiled tables with the reference evaluator, in memory.
use std::{fmt, net::IpAddr, sync::Arc};

use weir_abi::RULE_NONE;
use weir_oracle::{End, Flow, RuleId, World};
use weir_plan::{InterfaceName, RuleRef, Tables};
use weir_schema::Object;

use super::{
    generate::Generated,
    model::{self, Decision},
    random::Random,
    topology::{NETWORK_INTERFACES, NODE},
};

/// Evaluator and tables do not say the same.
#[derive(Clone, Debug)]
pub struct Disagreement {
    pub seed: u64,
    pub what: String,
    pub expected: String,
    pub found: String,
    /// Not only in the rule that is named.
    pub differs_in_verdict: bool,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, what, expected, found, .. } = self;
        write!(f, "set {seed:#x}: {what}: the evaluator says {expected}, the tables say {found}")
    }
}

/// How often each answer was given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub flows: usize,
    pub allowed: usize,
    /// Ends by what decided.
    pub elsewhere: usize,
    pub not_enforced: usize,
    pub by_rule: usize,
    pub rule_deny: usize,
    pub default_deny: usize,
    pub prefilter_packets: usize,
    pub prefilter_drops: usize,
    /// Reply packets, packets of flows that began under another set, and how many of those flows were denied by now.
    pub replies: usize,
    pub continued: usize,
    pub revoked: usize,
}

impl Counts {
    /// Counts what decided at one end.
    pub fn end(&mut self, end: &End) {
        use weir_oracle::Verdict::*;
        match (end.verdict, &end.rule) {
            _ if end.subject.is_none() => self.elsewhere += 1,
            (Allow, None) => self.not_enforced += 1,
            (Allow, Some(_)) => self.by_rule += 1,
            (RuleDeny, _) => self.rule_deny += 1,
            (DefaultDeny, _) => self.default_deny += 1,
        }
    }
}

/// What a rule number means, as the compiler tells it.
pub type RuleOf<'a> = &'a dyn Fn(u32) -> Option<RuleRef>;

/// A rule in a form that evaluator and compiler have in common.
pub fn name_of_rule(rule: &RuleRef) -> String {
    format!("{} {}", rule.object, rule.path)
}

fn name_of(rule: Option<&RuleId>) -> String {
    rule.map_or_else(|| "no rule".to_owned(), ToString::to_string)
}

fn say(verdict: impl fmt::Debug, rule: &str) -> String {
    format!("{verdict:?} by {rule}")
}

/// Every disagreement over these flows, and over packets at the prefilter.
pub fn compare(
    set: &Generated,
    objects: &[Arc<Object>],
    tables: &Tables,
    rule_of: RuleOf<'_>,
    flows: &[Flow],
    counts: &mut Counts,
) -> Vec<Disagreement> {
    let world = World::new(objects, NODE, &set.topology.host);
    let mut found = identities(set, tables);
    for flow in flows {
        let judgement = world.judge(flow);
        counts.flows += 1;
        counts.allowed += usize::from(judgement.allowed());
        let (egress, ingress) = model::judge(tables, flow);
        for (end, expected, decision) in
            [("egress", &judgement.egress, egress), ("ingress", &judgement.ingress, ingress)]
        {
            counts.end(expected);
            found.extend(compare_end(set, format!("{flow}, {end}"), expected, decision, rule_of));
        }
    }
    for (interface, source, destination) in packets(set, flows) {
        let expected = world.prefilter(interface, source, destination);
        let rule = model::prefilter(tables, interface, source, destination);
        counts.prefilter_packets += 1;
        counts.prefilter_drops += usize::from(expected.is_some());
        let differs_in_verdict = expected.is_some() != rule.is_some();
        let expected = name_of(expected.as_ref());
        let rule = rule.map_or_else(|| "no rule".to_owned(), |rule| name_of_number(rule, rule_of));
        if expected != rule {
            let what = format!("{source} -> {destination} at {interface}");
            found.push(Disagreement { seed: set.seed, what, expected, found: rule, differs_in_verdict });
        }
    }
    found
}

pub fn name_of_number(rule: u32, rule_of: RuleOf<'_>) -> String {
    if rule == RULE_NONE {
        return "no rule".to_owned();
    }
    rule_of(rule).map_or_else(|| format!("rule {rule}, which has no name"), |rule| name_of_rule(&rule))
}

/// One end: the verdict and the rule.
pub fn compare_end(
    set: &Generated,
    what: String,
    expected: &End,
    decision: Option<Decision>,
    rule_of: RuleOf<'_>,
) -> Option<Disagreement> {
    let differs_in_verdict = expected.subject.is_some() != decision.is_some()
        || decision.is_some_and(|decision| decision.verdict != expected.verdict);
    let expected = match &expected.subject {
        Some(_) => say(expected.verdict, &name_of(expected.rule.as_ref())),
        None => "not of this node".to_owned(),
    };
    let decision = match decision {
        Some(decision) => say(decision.verdict, &name_of_number(decision.rule, rule_of)),
        None => "not of this node".to_owned(),
    };
    (expected != decision).then_some(Disagreement {
        seed: set.seed,
        what,
        expected,
        found: decision,
        differs_in_verdict,
    })
}

/// An endpoint's address has one identity, wherever it is looked up.
fn identities(set: &Generated, tables: &Tables) -> Vec<Disagreement> {
    let mut found = Vec::new();
    for endpoint in &set.topology.endpoints {
        let Some(interface) = endpoint.interface else { continue };
        let on_interface = tables.interfaces.get(&InterfaceName::from(interface)).map(|info| info.identity);
        for address in &endpoint.addresses {
            let by_address = tables.endpoints.get(address).map(|info| info.identity);
            let as_peer = Some(model::identity_of(tables, *address));
            if on_interface != by_address || by_address != as_peer || by_address.is_none() {
                found.push(Disagreement {
                    seed: set.seed,
                    what: format!("the identity of {} ({address})", endpoint.name),
                    expected: "one identity".to_owned(),
                    found: format!("interface {on_interface:?}, endpoint {by_address:?}, peer {as_peer:?}"),
                    differs_in_verdict: false,
                });
            }
        }
    }
    found
}

/// Packets for the prefilter: the addresses of flows, and the edges of what filters list.
pub fn packets(set: &Generated, flows: &[Flow]) -> Vec<(&'static str, IpAddr, IpAddr)> {
    let mut random = Random::new(set.seed ^ 0xf11e);
    let mut all: Vec<_> = flows.iter().map(|flow| (flow.source, flow.destination)).collect();
    let inside: Vec<IpAddr> = set.topology.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect();
    for edge in &set.filtered {
        let same: Vec<&IpAddr> = inside.iter().filter(|address| address.is_ipv4() == edge.is_ipv4()).collect();
        if !same.is_empty() {
            let other = **random.pick(&same);
            all.extend([(*edge, other), (other, *edge)]);
        }
    }
    all.into_iter().map(|(source, destination)| (*random.pick(&NETWORK_INTERFACES), source, destination)).collect()
}
