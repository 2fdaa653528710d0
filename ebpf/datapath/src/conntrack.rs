//! Flows, as traffic made them.
use std::os::fd::AsFd as _;

use weir_abi::{ConntrackEntry, ConntrackKey};

use crate::{
    error::{Result, entry},
    hash,
    kernel::{Kernel, not_prepared},
    maps::Map,
    sys,
};

/// Both tables of flows: TCP, and everything else.
#[derive(Debug)]
pub struct Conntrack<'a> {
    tables: [&'a Map; 2],
}

const NAMES: [&str; 2] = ["CONNTRACK_TCP", "CONNTRACK_OTHER"];
const TCP: u8 = 6;

impl<'a> Conntrack<'a> {
    pub(crate) const fn new(tables: [&'a Map; 2]) -> Self {
        Self { tables }
    }

    /// Every flow, expired ones included.
    pub fn dump(&self) -> Result<Vec<(ConntrackKey, ConntrackEntry)>> {
        let mut flows = Vec::new();
        for (map, name) in self.tables.into_iter().zip(NAMES) {
            flows.extend(hash::read(map).map_err(|cause| entry("reading from", name, "all entries", cause))?);
        }
        Ok(flows)
    }

    pub fn get(&self, key: &ConntrackKey) -> Result<Option<ConntrackEntry>> {
        let (map, name) = self.table(key);
        sys::lookup(map.as_fd(), key).map_err(|cause| entry("reading from", name, format!("{key:?}"), cause))
    }

    /// Whether it was there.
    pub fn delete(&self, key: &ConntrackKey) -> Result<bool> {
        let (map, name) = self.table(key);
        sys::delete(map.as_fd(), key).map_err(|cause| entry("deleting from", name, format!("{key:?}"), cause))
    }

    pub fn clear(&self) -> Result<()> {
        for (key, _) in self.dump()? {
            self.delete(&key)?;
        }
        Ok(())
    }

    const fn table(&self, key: &ConntrackKey) -> (&'a Map, &'static str) {
        let at = if key.protocol == TCP { 0 } else { 1 };
        (self.tables[at], NAMES[at])
    }
}

impl Kernel {
    pub fn conntrack(&mut self) -> Result<Conntrack<'_>> {
        let live = self.live()?;
        match (&live.conntrack_tcp, &live.conntrack_other) {
            (Some(tcp), Some(other)) => Ok(Conntrack::new([tcp, other])),
            _ => Err(not_prepared()),
        }
    }
}
