//! Random sets of manifests, as text: what a user could have written, from every corner of the policy language.
use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr};

use serde_json::Value;
use weir_oracle::FlowProtocol;

use super::{
    filters, policies,
    random::Random,
    services::{self, Place},
    topology::{self, Topology},
};

/// One set.
#[derive(Clone, Debug)]
pub struct Generated {
    pub seed: u64,
    pub documents: Vec<Value>,
    /// The documents as YAML: (path, text).
    pub files: Vec<(String, String)>,
    /// What it makes use of, of [`super::FEATURES`].
    pub features: BTreeSet<&'static str>,
    /// Items of `ingress`, `ingressDeny`, `egress` and `egressDeny`.
    pub rules: usize,
    pub topology: Topology,
    pub hints: Vec<Hint>,
    /// Edges of what the prefilter lists.
    pub filtered: Vec<IpAddr>,
    /// Where services are reached.
    pub frontends: Vec<Place>,
}

/// What flows a rule can tell apart: both sides of each of its borders.
#[derive(Clone, Debug, Default)]
pub struct Hint {
    pub peers: Vec<IpAddr>,
    pub protocols: Vec<FlowProtocol>,
}

/// A set in the making.
#[derive(Debug, Default)]
pub struct Draft {
    documents: Vec<Value>,
    pub features: BTreeSet<&'static str>,
    pub rules: usize,
    pub hints: Vec<Hint>,
    pub filtered: Vec<IpAddr>,
    pub frontends: Vec<Place>,
}

impl Draft {
    pub fn push(&mut self, document: Value) {
        self.documents.push(document);
    }

    pub fn feature(&mut self, feature: &'static str) {
        debug_assert!(super::FEATURES.contains(&feature), "{feature} is not in the list");
        self.features.insert(feature);
    }
}

/// The set of a seed, the same every time.
pub fn generate(seed: u64) -> Generated {
    generate_on(seed, seed)
}

/// The policies and filters of one seed for the nodes, namespaces and endpoints of another.
pub fn generate_on(topology: u64, seed: u64) -> Generated {
    drawn(topology, seed, false)
}

/// The set of a seed, and services beside it.
pub fn generate_with_services(seed: u64) -> Generated {
    drawn(seed, seed, true)
}

fn drawn(topology: u64, seed: u64, with_services: bool) -> Generated {
    let mut draft = Draft::default();
    let topology = topology::draw(&mut Random::new(topology).fork(), &mut draft);
    let mut random = Random::new(seed.rotate_left(32));
    policies::draw(&mut random.fork(), &mut draft);
    filters::draw(&mut random.fork(), &mut draft);
    let mut writing = random.fork();
    if with_services {
        services::draw(&mut random.fork(), &mut draft, &topology);
    }
    let files = write(&mut writing, &draft.documents);
    let Draft { documents, features, rules, hints, filtered, frontends } = draft;
    Generated { seed, documents, files, features, rules, topology, hints, filtered, frontends }
}

impl Generated {
    /// The same set with other documents.
    pub fn rewritten(&self, documents: Vec<Value>) -> Self {
        let files = write(&mut Random::new(self.seed), &documents);
        Self { documents, files, ..self.clone() }
    }
}

/// As YAML, in flow or in block style, in one to three files.
fn write(random: &mut Random, documents: &[Value]) -> Vec<(String, String)> {
    let mut files = vec![String::new(); random.within(1..=3)];
    for document in documents {
        let at = random.within(0..=files.len() - 1);
        let text = if random.chance(50) {
            serde_json::to_string(document).expect("a tree of plain values")
        } else {
            serde_yaml::to_string(document).expect("a tree of plain values")
        };
        writeln!(files[at], "---\n{}", text.trim_end()).expect("writing to a string");
    }
    files.into_iter().enumerate().map(|(n, text)| (format!("set{n}.yaml"), text)).collect()
}
