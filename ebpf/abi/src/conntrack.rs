use crate::{Address, VerdictWord};

/// Key of `conntrack_tcp` and `conntrack_other`: one per flow, whichever way a packet goes.
///
/// `low` and `high` are the two ends, ordered by (address, port) as byte strings. An ICMP echo has its identifier in
/// both ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConntrackKey {
    pub low: Address,
    pub high: Address,
    pub low_port_be: u16,
    pub high_port_be: u16,
    pub protocol: u8,
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<ConntrackKey>() == 40);

/// Bits of [`ConntrackEntry::flags`]. "Original" is the direction of the packet that made the entry.
pub mod ct_flags {
    /// The original source is the key's `high` end.
    pub const SOURCE_IS_HIGH: u32 = 1 << 0;
    /// A packet of the reply direction was let through.
    pub const SEEN_REPLY: u32 = 1 << 1;
    pub const FIN_ORIGINAL: u32 = 1 << 2;
    pub const FIN_REPLY: u32 = 1 << 3;
    /// A packet without SYN was seen: the handshake is over, or began before us.
    pub const SEEN_NON_SYN: u32 = 1 << 4;
    pub const RST: u32 = 1 << 5;
    /// Not a flow but a client's packets to a service: `service` is the backend that they go to. The key's ends are the
    /// client and the frontend.
    pub const SERVICE: u32 = 1 << 8;
    /// Its source is rewritten where it leaves the node: the backend is elsewhere, and must answer to here.
    pub const MUST_RETURN: u32 = 1 << 9;
    /// The original source, or destination, was an address of the host when the other end was last judged.
    pub const SOURCE_IS_HOST: u32 = 1 << 6;
    pub const DESTINATION_IS_HOST: u32 = 1 << 7;
}

/// One flow, or what a client's packets to a frontend are turned into. Written by programs only; user space reads it, and deletes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConntrackEntry {
    /// The original source's egress verdict.
    pub egress: VerdictWord,
    /// The original destination's ingress verdict.
    pub ingress: VerdictWord,
    /// In jiffies, offset included: at or after it the entry does not exist.
    pub expires: u64,
    /// Incarnations of the two endpoints that were judged, 0 while that one was not.
    pub source_incarnation: u32,
    pub destination_incarnation: u32,
    pub flags: u32,
    /// The endpoints' devices on which the two words were judged, 0 for the host: a word counts for that device only.
    pub source_ifindex: u32,
    pub destination_ifindex: u32,
    /// With `service`.
    pub service_port_be: u16,
    /// Of a flow whose source is rewritten where it leaves the node: the node's port, or identifier, 0 for none yet.
    /// With [`ct_flags::SERVICE`]: that of the flow to the backend, as XDP last found it.
    pub nat_port_be: u16,
    /// Of a flow: the frontend that its original source believes to speak to, 0 for none. With
    /// [`ct_flags::SERVICE`]: the backend's address; then `egress` is the verdict "allow" of the epoch in which the
    /// backend was last known to be the service's, `source_incarnation` the backend's number and
    /// `destination_incarnation` its incarnation.
    pub service: Address,
    /// The epoch in which it was made.
    #[cfg(feature = "next-layout")]
    pub born: u64,
}
const _: () = assert!(size_of::<ConntrackEntry>() == if cfg!(feature = "next-layout") { 72 } else { 64 });

/// Key of `fragments`: where a later fragment finds the ports of the first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    pub source: Address,
    pub destination: Address,
    pub identification: u32,
    /// IPv6: of the fragment header.
    pub protocol: u8,
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<FragmentKey>() == 40);

/// Value of `fragments`. An ICMP message has its identifier in `source_be` (0 when it has none) and its type in
/// `destination_be`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentPorts {
    pub source_be: u16,
    pub destination_be: u16,
}
const _: () = assert!(size_of::<FragmentPorts>() == 4);
