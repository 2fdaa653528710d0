//! Drop events, from the ring buffer.
use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{Map as AyaMap, MapData, RingBuf};
use weir_abi::DropEvent;
use weir_plan::DatapathError;

use crate::{
    error::{Result, failed},
    kernel::{Kernel, not_prepared},
    maps::Map,
    sys,
};

/// The one reader of drop events: what it takes, no other reader sees.
pub struct Events(RingBuf<MapData>);

impl Events {
    pub(crate) fn new(map: &Map) -> Result<Self> {
        let refused = |cause: &dyn std::fmt::Display| DatapathError::Failed {
            doing: "reading",
            what: "drop events".to_owned(),
            cause: cause.to_string(),
        };
        let fd = map.as_fd().try_clone_to_owned().map_err(|cause| failed("holding", "EVENTS", cause))?;
        let data = MapData::from_fd(fd).map_err(|cause| refused(&cause))?;
        RingBuf::try_from(AyaMap::RingBuf(data)).map(Self).map_err(|cause| refused(&cause))
    }

    /// The oldest event that was not taken yet. Never waits: poll the descriptor for that.
    pub fn take(&mut self) -> Option<DropEvent> {
        loop {
            let item = self.0.next()?;
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
        self.0.as_fd()
    }
}

impl Kernel {
    pub fn events(&mut self) -> Result<Events> {
        Events::new(self.live()?.events.as_ref().ok_or_else(not_prepared)?)
    }
}
