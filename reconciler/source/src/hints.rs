//! "Something may have changed": inotify on directories.
//!
//! Raw inotify, because what is asked for must leave out opening and reading: with those (the `notify` crate asks for
//! them, and has no way not to), every look of ours would itself be a reason to look again, and would fill the queue.
use std::{
    collections::{BTreeMap, HashMap},
    os::fd::AsFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
    },
};

use crate::walk::Interest;

/// Everything that can change what a directory delivers, and nothing that a reader does.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_MODIFY
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

#[derive(Debug)]
pub(crate) struct Hints {
    inotify: Inotify,
    wake: Arc<EventFd>,
    watches: BTreeMap<PathBuf, WatchDescriptor>,
    /// By raw descriptor.
    interests: HashMap<i32, Interest>,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// Any event, or an overflow, which has no path: look at everything.
    Look,
    /// Somebody asked for a look, or to stop.
    Asked,
    Timeout,
}

impl Hints {
    pub fn new() -> Result<Self, Errno> {
        Ok(Self {
            inotify: Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?,
            wake: Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?),
            watches: BTreeMap::new(),
            interests: HashMap::new(),
        })
    }

    /// Writing to it ends a wait.
    pub fn waker(&self) -> Arc<EventFd> {
        self.wake.clone()
    }

    /// Watches exactly these directories. Says whether one was added that was not watched before: what happened in it
    /// until now was not seen. A directory that is gone is no error, the next look finds out.
    pub fn watch(&mut self, directories: &BTreeMap<PathBuf, Interest>) -> Result<bool, Errno> {
        let mut new = false;
        let mut watches = BTreeMap::new();
        let mut interests: HashMap<i32, Interest> = HashMap::new();
        for (directory, interest) in directories {
            // Idempotent: the same inode gives the same descriptor, another one under the same name a new one.
            match self.inotify.add_watch(directory, CHANGES) {
                Ok(watch) => {
                    new |= self.watches.get(directory) != Some(&watch);
                    // Two names of one directory share its descriptor.
                    let merged = match (interests.remove(&watch.as_raw()), interest) {
                        (Some(Interest::Names(a)), Interest::Names(b)) => Interest::Names(&a | b),
                        (Some(Interest::All), _) => Interest::All,
                        (_, interest) => interest.clone(),
                    };
                    interests.insert(watch.as_raw(), merged);
                    watches.insert(directory.clone(), watch);
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) => new = true,
                // The directory above the root may be closed to us; the periodic look remains.
                Err(Errno::EACCES) => {}
                Err(errno) => return Err(errno),
            }
        }
        for watch in self.watches.values().filter(|watch| !interests.contains_key(&watch.as_raw())) {
            // EINVAL: the kernel removed it together with its directory.
            let _ = self.inotify.rm_watch(*watch);
        }
        self.watches = watches;
        self.interests = interests;
        Ok(new)
    }

    pub fn wait(&self, timeout: Duration) -> Hint {
        let deadline = Instant::now() + timeout.min(Duration::from_secs(3600));
        loop {
            // A millisecond more rather than less, so that a wait never ends before its time.
            let left = deadline.saturating_duration_since(Instant::now()).saturating_add(Duration::from_micros(999));
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut ready = [self.inotify.as_fd(), self.wake.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut ready, left) {
                Ok(0) => return Hint::Timeout,
                Err(Errno::EINTR) => {}
                Err(_) => return Hint::Timeout,
                Ok(_) if ready[1].any() == Some(true) => {
                    let _ = self.wake.read();
                    return Hint::Asked;
                }
                Ok(_) if self.drain() => return Hint::Look,
                Ok(_) => {}
            }
        }
    }

    /// Empties the queue. Says whether an event was among it that matters; what it says does not.
    pub fn drain(&self) -> bool {
        let mut matters = false;
        while let Ok(events) = self.inotify.read_events() {
            matters |= events.iter().any(|event| self.matters(event));
        }
        matters
    }

    fn matters(&self, event: &InotifyEvent) -> bool {
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            // The answer to a removed watch, ours or that of a directory that said so before.
            return false;
        }
        match (self.interests.get(&event.wd.as_raw()), &event.name) {
            (Some(Interest::Names(names)), Some(name)) => names.contains(name),
            // Of the directory itself; of everything below it; or an overflow, which is of no directory.
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    #[test]
    fn reading_is_no_hint_and_writing_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "x").unwrap();
        let mut hints = Hints::new().unwrap();
        let interest = BTreeMap::from([(dir.path().to_path_buf(), Interest::All)]);
        assert!(hints.watch(&interest).unwrap());
        assert!(!hints.watch(&interest).unwrap(), "the second time nothing is new");

        fs::read(dir.path().join("a")).unwrap();
        fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(hints.wait(Duration::from_millis(20)), Hint::Timeout);
        fs::write(dir.path().join("a"), "y").unwrap();
        assert_eq!(hints.wait(Duration::from_secs(10)), Hint::Look);
    }

    #[test]
    fn neighbours_are_no_hint() {
        let dir = tempfile::tempdir().unwrap();
        let mut hints = Hints::new().unwrap();
        let names = Interest::Names(BTreeSet::from(["root".into()]));
        hints.watch(&BTreeMap::from([(dir.path().to_path_buf(), names)])).unwrap();
        fs::write(dir.path().join("other"), "x").unwrap();
        assert_eq!(hints.wait(Duration::from_millis(20)), Hint::Timeout);
        fs::create_dir(dir.path().join("root")).unwrap();
        assert_eq!(hints.wait(Duration::from_secs(10)), Hint::Look);
    }

    #[test]
    fn a_directory_made_anew_is_watched_anew() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        let mut hints = Hints::new().unwrap();
        let interest = BTreeMap::from([(sub.clone(), Interest::All)]);
        for _ in 0..3 {
            fs::create_dir(&sub).unwrap();
            assert!(hints.watch(&interest).unwrap());
            hints.drain();
            fs::write(sub.join("a"), "x").unwrap();
            assert_eq!(hints.wait(Duration::from_secs(10)), Hint::Look);
            fs::remove_dir_all(&sub).unwrap();
        }
    }
}
