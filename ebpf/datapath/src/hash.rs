//! Hashes that manifests fill: read whole, and changed in batches.
use std::{fmt::Display, io, os::fd::AsFd as _};

use weir_plan::DatapathError;

use crate::{
    error::{Result, entry},
    maps::Map,
    sys::{self, Batch, Plain},
};

/// Everything, unsorted. Two reads that disagree are read again: `GET_NEXT_KEY` starts over when its key vanishes.
pub fn read<K: Plain, V: Plain>(map: &Map) -> io::Result<Vec<(K, V)>> {
    match Batch::of(map).dump() {
        Err(error) if Batch::unsupported(&error) => {}
        done => return done,
    }
    let mut former: Option<Vec<K>> = None;
    loop {
        let mut keys = Vec::new();
        let mut last = None;
        while let Some(key) = sys::next_key(map.as_fd(), last.as_ref())? {
            keys.push(key);
            last = Some(key);
            if keys.len() > 2 * map.entries() as usize {
                break;
            }
        }
        keys.sort_unstable_by(|a, b| sys::bytes_of(a).cmp(sys::bytes_of(b)));
        keys.dedup_by(|a, b| sys::bytes_of(a) == sys::bytes_of(b));
        let same = |former: &Vec<K>| {
            former.len() == keys.len() && former.iter().map(sys::bytes_of).eq(keys.iter().map(sys::bytes_of))
        };
        if former.as_ref().is_some_and(same) {
            let mut entries = Vec::with_capacity(keys.len());
            for key in keys {
                if let Some(value) = sys::lookup(map.as_fd(), &key)? {
                    entries.push((key, value));
                }
            }
            return Ok(entries);
        }
        former = Some(keys);
    }
}

/// What to change in a hash.
#[derive(Debug)]
pub struct Edit<'a, K, V> {
    pub table: &'static str,
    pub map: &'a Map,
    pub delete: Vec<K>,
    pub keys: Vec<K>,
    pub values: Vec<V>,
}

/// Up to this many entries are read back one by one; more by one dump.
const SINGLY: usize = 256;

impl<K: Plain + Ord, V: Plain + PartialEq> Edit<'_, K, V> {
    /// Deletes first, so that a full table can change; then inserts; then reads back. `show` names a key in errors.
    pub fn run<S: Display>(&self, show: impl Fn(&K) -> S) -> Result<()> {
        self.delete_all().map_err(|(at, cause)| entry("deleting from", self.table, show(&self.delete[at]), cause))?;
        self.insert_all().map_err(|(at, cause)| match cause.raw_os_error() {
            Some(libc::E2BIG | libc::ENOSPC) => {
                DatapathError::Full { table: self.table, limit: u64::from(self.map.entries()) }
            }
            _ => entry("writing to", self.table, show(&self.keys[at]), cause),
        })?;
        self.read_back(show)
    }

    fn delete_all(&self) -> Result<(), (usize, io::Error)> {
        let mut at = 0;
        while self.delete.len() - at > 1 {
            match Batch::of(self.map).delete(&self.delete[at..]) {
                (_, Ok(())) => return Ok(()),
                // The first that was not deleted is not there.
                (done, Err(error)) if error.raw_os_error() == Some(libc::ENOENT) => at += done + 1,
                (_, Err(error)) if Batch::unsupported(&error) => break,
                (done, Err(error)) => return Err((at + done, error)),
            }
        }
        for (index, key) in self.delete.iter().enumerate().skip(at) {
            sys::delete(self.map.as_fd(), key).map_err(|error| (index, error))?;
        }
        Ok(())
    }

    fn insert_all(&self) -> Result<(), (usize, io::Error)> {
        if self.keys.len() > 1 {
            match Batch::of(self.map).update(&self.keys, &self.values) {
                (_, Ok(())) => return Ok(()),
                (_, Err(error)) if Batch::unsupported(&error) => {}
                (done, Err(error)) => return Err((done.min(self.keys.len() - 1), error)),
            }
        }
        for (index, (key, value)) in self.keys.iter().zip(&self.values).enumerate() {
            sys::update(self.map.as_fd(), key, sys::bytes_of(value)).map_err(|error| (index, error))?;
        }
        Ok(())
    }

    fn read_back<S: Display>(&self, show: impl Fn(&K) -> S) -> Result<()> {
        let differs = |key: &K| DatapathError::ReadBack { table: self.table, key: show(key).to_string() };
        if self.keys.len() + self.delete.len() <= SINGLY {
            let get = |key: &K| {
                sys::lookup::<K, V>(self.map.as_fd(), key)
                    .map_err(|cause| entry("reading from", self.table, show(key), cause))
            };
            for (key, value) in self.keys.iter().zip(&self.values) {
                if get(key)?.as_ref() != Some(value) {
                    return Err(differs(key));
                }
            }
            for key in &self.delete {
                if self.keys.binary_search(key).is_err() && get(key)?.is_some() {
                    return Err(differs(key));
                }
            }
            return Ok(());
        }
        let mut there =
            read::<K, V>(self.map).map_err(|cause| entry("reading from", self.table, "all entries", cause))?;
        there.sort_unstable_by_key(|entry| entry.0);
        let find = |key: &K| there.binary_search_by(|entry| entry.0.cmp(key)).ok().map(|at| &there[at].1);
        for (key, value) in self.keys.iter().zip(&self.values) {
            if find(key) != Some(value) {
                return Err(differs(key));
            }
        }
        match self.delete.iter().find(|key| self.keys.binary_search(key).is_err() && find(key).is_some()) {
            Some(key) => Err(differs(key)),
            None => Ok(()),
        }
    }
}
