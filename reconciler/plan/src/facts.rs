use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::InterfaceName;

/// What the node looked like when it was observed: all that compile may know of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Sorted by name; devices that Weir made are marked.
    pub interfaces: Vec<InterfaceFacts>,
    /// The host's own addresses (every non-loopback, non-link-local one).
    pub addresses: Vec<IpAddr>,
    /// Asked for by name or path; whether each exists.
    pub netns: Vec<NetnsFacts>,
    /// Whether the kernel has tcx (6.6 and later).
    pub tcx: bool,
    /// Whether cgroup2 is mounted.
    pub cgroup2: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceFacts {
    pub name: InterfaceName,
    pub ifindex: u32,
    /// `veth`, `vlan`, … as rtnetlink says; empty for hardware.
    pub kind: String,
    pub loopback: bool,
    /// Those of global scope, in the kernel's order: the first of a family is the primary one.
    pub addresses: Vec<IpAddr>,
    /// Weir made it.
    pub ours: bool,
    pub delivery: Delivery,
}

/// How a packet may be handed to a device past the stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Not at all.
    #[default]
    Stack,
    /// To the device, as what it is to send.
    Device,
    /// To its other end, which is in another network namespace.
    Peer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetnsFacts {
    pub netns: String,
    pub exists: bool,
}

/// An established TCP session to a port that this host listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.remote, self.local)
    }
}
