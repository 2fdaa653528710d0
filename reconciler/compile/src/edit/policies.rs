//! Policies that changed, and peers and subjects that came or went: the entries of the policy table that speak of them.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ipnet::IpNet;
use weir_abi::{DIRECTION_INGRESS, PEER_ANY, PolicyEntry, PolicyKey, SubjectInfo, identity, policy_verdict};
use weir_plan::{Change, ObjectRef, Prefix4, Prefix6, RuleRef, Space};
use weir_schema::{NamedPort, Object};

use super::{Addresses, Edit, Stop};
use crate::{
    cidrs,
    objects::{Difference, Objects, reference},
    peers::Peer,
    policies,
    policy::{Peers, Policy, Rule, Subject},
    provenance::{Owned, RuleOrigin},
    rules::rule_key,
    selector::matches_plain,
    state::{Mention, PolicyId, PolicyState, SubjectState, mentioned, selects_nodes, strength},
    view::cidr_labels,
};

/// One entry before it has to share its key: the least of those decides.
type Candidate = (PolicyKey, bool, ObjectRef, Arc<str>);

impl Edit<'_, '_> {
    pub(super) fn policies(&mut self, differences: &[&Difference]) -> Result<(), Stop> {
        for (from, _) in differences {
            if let Some(from) = from {
                self.remove_policies(&reference(from));
            }
        }
        for (_, to) in differences {
            if let Some(to) = to {
                self.add_policies(to)?;
            }
        }
        self.write_subjects()
    }

    fn of_object(&self, object: &ObjectRef) -> Vec<(PolicyId, Arc<PolicyState>)> {
        let all = self.state.policies.from_key(&(object.clone(), 0));
        all.take_while(|((of, _), _)| of == object).cloned().collect()
    }

    fn remove_policies(&mut self, object: &ObjectRef) {
        for (id, state) in self.of_object(object) {
            for subject in &state.subjects {
                self.leave(*subject, &id);
            }
            if !state.subjects.is_empty() {
                self.lift(&id, &state);
            }
            self.state.policies.remove(&id);
        }
    }

    fn add_policies(&mut self, object: &Arc<Object>) -> Result<(), Stop> {
        let alone = [Arc::clone(object)];
        let objects = Objects::new(alone.iter());
        for (index, policy) in policies(&objects).into_iter().enumerate() {
            let id = (reference(object), index as u32);
            let subjects: Vec<u32> = self.candidates().into_iter().filter(|one| self.selects(&policy, *one)).collect();
            for subject in &subjects {
                self.join(*subject, &id);
            }
            let owner = Owned::of(object);
            let state = Arc::new(PolicyState { owner, policy: Arc::new(policy), subjects });
            if !state.subjects.is_empty() {
                self.enforce(&id, &state)?;
            }
            self.state.policies.insert(id, state);
        }
        Ok(())
    }

    /// Who may be a subject: the host, and the identities of this node's endpoints.
    fn candidates(&self) -> Vec<u32> {
        let local = self.state.peers.identities.iter().filter(|(_, state)| state.local > 0);
        let mut numbers: Vec<u32> = local.map(|(_, state)| state.number).chain([identity::HOST]).collect();
        numbers.sort_unstable();
        numbers
    }

    fn selects(&self, policy: &Policy, subject: u32) -> bool {
        let peers = &self.state.peers;
        match &policy.subject {
            Subject::Host(selector) => subject == identity::HOST && matches_plain(selector, &peers.node_labels),
            Subject::Endpoints(selector) => {
                peers.endpoints.get(&subject).is_some_and(|peer| peers.selects(selector, peer))
            }
        }
    }

    fn join(&mut self, subject: u32, id: &PolicyId) {
        let mut state = self.state.subjects.get(&subject).map(|state| SubjectState::clone(state)).unwrap_or_default();
        if let Err(at) = state.policies.binary_search(id) {
            state.policies.insert(at, id.clone());
        }
        self.state.subjects.insert(subject, Arc::new(state));
        self.dirty.insert(subject);
    }

    fn leave(&mut self, subject: u32, id: &PolicyId) {
        if let Some(state) = self.state.subjects.get(&subject) {
            let mut state = SubjectState::clone(state);
            state.policies.retain(|one| one != id);
            self.state.subjects.insert(subject, Arc::new(state));
        }
        self.dirty.insert(subject);
    }

    /// An identity has its first endpoint on this node.
    pub(super) fn subject_came(&mut self, subject: u32) -> Result<(), Stop> {
        let all: Vec<(PolicyId, Arc<PolicyState>)> = self.state.policies.iter().cloned().collect();
        for (id, state) in all {
            if !self.selects(&state.policy, subject) {
                continue;
            }
            let mut subjects = state.subjects.clone();
            if let Err(at) = subjects.binary_search(&subject) {
                subjects.insert(at, subject);
            }
            let now = Arc::new(PolicyState { subjects, ..PolicyState::clone(&state) });
            self.join(subject, &id);
            if state.subjects.is_empty() {
                self.enforce(&id, &now)?;
            }
            self.state.policies.insert(id, now);
        }
        Ok(())
    }

    /// An identity has no endpoint on this node any more.
    pub(super) fn subject_went(&mut self, subject: u32) {
        let ids = self.state.subjects.get(&subject).map(|state| state.policies.clone()).unwrap_or_default();
        for id in ids {
            let Some(state) = self.state.policies.get(&id).cloned() else { continue };
            let mut now = PolicyState::clone(&state);
            now.subjects.retain(|one| *one != subject);
            self.leave(subject, &id);
            if now.subjects.is_empty() {
                self.lift(&id, &state);
            }
            self.state.policies.insert(id, Arc::new(now));
        }
    }

    /// A policy selects somebody: its rules count, and the prefixes that it mentions are somebody.
    fn enforce(&mut self, id: &PolicyId, state: &PolicyState) -> Result<(), Stop> {
        let sequence = self.sequence();
        self.state.told_apart += u32::from(selects_nodes(&state.policy));
        for path in paths(&state.policy) {
            let number = self.numbering.hold(Space::Rule, &rule_key(&id.0, path), sequence)?;
            let rule = RuleRef { object: id.0.clone(), path: Arc::clone(path) };
            self.origins.rules.insert(number, RuleOrigin { rule, owner: state.owner.clone() });
        }
        for net in mentioned(&state.policy) {
            self.mention(net, &id.0, &state.owner)?;
        }
        Ok(())
    }

    fn lift(&mut self, id: &PolicyId, state: &PolicyState) {
        let sequence = self.sequence();
        self.state.told_apart -= u32::from(selects_nodes(&state.policy)).min(self.state.told_apart);
        for path in paths(&state.policy) {
            let key = rule_key(&id.0, path);
            if let Some(number) = self.numbering.get(Space::Rule, &key) {
                self.origins.rules.remove(&number);
            }
            self.numbering.release(Space::Rule, &key, sequence);
        }
        for net in mentioned(&state.policy) {
            self.unmention(net, &id.0);
        }
    }

    fn mention(&mut self, net: IpNet, object: &ObjectRef, owner: &Owned) -> Result<(), Stop> {
        let known = self.state.mentions.get(&net).cloned();
        let number = match (&known, cidrs::reserved(&net)) {
            (Some(mention), _) => mention.number,
            (None, Some(number)) => number,
            (None, None) => self.numbering.hold(Space::Identity, &cidrs::key(&net), self.sequence())?,
        };
        if known.is_none() {
            // One that went and came back within this edit is the same one.
            if !self.gone.remove(&number) {
                self.new.insert(number);
            }
            self.identities.insert(number, Arc::new(cidr_labels(number, &net.to_string())));
        }
        let mut by = known.map(|mention| Vec::clone(&mention.by)).unwrap_or_default();
        match by.binary_search_by(|(one, ..)| one.cmp(object)) {
            Ok(at) => by[at] = (object.clone(), owner.clone(), by[at].2 + 1),
            Err(at) => by.insert(at, (object.clone(), owner.clone(), 1)),
        }
        self.claim_prefix(net, number, by.first().map(|(_, owner, _)| owner.clone()));
        self.state.mentions.insert(net, Mention { number, by: Arc::new(by) });
        Ok(())
    }

    fn unmention(&mut self, net: IpNet, object: &ObjectRef) {
        let Some(Mention { number, by }) = self.state.mentions.get(&net).cloned() else { return };
        let mut by = Vec::clone(&by);
        if let Ok(at) = by.binary_search_by(|(one, ..)| one.cmp(object)) {
            by[at].2 -= 1;
            if by[at].2 == 0 {
                by.remove(at);
            }
        }
        if by.is_empty() {
            self.state.mentions.remove(&net);
            self.identities.remove(&number);
            if cidrs::reserved(&net).is_none() {
                self.numbering.release(Space::Identity, &cidrs::key(&net), self.sequence());
            }
            if !self.new.remove(&number) {
                self.gone.insert(number);
            }
            self.unclaim_prefix(net);
        } else {
            self.claim_prefix(net, number, by.first().map(|(_, owner, _)| owner.clone()));
            self.state.mentions.insert(net, Mention { number, by: Arc::new(by) });
        }
    }

    fn claim_prefix(&mut self, net: IpNet, number: u32, owner: Option<Owned>) {
        let node = self.input.node;
        match net {
            IpNet::V4(net) => {
                let (table, owners) = (&mut self.tables.ipcache4, &mut self.origins.ipcache4);
                Addresses { table, owners, contests: &mut self.state.contests4, node }.claim(
                    (Prefix4::from(net), strength::CIDR, None),
                    number,
                    owner,
                );
            }
            IpNet::V6(net) => {
                let (table, owners) = (&mut self.tables.ipcache6, &mut self.origins.ipcache6);
                Addresses { table, owners, contests: &mut self.state.contests6, node }.claim(
                    (Prefix6::from(net), strength::CIDR, None),
                    number,
                    owner,
                );
            }
        }
    }

    fn unclaim_prefix(&mut self, net: IpNet) {
        let node = self.input.node;
        match net {
            IpNet::V4(net) => {
                let (table, owners) = (&mut self.tables.ipcache4, &mut self.origins.ipcache4);
                Addresses { table, owners, contests: &mut self.state.contests4, node }.unclaim(&(
                    Prefix4::from(net),
                    strength::CIDR,
                    None,
                ));
            }
            IpNet::V6(net) => {
                let (table, owners) = (&mut self.tables.ipcache6, &mut self.origins.ipcache6);
                Addresses { table, owners, contests: &mut self.state.contests6, node }.unclaim(&(
                    Prefix6::from(net),
                    strength::CIDR,
                    None,
                ));
            }
        }
    }

    /// The entries of every subject whose policies changed, and of every peer that came or went.
    fn write_subjects(&mut self) -> Result<(), Stop> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut selected: HashMap<Peers, Arc<Vec<u32>>> = HashMap::new();
        for subject in &dirty {
            self.write_subject(*subject, &mut selected);
        }
        let mut pairs: BTreeSet<(u32, u32)> = BTreeSet::new();
        let others: Vec<u32> =
            self.state.subjects.iter().map(|(number, _)| *number).filter(|number| !dirty.contains(number)).collect();
        for subject in &others {
            for peer in &self.gone {
                let first = PolicyKey { subject: *subject, peer: *peer, port: 0, protocol: 0, direction_class: 0 };
                let found = self.tables.policy.from_key(&first).next();
                if found.is_some_and(|(key, _)| (key.subject, key.peer) == (*subject, *peer)) {
                    pairs.insert((*subject, *peer));
                }
            }
        }
        for number in &self.new {
            let Some(peer) = self.peer(*number) else { continue };
            for (_, state) in self.state.policies.iter().filter(|(_, state)| !state.subjects.is_empty()) {
                if state.policy.rules.iter().any(|rule| self.concerns(rule, &peer)) {
                    let subjects = state.subjects.iter().filter(|subject| !dirty.contains(subject));
                    pairs.extend(subjects.map(|subject| (*subject, *number)));
                }
            }
        }
        for (subject, peer) in pairs {
            self.write_pair(subject, peer);
        }
        Ok(())
    }

    fn peer(&self, number: u32) -> Option<Peer<'_>> {
        let peers = &self.state.peers;
        if let Some(peer) = peers.endpoints.get(&number) {
            return Some(Peer::Endpoint(peer));
        }
        match number {
            identity::HOST => return Some(Peer::Host),
            identity::WORLD => return Some(Peer::World),
            _ => {}
        }
        if let Some((number, labels)) = peers.remote_nodes.iter().find(|(node, _)| *node == number) {
            return Some(Peer::Node(*number, labels));
        }
        let mention = self.state.mentions.iter().find(|(_, mention)| mention.number == number);
        mention.map(|(net, _)| Peer::Cidr(number, *net))
    }

    /// Whether the rule gives this peer entries of its own.
    fn concerns(&self, rule: &Rule, peer: &Peer<'_>) -> bool {
        let named = || rule.direction != DIRECTION_INGRESS && rule.transports.iter().any(|(_, one)| one.is_named());
        (rule.peers.any && named()) || self.state.peers.has(&rule.peers, peer)
    }

    /// Every peer that the union has, ascending.
    fn select(&self, union: &Peers) -> Vec<u32> {
        let peers = &self.state.peers;
        let fixed = [Peer::Host, Peer::World].into_iter();
        let nodes = peers.remote_nodes.iter().map(|(number, labels)| Peer::Node(*number, labels));
        let mentions = self.state.mentions.iter().map(|(net, mention)| Peer::Cidr(mention.number, *net));
        let endpoints = peers.endpoints.iter().map(|(_, peer)| Peer::Endpoint(peer));
        let all = fixed.chain(nodes).chain(mentions).chain(endpoints);
        let mut numbers: Vec<u32> = all.filter(|peer| peers.has(union, peer)).map(|peer| peer.number()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    fn ports(&self, number: u32) -> &[NamedPort] {
        match self.state.peers.endpoints.get(&number) {
            Some(peer) => &peer.ports,
            None if number == identity::HOST => &self.state.peers.host_ports,
            None => &[],
        }
    }

    fn write_subject(&mut self, subject: u32, selected: &mut HashMap<Peers, Arc<Vec<u32>>>) {
        let mut candidates: Vec<Candidate> = Vec::new();
        let ids = self.state.subjects.get(&subject).map(|state| state.policies.clone()).unwrap_or_default();
        for id in &ids {
            let Some(state) = self.state.policies.get(id).cloned() else { continue };
            for rule in &state.policy.rules {
                let peers = match selected.get(&rule.peers) {
                    Some(peers) => Arc::clone(peers),
                    None => {
                        let peers = Arc::new(self.select(&rule.peers));
                        selected.insert(rule.peers.clone(), Arc::clone(&peers));
                        peers
                    }
                };
                for (path, transport) in &rule.transports {
                    let mut push = |key| candidates.push((key, !rule.deny, id.0.clone(), Arc::clone(path)));
                    if rule.direction != DIRECTION_INGRESS && transport.is_named() {
                        let with_ports = self.state.peers.endpoints.iter().filter(|(_, peer)| !peer.ports.is_empty());
                        let with_ports = with_ports.map(|(number, _)| *number).chain([identity::HOST]);
                        let wanted = |number: &u32| rule.peers.any || peers.binary_search(number).is_ok();
                        for peer in with_ports.filter(wanted) {
                            for shape in transport.shapes(self.ports(peer)) {
                                push(shape.key(subject, Some(peer), rule.direction));
                            }
                        }
                        continue;
                    }
                    for shape in transport.shapes(self.ports(subject)) {
                        if rule.peers.any {
                            push(shape.key(subject, None, rule.direction));
                        }
                        peers.iter().for_each(|peer| push(shape.key(subject, Some(*peer), rule.direction)));
                    }
                }
            }
        }
        let entries = self.decided(candidates);
        let first = PolicyKey { subject, peer: 0, port: 0, protocol: 0, direction_class: 0 };
        self.write(subject, entries, |key| key.subject == subject, first);
    }

    /// The entries of one subject that speak of one peer.
    fn write_pair(&mut self, subject: u32, number: u32) {
        let mut candidates: Vec<Candidate> = Vec::new();
        if let Some(peer) = self.peer(number) {
            let ids = self.state.subjects.get(&subject).map(|state| state.policies.clone()).unwrap_or_default();
            for id in &ids {
                let Some(state) = self.state.policies.get(id) else { continue };
                for rule in &state.policy.rules {
                    let has = self.state.peers.has(&rule.peers, &peer);
                    for (path, transport) in &rule.transports {
                        let named = rule.direction != DIRECTION_INGRESS && transport.is_named();
                        let ports = match named {
                            true if !has && !rule.peers.any => continue,
                            false if !has => continue,
                            true => self.ports(number),
                            false => self.ports(subject),
                        };
                        for shape in transport.shapes(ports) {
                            let key = shape.key(subject, Some(number), rule.direction);
                            candidates.push((key, !rule.deny, id.0.clone(), Arc::clone(path)));
                        }
                    }
                }
            }
        }
        let entries = self.decided(candidates);
        let first = PolicyKey { subject, peer: number, port: 0, protocol: 0, direction_class: 0 };
        debug_assert_ne!(number, PEER_ANY);
        self.write(subject, entries, |key| (key.subject, key.peer) == (subject, number), first);
    }

    /// Of equal keys only the one that decides stays: deny before allow, then the first rule.
    fn decided(&self, mut candidates: Vec<Candidate>) -> Vec<(PolicyKey, PolicyEntry)> {
        candidates.sort_unstable();
        candidates.dedup_by(|later, first| later.0 == first.0);
        let mut numbers: HashMap<(ObjectRef, Arc<str>), u32> = HashMap::new();
        let mut number = |object: ObjectRef, path: Arc<str>| {
            let find = |(object, path): &(ObjectRef, Arc<str>)| {
                self.numbering.get(Space::Rule, &rule_key(object, path)).unwrap_or(weir_abi::RULE_NONE)
            };
            let key = (object, path);
            match numbers.get(&key) {
                Some(number) => *number,
                None => {
                    let number = find(&key);
                    numbers.insert(key, number);
                    number
                }
            }
        };
        let entry = |(key, allow, object, path): Candidate| {
            let verdict = if allow { policy_verdict::ALLOW } else { policy_verdict::DENY };
            (key, PolicyEntry { rule: number(object, path), verdict, ..PolicyEntry::default() })
        };
        candidates.into_iter().map(entry).collect()
    }

    /// Makes `entries` what the table holds from `first` on as long as `within` says so.
    fn write(
        &mut self,
        subject: u32,
        entries: Vec<(PolicyKey, PolicyEntry)>,
        within: impl Fn(&PolicyKey) -> bool,
        first: PolicyKey,
    ) {
        let mut state = self.state.subjects.get(&subject).map(|state| SubjectState::clone(state)).unwrap_or_default();
        let old: BTreeMap<PolicyKey, PolicyEntry> =
            self.tables.policy.from_key(&first).take_while(|(key, _)| within(key)).copied().collect();
        let new: BTreeMap<PolicyKey, PolicyEntry> = entries.into_iter().collect();
        let mut changes = Vec::new();
        for (key, from) in &old {
            let to = new.get(key).copied();
            if to.as_ref() != Some(from) {
                changes.push(Change { key: *key, from: Some(*from), to });
            }
        }
        let added = new.iter().filter(|(key, _)| !old.contains_key(key));
        changes.extend(added.map(|(key, to)| Change { key: *key, from: None, to: Some(*to) }));
        changes.sort_unstable_by_key(|change| change.key);
        for change in &changes {
            change.from.iter().for_each(|entry| state.count(&change.key, entry, -1));
            change.to.iter().for_each(|entry| state.count(&change.key, entry, 1));
        }
        self.tables.policy.apply(&changes);
        self.describe(subject, state);
    }

    /// The subject's own record.
    fn describe(&mut self, subject: u32, state: SubjectState) {
        let Some((first, _)) = state.policies.first() else {
            self.tables.subjects.remove(&subject);
            self.origins.subjects.remove(&subject);
            self.state.subjects.remove(&subject);
            return;
        };
        let mut info = SubjectInfo::default();
        for direction in 0..2 {
            let mask = |counts: &[u32; 64]| {
                counts
                    .iter()
                    .enumerate()
                    .filter(|(_, count)| **count > 0)
                    .fold(0u64, |mask, (class, _)| mask | 1 << class)
            };
            info.deny_classes[direction] = mask(&state.classes[direction][0]);
            info.allow_classes[direction] = mask(&state.classes[direction][1]);
        }
        let mut owner = None;
        for id in &state.policies {
            let Some(policy) = self.state.policies.get(id) else { continue };
            for direction in 0..2 {
                info.default_deny[direction] |= u32::from(policy.policy.default_deny[direction]);
            }
            if id.0 == *first && owner.is_none() {
                owner = Some(policy.owner.clone());
            }
        }
        if self.tables.subjects.get(&subject) != Some(&info) {
            self.tables.subjects.insert(subject, info);
        }
        if let Some(owner) = owner {
            self.origins.subjects.insert(subject, owner);
        }
        self.state.subjects.insert(subject, Arc::new(state));
    }
}

fn paths(policy: &Policy) -> impl Iterator<Item = &Arc<str>> {
    policy.rules.iter().flat_map(|rule| rule.transports.iter().map(|(path, _)| path))
}
