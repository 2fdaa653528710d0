//! Which flows meet another fate under one set than under another: one for each pair of identities and each rule that
//! speaks of them, and those that flow tests declare.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use weir_abi::{DIRECTION_EGRESS, DIRECTION_INGRESS, PEER_ANY, PROTO_ANY, PolicyKey, RULE_NONE, SubjectInfo, identity};
use weir_plan::{InterfaceName, ObjectRef, Prefix4, Prefix6, Provenance as _, RuleRef, Tables};

use crate::{
    Compiled, FlowCase, Outcome, Trace, TraceFlow, Who,
    trace::{judge, peer, prefilter_class},
};

/// A flow that passes under one set and not under the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowChange {
    pub flow: ChangedFlow,
    pub before: Fate,
    pub after: Fate,
}

/// What becomes of it, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    pub passes: bool,
    pub rule: Option<RuleRef>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangedFlow {
    /// A packet of a flow test.
    Test(Box<FlowCase>),
    /// Between a subject and a peer, as the subject's policy sees it.
    Policy {
        subject: Side,
        /// `None`: whoever no rule names.
        peer: Option<Side>,
        egress: bool,
        /// `None`: a protocol that no rule names.
        protocol: Option<u8>,
        /// `None`: a port that no rule names.
        port: Option<u16>,
    },
    /// From or to an address, as the prefilter of a device sees it.
    Prefilter { interface: InterfaceName, address: IpAddr, destination: bool },
}

/// One end: its labels, and an address where it is the address that changed hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    pub labels: BTreeMap<String, String>,
    pub address: Option<IpAddr>,
}

/// Who an end is before and after.
type Pair = (u32, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    subject: Pair,
    peer: Pair,
    direction: u8,
    protocol: u8,
    port: u16,
    /// The bits of the port that are compared.
    mask: u16,
}

/// A protocol that nobody uses, for what holds of any: RFC 3692's, for experiments.
const ANY_PROTOCOL: u8 = 253;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const ECHO_REQUEST: u16 = 8;
const ECHO_REQUEST_V6: u16 = 128;

struct Diff<'a> {
    before: &'a Compiled,
    after: &'a Compiled,
    /// Addresses that changed hands: the first of each pair.
    moved: BTreeMap<Pair, IpAddr>,
    /// The entries of both, by subject and direction.
    entries: HashMap<(u32, u8), BTreeSet<PolicyKey>>,
    candidates: BTreeSet<Candidate>,
}

/// Every flow that passes under one and not under the other, one for each pair of identities and rules. Goes through all
/// policy entries once.
pub fn flow_changes(before: &Compiled, after: &Compiled) -> Vec<FlowChange> {
    let (moved, candidates) = (BTreeMap::new(), BTreeSet::new());
    let mut entries: HashMap<_, BTreeSet<PolicyKey>> = HashMap::new();
    for (key, _) in before.tables.policy.iter().chain(after.tables.policy.iter()) {
        entries.entry((key.subject, key.direction())).or_default().insert(*key);
    }
    let mut diff = Diff { before, after, moved, entries, candidates };
    diff.changed_entries();
    diff.subjects();
    diff.addresses();
    let mut changes = diff.tests();
    changes.extend(diff.policy());
    changes.extend(diff.prefilter());
    changes
}

impl Diff<'_> {
    fn both(&self) -> [&Compiled; 2] {
        [self.before, self.after]
    }

    /// What an entry that came or went speaks of; and, because it may have hidden another or be hidden, what both it and
    /// another entry of its subject speak of.
    fn changed_entries(&mut self) {
        for change in self.before.tables.policy.diff(&self.after.tables.policy) {
            let changed = Candidate::of(&change.key, None, None);
            self.candidates.insert(changed);
            let of_subject = self.entries.get(&(change.key.subject, change.key.direction()));
            let is_wide = !changed.is_exact();
            for other in of_subject.into_iter().flatten() {
                let other = Candidate::of(other, None, None);
                if is_wide || !other.is_exact() {
                    self.candidates.extend(changed.meets(&other));
                }
            }
        }
    }

    /// What no rule names, where default deny begins or ends.
    fn subjects(&mut self) {
        let denies = |info: Option<SubjectInfo>| info.map_or([0; 2], |info| info.default_deny);
        for change in self.before.tables.subjects.diff(&self.after.tables.subjects) {
            let (from, to) = (denies(change.from), denies(change.to));
            for direction in [DIRECTION_INGRESS, DIRECTION_EGRESS] {
                if from[usize::from(direction)] != to[usize::from(direction)] {
                    let subject = (change.key, change.key);
                    self.candidates.insert(Candidate::of_anything(subject, direction));
                }
            }
        }
    }

    fn addresses(&mut self) {
        let (before, after) = (&*self.before.tables, &*self.after.tables);
        let v4 = before.ipcache4.diff(&after.ipcache4).into_iter().map(|change| change.key.to_ip_net());
        let v6 = before.ipcache6.diff(&after.ipcache6).into_iter().map(|change| change.key.to_ip_net());
        let both = [before, after];
        for net in v4.chain(v6) {
            let Some(address) = own_address(net, &|net| both.iter().any(|tables| is_in_ipcache(tables, net))) else {
                continue;
            };
            let pair = (peer(before, address), peer(after, address));
            if pair.0 != pair.1 {
                self.moved.entry(pair).or_insert(address);
            }
        }
        if self.moved.is_empty() {
            return;
        }
        let mut named: HashMap<u32, BTreeSet<(u32, u8)>> = HashMap::new();
        for (subject, keys) in &self.entries {
            for key in keys.iter().filter(|key| key.peer != PEER_ANY) {
                named.entry(key.peer).or_default().insert(*subject);
            }
        }
        let mut found = BTreeSet::new();
        for pair in self.moved.keys() {
            let is_meant = |key: &&PolicyKey| [PEER_ANY, pair.0, pair.1].contains(&key.peer);
            let subjects: BTreeSet<&(u32, u8)> =
                [pair.0, pair.1].iter().filter_map(|peer| named.get(peer)).flatten().collect();
            for subject in subjects {
                let keys = self.entries.get(subject).into_iter().flatten().filter(is_meant);
                found.extend(keys.map(|key| Candidate::of(key, None, Some(*pair))));
                let rest = Candidate::of_anything((subject.0, subject.0), subject.1);
                found.insert(Candidate { peer: *pair, ..rest });
            }
            // One that comes or goes was not, or will not be, anybody's subject.
            let is_subject = |identity: u32| identity == identity::HOST || identity >= identity::FIRST_LOCAL;
            if !is_subject(pair.0) || !is_subject(pair.1) {
                continue;
            }
            for (subject, direction) in
                [pair.0, pair.1].map(|one| [(one, DIRECTION_INGRESS), (one, DIRECTION_EGRESS)]).concat()
            {
                let Some(keys) = self.entries.get(&(subject, direction)) else { continue };
                found.extend(keys.iter().map(|key| Candidate::of(key, Some(*pair), None)));
                found.insert(Candidate::of_anything(*pair, direction));
            }
        }
        self.candidates.extend(found);
    }

    fn policy(&self) -> Vec<FlowChange> {
        let mut seen = BTreeSet::new();
        let mut changes = Vec::new();
        for candidate in self.candidates.iter().filter(|candidate| self.somebody_is(candidate)) {
            let port = if candidate.any_port() { self.unnamed_port(candidate) } else { candidate.port };
            let fate = |compiled: &Compiled, subject: u32, peer: u32| {
                let (outcome, rule) =
                    judge(&compiled.tables, subject, peer, candidate.direction, candidate.protocol, port);
                (outcome.passes(), rule)
            };
            let before = fate(self.before, candidate.subject.0, candidate.peer.0);
            let after = fate(self.after, candidate.subject.1, candidate.peer.1);
            if before.0 == after.0 || !seen.insert((candidate.subject, candidate.peer, before, after)) {
                continue;
            }
            let fate = |compiled: &Compiled, (passes, rule): (bool, u32)| Fate {
                passes,
                rule: compiled.provenance.rule(rule).filter(|_| rule != RULE_NONE).cloned(),
            };
            changes.push(FlowChange {
                flow: ChangedFlow::Policy {
                    subject: self.side(candidate.subject),
                    peer: (candidate.peer.1 != PEER_ANY).then(|| self.side(candidate.peer)),
                    egress: candidate.direction == DIRECTION_EGRESS,
                    protocol: (candidate.protocol != ANY_PROTOCOL).then_some(candidate.protocol),
                    port: (!candidate.any_port() && candidate.protocol != ANY_PROTOCOL).then_some(port),
                },
                before: fate(self.before, before),
                after: fate(self.after, after),
            });
        }
        changes
    }

    /// Whether there is such a subject and such a peer, before and after: the flows of who comes or goes do not change.
    fn somebody_is(&self, candidate: &Candidate) -> bool {
        let there = |compiled: &Compiled, identity: u32| {
            identity < identity::FIRST_LOCAL || compiled.identities.get(&identity).is_some()
        };
        let Candidate { subject, peer, .. } = candidate;
        [subject.0, peer.0].into_iter().all(|identity| there(self.before, identity))
            && [subject.1, peer.1].into_iter().all(|identity| there(self.after, identity))
    }

    /// The lowest port that no rule of the subject names; 1 where all are named.
    fn unnamed_port(&self, candidate: &Candidate) -> u16 {
        let Candidate { subject, peer, direction, protocol, .. } = *candidate;
        let subjects = BTreeSet::from([subject.0, subject.1]);
        let of_subjects = subjects.iter().filter_map(|subject| self.entries.get(&(*subject, direction))).flatten();
        let mut named: Vec<(u16, u16)> = of_subjects
            .filter(|key| key.protocol == protocol && key.class().port_mask() != 0)
            .filter(|key| key.peer == PEER_ANY || key.peer == peer.0 || key.peer == peer.1)
            .map(|key| (key.port, key.port | !key.class().port_mask()))
            .collect();
        named.sort_unstable();
        let mut free: u32 = 1;
        for (first, last) in named {
            if free < u32::from(first) {
                break;
            }
            free = free.max(u32::from(last) + 1);
        }
        u16::try_from(free).unwrap_or(1)
    }

    fn side(&self, pair: Pair) -> Side {
        let labels = self.both().into_iter().rev().zip([pair.1, pair.0]);
        let labels = labels.into_iter().find_map(|(compiled, identity)| compiled.identities.get(&identity));
        Side {
            labels: labels.map(|labels| BTreeMap::clone(labels)).unwrap_or_default(),
            address: self.moved.get(&pair).copied(),
        }
    }

    fn prefilter(&self) -> Vec<FlowChange> {
        let mut seen = BTreeSet::new();
        let mut changes = Vec::new();
        for address in self.filtered_addresses() {
            for destination in [false, true] {
                let decided = self.both().map(|compiled| {
                    let ends = if destination { (None, Some(address)) } else { (Some(address), None) };
                    let decisions = compiled.prefilter(ends.0, ends.1);
                    decisions.into_iter().map(|one| (one.interface.clone(), one)).collect::<BTreeMap<_, _>>()
                });
                let interfaces: BTreeSet<&InterfaceName> = decided.iter().flat_map(BTreeMap::keys).collect();
                for interface in interfaces {
                    let [before, after] = [&decided[0], &decided[1]].map(|decided| {
                        let decision = decided.get(interface);
                        let rule = decision.and_then(|decision| decision.rule.clone());
                        Fate { passes: decision.is_none_or(|decision| !decision.drops), rule }
                    });
                    let rules = (before.rule.clone(), after.rule.clone(), interface.clone(), destination);
                    if before.passes != after.passes && seen.insert(rules) {
                        let flow = ChangedFlow::Prefilter { interface: interface.clone(), address, destination };
                        changes.push(FlowChange { flow, before, after });
                    }
                }
            }
        }
        changes
    }

    /// One address for each pair of classes that a prefix had and has.
    fn filtered_addresses(&self) -> Vec<IpAddr> {
        let [before, after] = self.both().map(|compiled| &*compiled.tables);
        let actions = |compiled: &Tables, class: u32| {
            compiled.classes.get(&class).map(|class| class.cells.map(weir_abi::ClassCell::action))
        };
        let changed: BTreeSet<u32> = (before.classes.diff(&after.classes).into_iter())
            .map(|change| change.key)
            .filter(|class| actions(before, *class) != actions(after, *class))
            .collect();
        let wired = self.before.wiring.hooks != self.after.wiring.hooks;
        let mut found = Vec::new();
        let both = [before, after];
        let own = |net| own_address(net, &|net| both.iter().any(|tables| is_in_prefilter(tables, net)));
        let v4 = before.prefilter4.diff(&after.prefilter4).into_iter().map(|change| change.key.to_ip_net());
        let v6 = before.prefilter6.diff(&after.prefilter6).into_iter().map(|change| change.key.to_ip_net());
        found.extend(v4.chain(v6).filter_map(own));
        if wired || !changed.is_empty() {
            for tables in both {
                let v4 = tables.prefilter4.iter().map(|(prefix, class)| (prefix.to_ip_net(), *class));
                let v6 = tables.prefilter6.iter().map(|(prefix, class)| (prefix.to_ip_net(), *class));
                let mut left: BTreeSet<u32> = tables.classes.iter().map(|(class, _)| *class).collect();
                left.retain(|class| wired || changed.contains(class));
                for (net, class) in v4.chain(v6) {
                    if left.contains(&class)
                        && let Some(address) = own(net)
                    {
                        left.remove(&class);
                        found.push(address);
                    }
                }
            }
        }
        let mut met = BTreeSet::new();
        found.retain(|address| {
            let classes = (prefilter_class(before, *address), prefilter_class(after, *address));
            (wired || classes.0 != classes.1 || changed.contains(&classes.0)) && met.insert(classes)
        });
        found
    }

    /// Of either set, those that both can tell of.
    fn tests(&self) -> Vec<FlowChange> {
        let mut cases = self.after.flow_cases().cases;
        let known: BTreeSet<ObjectRef> = cases.iter().map(|case| case.test.clone()).collect();
        cases.extend(self.before.flow_cases().cases.into_iter().filter(|case| !known.contains(&case.test)));
        let fate = |compiled: &Compiled, case: &FlowCase| {
            let probe = &case.probe;
            let flow = TraceFlow {
                source: Who::Addresses(vec![probe.source]),
                destination: Who::Addresses(vec![probe.destination]),
                protocol: probe.protocol,
                port: match probe.protocol {
                    ICMP => ECHO_REQUEST,
                    ICMPV6 => ECHO_REQUEST_V6,
                    _ => probe.port,
                },
            };
            compiled.trace(&flow).ok().map(|trace| Fate { passes: trace.passes(), rule: deciding(&trace) })
        };
        let changed = |case: FlowCase| {
            let (before, after) = (fate(self.before, &case)?, fate(self.after, &case)?);
            let flow = ChangedFlow::Test(Box::new(case));
            (before.passes != after.passes).then_some(FlowChange { flow, before, after })
        };
        cases.into_iter().filter_map(changed).collect()
    }
}

/// An address of the prefix that no longer prefix has taken; `None` where there is none, or none is found soon.
fn own_address(net: IpNet, is_taken: &impl Fn(IpNet) -> bool) -> Option<IpAddr> {
    const TRIES: usize = 256;
    let mut address = net.network();
    for _ in 0..TRIES {
        let longer = (net.prefix_len() + 1..=net.max_prefix_len()).rev().filter_map(|length| {
            let longer = IpNet::new(address, length).ok()?.trunc();
            is_taken(longer).then_some(longer)
        });
        let Some(taken) = longer.last() else { return Some(address) };
        // Behind it.
        address = match taken.broadcast() {
            IpAddr::V4(last) => IpAddr::V4(u32::from(last).checked_add(1)?.into()),
            IpAddr::V6(last) => IpAddr::V6(u128::from(last).checked_add(1)?.into()),
        };
        if !net.contains(&address) {
            return None;
        }
    }
    None
}

fn is_in_ipcache(tables: &Tables, net: IpNet) -> bool {
    match net {
        IpNet::V4(net) => tables.ipcache4.get(&Prefix4::from(net)).is_some(),
        IpNet::V6(net) => tables.ipcache6.get(&Prefix6::from(net)).is_some(),
    }
}

fn is_in_prefilter(tables: &Tables, net: IpNet) -> bool {
    match net {
        IpNet::V4(net) => tables.prefilter4.get(&Prefix4::from(net)).is_some(),
        IpNet::V6(net) => tables.prefilter6.get(&Prefix6::from(net)).is_some(),
    }
}

/// The rule that stops it, or the last that lets it pass.
fn deciding(trace: &Trace) -> Option<RuleRef> {
    if let Some(dropped) = trace.prefilter.iter().find(|device| device.drops).filter(|_| !trace.passes()) {
        return dropped.rule.clone();
    }
    let judged = || trace.egress.iter().chain(&trace.ingress);
    let stopped = judged().find(|decision| !decision.outcome.passes());
    let said = judged().rfind(|decision| decision.outcome == Outcome::Allow);
    stopped.or(said).and_then(|decision| decision.rule.clone())
}

impl Candidate {
    /// What an entry speaks of, with who either end is before and after, where that is not one.
    fn of(key: &PolicyKey, subject: Option<Pair>, peer: Option<Pair>) -> Self {
        let class = key.class();
        let any_protocol = class.any_protocol() || key.protocol == PROTO_ANY;
        Self {
            subject: subject.unwrap_or((key.subject, key.subject)),
            peer: peer.unwrap_or((key.peer, key.peer)),
            direction: key.direction(),
            protocol: if any_protocol { ANY_PROTOCOL } else { key.protocol },
            port: key.port,
            mask: class.port_mask(),
        }
    }

    const fn any_port(&self) -> bool {
        self.mask == 0
    }

    /// Speaks of one peer and one port.
    const fn is_exact(&self) -> bool {
        self.peer.0 != PEER_ANY && self.mask == u16::MAX
    }

    /// What two of one subject and direction both speak of, where neither is within the other.
    fn meets(&self, other: &Self) -> Option<Self> {
        let peer = match (self.peer.0, other.peer.0) {
            (PEER_ANY, _) => other.peer,
            (_, PEER_ANY) => self.peer,
            (one, same) if one == same => self.peer,
            _ => return None,
        };
        let narrow = match (self.protocol, other.protocol) {
            (ANY_PROTOCOL, _) => other,
            (_, ANY_PROTOCOL) => self,
            (one, same) if one == same => {
                let (narrow, wide) = if self.mask >= other.mask { (self, other) } else { (other, self) };
                if narrow.port & wide.mask != wide.port {
                    return None;
                }
                narrow
            }
            _ => return None,
        };
        Some(Self { peer, ..*narrow })
    }

    fn of_anything(subject: Pair, direction: u8) -> Self {
        Self { subject, peer: (PEER_ANY, PEER_ANY), direction, protocol: ANY_PROTOCOL, port: 0, mask: 0 }
    }
}
