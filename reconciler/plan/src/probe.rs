use std::net::IpAddr;

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
}
