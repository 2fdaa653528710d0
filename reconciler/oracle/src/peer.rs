//! Who an address is.
use std::net::IpAddr;

use weir_schema::{EndpointSpec, Object};

/// One end of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer<'a> {
    Endpoint(&'a Object, &'a EndpointSpec),
    Host,
    /// By the node's name.
    RemoteNode(&'a str),
    World(IpAddr),
}

impl Peer<'_> {
    pub(crate) fn is_world(self) -> bool {
        matches!(self, Self::World(_))
    }
}
