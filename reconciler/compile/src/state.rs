//! What an edit of a compiled set starts from: indexes that say what depends on what. Every part is shared between
//! versions, so that an edit leaves the version that it started from as it was.
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ipnet::IpNet;
use weir_abi::{CLASS_GROUPS, PrefilterClass, identity};
use weir_plan::{Numbering, ObjectRef, Prefix4, Prefix6, Space, Table};
use weir_schema::{NamedPort, Object, Spec};

use crate::{
    Compiled, cidr_filter,
    config::NodeSettings,
    endpoint,
    entries::{self, SubjectId},
    error::CompileError,
    identities::{Identities, endpoint_key},
    ipcache,
    nodes::{self, NodeIdentities},
    objects::{Objects, reference},
    peers::EndpointPeer,
    policies,
    policy::Policy,
    prefilter::Role,
    provenance::Owned,
    service,
};

/// Which of an object's policies.
pub(crate) type PolicyId = (ObjectRef, u32);

#[derive(Clone, Debug)]
pub(crate) struct State {
    pub settings: Arc<NodeSettings>,
    /// The node's own objects: what decides about devices and hooks, beside filters.
    pub shape: Table<ObjectRef, Arc<Object>>,
    pub filters: Table<ObjectRef, Arc<Object>>,
    pub peers: PeerState,
    pub policies: Table<PolicyId, Arc<PolicyState>>,
    pub subjects: Table<u32, Arc<SubjectState>>,
    /// Enforced policies that select nodes.
    pub told_apart: u32,
    pub mentions: Table<IpNet, Mention>,
    pub contests4: Contests<Prefix4>,
    pub contests6: Contests<Prefix6>,
    pub prefilter: PrefilterState,
    pub services: service::State,
}

/// Everybody who can be a peer.
#[derive(Clone, Debug)]
pub(crate) struct PeerState {
    /// Own labels of the node.
    pub node_labels: Arc<BTreeMap<String, String>>,
    pub host_ports: Arc<Vec<NamedPort>>,
    pub namespaces: Arc<HashMap<String, BTreeMap<String, String>>>,
    pub remote_nodes: Arc<Vec<(u32, BTreeMap<String, String>)>>,
    pub identities: Table<Arc<str>, IdentityState>,
    pub endpoints: Table<u32, Arc<EndpointPeer>>,
}

/// An identity of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdentityState {
    pub number: u32,
    /// Endpoints that have it, and those of this node among them.
    pub endpoints: u32,
    pub local: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyState {
    pub owner: Owned,
    pub policy: Arc<Policy>,
    /// Whom it selects on this node, by identity, sorted: enforced where there is one.
    pub subjects: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubjectState {
    /// Sorted.
    pub policies: Vec<PolicyId>,
    /// Entries by direction, allow or not, class.
    pub classes: [[[u32; 64]; 2]; 2],
    pub entries: u32,
}

impl Default for SubjectState {
    fn default() -> Self {
        Self { policies: Vec::new(), classes: [[[0; 64]; 2]; 2], entries: 0 }
    }
}

/// A prefix that policies mention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mention {
    pub number: u32,
    /// Who does, and how often.
    pub by: Arc<Vec<(ObjectRef, Owned, u32)>>,
}

/// How strong a claim to a prefix is, beside whose it is.
pub(crate) mod strength {
    pub const CIDR: u8 = 0;
    pub const REMOTE_NODE: u8 = 1;
    pub const REMOTE_HOST: u8 = 2;
    pub const HOST: u8 = 3;
    pub const ENDPOINT: u8 = 4;
}

/// A claim to a prefix of the ipcache.
pub(crate) type ClaimKey<P> = (P, u8, Option<ObjectRef>);

/// Prefixes that more than one claims, with every claim, the weakest first.
pub(crate) type Contests<P> = Table<ClaimKey<P>, (u32, Option<Owned>)>;

/// What lies under the prefilter's tables.
#[derive(Clone, Debug)]
pub(crate) struct PrefilterState {
    /// By number.
    pub sources: Table<u32, SourceState>,
    pub source_of: Table<(ObjectRef, Arc<str>), u32>,
    pub next_source: u32,
    pub v4: Claims<Prefix4>,
    pub v6: Claims<Prefix6>,
    /// Entries of each class.
    pub uses: Table<u32, u32>,
    pub used_columns: [bool; CLASS_GROUPS * 2],
}

/// One list of one filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceState {
    pub object: ObjectRef,
    pub path: Arc<str>,
    pub side: usize,
    pub groups: u32,
    pub role: Role,
}

/// Which sources name each prefix.
#[derive(Clone, Debug)]
pub(crate) struct Claims<P> {
    /// One source of each prefix.
    pub first: Table<P, u32>,
    /// The others.
    pub more: Table<(P, u32), ()>,
    /// Prefixes of each length.
    pub lengths: Arc<Vec<u32>>,
}

impl<P: crate::prefilter::Prefix> Claims<P> {
    fn new(mut entries: Vec<(P, u32)>) -> Self {
        entries.sort_unstable();
        entries.dedup();
        let mut lengths = vec![0; 129];
        let (mut first, mut more) = (Vec::with_capacity(entries.len()), Vec::new());
        let mut last = None;
        for (prefix, source) in entries {
            if last == Some(prefix) {
                more.push(((prefix, source), ()));
            } else {
                lengths[usize::from(prefix.length())] += 1;
                first.push((prefix, source));
                last = Some(prefix);
            }
        }
        Self { first: Table::from_unsorted(first), more: Table::from_unsorted(more), lengths: Arc::new(lengths) }
    }
}

impl State {
    /// The indexes of a set that was compiled whole.
    pub fn new(compiled: &Compiled) -> Result<Self, Vec<CompileError>> {
        let basis = &compiled.basis;
        let node = &*basis.node;
        let inventory = &compiled.provenance.inventory;
        let mut numbering = basis.numbering.clone();
        let all: Vec<_> = inventory.objects().collect();
        let objects = &Objects::new(all.iter());
        let one = |error| vec![CompileError::from(error)];
        let settings = NodeSettings::new(objects, node);
        let identities = Identities::new(objects, node, &mut numbering, 0).map_err(one)?;
        let list = policies(objects);
        let no_labels = BTreeMap::new();
        let node_labels = objects.node(node).map_or(&no_labels, |item| &item.metadata.labels);
        let enforced = entries::enforced(&list, &identities, node_labels);

        // Policies and subjects.
        let mut policies = Vec::with_capacity(list.len());
        let mut subjects: BTreeMap<u32, SubjectState> = BTreeMap::new();
        let mut selected: HashMap<*const Policy, Vec<u32>> = HashMap::new();
        for one in &enforced {
            let number = |subject: &SubjectId| match subject {
                SubjectId::Host => identity::HOST,
                SubjectId::Endpoint(id) => identities.endpoints[*id as usize].number,
            };
            let mut numbers: Vec<u32> = one.subjects.iter().map(number).collect();
            numbers.sort_unstable();
            selected.insert(std::ptr::from_ref(one.policy), numbers);
        }
        let mut told_apart = 0;
        let mut mentions: BTreeMap<IpNet, BTreeMap<ObjectRef, (Owned, u32)>> = BTreeMap::new();
        let mut last = None;
        let mut index = 0;
        for policy in &list {
            index = if last == Some(policy.object) { index + 1 } else { 0 };
            last = Some(policy.object);
            let id = (objects.reference(policy.object).clone(), index);
            let owner = objects.owner(policy.object);
            let numbers = selected.remove(&std::ptr::from_ref(policy)).unwrap_or_default();
            if !numbers.is_empty() {
                told_apart += u32::from(selects_nodes(policy));
                for net in mentioned(policy) {
                    let by = mentions.entry(net).or_default().entry(id.0.clone());
                    by.or_insert_with(|| (owner.clone(), 0)).1 += 1;
                }
            }
            for subject in &numbers {
                subjects.entry(*subject).or_default().policies.push(id.clone());
            }
            policies.push((id, Arc::new(PolicyState { owner, policy: Arc::new(policy.clone()), subjects: numbers })));
        }
        for (key, entry) in &compiled.tables.policy {
            if let Some(subject) = subjects.get_mut(&key.subject) {
                subject.count(key, entry, 1);
            }
        }
        for subject in subjects.values_mut() {
            subject.policies.sort();
        }

        let nodes = NodeIdentities::new(objects, node, told_apart > 0, &mut numbering, 0).map_err(one)?;
        let owned = |labels: &BTreeMap<&str, &str>| -> BTreeMap<String, String> {
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let mut states: BTreeMap<Arc<str>, IdentityState> = BTreeMap::new();
        for (item, id) in objects.endpoints.iter().zip(&identities.of_endpoint) {
            let Some(id) = id else { continue };
            let number = identities.endpoints[*id as usize].number;
            let key = endpoint_key(item.metadata, item.spec).into();
            let state = states.entry(key).or_insert(IdentityState { number, endpoints: 0, local: 0 });
            state.endpoints += 1;
            state.local += u32::from(item.spec.node == node);
        }
        let mut namespaces: HashMap<String, BTreeMap<String, String>> = HashMap::new();
        for item in &objects.namespaces {
            let labels = namespaces
                .entry(item.metadata.name.clone())
                .or_insert_with(|| crate::identities::implied_labels(&item.metadata.name));
            labels.extend(item.metadata.labels.clone());
        }
        let peers = PeerState {
            node_labels: Arc::new(node_labels.clone()),
            host_ports: Arc::new(
                nodes::host_endpoint(objects, node).map_or(Vec::new(), |item| item.spec.ports.clone()),
            ),
            namespaces: Arc::new(namespaces),
            remote_nodes: Arc::new(nodes.remote.iter().map(|(number, labels)| (*number, owned(labels))).collect()),
            identities: states.into_iter().collect(),
            endpoints: identities.endpoints.iter().map(|one| (one.number, Arc::new(EndpointPeer::of(one)))).collect(),
        };

        let mention = |(net, by): (IpNet, BTreeMap<ObjectRef, (Owned, u32)>)| {
            let by = by.into_iter().map(|(object, (owner, count))| (object, owner, count)).collect();
            (net, Mention { number: mention_number(&net, &numbering), by: Arc::new(by) })
        };
        let mentions: Table<IpNet, Mention> = mentions.into_iter().map(mention).collect();
        let (contests4, contests6) = contests(objects, node, compiled, &identities, &nodes, &mentions);
        let site = service::Site {
            node,
            host_addresses: &compiled.host_addresses,
            is_local: &|address| compiled.tables.endpoints.get(&address).is_some(),
        };
        let services = service::Whole::new(all.iter(), &site, &mut numbering, 0).map_err(one)?.into_state();
        let is_shape = |object: &Object| match &object.spec {
            Spec::NodeConfig(_) => true,
            Spec::Node(_) => object.metadata.name == node,
            Spec::Endpoint(spec) => spec.node == node,
            _ => false,
        };
        let by_reference = |object: &Arc<Object>| (reference(object), Arc::clone(object));
        let is_filter = |object: &&Arc<Object>| matches!(object.spec, Spec::CidrFilter(_));
        Ok(Self {
            settings: Arc::new(settings),
            shape: all.iter().filter(|object| is_shape(object)).map(by_reference).collect(),
            filters: all.iter().filter(is_filter).map(by_reference).collect(),
            peers,
            policies: policies.into_iter().collect(),
            subjects: subjects.into_iter().map(|(number, subject)| (number, Arc::new(subject))).collect(),
            told_apart,
            mentions,
            contests4,
            contests6,
            prefilter: PrefilterState::new(objects, compiled, &numbering)?,
            services,
        })
    }
}

impl SubjectState {
    /// An entry came (1) or went (-1).
    pub fn count(&mut self, key: &weir_abi::PolicyKey, entry: &weir_abi::PolicyEntry, by: i32) {
        let allow = usize::from(entry.verdict == weir_abi::policy_verdict::ALLOW);
        let class = &mut self.classes[usize::from(key.direction())][allow][usize::from(key.class().0)];
        *class = class.saturating_add_signed(by);
        self.entries = self.entries.saturating_add_signed(by);
    }
}

impl PrefilterState {
    fn new(objects: &Objects<'_>, compiled: &Compiled, numbering: &Numbering) -> Result<Self, Vec<CompileError>> {
        let basis = &compiled.basis;
        let endpoints = endpoint::interfaces(objects, &basis.node);
        let groups = cidr_filter::groups(objects, &basis.node, &basis.facts, &endpoints)?;
        let ranges = objects.node(&basis.node).map_or(&[][..], |node| &node.spec.endpoint_cidrs);
        let mut this = Self {
            sources: Table::new(),
            source_of: Table::new(),
            next_source: 0,
            v4: Claims::new(Vec::new()),
            v6: Claims::new(Vec::new()),
            uses: Table::new(),
            used_columns: [false; CLASS_GROUPS * 2],
        };
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let (mut sources, mut source_of) = (Vec::new(), Vec::new());
        for (item, groups) in objects.filters.iter().zip(groups) {
            let object = objects.reference(item.id);
            for list in cidr_filter::lists(item.spec, ranges) {
                let source = this.next_source;
                this.next_source += 1;
                let role = list.role(object, numbering);
                source_of.push(((object.clone(), list.path.clone()), source));
                let state = SourceState { object: object.clone(), path: list.path, side: list.side, groups, role };
                sources.push((source, state));
                for net in list.nets {
                    match net {
                        IpNet::V4(net) => v4.push((Prefix4::from(*net), source)),
                        IpNet::V6(net) => v6.push((Prefix6::from(*net), source)),
                    }
                }
            }
        }
        this.sources = sources.into_iter().collect();
        this.source_of = source_of.into_iter().collect();
        this.v4 = Claims::new(v4);
        this.v6 = Claims::new(v6);
        let tables = &compiled.tables;
        let mut uses: HashMap<u32, u32> = HashMap::new();
        tables.prefilter4.iter().for_each(|(_, class)| *uses.entry(*class).or_default() += 1);
        tables.prefilter6.iter().for_each(|(_, class)| *uses.entry(*class).or_default() += 1);
        this.uses = uses.into_iter().collect();
        this.used_columns = used_columns(&tables.classes);
        Ok(this)
    }
}

pub(crate) fn used_columns(classes: &Table<u32, PrefilterClass>) -> [bool; CLASS_GROUPS * 2] {
    let mut used = [false; CLASS_GROUPS * 2];
    for (_, class) in classes {
        for (column, cell) in class.cells.iter().enumerate() {
            used[column] |= cell.action() != 0;
        }
    }
    used
}

pub(crate) fn selects_nodes(policy: &Policy) -> bool {
    policy.rules.iter().any(|rule| !rule.peers.nodes.is_empty())
}

/// Every prefix that a policy mentions, as often as it does.
pub(crate) fn mentioned(policy: &Policy) -> Vec<IpNet> {
    let mut nets = Vec::new();
    for rule in &policy.rules {
        let named = crate::peers::families_named(&rule.peers);
        for selector in rule.peers.cidrs.iter().chain(&named) {
            nets.push(selector.net);
            nets.extend(&selector.except);
        }
    }
    nets
}

fn mention_number(net: &IpNet, numbering: &Numbering) -> u32 {
    crate::cidrs::reserved(net)
        .or_else(|| numbering.get(Space::Identity, &crate::cidrs::key(net)))
        .unwrap_or(identity::UNKNOWN)
}

fn contests(
    objects: &Objects<'_>,
    node: &str,
    compiled: &Compiled,
    endpoints: &Identities<'_>,
    nodes: &NodeIdentities<'_>,
    mentions: &Table<IpNet, Mention>,
) -> (Contests<Prefix4>, Contests<Prefix6>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    let mut put = |net: IpNet, strength: u8, object: Option<ObjectRef>, number: u32, owner: Option<Owned>| match net {
        IpNet::V4(net) => v4.push(((Prefix4::from(net), strength, object), (number, owner))),
        IpNet::V6(net) => v6.push(((Prefix6::from(net), strength, object), (number, owner))),
    };
    for (net, mention) in mentions {
        put(*net, strength::CIDR, None, mention.number, mention.by.first().map(|(_, owner, _)| owner.clone()));
    }
    let host = nodes::host_addresses(objects, node, &compiled.basis.facts);
    for claim in ipcache::claims(objects, node, &host, endpoints, nodes) {
        let object = claim.owner.map(|owner| objects.reference(owner).clone());
        // The host has one claim to an address, whoever says so.
        let object = object.filter(|_| claim.strength != strength::HOST);
        put(claim.address.into(), claim.strength, object, claim.number, claim.owner.map(|owner| objects.owner(owner)));
    }
    (contested(v4), contested(v6))
}

/// A claim, with the identity and the owner that it gives.
type Claim<P> = (ClaimKey<P>, (u32, Option<Owned>));

fn contested<P: Ord + Copy>(mut claims: Vec<Claim<P>>) -> Contests<P> {
    claims.sort_by(|a, b| a.0.cmp(&b.0));
    let several = claims.chunk_by(|a, b| a.0.0 == b.0.0).filter(|claims| claims.len() > 1);
    several.flatten().cloned().collect()
}
