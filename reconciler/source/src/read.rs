//! Reading files: each as a whole and unchanged meanwhile, many on every core.
use std::{
    collections::HashMap,
    fs::File,
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::SystemTime,
};

use nix::fcntl::OFlag;

use crate::{
    SourceError, SourceFile,
    stamp::Stamp,
    walk::{Found, unreadable},
};

/// Less than this is read before a thread has started.
const WORTH_THREADS: u64 = 1 << 20;

/// A file that was read, without its name among manifests, and when that began.
pub(crate) struct ReadFile {
    pub started: SystemTime,
    pub file: Result<SourceFile, SourceError>,
}

impl ReadFile {
    pub fn of(real: &Path, stamp: Stamp) -> Self {
        let started = SystemTime::now();
        Self { started, file: read(real, stamp).map(|bytes| SourceFile::new("", bytes)) }
    }
}

/// On every core, where that is worth it; else nothing is read. Reading and hashing is most of a first look.
pub(crate) fn together(files: &[Found]) -> HashMap<PathBuf, ReadFile> {
    if files.iter().map(|found| found.stamp.size).sum::<u64>() < WORTH_THREADS {
        return HashMap::new();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(found) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((found.real.clone(), ReadFile::of(&found.real, found.stamp)));
        }
        done
    };
    let threads = thread::available_parallelism().map_or(1, Into::into);
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all: HashMap<_, _> = work().into_iter().collect();
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    })
}

/// The bytes of the file that `stamp` was taken of, unchanged from the first byte to the last.
fn read(path: &Path, stamp: Stamp) -> Result<Vec<u8>, SourceError> {
    let failed = |cause| unreadable(path, cause);
    let changing = || SourceError::Changing { path: path.into() };
    // Never blocks, should a pipe have taken the file's place, and never follows a link that did.
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits();
    let file =
        File::options().read(true).custom_flags(flags).open(path).map_err(|cause| match cause.raw_os_error() {
            Some(errno) if errno == nix::errno::Errno::ELOOP as i32 => changing(),
            _ => failed(cause),
        })?;
    if Stamp::of(&file.metadata().map_err(failed)?) != stamp {
        return Err(changing());
    }
    // One byte more, so that a file that grows is seen to.
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.size + 1).map_err(|_| changing())?);
    (&file).take(stamp.size + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 != stamp.size || Stamp::of(&file.metadata().map_err(failed)?) != stamp {
        return Err(changing());
    }
    Ok(bytes)
}
