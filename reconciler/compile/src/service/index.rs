//! What services find their backends by, and by what they are found when a backend changes.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use weir_plan::{ObjectRef, Table};
use weir_schema::{LabelSelector, NamedPort, Object, Protocol, ServiceProtocol, Spec};

use super::{
    definition::{Selection, selection},
    kubernetes::SERVICE_NAME,
};
use crate::{
    identities::implied_labels,
    objects::reference,
    selector::{NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, RESERVED_PREFIX, matches, plain_key},
};

type ByLabel<V> = Table<LabelKey, V>;

/// Namespace, one label as `key=value` or nothing (of a slice: its service), and the object.
type LabelKey = (Arc<str>, Arc<str>, ObjectRef);

#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    /// Of `Namespace` objects.
    labels: Arc<HashMap<String, BTreeMap<String, String>>>,
    /// Those in which a service selects: others' endpoints are not kept.
    namespaces: Arc<BTreeSet<Arc<str>>>,
    /// Endpoints under each of their labels, and under none.
    members: ByLabel<Arc<Member>>,
    /// Services under one label that their selector asks for, or under none.
    selectors: ByLabel<()>,
    /// Namespace, name of the service, and the slice.
    slices: Table<LabelKey, Arc<Object>>,
}

/// An endpoint that may be a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    labels: BTreeMap<String, String>,
    pub addresses: Vec<IpAddr>,
    ports: Vec<NamedPort>,
}

impl Member {
    /// The number of a named port.
    pub fn port(&self, name: &str, protocol: ServiceProtocol) -> Option<u16> {
        let wanted = match protocol {
            ServiceProtocol::Tcp => Protocol::Tcp,
            ServiceProtocol::Udp => Protocol::Udp,
            ServiceProtocol::Sctp => Protocol::Sctp,
        };
        let named = |port: &&NamedPort| {
            port.name == name && matches!(port.protocol, one if one == wanted || one == Protocol::Any)
        };
        self.ports.iter().find(named).map(|port| port.port)
    }
}

/// Before every other.
pub(crate) fn first() -> ObjectRef {
    let nothing: Arc<str> = "".into();
    ObjectRef {
        api_version: Arc::clone(&nothing),
        kind: Arc::clone(&nothing),
        namespace: Arc::clone(&nothing),
        name: nothing,
    }
}

fn under<'t, V: Clone + PartialEq>(
    table: &'t Table<LabelKey, V>,
    namespace: &Arc<str>,
    label: &Arc<str>,
) -> impl Iterator<Item = (&'t ObjectRef, &'t V)> {
    let (namespace, label) = (Arc::clone(namespace), Arc::clone(label));
    let from = table.from_key(&(Arc::clone(&namespace), Arc::clone(&label), first()));
    let here = from.take_while(move |((in_namespace, at, _), _)| *in_namespace == namespace && *at == label);
    here.map(|((.., object), value)| (object, value))
}

fn label(key: &str, value: &str) -> Arc<str> {
    format!("{key}={value}").into()
}

/// The label that everything which the selector matches has, or nothing.
fn asked_for(selector: &LabelSelector, own_labels_only: bool) -> Arc<str> {
    let is_own = |key: &str| {
        let implied =
            key == NAMESPACE_LABEL || key.starts_with(NAMESPACE_LABELS_PREFIX) || key.starts_with(RESERVED_PREFIX);
        own_labels_only || !implied
    };
    let mut own = selector.match_labels.iter().map(|(key, value)| (plain_key(key), value));
    own.find(|(key, _)| is_own(key)).map_or_else(|| "".into(), |(key, value)| label(key, value))
}

/// Every label, and nothing.
fn labels_of(labels: &BTreeMap<String, String>) -> impl Iterator<Item = Arc<str>> {
    labels.iter().map(|(key, value)| label(key, value)).chain([Arc::from("")])
}

impl Index {
    pub fn new<'o>(objects: impl Iterator<Item = &'o Arc<Object>> + Clone) -> Self {
        let mut this = Self::default();
        let mut namespaces = BTreeSet::new();
        let mut labels: HashMap<String, BTreeMap<String, String>> = HashMap::new();
        let (mut selectors, mut slices) = (Vec::new(), Vec::new());
        for object in objects.clone() {
            match &object.spec {
                Spec::Service(_) | Spec::KubernetesService(_) => {
                    if let Some((namespace, label)) = selector_place(object) {
                        namespaces.insert(Arc::clone(&namespace));
                        selectors.push(((namespace, label, reference(object)), ()));
                    }
                }
                Spec::EndpointSlice(_) => slices.extend(slice_place(object).map(|key| (key, Arc::clone(object)))),
                Spec::Namespace(_) => {
                    let name = &object.metadata.name;
                    labels
                        .entry(name.clone())
                        .or_insert_with(|| implied_labels(name))
                        .extend(object.metadata.labels.clone());
                }
                _ => {}
            }
        }
        let mut members = Vec::new();
        if !namespaces.is_empty() {
            for object in objects.filter(|object| namespaces.contains(&object.key.namespace)) {
                members.extend(member_entries(object));
            }
        }
        this.labels = Arc::new(labels);
        this.namespaces = Arc::new(namespaces);
        this.members = Table::from_unsorted(members);
        this.selectors = Table::from_unsorted(selectors);
        this.slices = Table::from_unsorted(slices);
        this
    }

    /// The endpoints that are meant.
    pub fn selected(&self, selection: &Selection) -> Vec<&Arc<Member>> {
        let label = asked_for(&selection.labels, selection.own_labels_only);
        let all = under(&self.members, &selection.namespace, &label).map(|(_, member)| member);
        all.filter(|member| self.means(selection, &member.labels)).collect()
    }

    fn means(&self, selection: &Selection, labels: &BTreeMap<String, String>) -> bool {
        let Selection { namespace, labels: selector, own_labels_only } = selection;
        matches(selector, |key| {
            if !own_labels_only {
                if key == NAMESPACE_LABEL {
                    return Some(namespace);
                }
                if let Some(key) = key.strip_prefix(NAMESPACE_LABELS_PREFIX) {
                    return match self.labels.get(&**namespace) {
                        Some(labels) => labels.get(key).map(String::as_str),
                        None => (key == crate::identities::NAMESPACE_NAME_LABEL).then_some(namespace),
                    };
                }
                if let Some(entity) = key.strip_prefix(RESERVED_PREFIX) {
                    return matches!(entity, "all" | "cluster").then_some("");
                }
            }
            labels.get(key).map(String::as_str)
        })
    }

    /// The slices of a `v1 Service`.
    pub fn slices(&self, namespace: &Arc<str>, service: &Arc<str>) -> Vec<Arc<Object>> {
        under(&self.slices, namespace, service).map(|(_, slice)| Arc::clone(slice)).collect()
    }

    /// The services that may select an endpoint with these labels.
    pub fn selecting(&self, endpoint: &Object) -> Vec<ObjectRef> {
        let labels = labels_of(&endpoint.metadata.labels);
        labels
            .flat_map(|label| {
                under(&self.selectors, &endpoint.key.namespace, &label)
                    .map(|(service, ())| service.clone())
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Whether endpoints of the object's namespace are known, if it needs to know them.
    pub fn knows(&self, service: &Object) -> bool {
        selection(service).is_none() || self.namespaces.contains(&service.key.namespace)
    }

    pub fn remove(&mut self, object: &Object) {
        match &object.spec {
            Spec::Endpoint(_) if self.namespaces.contains(&object.key.namespace) => {
                for (key, _) in member_entries(object) {
                    self.members.remove(&key);
                }
            }
            Spec::Service(_) | Spec::KubernetesService(_) => {
                if let Some((namespace, label)) = selector_place(object) {
                    self.selectors.remove(&(namespace, label, reference(object)));
                }
            }
            Spec::EndpointSlice(_) => {
                if let Some(key) = slice_place(object) {
                    self.slices.remove(&key);
                }
            }
            _ => {}
        }
    }

    pub fn insert(&mut self, object: &Arc<Object>) {
        match &object.spec {
            Spec::Endpoint(_) if self.namespaces.contains(&object.key.namespace) => {
                for (key, member) in member_entries(object) {
                    self.members.insert(key, member);
                }
            }
            Spec::Service(_) | Spec::KubernetesService(_) => {
                if let Some((namespace, label)) = selector_place(object) {
                    self.selectors.insert((namespace, label, reference(object)), ());
                }
            }
            Spec::EndpointSlice(_) => {
                if let Some(key) = slice_place(object) {
                    self.slices.insert(key, Arc::clone(object));
                }
            }
            _ => {}
        }
    }
}

fn member_entries(object: &Object) -> Vec<(LabelKey, Arc<Member>)> {
    let Spec::Endpoint(spec) = &object.spec else { return Vec::new() };
    let member = Arc::new(Member {
        labels: object.metadata.labels.clone(),
        addresses: spec.addresses.clone(),
        ports: spec.ports.clone(),
    });
    let key = |label| (Arc::clone(&object.key.namespace), label, reference(object));
    labels_of(&object.metadata.labels).map(|label| (key(label), Arc::clone(&member))).collect()
}

fn selector_place(service: &Object) -> Option<(Arc<str>, Arc<str>)> {
    let Selection { namespace, labels, own_labels_only } = selection(service)?;
    Some((namespace, asked_for(&labels, own_labels_only)))
}

fn slice_place(slice: &Object) -> Option<LabelKey> {
    let service = slice.metadata.labels.get(SERVICE_NAME)?;
    Some((Arc::clone(&slice.key.namespace), service.as_str().into(), reference(slice)))
}

/// The service that a slice says it is of.
pub(crate) fn service_of(slice: &Object) -> Option<ObjectRef> {
    let (namespace, name, _) = slice_place(slice)?;
    Some(ObjectRef { api_version: "v1".into(), kind: "Service".into(), namespace, name })
}
