//! The set, sorted by reference and taken apart by kind.
use std::sync::Arc;

use weir_plan::{Action, ObjectRef};
use weir_schema::{
    Changes, CidrFilterSpec, EndpointSpec, Inventory, KubernetesNetworkPolicySpec, Metadata, NodeConfigSpec, NodeSpec,
    Object, PolicyRule, Spec,
};

use crate::provenance::Owned;

/// Index of an object in the order of [`ObjectRef`]: comparing ids compares references.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectId(pub u32);

impl ObjectId {
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One object of a known kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'a, S: ?Sized> {
    pub id: ObjectId,
    pub metadata: &'a Metadata,
    pub spec: &'a S,
}

/// Every object, by kind; each list is sorted by id.
#[derive(Debug, Default)]
pub(crate) struct Objects<'a> {
    heads: Vec<Owned>,
    pub node_configs: Vec<Item<'a, NodeConfigSpec>>,
    pub nodes: Vec<Item<'a, NodeSpec>>,
    pub endpoints: Vec<Item<'a, EndpointSpec>>,
    pub filters: Vec<Item<'a, CidrFilterSpec>>,
    pub policies: Vec<Item<'a, [PolicyRule]>>,
    pub clusterwide_policies: Vec<Item<'a, [PolicyRule]>>,
    pub kubernetes_policies: Vec<Item<'a, KubernetesNetworkPolicySpec>>,
    pub namespaces: Vec<Item<'a, ()>>,
}

impl<'a> Objects<'a> {
    pub fn new(objects: impl Iterator<Item = &'a Arc<Object>>) -> Self {
        let mut sorted: Vec<(ObjectRef, &'a Arc<Object>)> = objects.map(|object| (reference(object), object)).collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let mut this = Self::default();
        for (index, (reference, object)) in sorted.into_iter().enumerate() {
            this.heads.push(Owned::new(reference, object));
            this.take(ObjectId(index as u32), object);
        }
        this
    }

    fn take(&mut self, id: ObjectId, object: &'a Object) {
        let metadata = &object.metadata;
        match &object.spec {
            Spec::NodeConfig(spec) => self.node_configs.push(Item { id, metadata, spec }),
            Spec::Node(spec) => self.nodes.push(Item { id, metadata, spec }),
            Spec::Endpoint(spec) => self.endpoints.push(Item { id, metadata, spec }),
            Spec::CidrFilter(spec) => self.filters.push(Item { id, metadata, spec }),
            Spec::NetworkPolicy(spec) => self.policies.push(Item { id, metadata, spec }),
            Spec::ClusterwideNetworkPolicy(spec) => self.clusterwide_policies.push(Item { id, metadata, spec }),
            Spec::KubernetesNetworkPolicy(spec) => self.kubernetes_policies.push(Item { id, metadata, spec }),
            Spec::Namespace(_) => self.namespaces.push(Item { id, metadata, spec: &() }),
            // A kind that the schema knows and no table is filled from.
            _ => {}
        }
    }

    pub fn reference(&self, id: ObjectId) -> &ObjectRef {
        &self.heads[id.index()].0.reference
    }

    pub fn id(&self, object: &ObjectRef) -> Option<ObjectId> {
        let at = self.heads.binary_search_by(|head| head.0.reference.cmp(object)).ok()?;
        Some(ObjectId(at as u32))
    }

    pub fn owner(&self, id: ObjectId) -> Owned {
        self.heads[id.index()].clone()
    }

    pub fn node(&self, name: &str) -> Option<&Item<'a, NodeSpec>> {
        self.nodes.iter().find(|node| node.metadata.name == name)
    }
}

/// As plans name it.
pub fn reference(object: &Object) -> ObjectRef {
    ObjectRef {
        api_version: Arc::clone(&object.api_version),
        kind: Arc::clone(&object.key.kind),
        namespace: Arc::clone(&object.key.namespace),
        name: Arc::clone(&object.key.name),
    }
}

/// The objects that lead from one set to another, sorted; a move to another line or file is no change of an object.
pub fn changed(from: &Inventory, to: &Inventory) -> Vec<(ObjectRef, Action)> {
    let changes = from.changes_to(to);
    let all = changes
        .added()
        .map(|object| (reference(&object), Action::Create))
        .chain(changes.removed().map(|object| (reference(&object), Action::Delete)))
        .chain(changes.replaced().map(|(_, object)| (reference(&object), Action::Update)));
    let mut all: Vec<(ObjectRef, Action)> = all.collect();
    all.sort();
    all
}

/// What an object was and what it is.
pub(crate) type Difference = (Option<Arc<Object>>, Option<Arc<Object>>);

/// Objects that do not mean what they meant.
pub(crate) fn differences(changes: &Changes) -> Vec<Difference> {
    let added = changes.added().map(|object| (None, Some(object)));
    let removed = changes.removed().map(|object| (Some(object), None));
    let replaced = changes.replaced().map(|(from, to)| (Some(from), Some(to)));
    added.chain(removed).chain(replaced).collect()
}

/// The key of an object in the numbering: group and kind, because two groups may have one kind's name. The version is
/// not part of what an object is.
pub(crate) fn numbering_key(object: &ObjectRef) -> String {
    let group = object.api_version.split_once('/').map_or("", |(group, _)| group);
    format!("{group}/{} {}/{}", object.kind, object.namespace, object.name)
}
