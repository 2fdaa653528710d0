//! What this process knows the tables to hold, as digests under a key of its own.
use std::{
    hash::{BuildHasher as _, Hasher as _},
    io,
    os::fd::AsFd as _,
    sync::LazyLock,
};

use foldhash::fast::RandomState;

use crate::{
    maps::Map,
    sys::{self, Batch, EntriesDigest, Plain, bytes_of, digest_entries},
};

/// Made anew for each process: nobody can aim at a collision.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::default);
static SEED: LazyLock<u64> = LazyLock::new(|| KEY.hash_one("entries"));

/// The part of a mapped table's digest that is one value's. Sums of these are digests: a store changes them by what it
/// stores.
pub fn of_value<T: Plain>(index: usize, value: &T) -> u64 {
    let mut hasher = KEY.build_hasher();
    hasher.write_usize(index);
    hasher.write(bytes_of(value));
    hasher.finish()
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
