//! What only one object of a set can have: addresses, places to attach to, frontends.
//!
//! Kept as hashes: that two claims may be the same is enough to know; who made them, and whether they are, is found out
//! by looking at the whole set.
use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    Spec,
    chunks::Chunks,
    set_check::frontend_places,
    stored::{EndpointClaims, PackedEndpoint, Stored},
};

/// An address of a node, as one of its claimants has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shared {
    address: u64,
    /// The node.
    owner: u64,
    /// The `Node`, or its host endpoint.
    claimant: u64,
}

/// The claims of a set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    /// One object's.
    own: Chunks<u64>,
    /// A node's and its host endpoint's.
    shared: Chunks<Shared>,
    /// How many endpoints each node has.
    pub endpoints_of: Arc<BTreeMap<String, usize>>,
    /// A claim may be missing, because two had one hash.
    incomplete: bool,
}

/// The claims of some objects.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    own: Vec<u64>,
    shared: Vec<Shared>,
    /// By node. Not a claim, but read beside them.
    endpoints_of: HashMap<String, usize>,
}

fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn address(address: &IpAddr) -> u64 {
    hash(("address", address))
}

impl Claimed {
    pub fn add(&mut self, stored: &Stored) {
        match stored {
            Stored::Endpoint(packed) => self.endpoint(packed),
            Stored::Whole(object) => {
                if let Spec::Node(node) = &object.spec {
                    let (owner, claimant) = (hash(&*object.key.name), hash(("Node", stored.name())));
                    self.shared.extend(node.addresses.iter().map(|one| Shared {
                        address: address(one),
                        owner,
                        claimant,
                    }));
                }
                let places = frontend_places(&object.spec).into_iter();
                self.own.extend(places.map(|(place, _)| hash(("frontend", place))));
            }
        }
    }

    fn endpoint(&mut self, packed: &PackedEndpoint) {
        let first = self.own.len();
        let EndpointClaims { node, host, netns, interface } = packed.claims(|one| self.own.push(address(&one)));
        if host {
            let (owner, claimant) = (hash(node), hash(("Endpoint", packed.name())));
            let addresses = self.own.drain(first..);
            self.shared.extend(addresses.map(|address| Shared { address, owner, claimant }));
        }
        let place = match (host, netns, interface) {
            (true, _, _) => ("host", ""),
            (false, Some(netns), inside) => (netns, inside.unwrap_or("eth0")),
            (false, None, interface) => ("", interface.unwrap_or_default()),
        };
        self.own.push(hash(("attach", node, place)));
        match self.endpoints_of.get_mut(node) {
            Some(count) => *count += 1,
            None => {
                self.endpoints_of.insert(node.to_owned(), 1);
            }
        }
    }

    fn sort(&mut self) {
        self.own.sort_unstable();
        self.shared.sort_unstable();
    }
}

impl Claims {
    /// And whether two objects may have claimed the same.
    pub fn edit(&self, mut removed: Claimed, mut added: Claimed) -> (Self, bool) {
        removed.sort();
        added.sort();
        let (own_added, shared_added) = (added.own.clone(), added.shared.clone());
        let (own, own_clash) = self.own.edit(&removed.own, std::mem::take(&mut added.own));
        let (shared, shared_clash) = self.shared.edit(&removed.shared, std::mem::take(&mut added.shared));
        let others = |one: &Shared| {
            let alike =
                shared.from(|other| other.address < one.address).take_while(|other| other.address == one.address);
            alike.into_iter().any(|other| other.owner != one.owner)
        };
        let is_owned = |address: u64| own.find(|one| one.cmp(&address)).is_some();
        let is_shared =
            |address: u64| shared.from(|one| one.address < address).next().is_some_and(|one| one.address == address);
        let clash = own_clash
            || shared_clash
            || shared_added.iter().any(|one| others(one) || is_owned(one.address))
            || (shared.len() > 0 && own_added.iter().any(|claim| is_shared(*claim)));
        let incomplete = self.incomplete || own_clash || shared_clash;
        let endpoints_of = self.count(&removed.endpoints_of, &added.endpoints_of);
        (Self { own, shared, endpoints_of, incomplete }, clash || self.incomplete)
    }

    fn count(&self, removed: &HashMap<String, usize>, added: &HashMap<String, usize>) -> Arc<BTreeMap<String, usize>> {
        let mut after = Arc::clone(&self.endpoints_of);
        let nodes = added.keys().chain(removed.keys().filter(|node| !added.contains_key(*node)));
        for node in nodes {
            let of = |list: &HashMap<String, usize>| list.get(node).copied().unwrap_or_default();
            if of(removed) == of(added) {
                continue;
            }
            let counts = Arc::make_mut(&mut after);
            match (counts.get(node).copied().unwrap_or_default() + of(added)).saturating_sub(of(removed)) {
                0 => counts.remove(node),
                count => counts.insert(node.clone(), count),
            };
        }
        after
    }
}
