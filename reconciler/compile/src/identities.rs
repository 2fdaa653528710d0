//! Identities of endpoints: who a peer or a subject is, as a number.
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
};

use weir_plan::{Numbering, OutOfNumbers, Space};
use weir_schema::{EndpointSpec, Metadata, NamedPort};

use crate::{
    objects::Objects,
    selector::{
        EndpointSelector, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, RESERVED_PREFIX, Scope, matches, matches_plain,
        plain_key,
    },
};

/// The label that every namespace has, object or not.
pub(crate) const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

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

/// The identities of every node's endpoints.
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
            let key = endpoint_key(item.metadata, item.spec);
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

pub(crate) fn implied_labels(namespace: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(NAMESPACE_NAME_LABEL.to_owned(), namespace.to_owned())])
}

/// What an endpoint's identity is numbered by.
pub(crate) fn endpoint_key(metadata: &Metadata, spec: &EndpointSpec) -> String {
    let mut key = format!("endpoint {NAMESPACE_LABEL}={}", metadata.namespace);
    for (label, value) in &metadata.labels {
        let _ = write!(key, ";{label}={value}");
    }
    let mut ports: Vec<_> = spec.ports.iter().map(|port| (&port.name, port.port, port.protocol)).collect();
    ports.sort();
    for (name, port, protocol) in ports {
        let _ = write!(key, ";port {name}={port}/{protocol:?}");
    }
    key
}
