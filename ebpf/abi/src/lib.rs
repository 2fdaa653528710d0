//! The boundary between the kernel and us: every key, value and constant that both an eBPF program and user space
//! read or write is defined here, once.
//!
//! `no_std`, no dependencies, no behaviour beyond packing, unpacking and the lookups that both sides must agree on.
//! Every struct is `#[repr(C)]`, has no implicit padding, and has its size asserted where it is defined.
//! Addresses are [`Address`] (16 bytes, network order, IPv4 mapped into `::ffff:0:0/96`); ports are in network order
//! where a field is called `*_be`, and plain numbers elsewhere.
#![no_std]
#![forbid(unsafe_code)]

mod address;
mod conntrack;
mod endpoint;
mod event;
mod generation;
mod nat;
mod policy;
mod prefilter;
mod reason;
mod service;
mod settings;
mod socket;
mod tables;
mod trace;
pub mod tree;
mod verdict;

pub use address::Address;
pub use conntrack::{ConntrackEntry, ConntrackKey, FragmentKey, FragmentPorts, ct_flags};
pub use endpoint::{EndpointInfo, InterfaceInfo, identity, interface_flags};
pub use event::{EVENT_RING_BYTES, PacketEvent};
pub use generation::{EPOCH_BITS, Generation, Runtime, Side};
pub use nat::{NatEntry, NatKey};
pub use policy::{
    DIRECTION_EGRESS, DIRECTION_INGRESS, PEER_ANY, PROTO_ANY, PolicyEntry, PolicyKey, SubjectInfo, TupleClass,
    policy_verdict,
};
pub use prefilter::{
    ACTION_DROP, ACTION_ENDPOINT_RANGE, ACTION_NONE, CLASS_GROUPS, ClassCell, PrefilterClass, SIDE_DESTINATION,
    SIDE_SOURCE,
};
pub use reason::{Direction, METRIC_SLOTS, Reason, metric_slot};
pub use service::{
    AffinityEntry, AffinityKey, BackendInfo, FrontendInfo, FrontendKey, LOOPBACK_V4, LOOPBACK_V6, ServiceInfo,
    SourceRangeKey, backend_flags, frontend_flags, service_flags,
};
pub use settings::{Settings, settings_flags};
pub use socket::{SocketEntry, SocketKey, socket_peer};
pub use tables::{ABI_VERSION, KernelTable, RULE_COUNTERS, TableKind, runtime_tables, sided_tables};
pub use trace::{ANSWER_MARK, TraceCell, next_hook, tc_action, xdp_action};
pub use verdict::{RULE_BITS, RULE_NONE, VerdictWord, flow_verdict};

/// Packets and bytes: one metric slot or one rule's counter on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}
const _: () = assert!(size_of::<Counter>() == 16);
