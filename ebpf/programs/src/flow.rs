//! A packet's two ends, and the flow that they name.
use core::mem::swap;

use weir_abi::{Address, ConntrackKey};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;

/// A flow's key, and from which end the packet comes. An ICMP echo has its identifier in both ports, what has no ports
/// has 0.
///
/// One copy of the addresses serves the packet and the key.
#[repr(C)]
pub struct Flow {
    /// In order only after [`Self::order`]; until then `low` is the source.
    pub key: ConntrackKey,
    pub source_is_high: bool,
}

impl Flow {
    pub const ZERO: Self = Self {
        key: ConntrackKey {
            low: Address([0; 16]),
            high: Address([0; 16]),
            low_port_be: 0,
            high_port_be: 0,
            protocol: 0,
            reserved: [0; 3],
        },
        source_is_high: false,
    };

    /// Both addresses, of a flow that is not in order yet.
    #[inline(always)]
    pub fn set_addresses(&mut self, source: Address, destination: Address) {
        self.key.low = source;
        self.key.high = destination;
    }

    /// Both ports, in network order, of a flow that is not in order yet.
    #[inline(always)]
    pub fn set_ports(&mut self, source_be: u16, destination_be: u16) {
        self.key.low_port_be = source_be;
        self.key.high_port_be = destination_be;
    }

    /// Makes `key` the key, whichever way the packet goes: the ends in order of (address, port).
    #[inline(always)]
    pub fn order(&mut self) {
        let key = &mut self.key;
        let (low, high) = (key.low.halves(), key.high.halves());
        let out_of_order = if low.0 != high.0 {
            low.0 > high.0
        } else if low.1 != high.1 {
            low.1 > high.1
        } else {
            u16::from_be(key.low_port_be) > u16::from_be(key.high_port_be)
        };
        if out_of_order {
            swap(&mut key.low, &mut key.high);
            swap(&mut key.low_port_be, &mut key.high_port_be);
            self.source_is_high = true;
        }
    }

    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.key.protocol
    }

    #[inline(always)]
    pub fn source(&self) -> &Address {
        if self.source_is_high { &self.key.high } else { &self.key.low }
    }

    #[inline(always)]
    pub fn destination(&self) -> &Address {
        if self.source_is_high { &self.key.low } else { &self.key.high }
    }

    #[inline(always)]
    pub fn source_port_be(&self) -> u16 {
        if self.source_is_high { self.key.high_port_be } else { self.key.low_port_be }
    }

    #[inline(always)]
    pub fn destination_port_be(&self) -> u16 {
        if self.source_is_high { self.key.low_port_be } else { self.key.high_port_be }
    }
}
