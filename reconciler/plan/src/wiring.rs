use std::{fmt, net::IpAddr, sync::Arc};

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

/// A veth pair that Weir makes for an endpoint in a network namespace; its key is the host side's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// `ip netns` name, or an absolute path.
    pub netns: Arc<str>,
    /// Name inside the namespace.
    pub peer: Arc<str>,
    /// Sorted. Each is a /32 or /128 inside, and a route to the host side outside.
    pub addresses: Vec<IpAddr>,
}

/// A place where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    XdpIngress,
    FromEndpoint,
    ToEndpoint,
    FromNetwork,
    ToNetwork,
}

impl Hook {
    pub const ALL: [Self; 5] =
        [Self::XdpIngress, Self::FromEndpoint, Self::ToEndpoint, Self::FromNetwork, Self::ToNetwork];

    /// Name of the program in the object file.
    pub const fn program(self) -> &'static str {
        match self {
            Self::XdpIngress => "xdp_ingress",
            Self::FromEndpoint => "from_endpoint",
            Self::ToEndpoint => "to_endpoint",
            Self::FromNetwork => "from_network",
            Self::ToNetwork => "to_network",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HookKey {
    pub interface: InterfaceName,
    pub hook: Hook,
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
