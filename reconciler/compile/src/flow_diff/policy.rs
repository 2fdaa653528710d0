//! What the policies of subjects make of flows.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use weir_abi::{DIRECTION_EGRESS, DIRECTION_INGRESS, PEER_ANY, PROTO_ANY, PolicyKey, RULE_NONE, SubjectInfo, identity};
use weir_plan::{Prefix4, Prefix6, Provenance as _, Tables};

use super::{ChangedFlow, Fate, FlowChange, Side, own_address};
use crate::{
    Compiled,
    trace::{judge, peer},
};

/// Who an end is before and after.
type Pair = (u32, u32);

/// What may be judged otherwise than before.
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

struct Diff<'a> {
    before: &'a Compiled,
    after: &'a Compiled,
    /// Addresses that changed hands: the first of each pair.
    moved: BTreeMap<Pair, IpAddr>,
    /// The entries of both, by subject and direction.
    entries: HashMap<(u32, u8), BTreeSet<PolicyKey>>,
    candidates: BTreeSet<Candidate>,
}

pub(super) fn changes(before: &Compiled, after: &Compiled) -> Vec<FlowChange> {
    let (moved, candidates) = (BTreeMap::new(), BTreeSet::new());
    let mut entries: HashMap<_, BTreeSet<PolicyKey>> = HashMap::new();
    for (key, _) in before.tables.policy.iter().chain(after.tables.policy.iter()) {
        entries.entry((key.subject, key.direction())).or_default().insert(*key);
    }
    let mut diff = Diff { before, after, moved, entries, candidates };
    diff.changed_entries();
    diff.subjects();
    diff.addresses();
    diff.judged()
}

impl Diff<'_> {
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

    fn judged(&self) -> Vec<FlowChange> {
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
                ..Fate::default()
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
        let labels = [(self.after, pair.1), (self.before, pair.0)];
        let labels = labels.into_iter().find_map(|(compiled, identity)| compiled.identities.get(&identity));
        Side {
            labels: labels.map(|labels| BTreeMap::clone(labels)).unwrap_or_default(),
            address: self.moved.get(&pair).copied(),
        }
    }
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

pub(super) fn is_in_ipcache(tables: &Tables, net: IpNet) -> bool {
    match net {
        IpNet::V4(net) => tables.ipcache4.get(&Prefix4::from(net)).is_some(),
        IpNet::V6(net) => tables.ipcache6.get(&Prefix6::from(net)).is_some(),
    }
}
