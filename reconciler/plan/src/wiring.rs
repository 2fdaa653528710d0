use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{AnyChange, Change, Table};

/// A device of the node's own network namespace, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(pub Arc<str>);

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&str> for InterfaceName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

/// What Weir makes; its key is the name in the node's own network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    Endpoint(EndpointPair),
    Router(RouterPair),
}

/// A veth pair for an endpoint in a network namespace; its key is the host side's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointPair {
    /// `ip netns` name, or an absolute path.
    pub netns: Arc<str>,
    /// Name inside the namespace.
    pub peer: Arc<str>,
    /// Sorted. Each is a /32 or /128 inside, and a route to the host side outside.
    pub addresses: Vec<IpAddr>,
    /// Sorted, of the families of `addresses`: the gateways inside, and the source of what the host sends there.
    pub router: Vec<IpAddr>,
}

/// The veth pair, both ends in the node's own namespace, that has the router's addresses, and to which everything is
/// routed that is for endpoints and has no route of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterPair {
    /// Sorted.
    pub addresses: Vec<IpAddr>,
    /// Sorted; the host's own packets there come from the address of the family.
    pub routes: Vec<IpNet>,
}

/// The router's end of its pair.
pub const ROUTER: &str = "weir_host";
/// The other.
pub const ROUTER_PEER: &str = "weir_net";

/// A place where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    XdpIngress,
    FromEndpoint,
    ToEndpoint,
    FromNetwork,
    ToNetwork,
    FromHost,
    Connect4,
    Connect6,
    Sendmsg4,
    Sendmsg6,
    Recvmsg4,
    Recvmsg6,
    Getpeername4,
    Getpeername6,
}

impl Hook {
    pub const ALL: [Self; 14] = [
        Self::XdpIngress,
        Self::FromEndpoint,
        Self::ToEndpoint,
        Self::FromNetwork,
        Self::ToNetwork,
        Self::FromHost,
        Self::Connect4,
        Self::Connect6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Getpeername4,
        Self::Getpeername6,
    ];

    /// Those that see packets, on a device.
    pub fn of_packets() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|hook| !hook.is_of_sockets())
    }

    /// Those that see what processes ask of sockets, at the cgroup.
    pub fn of_sockets() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|hook| hook.is_of_sockets())
    }

    pub const fn is_of_sockets(self) -> bool {
        match self {
            Self::XdpIngress
            | Self::FromEndpoint
            | Self::ToEndpoint
            | Self::FromNetwork
            | Self::ToNetwork
            | Self::FromHost => false,
            Self::Connect4
            | Self::Connect6
            | Self::Sendmsg4
            | Self::Sendmsg6
            | Self::Recvmsg4
            | Self::Recvmsg6
            | Self::Getpeername4
            | Self::Getpeername6 => true,
        }
    }

    /// Name of the program in the object file.
    pub const fn program(self) -> &'static str {
        match self {
            Self::XdpIngress => "xdp_ingress",
            Self::FromEndpoint => "from_endpoint",
            Self::ToEndpoint => "to_endpoint",
            Self::FromNetwork => "from_network",
            Self::ToNetwork => "to_network",
            Self::FromHost => "from_host",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Recvmsg4 => "recvmsg4",
            Self::Recvmsg6 => "recvmsg6",
            Self::Getpeername4 => "getpeername4",
            Self::Getpeername6 => "getpeername6",
        }
    }
}

/// What a program is attached to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Interface(InterfaceName),
    /// The root of the cgroup2 hierarchy: every process of the machine.
    Cgroup,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(name) => name.fmt(f),
            Self::Cgroup => "cgroup".fmt(f),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HookKey {
    pub place: Place,
    pub hook: Hook,
}

impl HookKey {
    pub const fn on(interface: InterfaceName, hook: Hook) -> Self {
        Self { place: Place::Interface(interface), hook }
    }

    /// A hook of sockets.
    pub const fn of_sockets(hook: Hook) -> Self {
        Self { place: Place::Cgroup, hook }
    }

    /// The device that it is on, if it is on one.
    pub const fn interface(&self) -> Option<&InterfaceName> {
        match &self.place {
            Place::Interface(name) => Some(name),
            Place::Cgroup => None,
        }
    }
}

/// How a program is to be attached at XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum XdpAttach {
    Auto,
    Native,
    Generic,
}

/// How a hook is attached. Desired and live states are compared with `==`; the datapath reports `Auto` and
/// `tcx: auto` attachments back as what was asked for when it can prove that they satisfy it, so that an idle plan is
/// empty; what really happened (native or generic, tcx or clsact, and why) is in its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HookState {
    Xdp(XdpAttach),
    Tcx,
    Clsact,
    /// By a link to the cgroup.
    Cgroup,
    /// Live only: something is attached that is ours by place but not our current program.
    Stale,
}

/// Devices and attachments: what exists beside the tables. Not sided; ordered around the flip instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wiring {
    pub devices: Table<InterfaceName, Device>,
    pub hooks: Table<HookKey, HookState>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WiringDelta {
    pub devices: Vec<Change<InterfaceName, Device>>,
    pub hooks: Vec<Change<HookKey, HookState>>,
}

impl Wiring {
    pub fn diff(&self, to: &Self) -> WiringDelta {
        WiringDelta { devices: self.devices.diff(&to.devices), hooks: self.hooks.diff(&to.hooks) }
    }
}

impl WiringDelta {
    pub fn changes(&self) -> impl Iterator<Item = AnyChange<'_>> {
        self.devices.iter().map(AnyChange::Device).chain(self.hooks.iter().map(AnyChange::Hook))
    }

    pub fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.hooks.is_empty()
    }

    pub fn len(&self) -> usize {
        self.devices.len() + self.hooks.len()
    }
}
