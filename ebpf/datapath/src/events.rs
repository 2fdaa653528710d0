//! Events of packets, from the ring buffer.
use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{Map as AyaMap, MapData, RingBuf};
use weir_abi::PacketEvent;
use weir_plan::DatapathError;

use crate::{
    clock::Clock,
    error::{Result, failed},
    generation::Word,
    kernel::{Kernel, not_prepared},
    maps::Map,
    sys,
};

/// The one reader of events: what it takes, no other reader sees.
pub struct Events {
    ring: RingBuf<MapData>,
    word: Word,
    clock: Clock,
}

impl Events {
    pub(crate) fn new(map: &Map, runtime: &Map) -> Result<Self> {
        let refused = |cause: &dyn std::fmt::Display| DatapathError::Failed {
            doing: "reading",
            what: "events".to_owned(),
            cause: cause.to_string(),
        };
        let fd = map.as_fd().try_clone_to_owned().map_err(|cause| failed("holding", "EVENTS", cause))?;
        let data = MapData::from_fd(fd).map_err(|cause| refused(&cause))?;
        let ring = RingBuf::try_from(AyaMap::RingBuf(data)).map_err(|cause| refused(&cause))?;
        let word = Word::new(runtime).map_err(|cause| failed("mapping", "RUNTIME", cause))?;
        Ok(Self { ring, word, clock: Clock::new()? })
    }

    /// Programs tell of every flow that begins, for a second from now on.
    pub fn tell_flows(&self) -> Result<()> {
        self.word.tell_flows_until(self.clock.now()? + u64::from(self.clock.hz));
        Ok(())
    }

    /// The oldest event that was not taken yet. Never waits: poll the descriptor for that.
    pub fn take(&mut self) -> Option<PacketEvent> {
        loop {
            let item = self.ring.next()?;
            if let Some(event) = sys::value_of(&item) {
                return Some(event);
            }
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Events").field(&self.as_fd()).finish()
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Kernel {
    pub fn events(&mut self) -> Result<Events> {
        let live = self.live()?;
        Events::new(live.events.as_ref().ok_or_else(not_prepared)?, &live.runtime)
    }
}
