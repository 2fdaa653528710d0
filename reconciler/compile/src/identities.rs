//! Identities: who a peer or a subject is, as a number.
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    net::IpAddr,
};

use ipnet::IpNet;
use weir_abi::identity;
use weir_plan::{NodeFacts, Numbering, OutOfNumbers, Prefix4, Prefix6, Space};
use weir_schema::{EndpointSpec, Entity, LabelSelector, NamedPort};

use crate::{
    objects::{Item, ObjectId, Objects},
    policy::{CidrSelector, Peers},
    selector::{
        EndpointSelector, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, RESERVED_PREFIX, Scope, matches, matches_plain,
        plain_key,
    },
};

/// The label that every namespace has, object or not.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Endpoints that policies cannot tell apart: same namespace, labels and named ports.
#[derive(Debug)]
pub(crate) struct EndpointIdentity<'a> {
    pub number: u32,
    pub namespace: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    pub ports: &'a [NamedPort],
    /// Whether some endpoint of this node has it.
    pub local: bool,
}

/// Index into [`Identities::endpoints`].
pub(crate) type EndpointIdentityId = u32;

/// The identities of endpoints and nodes. Those of CIDRs are [`CidrIdentities`]: they depend on which policies matter.
#[derive(Debug)]
pub(crate) struct Identities<'a> {
    /// Sorted by key.
    pub endpoints: Vec<EndpointIdentity<'a>>,
    /// Of each endpoint object, in their order; `None` for a host endpoint.
    pub of_endpoint: Vec<Option<EndpointIdentityId>>,
    namespaces: BTreeMap<&'a str, BTreeMap<String, String>>,
    by_namespace: HashMap<&'a str, Vec<EndpointIdentityId>>,
    by_label: HashMap<&'a str, HashMap<&'a str, Vec<EndpointIdentityId>>>,
}

impl<'a> Identities<'a> {
    pub fn new(
        objects: &Objects<'a>,
        node: &str,
        numbering: &mut Numbering,
        sequence: u64,
    ) -> Result<Self, OutOfNumbers> {
        let mut keys: BTreeMap<String, EndpointIdentity<'a>> = BTreeMap::new();
        let mut key_of = Vec::with_capacity(objects.endpoints.len());
        for item in &objects.endpoints {
            if item.spec.attach.host.is_some() {
                key_of.push(None);
                continue;
            }
            let key = endpoint_key(item);
            let local = item.spec.node == node;
            keys.entry(key.clone())
                .or_insert_with(|| EndpointIdentity {
                    number: 0,
                    namespace: &item.metadata.namespace,
                    labels: &item.metadata.labels,
                    ports: &item.spec.ports,
                    local: false,
                })
                .local |= local;
            key_of.push(Some(key));
        }
        let mut index = HashMap::with_capacity(keys.len());
        let mut endpoints = Vec::with_capacity(keys.len());
        for (at, (key, mut one)) in keys.into_iter().enumerate() {
            one.number = numbering.assign(Space::Identity, &key, sequence)?;
            endpoints.push(one);
            index.insert(key, at as EndpointIdentityId);
        }
        let of_endpoint = key_of.into_iter().map(|key| key.and_then(|key| index.get(&key).copied())).collect();

        let mut this = Self {
            endpoints,
            of_endpoint,
            namespaces: BTreeMap::new(),
            by_namespace: HashMap::new(),
            by_label: HashMap::new(),
        };
        for (at, one) in this.endpoints.iter().enumerate() {
            this.by_namespace.entry(one.namespace).or_default().push(at as u32);
            for (key, value) in one.labels {
                this.by_label.entry(key).or_default().entry(value).or_default().push(at as u32);
            }
            this.namespaces.entry(one.namespace).or_insert_with(|| implied_labels(one.namespace));
        }
        for item in &objects.namespaces {
            let labels =
                this.namespaces.entry(&item.metadata.name).or_insert_with(|| implied_labels(&item.metadata.name));
            labels.extend(item.metadata.labels.clone());
        }
        Ok(this)
    }

    /// A label of an endpoint, those of its namespace included.
    pub fn label<'s>(&'s self, one: &'s EndpointIdentity<'a>, key: &str, own_only: bool) -> Option<&'s str> {
        if !own_only {
            if key == NAMESPACE_LABEL {
                return Some(one.namespace);
            }
            if let Some(key) = key.strip_prefix(NAMESPACE_LABELS_PREFIX) {
                return self.namespaces.get(one.namespace)?.get(key).map(String::as_str);
            }
            if let Some(entity) = key.strip_prefix(RESERVED_PREFIX) {
                return matches!(entity, "all" | "cluster").then_some("");
            }
        }
        one.labels.get(key).map(String::as_str)
    }

    /// Every label, as `get` shows them.
    pub fn labels(&self, one: &EndpointIdentity<'a>) -> BTreeMap<String, String> {
        let mut labels = one.labels.clone();
        labels.insert(NAMESPACE_LABEL.to_owned(), one.namespace.to_owned());
        for (key, value) in self.namespaces.get(one.namespace).into_iter().flatten() {
            labels.insert(format!("{NAMESPACE_LABELS_PREFIX}{key}"), value.clone());
        }
        labels
    }

    /// Those that have a label of their own; `None` for one that is not looked up that way.
    fn with_label(&self, key: &str, value: &str, own_only: bool) -> Option<&[EndpointIdentityId]> {
        let implied =
            key == NAMESPACE_LABEL || key.starts_with(NAMESPACE_LABELS_PREFIX) || key.starts_with(RESERVED_PREFIX);
        if implied && !own_only {
            return None;
        }
        let having = self.by_label.get(key).and_then(|values| values.get(value));
        Some(having.map_or(&[][..], Vec::as_slice))
    }

    /// The endpoint identities that a selector matches, ascending.
    pub fn select(&self, selector: &EndpointSelector) -> Vec<EndpointIdentityId> {
        let EndpointSelector { scope, labels, own_labels_only } = selector;
        // The fewest that have one of the labels are candidates; the namespace's others need not be looked at.
        let mut candidates = labels
            .match_labels
            .iter()
            .filter_map(|(key, value)| self.with_label(plain_key(key), value, *own_labels_only))
            .min_by_key(|list| list.len());
        if let Scope::One(namespace) = scope {
            let list = self.by_namespace.get(&**namespace).map_or(&[][..], Vec::as_slice);
            if candidates.is_none_or(|candidates: &[_]| candidates.len() > list.len()) {
                candidates = Some(list);
            }
        }
        let holds = |at: &EndpointIdentityId| {
            let one = &self.endpoints[*at as usize];
            let in_scope = match scope {
                Scope::Every => true,
                Scope::One(namespace) => one.namespace == &**namespace,
                Scope::Matching(selector) => {
                    self.namespaces.get(one.namespace).is_some_and(|labels| matches_plain(selector, labels))
                }
            };
            in_scope && matches(labels, |key| self.label(one, key, *own_labels_only))
        };
        match candidates {
            Some(list) => list.iter().copied().filter(holds).collect(),
            None => (0..self.endpoints.len() as u32).filter(holds).collect(),
        }
    }
}

fn implied_labels(namespace: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(NAMESPACE_NAME_LABEL.to_owned(), namespace.to_owned())])
}

/// What an endpoint's identity is numbered by.
fn endpoint_key(item: &Item<'_, EndpointSpec>) -> String {
    let mut key = format!("endpoint {NAMESPACE_LABEL}={}", item.metadata.namespace);
    for (label, value) in &item.metadata.labels {
        let _ = write!(key, ";{label}={value}");
    }
    let mut ports: Vec<_> = item.spec.ports.iter().map(|port| (&port.name, port.port, port.protocol)).collect();
    ports.sort();
    for (name, port, protocol) in ports {
        let _ = write!(key, ";port {name}={port}/{protocol:?}");
    }
    key
}

/// The identities of nodes, where policies tell nodes apart.
#[derive(Debug)]
pub(crate) struct NodeIdentities<'a> {
    /// (number, labels): `REMOTE_NODE` for nodes without labels, or for all when no policy selects nodes.
    pub remote: Vec<(u32, BTreeMap<&'a str, &'a str>)>,
    /// Whether selectors of nodes may be asked.
    told_apart: bool,
    number_of: BTreeMap<&'a str, u32>,
    own_labels: Option<&'a BTreeMap<String, String>>,
}

impl<'a> NodeIdentities<'a> {
    pub fn new(
        objects: &Objects<'a>,
        node: &str,
        told_apart: bool,
        numbering: &mut Numbering,
        sequence: u64,
    ) -> Result<Self, OutOfNumbers> {
        let mut this = Self {
            remote: vec![(identity::REMOTE_NODE, BTreeMap::new())],
            told_apart,
            number_of: BTreeMap::new(),
            own_labels: objects.node(node).map(|item| &item.metadata.labels),
        };
        if !told_apart {
            return Ok(this);
        }
        let mut sets: BTreeMap<String, (BTreeMap<&'a str, &'a str>, Vec<&'a str>)> = BTreeMap::new();
        for item in objects.nodes.iter().filter(|item| item.metadata.name != node && !item.metadata.labels.is_empty()) {
            let labels: BTreeMap<&str, &str> = item.metadata.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
            let mut key = "node ".to_owned();
            labels.iter().for_each(|(label, value)| key.push_str(&format!("{label}={value};")));
            sets.entry(key).or_insert_with(|| (labels, Vec::new())).1.push(&item.metadata.name);
        }
        for (key, (labels, names)) in sets {
            let number = numbering.assign(Space::Identity, &key, sequence)?;
            this.remote.push((number, labels));
            this.number_of.extend(names.into_iter().map(|name| (name, number)));
        }
        Ok(this)
    }

    /// Of a node by name; one without an object is a remote node without labels.
    pub fn number(&self, node: &str) -> u32 {
        self.number_of.get(node).copied().unwrap_or(identity::REMOTE_NODE)
    }

    fn select(&self, selector: &LabelSelector, to: &mut Vec<u32>) {
        debug_assert!(self.told_apart, "a policy selects nodes, and nodes were not told apart");
        for (number, labels) in &self.remote {
            if matches(selector, |key| labels.get(key).copied()) {
                to.push(*number);
            }
        }
        let own = |key: &str| self.own_labels.and_then(|labels| labels.get(key)).map(String::as_str);
        if matches(selector, own) {
            to.push(identity::HOST);
        }
    }
}

/// The identities of the prefixes that policies mention.
#[derive(Debug, Default)]
pub(crate) struct CidrIdentities {
    /// Sorted by prefix, so that what lies inside a prefix is one range.
    pub v4: Vec<(Prefix4, u32)>,
    pub v6: Vec<(Prefix6, u32)>,
}

impl CidrIdentities {
    pub fn new<'p>(
        selectors: impl Iterator<Item = &'p CidrSelector>,
        numbering: &mut Numbering,
        sequence: u64,
    ) -> Result<Self, OutOfNumbers> {
        let mut nets: Vec<IpNet> = Vec::new();
        for selector in selectors {
            nets.push(selector.net);
            nets.extend(&selector.except);
        }
        nets.sort_unstable();
        nets.dedup();
        let mut this = Self::default();
        for net in nets {
            // Every address of a family is the world of that family: reserved, as in Cilium.
            let number = match net {
                IpNet::V4(_) if net.prefix_len() == 0 => identity::WORLD_IPV4,
                IpNet::V6(_) if net.prefix_len() == 0 => identity::WORLD_IPV6,
                _ => numbering.assign(Space::Identity, &format!("cidr {net}"), sequence)?,
            };
            match net {
                IpNet::V4(net) => this.v4.push((net.into(), number)),
                IpNet::V6(net) => this.v6.push((net.into(), number)),
            }
        }
        Ok(this)
    }

    fn all(&self) -> impl Iterator<Item = u32> {
        self.v4.iter().map(|(_, number)| *number).chain(self.v6.iter().map(|(_, number)| *number))
    }

    /// Every identity whose prefix lies inside the selector and in none of its holes.
    fn select(&self, selector: &CidrSelector, to: &mut Vec<u32>) {
        match selector.net {
            IpNet::V4(net) => {
                let holes = selector.except.iter().filter_map(|net| match net {
                    IpNet::V4(net) => Some(Prefix4::from(*net)),
                    IpNet::V6(_) => None,
                });
                inside(&self.v4, net.into(), holes, Prefix4::covers, to);
            }
            IpNet::V6(net) => {
                let holes = selector.except.iter().filter_map(|net| match net {
                    IpNet::V6(net) => Some(Prefix6::from(*net)),
                    IpNet::V4(_) => None,
                });
                inside(&self.v6, net.into(), holes, Prefix6::covers, to);
            }
        }
    }
}

/// In sorted order a prefix stands right before everything that it covers, so the inside is one range, and each hole
/// a range of it.
fn inside<P: Ord + Copy>(
    list: &[(P, u32)],
    net: P,
    holes: impl Iterator<Item = P>,
    covers: fn(&P, &P) -> bool,
    to: &mut Vec<u32>,
) {
    let range = |net: P| {
        let start = list.partition_point(|(prefix, _)| *prefix < net);
        let length = list[start..].partition_point(|(prefix, _)| covers(&net, prefix));
        start..start + length
    };
    let whole = range(net);
    let mut holes: Vec<_> = holes.map(range).collect();
    holes.sort_unstable_by_key(|range| range.start);
    let mut at = whole.start;
    let mut take = |from: usize, until: usize| {
        if from < until {
            to.extend(list[from..until].iter().map(|(_, number)| *number));
        }
    };
    for hole in holes {
        take(at, hole.start.min(whole.end));
        at = at.max(hole.end);
    }
    take(at, whole.end);
}

/// Everybody who can be a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Universe<'u, 'a> {
    pub endpoints: &'u Identities<'a>,
    pub nodes: &'u NodeIdentities<'a>,
    pub cidrs: &'u CidrIdentities,
}

impl Universe<'_, '_> {
    /// The numbers of a union of peers, ascending; [`Peers::any`] is the caller's matter.
    pub fn select(&self, peers: &Peers) -> Vec<u32> {
        let mut numbers = Vec::new();
        for selector in &peers.endpoints {
            self.endpoint_numbers(selector, &mut numbers);
            if selector.is_reserved() {
                self.reserved(&selector.labels, &mut numbers);
            }
        }
        peers.cidrs.iter().for_each(|selector| self.cidrs.select(selector, &mut numbers));
        peers.entities.iter().for_each(|entity| self.entity(*entity, &mut numbers));
        peers.nodes.iter().for_each(|selector| self.nodes.select(selector, &mut numbers));
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    fn endpoint_numbers(&self, selector: &EndpointSelector, to: &mut Vec<u32>) {
        let ids = self.endpoints.select(selector);
        to.extend(ids.iter().map(|id| self.endpoints.endpoints[*id as usize].number));
    }

    fn remote_nodes(&self, to: &mut Vec<u32>) {
        to.extend(self.nodes.remote.iter().map(|(number, _)| *number));
    }

    fn entity(&self, entity: Entity, to: &mut Vec<u32>) {
        match entity {
            Entity::Host => to.push(identity::HOST),
            Entity::RemoteNode => self.remote_nodes(to),
            Entity::World => {
                to.push(identity::WORLD);
                to.extend(self.cidrs.all());
            }
            Entity::Cluster => {
                to.push(identity::HOST);
                self.remote_nodes(to);
                to.extend(self.endpoints.endpoints.iter().map(|one| one.number));
            }
            // Turned into `any` and prefixes before.
            Entity::All | Entity::WorldIpv4 | Entity::WorldIpv6 => {}
            // There are none of these here.
            Entity::Health
            | Entity::Init
            | Entity::Unmanaged
            | Entity::KubeApiserver
            | Entity::Ingress
            | Entity::None => {}
        }
    }

    /// What a selector with `reserved:` labels matches beside endpoints.
    fn reserved(&self, selector: &LabelSelector, to: &mut Vec<u32>) {
        let mut push = |number: u32, entities: &[&str]| {
            let has = |key: &str| {
                let entity = key.strip_prefix(RESERVED_PREFIX)?;
                entities.contains(&entity).then_some("")
            };
            if matches(selector, has) {
                to.push(number);
            }
        };
        push(identity::HOST, &["all", "cluster", "host"]);
        for (number, _) in &self.nodes.remote {
            push(*number, &["all", "cluster", "remote-node"]);
        }
        push(identity::WORLD, &["all", "world"]);
        self.cidrs.v4.iter().for_each(|(_, number)| push(*number, &["all", "world", "world-ipv4"]));
        self.cidrs.v6.iter().for_each(|(_, number)| push(*number, &["all", "world", "world-ipv6"]));
    }
}

/// Whether a policy speaks of `reserved:world-ipv4` or `-ipv6`, so that the families must be told apart.
pub(crate) fn families_named(peers: &Peers) -> Vec<CidrSelector> {
    let mut list = Vec::new();
    for selector in peers.endpoints.iter().filter(|selector| selector.is_reserved()) {
        let expressions = selector.labels.match_expressions.iter().map(|requirement| &requirement.key);
        for key in selector.labels.match_labels.keys().chain(expressions) {
            match plain_key(key).strip_prefix(RESERVED_PREFIX) {
                Some("world-ipv4") => list.push(CidrSelector::family(true)),
                Some("world-ipv6") => list.push(CidrSelector::family(false)),
                _ => {}
            }
        }
    }
    list
}

/// The addresses of the host itself, sorted: what the machine has and what its `Node` says.
pub(crate) fn host_addresses(objects: &Objects<'_>, node: &str, facts: &NodeFacts) -> Vec<(IpAddr, Option<ObjectId>)> {
    let endpoint = host_endpoint(objects, node);
    let mut addresses: BTreeMap<IpAddr, Option<ObjectId>> = BTreeMap::new();
    let owner = endpoint.map(|item| item.id).or_else(|| objects.node(node).map(|item| item.id));
    addresses.extend(facts.addresses.iter().map(|address| (*address, owner)));
    if let Some(item) = objects.node(node) {
        addresses.extend(item.spec.addresses.iter().map(|address| (*address, owner)));
    }
    if let Some(item) = endpoint {
        addresses.extend(item.spec.addresses.iter().map(|address| (*address, Some(item.id))));
    }
    addresses.into_iter().collect()
}

/// The endpoint that stands for this host.
pub(crate) fn host_endpoint<'o, 'a>(objects: &'o Objects<'a>, node: &str) -> Option<&'o Item<'a, EndpointSpec>> {
    objects.endpoints.iter().find(|item| item.spec.node == node && item.spec.attach.host.is_some())
}
