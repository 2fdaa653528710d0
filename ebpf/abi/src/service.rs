use crate::Address;

/// Key of `frontends`: where a client's packet is addressed to.
///
/// Port 0 and protocol 0 stand for the address itself: it belongs to services, and what is on none of their ports is
/// dropped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    pub address: Address,
    /// In host order, so that plans are sorted by it.
    pub port: u16,
    pub protocol: u8,
    pub reserved: [u8; 5],
}
const _: () = assert!(size_of::<FrontendKey>() == 24);

impl FrontendKey {
    #[inline(always)]
    pub const fn new(address: Address, protocol: u8, port: u16) -> Self {
        Self { address, port, protocol, reserved: [0; 5] }
    }

    /// The address alone.
    #[inline(always)]
    pub const fn of_address(address: Address) -> Self {
        Self::new(address, 0, 0)
    }

    pub const fn is_address(&self) -> bool {
        self.port == 0 && self.protocol == 0
    }
}

/// Bits of [`FrontendInfo::flags`].
pub mod frontend_flags {
    /// A port of the node's own addresses.
    pub const NODE_PORT: u32 = 1 << 0;
    /// An address for clients outside.
    pub const EXTERNAL: u32 = 1 << 1;
    /// What comes from outside goes to this node's backends only.
    pub const EXTERNAL_LOCAL: u32 = 1 << 2;
    /// What comes from this node goes to this node's backends only.
    pub const INTERNAL_LOCAL: u32 = 1 << 3;
    /// What comes from outside must come from the service's source ranges.
    pub const SOURCE_RANGES: u32 = 1 << 4;
}

/// Value of `frontends`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FrontendInfo {
    /// Index of `services`; 0 where the key is an address alone.
    pub service: u32,
    /// Of [`frontend_flags`].
    pub flags: u32,
}
const _: () = assert!(size_of::<FrontendInfo>() == 8);

/// Bits of [`ServiceInfo::flags`].
pub mod service_flags {
    /// The slot is picked by a hash of the flow, not by chance.
    pub const MAGLEV: u32 = 1 << 0;
    /// A client gets a reset or "port unreachable" when there is no backend, not silence.
    pub const REJECT: u32 = 1 << 1;
    /// The number is in use. Only in the kernel.
    pub const EXISTS: u32 = 1 << 2;
}

/// Value of `services`, indexed by service number; 0 is never used.
///
/// A service is what frontends share that have the same backends on the same ports. Slot `n` of a service is word
/// `n % 16` of line `slots + n / 16` of `slots`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceInfo {
    /// First line of `slots`, and the number of slots: backends that get new flows, as often as their weight asks.
    pub slots: u32,
    pub slot_count: u32,
    /// The same of this node's backends only.
    pub local_slots: u32,
    pub local_count: u32,
    /// Of [`service_flags`].
    pub flags: u32,
    /// Seconds that a client is remembered, 0 for none.
    pub affinity: u32,
    /// Bit `n`: there are IPv4 source ranges of length `n`.
    pub ranges_v4: u64,
    /// The same of IPv6, the lowest 64 lengths first.
    pub ranges_v6: [u64; 3],
    pub reserved: u64,
}
const _: () = assert!(size_of::<ServiceInfo>() == 64);

/// Bits of [`BackendInfo::flags`].
pub mod backend_flags {
    /// The number is in use.
    pub const EXISTS: u16 = 1 << 0;
    /// Keeps its flows, and gets no new ones.
    pub const DRAINING: u16 = 1 << 1;
    /// On this node.
    pub const LOCAL: u16 = 1 << 2;
}

/// Value of `backends`, indexed by backend number: one backend of one service. 0 is never used.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BackendInfo {
    pub address: Address,
    /// Another whenever the backend comes back after it was gone: its former flows are void.
    pub incarnation: u32,
    pub service: u32,
    pub port_be: u16,
    /// Of [`backend_flags`].
    pub flags: u16,
    pub reserved: u32,
}
const _: () = assert!(size_of::<BackendInfo>() == 32);

/// Key of `source_ranges`: a client's address, masked. The value is 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRangeKey {
    pub service: u32,
    /// Bits of the mapped address that count: 96 to 128 for IPv4.
    pub length: u32,
    pub address: Address,
}
const _: () = assert!(size_of::<SourceRangeKey>() == 24);

/// Who an endpoint sees as its client when it is itself the backend of the service that it asked: its own address would
/// never leave it. An address of Cilium's for the same purpose; the IPv6 one is of a prefix of our own (RFC 4193).
pub const LOOPBACK_V4: Address = Address::from_v4([169, 254, 42, 1]);
pub const LOOPBACK_V6: Address = Address([0xfd, 0x57, 0x65, 0x69, 0x72, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// Key of `affinity`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    pub client: Address,
    pub service: u32,
    pub reserved: u32,
}
const _: () = assert!(size_of::<AffinityKey>() == 24);

/// Value of `affinity`: the backend that a client has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AffinityEntry {
    pub backend: u32,
    pub incarnation: u32,
    /// In jiffies, offset included.
    pub expires: u64,
}
const _: () = assert!(size_of::<AffinityEntry>() == 16);
