use std::{collections::BTreeMap, net::IpAddr};

use weir_abi::Reason;

use crate::HookKey;

/// Which of the two copies of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableCopy {
    /// What decides about traffic now.
    Active,
    /// What was staged.
    Standby,
}

/// The first packet of a flow, and the way that it and the answer to it take over this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub source: IpAddr,
    /// Of the source's family.
    pub destination: IpAddr,
    /// IP protocol number: TCP (its packet is a SYN), UDP, SCTP (an INIT), ICMP or ICMPv6 (an echo request).
    pub protocol: u8,
    /// Destination port; without meaning for an echo request.
    pub port: u16,
    /// The hooks that the packet meets, in its order.
    pub way: Vec<HookKey>,
    /// Those that the answer meets.
    pub back: Vec<HookKey>,
    /// How it goes on instead where a service sends it to a backend.
    pub backends: Backends,
}

/// The ways to backends, which are known before it is known to which of them a packet goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// Of those on this node, by their addresses.
    pub here: BTreeMap<IpAddr, Onward>,
    /// Of all others.
    pub elsewhere: Onward,
}

/// The way of a packet that a service sent to a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Onward {
    /// The hooks behind the one where it got its new destination.
    pub way: Vec<HookKey>,
    /// Those that the backend's answer meets.
    pub back: Vec<HookKey>,
}

impl Probe {
    /// How it goes on to a backend at this address.
    pub fn onward(&self, backend: IpAddr) -> &Onward {
        self.backends.here.get(&backend).unwrap_or(&self.backends.elsewhere)
    }
}

/// What one program made of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeStep {
    pub at: HookKey,
    /// It was the answer that came by.
    pub answer: bool,
    pub reason: Reason,
    /// The rule that decided, 0 for none.
    pub rule: u32,
    /// The backend and its port that a service sent the packet to, here.
    pub destination: Option<(IpAddr, u16)>,
}
