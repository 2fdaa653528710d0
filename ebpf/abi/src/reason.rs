/// Which way a packet was going, seen from the node's stack, when it was counted.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Ingress = 0,
    Egress = 1,
}

impl Direction {
    /// As metrics, events and JSON have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal;)*) => {
        /// Why a packet was forwarded or dropped. Codes are stable: a number is never given a second meaning.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[$doc])* $variant = $code,)* }

        impl Reason {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name used in metrics, events and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// Passed on: by policy, or because nothing enforces.
    Forwarded = 0, "forwarded";
    /// ARP, neighbour discovery: always let through.
    ForwardedLink = 1, "forwarded_link";
    /// No prefilter rule matched (counted at XDP).
    PrefilterPass = 2, "prefilter_pass";

    /// A `CidrFilter` rule dropped it.
    Prefilter = 128, "prefilter";
    /// Addressed inside the node's endpoint ranges, and to no endpoint.
    UnknownDestination = 129, "unknown_destination";
    /// A deny rule matched.
    PolicyDeny = 130, "policy_deny";
    /// The subject is selected for this direction and no rule allows it.
    PolicyDefaultDeny = 131, "policy_default_deny";
    /// The frame ends before the header that it announces.
    Truncated = 132, "truncated";
    /// A header contradicts itself: version, header length, total length.
    Malformed = 133, "malformed";
    /// An extension header chain that is too long, repeats or is out of order.
    ExtensionHeader = 134, "extension_header";
    /// A transport protocol that cannot be judged on an enforcing endpoint.
    UnknownProtocol = 135, "unknown_protocol";
    /// A later fragment whose first fragment was not seen.
    FragmentNotFound = 136, "fragment_not_found";
    /// Neither IPv4, IPv6 nor ARP, on an enforcing endpoint.
    UnknownEthertype = 137, "unknown_ethertype";
    /// An endpoint sent from an address that is not its own.
    InvalidSource = 138, "invalid_source";
    /// A map operation that cannot fail failed; never expected.
    Internal = 139, "internal";
    /// The kernel refused more packet data (`bpf_skb_pull_data`).
    NoData = 140, "no_data";
    /// Addressed to a service's address, and to none of its ports.
    NoService = 141, "no_service";
    /// Addressed to a service that has no backend here for it.
    NoBackend = 142, "no_backend";
    /// From outside a service's source ranges.
    SourceRange = 143, "source_range";
    /// A service's packet could not be rewritten.
    Translation = 144, "translation";
    /// No port of the node's address is left for a flow to that destination.
    NatExhausted = 145, "nat_exhausted";
}

impl Reason {
    /// Codes from 128 on are drops.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        self as u8 >= 128
    }
}

/// Slots of the `metrics` table: reason × direction, then the counter of lost events.
pub const METRIC_SLOTS: u32 = 256 * 2 + 1;

#[inline(always)]
pub const fn metric_slot(reason: Reason, direction: Direction) -> u32 {
    (reason as u32) * 2 + direction as u32
}
