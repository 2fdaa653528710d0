pub const DIRECTION_INGRESS: u8 = 0;
pub const DIRECTION_EGRESS: u8 = 1;
/// `peer` of an entry that matches every peer.
pub const PEER_ANY: u32 = 0;
/// `protocol` of an entry that matches every protocol (IPv6 hop-by-hop is never a flow's protocol).
pub const PROTO_ANY: u8 = 0;

/// What an entry decides; the higher rank wins: deny, then redirect, then allow.
pub mod policy_verdict {
    pub const ALLOW: u8 = 1;
    pub const DENY: u8 = 2;
    pub const REDIRECT: u8 = 3;
}

/// A shape of policy key: is the peer exact, and how much of protocol and port is.
///
/// A class is a bit number. Lower is more specific: the longer port prefix first, then the exact peer before any peer
/// (Cilium's precedence). Bits 0..=35:
/// `2 * (16 - port_bits)` for port prefixes of 16 down to 0 bits with an exact protocol (0 bits is any port),
/// 34 for any protocol; plus 1 when the peer is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TupleClass(pub u8);

impl TupleClass {
    pub const COUNT: u8 = 36;

    /// `port_bits`: `Some(n)` for an exact protocol and the first `n` bits of the port, `None` for any protocol.
    #[inline(always)]
    pub const fn new(port_bits: Option<u8>, any_peer: bool) -> Self {
        let base = match port_bits {
            Some(bits) => 2 * (16 - bits),
            None => 34,
        };
        Self(base + any_peer as u8)
    }

    #[inline(always)]
    pub const fn any_peer(self) -> bool {
        self.0 & 1 == 1
    }

    #[inline(always)]
    pub const fn any_protocol(self) -> bool {
        self.0 >= 34
    }

    /// The bits of the port (host order) that the class compares.
    #[inline(always)]
    pub const fn port_mask(self) -> u16 {
        let wild = self.0 / 2;
        if wild >= 16 { 0 } else { 0xffff << wild }
    }
}

/// Key of `policy`. An ICMP or ICMPv6 type stands in `port`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    pub subject: u32,
    pub peer: u32,
    /// Host order, masked with the class's [`TupleClass::port_mask`].
    pub port: u16,
    pub protocol: u8,
    /// Direction in bit 7, [`TupleClass`] below: two classes never share an entry.
    pub direction_class: u8,
}
const _: () = assert!(size_of::<PolicyKey>() == 12);

impl PolicyKey {
    #[inline(always)]
    pub const fn new(subject: u32, peer: u32, direction: u8, class: TupleClass, protocol: u8, port: u16) -> Self {
        Self {
            subject,
            peer: if class.any_peer() { PEER_ANY } else { peer },
            port: port & class.port_mask(),
            protocol: if class.any_protocol() { PROTO_ANY } else { protocol },
            direction_class: (direction << 7) | class.0,
        }
    }

    pub const fn direction(&self) -> u8 {
        self.direction_class >> 7
    }

    pub const fn class(&self) -> TupleClass {
        TupleClass(self.direction_class & 0x7f)
    }
}

/// Value of `policy`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PolicyEntry {
    pub rule: u32,
    /// Of [`policy_verdict`].
    pub verdict: u8,
    pub reserved: u8,
    /// Network order; 0 until there is a proxy.
    pub proxy_port_be: u16,
}
const _: () = assert!(size_of::<PolicyEntry>() == 8);

/// Value of `subjects`, keyed by identity: what a program must know before it probes `policy` for that subject.
/// An identity without an entry is enforced in neither direction.
///
/// Index 0 is ingress, 1 egress. Deny classes are probed first, any hit denies; then allow classes from the lowest
/// bit up, the first hit decides (a redirect, when there are any, outranks an allow).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubjectInfo {
    /// In front, so that nothing is where this version looks for it.
    #[cfg(feature = "next-layout")]
    pub next: u64,
    pub deny_classes: [u64; 2],
    pub allow_classes: [u64; 2],
    /// 1 when what no rule allows is denied. Deny rules hold even where this is 0.
    pub default_deny: [u32; 2],
    pub reserved: [u32; 2],
}
const _: () = assert!(size_of::<SubjectInfo>() == if cfg!(feature = "next-layout") { 56 } else { 48 });
