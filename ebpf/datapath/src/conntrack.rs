//! Flows, as traffic made them.
use std::{ops::ControlFlow, os::fd::AsFd as _, sync::Arc};

use weir_abi::{ConntrackEntry, ConntrackKey};

use crate::{
    clock::Clock,
    error::{Result, entry, failed},
    hash,
    kernel::{Kernel, not_prepared},
    maps::Map,
    sys::{self, Batch},
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

/// The flows for whoever only reads: it holds descriptors of its own, so that a long look keeps nobody waiting who has
/// the kernel.
#[derive(Debug)]
pub struct Flows {
    tables: [Map; 2],
    clock: Arc<Clock>,
    offset: u64,
}

/// How many flows a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowCount {
    /// The kernel's name of the table.
    pub table: &'static str,
    pub entries: u64,
    /// Worked out from a part of the table, for counting all would take long.
    pub estimated: bool,
}

impl Flows {
    /// The programs' jiffies. An entry exists for as long as its `expires` is greater.
    pub fn now(&self) -> Result<u64> {
        Ok(self.clock.now()?.wrapping_add(self.offset))
    }

    pub fn jiffies_per_second(&self) -> u32 {
        self.clock.hz
    }

    /// Every flow that was there all the time, and perhaps some that came or went; expired ones as well.
    pub fn walk(&self, mut each: impl FnMut(&ConntrackKey, &ConntrackEntry)) -> Result<()> {
        for (map, name) in self.tables.iter().zip(NAMES) {
            let walked = Batch::of(map).walk(|keys: &[ConntrackKey], entries: &[ConntrackEntry], _| {
                keys.iter().zip(entries).for_each(|(key, entry)| each(key, entry));
                ControlFlow::Continue(())
            });
            walked.map_err(|cause| entry("reading from", name, "all entries", cause))?;
        }
        Ok(())
    }

    /// Flows that have not expired, exactly in a table with up to `most` entries. Of a fuller one, so many are looked at
    /// and the rest is worked out from them: entries are spread evenly over a hash.
    pub fn count(&self, most: usize) -> Result<[FlowCount; 2]> {
        let now = self.now()?;
        let mut counts = NAMES.map(|table| FlowCount { table, entries: 0, estimated: false });
        for (map, count) in self.tables.iter().zip(&mut counts) {
            let (mut seen, mut live, mut rest) = (0, 0u64, None);
            let walked = Batch::of(map).walk(|keys: &[ConntrackKey], entries: &[ConntrackEntry], next| {
                seen += keys.len();
                live += entries.iter().filter(|entry| now < entry.expires).count() as u64;
                rest = next;
                if seen >= most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            walked.map_err(|cause| entry("reading from", count.table, "all entries", cause))?;
            let buckets = u64::from(map.entries()).next_power_of_two();
            (count.entries, count.estimated) = match rest {
                Some(bucket @ 1..) => (live * buckets / u64::from(bucket), true),
                _ => (live, false),
            };
        }
        Ok(counts)
    }
}

impl Kernel {
    /// `None` before the tables exist.
    pub fn flows(&mut self) -> Result<Option<Flows>> {
        let Some(live) = &self.live else { return Ok(None) };
        let (Some(tcp), Some(other)) = (&live.conntrack_tcp, &live.conntrack_other) else { return Ok(None) };
        let clock = match &self.clock {
            Some(clock) => clock.clone(),
            None => self.clock.insert(Arc::new(Clock::new()?)).clone(),
        };
        let another = |map: &Map| map.try_clone().map_err(|cause| failed("opening", map.name(), cause));
        Ok(Some(Flows { tables: [another(tcp)?, another(other)?], clock, offset: live.word.clock_offset() }))
    }

    pub fn conntrack(&mut self) -> Result<Conntrack<'_>> {
        let live = self.live()?;
        match (&live.conntrack_tcp, &live.conntrack_other) {
            (Some(tcp), Some(other)) => Ok(Conntrack::new([tcp, other])),
            _ => Err(not_prepared()),
        }
    }
}
