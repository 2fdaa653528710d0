//! From policies to the entries of the policy table.
use std::collections::{BTreeMap, HashMap};

use weir_abi::{DIRECTION_EGRESS, DIRECTION_INGRESS, PolicyEntry, PolicyKey, SubjectInfo, identity, policy_verdict};
use weir_plan::Table;
use weir_schema::NamedPort;

use crate::{
    identities::{EndpointIdentityId, Identities},
    objects::ObjectId,
    peers::Universe,
    policy::{Peers, Policy, Subject},
    ports::{Shape, Transport},
    rules::{RuleKey, RuleRank, Rules},
    selector::matches_plain,
};

/// Whose policy this node enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SubjectId {
    Host,
    Endpoint(EndpointIdentityId),
}

/// A policy that selects somebody on this node.
#[derive(Debug)]
pub(crate) struct Enforced<'p> {
    pub policy: &'p Policy,
    pub subjects: Vec<SubjectId>,
}

/// The policies that matter here, with whom they select.
pub(crate) fn enforced<'p>(
    policies: &'p [Policy],
    identities: &Identities<'_>,
    node_labels: &BTreeMap<String, String>,
) -> Vec<Enforced<'p>> {
    let select = |policy: &'p Policy| {
        let subjects: Vec<SubjectId> = match &policy.subject {
            Subject::Host(selector) => {
                matches_plain(selector, node_labels).then_some(SubjectId::Host).into_iter().collect()
            }
            Subject::Endpoints(selector) => identities
                .select(selector)
                .into_iter()
                .filter(|id| identities.endpoints[*id as usize].local)
                .map(SubjectId::Endpoint)
                .collect(),
        };
        (!subjects.is_empty()).then_some(Enforced { policy, subjects })
    };
    policies.iter().filter_map(select).collect()
}

pub(crate) fn rules(enforced: &[Enforced<'_>]) -> Vec<RuleKey> {
    let rules = enforced.iter().flat_map(|one| one.policy.rules.iter().map(move |rule| (one.policy.object, rule)));
    rules
        .flat_map(|(object, rule)| rule.transports.iter().map(move |(path, _)| RuleKey { object, path: path.clone() }))
        .collect()
}

/// The tables of policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PolicyTables {
    pub policy: Table<PolicyKey, PolicyEntry>,
    pub subjects: Table<u32, SubjectInfo>,
    /// The first policy that selects each subject, sorted by identity.
    pub owners: Vec<(u32, ObjectId)>,
}

/// One entry before it has to share its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    key: PolicyKey,
    /// `false` sorts first: deny beats allow.
    allow: bool,
    rank: RuleRank,
}

/// Candidates are thinned out when there are this many, so that policies that say the same a thousand times do not
/// fill the memory.
const THIN_AT: usize = 4 << 20;

/// Above `limit` entries the result is a part of the whole, and larger than `limit`.
pub(crate) fn tables(
    enforced: &[Enforced<'_>],
    universe: &Universe<'_, '_>,
    rules: &Rules,
    host_ports: &[NamedPort],
    limit: usize,
) -> PolicyTables {
    let mut builder =
        Builder { universe, host_ports, candidates: Vec::new(), thin_at: THIN_AT, limit, over_limit: false };
    let mut infos: BTreeMap<u32, (SubjectInfo, ObjectId)> = BTreeMap::new();
    // Rules of many policies name the same peers: "everything in this namespace".
    let mut selected: HashMap<&Peers, Vec<u32>> = HashMap::new();
    for one in enforced {
        for subject in &one.subjects {
            let number = builder.number(*subject);
            let object = one.policy.object;
            let (info, owner) = infos.entry(number).or_insert((SubjectInfo::default(), object));
            *owner = object.min(*owner);
            for direction in 0..2 {
                info.default_deny[direction] |= u32::from(one.policy.default_deny[direction]);
            }
        }
        for rule in &one.policy.rules {
            let peers = selected.entry(&rule.peers).or_insert_with(|| universe.select(&rule.peers));
            for (path, transport) in &rule.transports {
                let decision = Decision {
                    direction: rule.direction,
                    allow: !rule.deny,
                    rank: rules.rank(one.policy.object, path),
                };
                for subject in &one.subjects {
                    builder.add(*subject, rule.peers.any, peers, transport, decision);
                }
            }
        }
    }
    builder.thin();
    let mut policy = Vec::with_capacity(builder.candidates.len());
    for candidate in builder.candidates {
        let key = candidate.key;
        if let Some((info, _)) = infos.get_mut(&key.subject) {
            let masks = if candidate.allow { &mut info.allow_classes } else { &mut info.deny_classes };
            masks[usize::from(key.direction())] |= 1 << key.class().0;
        }
        let verdict = if candidate.allow { policy_verdict::ALLOW } else { policy_verdict::DENY };
        policy.push((key, PolicyEntry { rule: rules.number_of(candidate.rank), verdict, ..PolicyEntry::default() }));
    }
    PolicyTables {
        policy: Table::from_sorted(policy).expect("candidates are sorted, one for each key"),
        subjects: infos.iter().map(|(number, (info, _))| (*number, *info)).collect(),
        owners: infos.into_iter().map(|(number, (_, owner))| (number, owner)).collect(),
    }
}

#[derive(Clone, Copy)]
struct Decision {
    direction: u8,
    allow: bool,
    rank: RuleRank,
}

struct Builder<'b, 'a> {
    universe: &'b Universe<'b, 'a>,
    host_ports: &'b [NamedPort],
    candidates: Vec<Candidate>,
    thin_at: usize,
    /// Most entries that will be accepted.
    limit: usize,
    /// More than that there are: no further one is taken.
    over_limit: bool,
}

impl Builder<'_, '_> {
    fn number(&self, subject: SubjectId) -> u32 {
        match subject {
            SubjectId::Host => identity::HOST,
            SubjectId::Endpoint(id) => self.universe.endpoints.endpoints[id as usize].number,
        }
    }

    fn add(&mut self, subject: SubjectId, any: bool, peers: &[u32], transport: &Transport, decision: Decision) {
        let number = self.number(subject);
        if decision.direction == DIRECTION_INGRESS || !transport.is_named() {
            let ports = match subject {
                SubjectId::Host => self.host_ports,
                SubjectId::Endpoint(id) => self.universe.endpoints.endpoints[id as usize].ports,
            };
            for shape in transport.shapes(ports) {
                // Peers that are named beside `all` keep their own entries: the more specific one explains.
                if any {
                    self.push(number, None, shape, decision);
                }
                peers.iter().for_each(|peer| self.push(number, Some(*peer), shape, decision));
            }
        } else {
            self.add_named_destinations(number, any, peers, transport, decision);
        }
    }

    /// A named port of an egress rule is the peer's: only peers that have it get entries, each its own.
    fn add_named_destinations(
        &mut self,
        subject: u32,
        any: bool,
        peers: &[u32],
        transport: &Transport,
        decision: Decision,
    ) {
        debug_assert_eq!(decision.direction, DIRECTION_EGRESS);
        let universe = self.universe;
        let wanted = |number: u32| any || peers.binary_search(&number).is_ok();
        for one in universe.endpoints.endpoints.iter().filter(|one| !one.ports.is_empty() && wanted(one.number)) {
            for shape in transport.shapes(one.ports) {
                self.push(subject, Some(one.number), shape, decision);
            }
        }
        if wanted(identity::HOST) {
            for shape in transport.shapes(self.host_ports) {
                self.push(subject, Some(identity::HOST), shape, decision);
            }
        }
    }

    fn push(&mut self, subject: u32, peer: Option<u32>, shape: Shape, decision: Decision) {
        if self.over_limit {
            return;
        }
        let key = shape.key(subject, peer, decision.direction);
        self.candidates.push(Candidate { key, allow: decision.allow, rank: decision.rank });
        if self.candidates.len() >= self.thin_at {
            self.thin();
            self.over_limit = self.candidates.len() > self.limit;
            self.thin_at = (self.candidates.len() * 2).max(THIN_AT);
        }
    }

    /// Of equal keys only the one that decides stays.
    fn thin(&mut self) {
        self.candidates.sort_unstable();
        self.candidates.dedup_by_key(|candidate| candidate.key);
    }
}

/// Whether some policy selects the host, and the first that does.
pub(crate) fn host_policy(enforced: &[Enforced<'_>]) -> Option<ObjectId> {
    enforced.iter().filter(|one| one.subjects.contains(&SubjectId::Host)).map(|one| one.policy.object).min()
}

/// Subjects that are named in a message: number of entries by identity.
pub(crate) fn entries_by_subject(tables: &PolicyTables) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    tables.policy.iter().for_each(|(key, _)| *counts.entry(key.subject).or_default() += 1);
    counts
}
