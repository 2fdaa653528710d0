//! The numbering in parts, so that a commit that adds one identity to half a million does not write them all.
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weir_plan::{Numbering, Space};

use crate::{
    database::{Database, Trouble},
    record,
};

const META: &[u8] = b"n";
/// Entries of a part, on average, when their number doubles.
const PART: usize = 256;
const MAX_BITS: u32 = 12;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    /// There are `2^bits` parts, by the upper bits of the key's hash.
    bits: u32,
    bounds: Vec<(Space, u32)>,
}

/// What stands in the database, as far as telling a change needs it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    meta: Option<Meta>,
    /// Per part, over its entries in any order.
    digests: Vec<u64>,
    /// What was written last, by this process.
    last: Option<Numbering>,
}

fn part_key(part: u32) -> [u8; 5] {
    let [a, b, c, d] = part.to_be_bytes();
    [b'n', a, b, c, d]
}

impl Parts {
    /// Reads all.
    pub fn load(database: &Database) -> Result<(Self, Numbering), Trouble> {
        let mut numbering = Numbering::default();
        let Some(meta) = database.records.get(META)? else { return Ok((Self::default(), numbering)) };
        let meta: Meta = record::decode("numbering", &meta)?;
        if meta.bits > MAX_BITS {
            return Err(Trouble::Damaged(format!("numbering: 2^{} parts", meta.bits)));
        }
        let mut digests = vec![0; 1 << meta.bits];
        let mut spaces: Vec<Vec<(Arc<str>, u32)>> = vec![Vec::new(); Space::ALL.len()];
        for (part, digest) in (0u32..).zip(&mut digests) {
            let Some(bytes) = database.records.get(part_key(part))? else { continue };
            let entries: Vec<(Space, &str, u32)> = record::decode("numbering", &bytes)?;
            for (space, key, number) in entries {
                *digest ^= fingerprint(space, key, number);
                let Some(index) = Space::ALL.iter().position(|one| *one == space) else { continue };
                spaces[index].push((key.into(), number));
            }
        }
        for (space, bound) in &meta.bounds {
            let numbers =
                Space::ALL.iter().position(|one| one == space).map(|index| std::mem::take(&mut spaces[index]));
            numbering.restore(*space, *bound, numbers.unwrap_or_default());
        }
        Ok((Self { meta: Some(meta), digests, last: None }, numbering))
    }

    /// Adds what changed to `batch`; what must stand in `self` once the batch is in.
    pub fn write(&self, numbering: &Numbering, batch: &mut sled::Batch) -> Result<(Self, usize), Trouble> {
        if self.meta.is_some()
            && let Some(last) = &self.last
            && Space::ALL.into_iter().all(|space| {
                numbering.bound(space) == last.bound(space) && numbering.changes_since(last, space).is_empty()
            })
        {
            return Ok((Self { last: Some(numbering.clone()), ..self.clone() }, 0));
        }
        let count: usize = Space::ALL.iter().map(|space| numbering.iter(*space).count()).sum();
        let wanted = (count / PART).next_power_of_two().ilog2().min(MAX_BITS);
        // Grows at once, shrinks late: every change of it writes all parts.
        let bits = match &self.meta {
            Some(meta) if meta.bits >= wanted && meta.bits <= wanted + 2 => meta.bits,
            _ => wanted,
        };
        let meta = Meta {
            bits,
            bounds: Space::ALL.map(|space| (space, numbering.bound(space))).into_iter().filter(|b| b.1 > 0).collect(),
        };
        let mut digests = vec![0u64; 1 << bits];
        for (space, key, number) in entries(numbering) {
            digests[part_of(key, bits)] ^= fingerprint(space, key, number);
        }
        let anew = self.meta.as_ref().map(|old| old.bits) != Some(bits);
        let changed: Vec<bool> =
            digests.iter().enumerate().map(|(part, digest)| anew || self.digests.get(part) != Some(digest)).collect();
        let mut written = 0;
        if changed.contains(&true) {
            let mut parts: Vec<Vec<(Space, &str, u32)>> = vec![Vec::new(); digests.len()];
            for (space, key, number) in entries(numbering) {
                let part = part_of(key, bits);
                if changed[part] {
                    parts[part].push((space, key, number));
                }
            }
            for (part, entries) in (0u32..).zip(parts) {
                if !changed[part as usize] {
                    continue;
                }
                written += 1;
                if entries.is_empty() {
                    batch.remove(&part_key(part));
                } else {
                    batch.insert(&part_key(part), record::encode(&entries)?);
                }
            }
        }
        for part in digests.len()..self.digests.len() {
            batch.remove(&part_key(part as u32));
        }
        if self.meta.as_ref() != Some(&meta) {
            written += 1;
            batch.insert(META, record::encode(&meta)?);
        }
        Ok((Self { meta: Some(meta), digests, last: Some(numbering.clone()) }, written))
    }
}

fn entries(numbering: &Numbering) -> impl Iterator<Item = (Space, &str, u32)> {
    Space::ALL.into_iter().flat_map(|space| numbering.iter(space).map(move |(key, number)| (space, key, number)))
}

fn part_of(key: &str, bits: u32) -> usize {
    // A shift by 64 has no meaning.
    if bits == 0 { 0 } else { (mix(hash(key)) >> (64 - bits)) as usize }
}

fn fingerprint(space: Space, key: &str, number: u32) -> u64 {
    mix(hash(key) ^ mix((u64::from(number) << 8) | (space as u64 + 1)))
}

/// FNV-1a: stored parts depend on it, so it must never change with a library.
fn hash(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The finalizer of SplitMix64.
const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
