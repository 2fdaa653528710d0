//! Maglev tables (Eisenbud et al., NSDI 2016, 3.4): every node gives a flow to the same backend, and few flows move
//! when backends come or go.
//!
//! A table depends on addresses, ports and weights alone. Its size is a prime that depends on the number of backends,
//! and is one and the same up to 163: where the number crosses a bound, the table is another one, and most flows without
//! an entry in conntrack move.
use std::net::IpAddr;

/// What a table may have, at least a hundred slots for each backend. The least is Cilium's default (`maglev.tableSize`):
/// smaller ones would move more slots than those of the backend that goes, a tenth more at 5 backends, half at 20.
const SIZES: [usize; 4] = [16381, 32749, 65521, 131_071];
const SLOTS_EACH: usize = 100;

/// One that gets new flows. No weight is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Active {
    pub number: u32,
    pub address: IpAddr,
    pub port: u16,
    pub weight: u16,
}

fn size(backends: usize) -> usize {
    let wanted = backends.saturating_mul(SLOTS_EACH);
    SIZES.into_iter().find(|size| *size >= wanted).unwrap_or(SIZES[SIZES.len() - 1])
}

/// FNV-1a over the address's 4 or 16 bytes, the port's two in network order and `salt`, then the finalizer of
/// SplitMix64, because FNV's upper bits hardly depend on the last bytes. Part of what a fleet agrees on: never changed.
fn hash(backend: &Active, salt: u8) -> u64 {
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    match backend.address {
        IpAddr::V4(address) => add(&address.octets()),
        IpAddr::V6(address) => add(&address.octets()),
    }
    add(&backend.port.to_be_bytes());
    add(&[salt]);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// A backend's way through the table.
struct Turns {
    number: u32,
    next: usize,
    skip: usize,
    weight: u32,
    /// A turn is taken when there is the largest weight of all.
    credit: u32,
}

/// The table of `backends`, sorted by address and port; empty when there are none.
pub(super) fn table(backends: &[Active]) -> Vec<u32> {
    let largest = backends.iter().map(|backend| u32::from(backend.weight)).max().unwrap_or(1).max(1);
    let size = size(backends.len());
    let turns = |backend: &Active| Turns {
        number: backend.number,
        next: (hash(backend, 0) % size as u64) as usize,
        skip: (hash(backend, 1) % (size as u64 - 1) + 1) as usize,
        weight: u32::from(backend.weight),
        // Everybody has the first turn, so that the least weight gets a slot.
        credit: largest - u32::from(backend.weight),
    };
    let mut all: Vec<Turns> = backends.iter().map(turns).collect();
    if all.is_empty() {
        return Vec::new();
    }
    // No backend has number 0.
    let mut table = vec![0; size];
    let mut free = size;
    loop {
        for turns in &mut all {
            turns.credit += turns.weight;
            if turns.credit < largest {
                continue;
            }
            turns.credit -= largest;
            while table[turns.next] != 0 {
                turns.next = (turns.next + turns.skip) % size;
            }
            table[turns.next] = turns.number;
            free -= 1;
            if free == 0 {
                return table;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn backends(count: usize, network: u8) -> Vec<Active> {
        let one = |at: usize| Active {
            number: at as u32 + 1,
            address: IpAddr::from([10, network, (at / 200) as u8, (at % 200) as u8 + 1]),
            port: 8080,
            weight: 1,
        };
        (0..count).map(one).collect()
    }

    fn counts(table: &[u32]) -> BTreeMap<u32, usize> {
        let mut counts = BTreeMap::new();
        table.iter().for_each(|number| *counts.entry(*number).or_default() += 1);
        counts
    }

    #[test]
    fn sizes_are_primes_that_suffice() {
        for prime in SIZES {
            assert!((2..).take_while(|n| n * n <= prime).all(|n| prime % n != 0), "{prime}");
        }
        assert_eq!([1, 163, 164, 1310, 1311].map(size), [16381, 16381, 32749, 131_071, 131_071]);
    }

    #[test]
    fn shares_are_those_of_the_weights() {
        for count in [1, 2, 3, 5, 20, 50] {
            for network in 0..4 {
                let mut list = backends(count, network);
                for (at, backend) in list.iter_mut().enumerate() {
                    backend.weight = [1, 2, 5][at % 3];
                }
                let total: f64 = list.iter().map(|one| f64::from(one.weight)).sum();
                let table = table(&list);
                let counts = counts(&table);
                for one in &list {
                    let fair = f64::from(one.weight) / total * table.len() as f64;
                    let found = counts[&one.number] as f64;
                    assert!((found - fair).abs() <= 1.0 + fair * 0.05, "{count}: {found} for {fair}");
                }
            }
        }
        let mut few = backends(2, 0);
        few[0].weight = u16::MAX;
        assert_eq!(counts(&table(&few))[&2], 1, "nobody goes without");
    }

    /// One in N must move. What moves beside it, because turns come earlier for all who are left, grows with N.
    #[test]
    fn few_slots_move_when_one_goes() {
        for (counts, most) in [(3..=20, 1.2), (21..=50, 1.5)] {
            for count in counts.step_by(2) {
                let (mut moved, mut slots) = (0, 0);
                for network in 0..2 {
                    let all = backends(count, network);
                    let before = table(&all);
                    for gone in (0..count).step_by(count.div_ceil(8)) {
                        let mut left = all.clone();
                        left.remove(gone);
                        let after = table(&left);
                        slots += before.len();
                        moved += before.iter().zip(&after).filter(|(a, b)| a != b).count();
                    }
                }
                let times = moved as f64 / slots as f64 * count as f64;
                assert!(times <= most, "{count}: {times}");
            }
        }
    }

    #[test]
    fn numbers_do_not_matter() {
        let list = backends(17, 3);
        let renumbered: Vec<Active> = list.iter().map(|one| Active { number: 1000 - one.number, ..*one }).collect();
        let expected: Vec<u32> = table(&list).into_iter().map(|number| 1000 - number).collect();
        assert_eq!(table(&renumbered), expected);
        // What a fleet agrees on.
        let sum = table(&list).iter().fold(0u64, |sum, number| sum.wrapping_mul(31).wrapping_add(u64::from(*number)));
        assert_eq!(sum, 17_108_534_768_650_969_286);
    }
}
