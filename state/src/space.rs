//! Room on the disk, and what an I/O error means for the user.
use std::{
    io::{self, ErrorKind},
    path::Path,
};

use nix::sys::statvfs::statvfs;
use weir_plan::StoreError;

/// sled writes whole segments of 512 KiB, a few at a time, and moves old ones.
const SLACK: u64 = 4 << 20;

/// Refuses before anything is written: a log that runs full in the middle must be recovered.
pub(crate) fn require(state: &Path, bytes: u64) -> Result<(), StoreError> {
    let Ok(stat) = statvfs(state) else { return Ok(()) };
    let free = stat.blocks_available() * stat.fragment_size();
    if free < bytes.saturating_mul(2) + SLACK {
        return Err(StoreError::Full { path: state.display().to_string() });
    }
    Ok(())
}

pub(crate) fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

pub(crate) fn explain(doing: &'static str, path: &Path, cause: io::Error) -> StoreError {
    let path = path.display().to_string();
    if is_full(cause.kind()) {
        StoreError::Full { path }
    } else {
        StoreError::Failed { doing, path, cause: cause.to_string() }
    }
}
