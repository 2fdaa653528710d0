//! When a file need not be read again.
use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The kernel stamps files with a clock that moves once a tick (10 ms at 100 Hz); twice that is never too little.
const GRAIN: Duration = Duration::from_millis(20);
/// File systems that store whole seconds (two of them on FAT).
const COARSE_GRAIN: Duration = Duration::from_secs(2);

/// What `stat` says of a file's identity and last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The last change of content or attributes, by the file system's clock.
    pub fn changed(&self) -> SystemTime {
        let (seconds, nanoseconds) = self.changed;
        let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(seconds), u32::try_from(nanoseconds)) else {
            return UNIX_EPOCH;
        };
        UNIX_EPOCH + Duration::new(seconds, nanoseconds)
    }

    /// Git's racy rule: a file that was changed just before it was read, at `read`, may have been changed again within
    /// the same tick of the clock, so an equal stamp proves nothing. A stamp from the future proves nothing either.
    pub fn is_racy(&self, read: SystemTime) -> bool {
        let whole_seconds = self.modified.1 == 0 && self.changed.1 == 0;
        let grain = if whole_seconds { COARSE_GRAIN } else { GRAIN };
        self.changed() + grain >= read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(seconds: i64, nanoseconds: i64) -> Stamp {
        let time = (seconds, nanoseconds);
        Stamp { device: 1, inode: 1, size: 1, modified: time, changed: time }
    }

    #[test]
    fn a_change_in_the_same_tick_is_not_trusted() {
        let at = |ms: u64| UNIX_EPOCH + Duration::from_millis(1_000_000 + ms);
        assert!(stamp(1000, 1).is_racy(at(0)));
        assert!(stamp(1000, 1).is_racy(at(19)));
        assert!(!stamp(1000, 1).is_racy(at(21)));
        assert!(stamp(2000, 1).is_racy(at(0)), "the clock was set back");
        assert!(stamp(1000, 0).is_racy(at(1999)), "whole seconds");
        assert!(!stamp(1000, 0).is_racy(at(2001)));
    }
}
