//! A table whose values are mapped into our memory: the only place that stores to one.
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use weir_abi::tree::Line;

use crate::{
    digest,
    maps::Map,
    prefix_tree::Lines,
    sys::{Mapping, Plain},
};

static STORES: AtomicU64 = AtomicU64::new(0);

/// Stores of this process through mapped tables.
pub fn stores() -> u64 {
    STORES.load(Ordering::Relaxed)
}

/// Notes stores that go another way: the generation word.
pub fn count_stores(stores: u64) {
    STORES.fetch_add(stores, Ordering::Relaxed);
}

/// One side of a mapped table. A value that is already there is not stored again.
#[derive(Debug)]
pub struct Mapped<T: Plain> {
    mapping: Mapping<T>,
    stores: u64,
    /// The digest of what was read, and stored since.
    known: Option<u64>,
}

impl<T: Plain + PartialEq> Mapped<T> {
    pub fn new(map: &Map) -> io::Result<Self> {
        if map.spec().value_size as usize != size_of::<T>() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "another value size"));
        }
        Ok(Self { mapping: Mapping::new(std::os::fd::AsFd::as_fd(map), map.entries())?, stores: 0, known: None })
    }

    pub const fn len(&self) -> usize {
        self.mapping.len()
    }

    pub fn get(&self, index: usize) -> T {
        self.mapping.read(index)
    }

    pub fn set(&mut self, index: usize, value: T) {
        let former = self.mapping.read(index);
        if former != value {
            self.mapping.write(index, value);
            self.stores += 1;
            self.note(index, &former, &value);
        }
    }

    /// What somebody else had stored here is taken out as well: the digest then is of nothing, and never agrees.
    fn note(&mut self, index: usize, former: &T, value: &T) {
        if let Some(known) = &mut self.known {
            let (former, value) = (digest::of_value(index, former), digest::of_value(index, value));
            *known = known.wrapping_sub(former).wrapping_add(value);
        }
    }

    pub fn digest(&self) -> u64 {
        digest::of_mapping(&self.mapping)
    }

    /// All of it was read, and the digest was `before` that: what is there now is known, unless it changed meanwhile.
    pub fn was_read(&mut self, before: u64) {
        self.known = Some(before).filter(|before| *before == self.digest());
    }

    /// Much will be stored: what is known of it is forgotten, since keeping that up would cost more.
    pub fn forget(&mut self) {
        self.known = None;
    }

    /// Whether it holds what was read and stored by this process, and nothing else.
    pub fn is_as_known(&self) -> bool {
        self.known.is_some_and(|known| known == self.digest())
    }

    /// Whether another side holds the same.
    pub fn same(&self, other: &Self) -> bool {
        self.mapping.same(&other.mapping)
    }

    /// Takes over what another side holds; the rest is left as it is.
    pub fn copy_from(&mut self, other: &Self) {
        for index in 0..other.len().min(self.len()) {
            self.set(index, other.get(index));
        }
    }
}

impl<T: Plain> Drop for Mapped<T> {
    fn drop(&mut self) {
        count_stores(self.stores);
    }
}

impl<T: Plain> Mapped<T> {
    /// Stores that are not in [`stores`] yet.
    pub const fn pending_stores(&self) -> u64 {
        self.stores
    }
}

impl Lines for Mapped<Line> {
    fn len(&self) -> u32 {
        self.mapping.len() as u32
    }

    fn line(&self, line: u32) -> Line {
        self.mapping.read(line as usize)
    }

    fn set_line(&mut self, line: u32, value: Line) {
        self.set(line as usize, value);
    }

    fn word(&self, line: u32, word: u32) -> u32 {
        self.mapping.read_word(line as usize, word as usize)
    }

    fn set_word(&mut self, line: u32, word: u32, value: u32) {
        if self.mapping.read_word(line as usize, word as usize) != value {
            let former = self.known.map(|_| self.mapping.read(line as usize));
            self.mapping.write_word(line as usize, word as usize, value);
            self.stores += 1;
            if let Some(former) = &former {
                let mut stored = *former;
                stored.0[word as usize] = value;
                self.note(line as usize, former, &stored);
            }
        }
    }
}
