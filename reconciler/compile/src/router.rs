//! The router of this node's endpoints.
use std::net::IpAddr;

use weir_plan::RouterPair;

use crate::objects::{ObjectId, Objects};

/// What `routerAddresses` of this node asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Router {
    pub object: ObjectId,
    pub pair: RouterPair,
}

impl Router {
    pub fn new(objects: &Objects<'_>, node: &str) -> Option<Self> {
        let item = objects.node(node).filter(|item| !item.spec.router_addresses.is_empty())?;
        let mut addresses = item.spec.router_addresses.clone();
        addresses.sort_unstable();
        let has_family = |v4| addresses.iter().any(|address| address.is_ipv4() == v4);
        let mut routes = item.spec.endpoint_cidrs.clone();
        routes.retain(|range| has_family(range.addr().is_ipv4()));
        routes.sort_unstable();
        routes.dedup();
        Some(Self { object: item.id, pair: RouterPair { addresses, routes } })
    }

    /// Its addresses, of the families that an endpoint has.
    pub fn toward(&self, endpoint: &[IpAddr]) -> Vec<IpAddr> {
        let speaks = |own: &&IpAddr| endpoint.iter().any(|address| address.is_ipv4() == own.is_ipv4());
        self.pair.addresses.iter().filter(speaks).copied().collect()
    }
}
