//! What this process knows the tables to hold, as digests under a key of its own.
use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    os::fd::AsFd as _,
    sync::{LazyLock, atomic::Ordering},
};

use crate::{
    maps::Map,
    sys::{self, Batch, EntriesDigest, Mapping, Plain, bytes_of, digest_entries},
};

/// Made anew for each process, from what the kernel calls random: nobody can aim at a collision.
static KEY: LazyLock<[u64; WORDS + 2]> = LazyLock::new(|| {
    let random = RandomState::new();
    std::array::from_fn(|at| random.hash_one(at))
});
static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one("entries"));

/// Words of eight bytes in a value at most.
const WORDS: usize = 12;
/// In those of large tables, which are not to pay for more.
const USUAL: usize = 8;

/// Of the family of wyhash and XXH3: two words, each under its part of the key, are multiplied in full, and both halves
/// of the product folded. No product waits for another, and words go from memory to the multiplier: a hasher of bytes
/// took five times as long.
fn mix<T: Plain>(key: &[u64; WORDS + 2], index: usize, words: [u64; WORDS]) -> u64 {
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let used = const { if words_of::<T>() > USUAL { WORDS } else { USUAL } };
    let lanes = (0..used).step_by(2).map(|at| fold(words[at] ^ key[at], words[at + 1] ^ key[at + 1]));
    fold(lanes.fold(0, u64::wrapping_add) ^ key[WORDS], index as u64 ^ key[WORDS + 1])
}

/// How many words a value has.
const fn words_of<T: Plain>() -> usize {
    assert!(size_of::<T>() <= WORDS * 8 && size_of::<T>().is_multiple_of(8), "all of it goes into its digest");
    size_of::<T>() / 8
}

/// The part of a mapped table's digest that is one value's. Sums of these are digests: a store changes them by what it
/// stores.
pub fn of_value<T: Plain>(index: usize, value: &T) -> u64 {
    let mut words = [0; WORDS];
    let (chunks, _) = bytes_of(value).as_chunks::<8>();
    words.iter_mut().zip(&chunks[..const { words_of::<T>() }]).for_each(|(to, from)| *to = u64::from_ne_bytes(*from));
    mix::<T>(&KEY, index, words)
}

/// The digest of all values.
pub fn of_mapping<T: Plain>(mapping: &Mapping<T>) -> u64 {
    let key = *KEY;
    let values = mapping.words().chunks_exact(const { words_of::<T>() });
    values.enumerate().fold(0, |sum: u64, (index, value)| {
        let mut words = [0; WORDS];
        words.iter_mut().zip(value).for_each(|(to, from)| *to = from.load(Ordering::Relaxed));
        sum.wrapping_add(mix::<T>(&key, index, words))
    })
}

/// What a hash is known to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known(EntriesDigest);

impl Known {
    pub fn of<K: Plain, V: Plain>(entries: &[(K, V)]) -> Self {
        let mut known = Self::default();
        entries.iter().for_each(|(key, value)| known.0.add(*SEED, bytes_of(key), bytes_of(value)));
        known
    }

    pub fn change<K: Plain, V: Plain>(&mut self, key: &K, from: Option<&V>, to: Option<&V>) {
        if let Some(from) = from {
            self.0.remove(*SEED, bytes_of(key), bytes_of(from));
        }
        if let Some(to) = to {
            self.0.add(*SEED, bytes_of(key), bytes_of(to));
        }
    }

    /// Whether `map` holds this and nothing else. Computed inside the kernel, where that is possible and worth it.
    pub fn holds<K: Plain, V: Plain>(&self, map: &Map) -> io::Result<bool> {
        if self.0.count >= WORTH_A_PROGRAM
            && let Ok(digest) = digest_entries(map.as_fd(), size_of::<K>() as u32, size_of::<V>() as u32, *SEED)
        {
            return Ok(digest == self.0);
        }
        match Batch::of(map).dump::<K, V>() {
            Ok(entries) => Ok(Self::of(&entries) == *self),
            Err(error) if sys::Batch::unsupported(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Loading a program costs as much as copying about so many entries out.
const WORTH_A_PROGRAM: u64 = 1024;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use weir_abi::{Counter, tree::Line};

    use super::*;

    /// Neighbours, each word its own.
    fn lines() -> Vec<Line> {
        (0..64u32).map(|line| Line(std::array::from_fn(|word| line * 16 + word as u32))).collect()
    }

    fn of_lines(lines: &[Line]) -> u64 {
        lines.iter().enumerate().fold(0, |sum, (index, line)| sum.wrapping_add(of_value(index, line)))
    }

    #[test]
    fn every_bit_of_every_word_counts() {
        let mut seen = BTreeSet::from([of_lines(&lines())]);
        for line in [0, 31, 63] {
            for bit in 0..512 {
                let mut changed = lines();
                changed[line].0[bit / 32] ^= 1 << (bit % 32);
                assert!(seen.insert(of_lines(&changed)), "bit {bit} of line {line}");
            }
        }
    }

    #[test]
    fn what_changes_places_is_seen() {
        let mut seen = BTreeSet::from([of_lines(&lines())]);
        for a in 0..16 {
            for b in 0..a {
                let mut words = lines();
                words[7].0.swap(a, b);
                assert!(seen.insert(of_lines(&words)), "words {a} and {b}");
                let mut whole = lines();
                whole.swap(a, b);
                assert!(seen.insert(of_lines(&whole)), "lines {a} and {b}");
                // What one line loses, another has more.
                let mut moved = lines();
                moved[a].0[3] += 1;
                moved[b].0[3] -= 1;
                assert!(seen.insert(of_lines(&moved)), "from line {b} to line {a}");
            }
        }
    }

    #[test]
    fn empty_lines_count_and_differ_by_their_place() {
        let parts: BTreeSet<u64> = (0..1000).map(|index| of_value(index, &Line::ZERO)).collect();
        assert_eq!(parts.len(), 1000);
        assert!(!parts.contains(&0));
    }

    #[test]
    fn a_mapping_has_the_sum_of_its_values() {
        fn check<T: Plain>(values: &[T]) {
            let map =
                Map::create("test", &sys::MapSpec::mapped_array(size_of::<T>() as u32, values.len() as u32), None);
            let map = map.expect("a map (are you root?)");
            let mut mapping = Mapping::new(map.as_fd(), map.entries()).expect("a mapping");
            values.iter().enumerate().for_each(|(index, value)| mapping.write(index, *value));
            let sum = |(index, value)| of_value(index, value);
            let expected = values.iter().enumerate().map(sum).fold(0, u64::wrapping_add);
            assert_eq!(of_mapping(&mapping), expected);
        }
        check(&lines());
        check(&lines()[..1]);
        // Less than a line, and not a page full.
        check(&(0..300).map(|n| Counter { packets: n, bytes: n * 3 }).collect::<Vec<_>>());
        check(&(0..513).collect::<Vec<u64>>());
    }
}
