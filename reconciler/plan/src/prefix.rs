use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An IPv4 prefix: bits in host order, host bits zero. Sorted by address, then the shorter first, so that a prefix
/// stands right before everything that it covers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix4 {
    pub bits: u32,
    pub length: u8,
}

/// An IPv6 prefix: two halves in host order (kept apart so that the type is aligned to 8, not 16).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix6 {
    pub high: u64,
    pub low: u64,
    pub length: u8,
}

impl Prefix4 {
    pub const fn covers(&self, other: &Self) -> bool {
        self.length <= other.length && (self.length == 0 || (self.bits ^ other.bits) >> (32 - self.length as u32) == 0)
    }

    pub const fn to_net(self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::from_bits(self.bits), self.length)
    }
}

impl Prefix6 {
    pub const fn bits(&self) -> u128 {
        ((self.high as u128) << 64) | self.low as u128
    }

    pub const fn from_bits(bits: u128, length: u8) -> Self {
        Self { high: (bits >> 64) as u64, low: bits as u64, length }
    }

    pub const fn covers(&self, other: &Self) -> bool {
        self.length <= other.length
            && (self.length == 0 || (self.bits() ^ other.bits()) >> (128 - self.length as u32) == 0)
    }

    pub const fn to_net(self) -> Ipv6Net {
        Ipv6Net::new_assert(Ipv6Addr::from_bits(self.bits()), self.length)
    }
}

impl From<Ipv4Net> for Prefix4 {
    fn from(net: Ipv4Net) -> Self {
        Self { bits: net.network().to_bits(), length: net.prefix_len() }
    }
}

impl From<Ipv6Net> for Prefix6 {
    fn from(net: Ipv6Net) -> Self {
        Self::from_bits(net.network().to_bits(), net.prefix_len())
    }
}

impl Prefix4 {
    pub fn to_ip_net(self) -> IpNet {
        IpNet::V4(self.to_net())
    }

    pub const fn host(address: Ipv4Addr) -> Self {
        Self { bits: address.to_bits(), length: 32 }
    }
}

impl Prefix6 {
    pub fn to_ip_net(self) -> IpNet {
        IpNet::V6(self.to_net())
    }

    pub const fn host(address: Ipv6Addr) -> Self {
        Self::from_bits(address.to_bits(), 128)
    }
}

impl fmt::Display for Prefix4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_net().fmt(f)
    }
}

impl fmt::Display for Prefix6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_net().fmt(f)
    }
}

impl fmt::Debug for Prefix4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Prefix6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
