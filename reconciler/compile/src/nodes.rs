//! This node, the others, and how policies tell them apart.
use std::{collections::BTreeMap, net::IpAddr};

use weir_abi::identity;
use weir_plan::{NodeFacts, Numbering, OutOfNumbers, Space};
use weir_schema::{EndpointSpec, LabelSelector};

use crate::{
    objects::{Item, ObjectId, Objects},
    selector::matches,
};

/// The identities of nodes, where policies tell nodes apart.
#[derive(Debug)]
pub(crate) struct NodeIdentities<'a> {
    /// (number, labels): `REMOTE_NODE` for nodes without labels, or for all when no policy selects nodes.
    pub remote: Vec<(u32, BTreeMap<&'a str, &'a str>)>,
    /// Whether selectors of nodes may be asked.
    told_apart: bool,
    number_of: BTreeMap<&'a str, u32>,
}

impl<'a> NodeIdentities<'a> {
    pub fn new(
        objects: &Objects<'a>,
        node: &str,
        told_apart: bool,
        numbering: &mut Numbering,
        sequence: u64,
    ) -> Result<Self, OutOfNumbers> {
        let mut this =
            Self { remote: vec![(identity::REMOTE_NODE, BTreeMap::new())], told_apart, number_of: BTreeMap::new() };
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

    pub fn select(&self, selector: &LabelSelector, to: &mut Vec<u32>) {
        debug_assert!(self.told_apart, "a policy selects nodes, and nodes were not told apart");
        for (number, labels) in &self.remote {
            if matches(selector, |key| labels.get(key).copied()) {
                to.push(*number);
            }
        }
    }
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
