//! The generation word, and waiting until no program runs on the side that it left.
use std::{
    io,
    mem::offset_of,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::Ordering,
    time::{SystemTime, UNIX_EPOCH},
};

use weir_abi::{Generation, Runtime, Side};

use crate::{
    mapped::count_stores,
    maps::Map,
    sys::{self, MapSpec, Mapping},
};

/// The `RUNTIME` table, mapped.
#[derive(Debug)]
pub struct Word(Mapping<Runtime>);

impl Word {
    pub fn new(runtime: &Map) -> io::Result<Self> {
        Mapping::new(runtime.as_fd(), 1).map(Self)
    }

    pub fn get(&self) -> Generation {
        Generation::unpack(self.0.load(0))
    }

    pub fn set(&self, generation: Generation) {
        // One store, that no store before it is seen after: the side that goes live was written before.
        self.0.atomic(0).store(generation.pack(), Ordering::SeqCst);
        count_stores(1);
    }

    /// What [`Self::set_clock_offset`] has set.
    pub fn clock_offset(&self) -> u64 {
        self.0.read(0).clock_offset
    }

    /// Until when (in jiffies) programs tell of flows that begin. Nothing that is kept: no store that is counted.
    pub fn tell_flows_until(&self, jiffies: u64) {
        self.0.words()[offset_of!(Runtime, tell_flows_until) / 8].store(jiffies, Ordering::Relaxed);
    }

    /// Whose sockets are the host's: the network namespace of this thread.
    pub fn set_netns(&self) -> io::Result<()> {
        let cookie = sys::netns_cookie()?;
        let word = &self.0.words()[offset_of!(Runtime, netns_cookie) / 8];
        if word.load(Ordering::Relaxed) != cookie {
            word.store(cookie, Ordering::SeqCst);
            count_stores(1);
        }
        Ok(())
    }

    /// Jiffies that programs add to the clock: the simulated hours of a test.
    pub fn set_clock_offset(&mut self, jiffies: u64) {
        let runtime = Runtime { clock_offset: jiffies, ..self.0.read(0) };
        self.0.write_word(0, 2, runtime.clock_offset as u32);
        self.0.write_word(0, 3, (runtime.clock_offset >> 32) as u32);
        count_stores(1);
    }
}

/// The first generation of a word that is made anew. Its conntrack is made anew with it, or comes from another version,
/// whose epochs end at `beyond`; the epoch begins at the time of day all the same, so that it is not one that another word
/// had.
pub fn first(beyond: u64) -> Generation {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs());
    Generation { side: Side::A, epoch: seconds.max(beyond + 1) }
}

/// A private map of maps. Updating one returns when every program that was running has ended (7 ms on average).
#[derive(Debug)]
pub struct Barrier {
    outer: Map,
    inner: Map,
}

impl Barrier {
    pub fn new() -> io::Result<Self> {
        let inner = Map::create("grace", &MapSpec::mapped_array(8, 1), None)?;
        let outer = Map::create("grace", &MapSpec::outer(1), Some(&inner))?;
        Ok(Self { outer, inner })
    }

    pub fn wait(&self) -> io::Result<()> {
        let fd = self.inner.as_fd().as_raw_fd() as u32;
        sys::update(self.outer.as_fd(), &0u32, sys::bytes_of(&fd))
    }
}
