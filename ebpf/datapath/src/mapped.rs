//! A table whose values are mapped into our memory: the only place that stores to one.
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use weir_abi::tree::Line;

use crate::{
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
}

impl<T: Plain + PartialEq> Mapped<T> {
    pub fn new(map: &Map) -> io::Result<Self> {
        if map.spec().value_size as usize != size_of::<T>() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "another value size"));
        }
        Ok(Self { mapping: Mapping::new(std::os::fd::AsFd::as_fd(map), map.entries())?, stores: 0 })
    }

    pub const fn len(&self) -> usize {
        self.mapping.len()
    }

    pub fn get(&self, index: usize) -> T {
        self.mapping.read(index)
    }

    pub fn set(&mut self, index: usize, value: T) {
        if self.mapping.read(index) != value {
            self.mapping.write(index, value);
            self.stores += 1;
        }
    }

    /// Whether another side holds the same.
    pub fn same(&self, other: &Self) -> bool {
        self.len() == other.len() && (0..self.len()).all(|index| self.get(index) == other.get(index))
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
            self.mapping.write_word(line as usize, word as usize, value);
            self.stores += 1;
        }
    }
}
