//! Ports as the policy table holds them: a protocol and a prefix of the port's bits.
use std::collections::BTreeSet;

use weir_abi::{PEER_ANY, PolicyKey, TupleClass};
use weir_schema::{NamedPort, Protocol};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

/// What one rule says about protocol and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    /// Every protocol and port.
    Any,
    Range {
        protocol: Protocol,
        first: u16,
        last: u16,
    },
    /// Whatever port the destination's endpoint gives this name.
    Named {
        protocol: Protocol,
        name: String,
    },
    Icmp {
        protocol: u8,
        icmp_type: u8,
    },
}

/// One shape of key: protocol, port and how much of the port counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Shape {
    pub protocol: u8,
    pub port: u16,
    /// `None`: neither protocol nor port counts.
    pub port_bits: Option<u8>,
}

impl Shape {
    const ANY: Self = Self { protocol: weir_abi::PROTO_ANY, port: 0, port_bits: None };

    /// The key of the entry for this peer, or for any.
    pub const fn key(self, subject: u32, peer: Option<u32>, direction: u8) -> PolicyKey {
        let (class, peer) = match peer {
            Some(peer) => (self.class(false), peer),
            None => (self.class(true), PEER_ANY),
        };
        PolicyKey::new(subject, peer, direction, class, self.protocol, self.port)
    }

    pub const fn class(self, any_peer: bool) -> TupleClass {
        TupleClass::new(self.port_bits, any_peer)
    }
}

pub(crate) const fn protocols(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::Any => &[TCP, UDP, SCTP],
        Protocol::Tcp => &[TCP],
        Protocol::Udp => &[UDP],
        Protocol::Sctp => &[SCTP],
    }
}

impl Transport {
    pub const fn all_ports(protocol: Protocol) -> Self {
        Self::Range { protocol, first: 0, last: u16::MAX }
    }

    pub const fn is_named(&self) -> bool {
        matches!(self, Self::Named { .. })
    }

    /// The shapes it takes where the destination's endpoint has these `ports`.
    pub fn shapes(&self, ports: &[NamedPort]) -> Vec<Shape> {
        match self {
            Self::Any => vec![Shape::ANY],
            Self::Icmp { protocol, icmp_type } => {
                vec![Shape { protocol: *protocol, port: u16::from(*icmp_type), port_bits: Some(16) }]
            }
            Self::Range { protocol, first, last } => {
                let blocks = || blocks(*first, *last);
                let of = |protocol| blocks().map(move |(port, bits)| Shape { protocol, port, port_bits: Some(bits) });
                protocols(*protocol).iter().flat_map(|protocol| of(*protocol)).collect()
            }
            Self::Named { protocol, name } => {
                let mut shapes = BTreeSet::new();
                for named in ports.iter().filter(|named| named.name == *name) {
                    let both = protocols(*protocol).iter().filter(|one| protocols(named.protocol).contains(one));
                    shapes.extend(both.map(|protocol| Shape {
                        protocol: *protocol,
                        port: named.port,
                        port_bits: Some(16),
                    }));
                }
                shapes.into_iter().collect()
            }
        }
    }
}

/// The fewest aligned power-of-two blocks that make up `first..=last`: (start, bits that are fixed), ascending.
pub(crate) fn blocks(first: u16, last: u16) -> impl Iterator<Item = (u16, u8)> {
    let end = u32::from(last) + 1;
    let mut at = u32::from(first);
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let aligned = at.trailing_zeros().min(16);
        let fits = (end - at).ilog2();
        let wild = aligned.min(fits);
        let block = (at as u16, (16 - wild) as u8);
        at += 1 << wild;
        Some(block)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn borders() {
        let list = |first, last| blocks(first, last).collect::<Vec<_>>();
        assert_eq!(list(0, 65535), [(0, 0)]);
        assert_eq!(list(0, 0), [(0, 16)]);
        assert_eq!(list(65535, 65535), [(65535, 16)]);
        assert_eq!(list(80, 83), [(80, 14)]);
        assert_eq!(list(79, 84), [(79, 16), (80, 14), (84, 16)]);
        assert_eq!(list(1, 65534).len(), 30, "the worst there is");
        assert_eq!(list(5, 4), []);
    }

    proptest! {
        #[test]
        fn blocks_cover_exactly_the_range(a: u16, b: u16, probe: u16) {
            let (first, last) = (a.min(b), a.max(b));
            let blocks: Vec<_> = blocks(first, last).collect();
            for port in [probe, first, last, first.wrapping_sub(1), last.wrapping_add(1)] {
                let hits = blocks
                    .iter()
                    .filter(|(start, bits)| {
                        let mask = TupleClass::new(Some(*bits), false).port_mask();
                        port & mask == *start
                    })
                    .count();
                prop_assert_eq!(hits, usize::from((first..=last).contains(&port)), "{}", port);
            }
            prop_assert!(blocks.len() <= 30);
        }
    }

    #[test]
    fn a_named_port_takes_what_both_sides_agree_on() {
        let port = |name: &str, port, protocol| NamedPort { name: name.to_owned(), port, protocol };
        let ports = [port("dns", 53, Protocol::Any), port("web", 80, Protocol::Tcp), port("web", 81, Protocol::Udp)];
        let shapes = |name: &str, protocol| -> Vec<(u8, u16)> {
            let named = Transport::Named { protocol, name: name.to_owned() };
            named.shapes(&ports).iter().map(|shape| (shape.protocol, shape.port)).collect()
        };
        assert_eq!(shapes("web", Protocol::Tcp), [(TCP, 80)]);
        assert_eq!(shapes("web", Protocol::Any), [(TCP, 80), (UDP, 81)]);
        assert_eq!(shapes("web", Protocol::Sctp), []);
        assert_eq!(shapes("dns", Protocol::Udp), [(UDP, 53)]);
        assert_eq!(shapes("dns", Protocol::Any), [(TCP, 53), (UDP, 53), (SCTP, 53)]);
        assert_eq!(shapes("none", Protocol::Any), []);
    }
}
