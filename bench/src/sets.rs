//! Sets of prefixes, and addresses inside and outside of them.
use std::collections::BTreeSet;

use weir_plan::{Prefix4, Prefix6};

use crate::flows::Random;

/// IPv4 of /20 to /32, 61 % longer than /24.
pub(crate) fn mixed4(count: usize) -> Vec<Prefix4> {
    distinct4(count, |random| match random.below(100) {
        0..39 => 20 + random.below(5) as u8,
        _ => 25 + random.below(8) as u8,
    })
}

/// IPv4 with 10 % longer than /24.
pub(crate) fn mild4(count: usize) -> Vec<Prefix4> {
    distinct4(count, |random| match random.below(100) {
        0..90 => 20 + random.below(5) as u8,
        _ => 25 + random.below(8) as u8,
    })
}

fn distinct4(count: usize, length: impl Fn(&mut Random) -> u8) -> Vec<Prefix4> {
    let mut random = Random::new(count as u64);
    let mut set = BTreeSet::new();
    while set.len() < count {
        let length = length(&mut random);
        // 1.0.0.0 to 223.255.255.255.
        let address = 0x0100_0000 + random.below(0xdf00_0000) as u32;
        set.insert(Prefix4 { bits: address & (u32::MAX << (32 - u32::from(length))), length });
    }
    set.into_iter().collect()
}

/// The /32s that the IPv6 sets live in.
const SITES: u64 = 64;

fn site(random: &mut Random) -> u64 {
    (0x2001_0000 + random.below(SITES) * 0x0101) << 32
}

/// IPv6 of /33 to /128 inside 64 /32s. Short ones stop when a quarter of their site is covered: the rest must have
/// room for addresses that miss.
pub(crate) fn mixed6(count: usize) -> Vec<Prefix6> {
    let mut random = Random::new(count as u64 + 6);
    let mut set = BTreeSet::new();
    let mut covered = std::collections::HashMap::<u64, f64>::new();
    while set.len() < count {
        let length = 33 + random.below(96) as u8;
        let site = site(&mut random);
        let share = covered.entry(site).or_default();
        let part = 0.5f64.powi(i32::from(length) - 32);
        if *share + part > 0.25 {
            continue;
        }
        *share += part;
        let bits = (u128::from(site | random.next() >> 32) << 64) | u128::from(random.next());
        set.insert(Prefix6::from_bits(bits & (u128::MAX << (128 - length)), length));
    }
    set.into_iter().collect()
}

/// Random members of random prefixes.
pub(crate) fn hits4(set: &[Prefix4], count: usize) -> Vec<u32> {
    let mut random = Random::new(1);
    let mut pick = || {
        let prefix = set[random.below(set.len() as u64) as usize];
        let host = (random.next() as u32).checked_shr(u32::from(prefix.length)).unwrap_or(0);
        prefix.bits | host
    };
    (0..count).map(|_| pick()).collect()
}

pub(crate) fn hits6(set: &[Prefix6], count: usize) -> Vec<u128> {
    let mut random = Random::new(1);
    let mut pick = || {
        let prefix = set[random.below(set.len() as u64) as usize];
        let word = (u128::from(random.next()) << 64) | u128::from(random.next());
        prefix.bits() | word.checked_shr(u32::from(prefix.length)).unwrap_or(0)
    };
    (0..count).map(|_| pick()).collect()
}

/// Random addresses that no prefix covers.
pub(crate) fn misses4(set: &[Prefix4], count: usize) -> Vec<u32> {
    let mut random = Random::new(2);
    let mut out = Vec::with_capacity(count);
    while out.len() < count {
        let address = 0x0100_0000 + random.below(0xdf00_0000) as u32;
        if !covers4(set, address) {
            out.push(address);
        }
    }
    out
}

/// The same inside the sites of the set.
pub(crate) fn misses6(set: &[Prefix6], count: usize) -> Vec<u128> {
    let mut random = Random::new(2);
    let mut out = Vec::with_capacity(count);
    while out.len() < count {
        let address = (u128::from(site(&mut random) | random.next() >> 32) << 64) | u128::from(random.next());
        if !covers6(set, address) {
            out.push(address);
        }
    }
    out
}

fn covers4(set: &[Prefix4], address: u32) -> bool {
    (0..=32u8).any(|length| {
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        set.binary_search(&Prefix4 { bits: address & mask, length }).is_ok()
    })
}

fn covers6(set: &[Prefix6], address: u128) -> bool {
    (0..=128u8).any(|length| {
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        set.binary_search(&Prefix6::from_bits(address & mask, length)).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_what_their_names_say() {
        let mixed = mixed4(20_000);
        let long = mixed.iter().filter(|prefix| prefix.length > 24).count();
        assert!((58..64).contains(&(long * 100 / mixed.len())), "{long}");
        let mild = mild4(20_000);
        let long = mild.iter().filter(|prefix| prefix.length > 24).count();
        assert!((8..12).contains(&(long * 100 / mild.len())), "{long}");
        assert!(mixed6(5_000).iter().all(|prefix| (33..=128).contains(&prefix.length)));
    }

    #[test]
    fn hits_hit_and_misses_miss() {
        let set = mixed4(5_000);
        assert!(hits4(&set, 1_000).iter().all(|address| covers4(&set, *address)));
        assert!(misses4(&set, 1_000).iter().all(|address| !covers4(&set, *address)));
        let set = mixed6(5_000);
        assert!(hits6(&set, 1_000).iter().all(|address| covers6(&set, *address)));
        assert!(misses6(&set, 1_000).iter().all(|address| !covers6(&set, *address)));
    }
}
