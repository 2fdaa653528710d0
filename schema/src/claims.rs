//! What only one object of a set can have: addresses and places to attach to.
//!
//! Kept as hashes: that two claims may be the same is enough to know; who made them, and whether they are, is found out
//! by looking at the whole set.
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
};

use crate::{
    Spec,
    chunks::Chunks,
    stored::{EndpointClaims, Stored},
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
    /// A claim may be missing, because two had one hash.
    pub incomplete: bool,
}

/// The claims of some objects.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    own: Vec<u64>,
    shared: Vec<Shared>,
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
            Stored::Endpoint(packed) => {
                let EndpointClaims { node, addresses, host, netns, interface } = packed.claims();
                if host {
                    self.share(&addresses, node, hash(("Endpoint", stored.name())));
                } else {
                    self.own.extend(addresses.iter().map(address));
                }
                let place = match (host, netns, interface) {
                    (true, _, _) => ("host", ""),
                    (false, Some(netns), inside) => (netns, inside.unwrap_or("eth0")),
                    (false, None, interface) => ("", interface.unwrap_or_default()),
                };
                self.own.push(hash(("attach", node, place)));
            }
            Stored::Whole(object) => {
                if let Spec::Node(node) = &object.spec {
                    self.share(&node.addresses, &object.key.name, hash(("Node", stored.name())));
                }
            }
        }
    }

    fn share(&mut self, addresses: &[IpAddr], node: &str, claimant: u64) {
        let owner = hash(node);
        self.shared.extend(addresses.iter().map(|one| Shared { address: address(one), owner, claimant }));
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
        let (own, own_clash) = self.own.edit(&removed.own, added.own);
        let (shared, shared_clash) = self.shared.edit(&removed.shared, added.shared);
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
        (Self { own, shared, incomplete }, clash || self.incomplete)
    }
}
