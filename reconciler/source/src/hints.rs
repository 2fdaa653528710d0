//! "Something may have changed": watches on directories.
//!
//! Only whether, never what: an event is a reason to look at everything again. Opening and reading are none, or every
//! look of ours would be a reason for the next.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs,
};
use notify::{
    Config, ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};

use crate::walk::Interest;

#[derive(Debug)]
pub(crate) struct Hints {
    /// None while the kernel gives no inotify instance: others of this user may have them all.
    watcher: Option<RecommendedWatcher>,
    shared: Arc<Shared>,
    watches: BTreeMap<PathBuf, Identity>,
    /// Some directory may change without an event.
    blind: bool,
    /// What kept it from watching the last time, and was told.
    hindered: Option<String>,
}

/// Ends a wait.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<Shared>);

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// Any event, or an overflow, which has no path: look at everything.
    Look,
    /// Somebody asked for a look, or to stop.
    Asked,
    Timeout,
}

/// A directory, whatever its name: another one may stand there under the same inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), born: metadata.created().ok() })
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    woken: Condvar,
}

/// No queue: however many events there were, there is one thing to do.
#[derive(Debug, Default)]
struct State {
    look: bool,
    asked: bool,
    interests: HashMap<PathBuf, Interest>,
    /// Watched directories that went or were renamed since the last look.
    gone: BTreeSet<PathBuf>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: notify::Result<Event>) {
        let mut state = self.state();
        // An error of the watch itself: what it would have said is unknown.
        if event.is_ok_and(|event| !state.matters(&event)) {
            return;
        }
        state.look = true;
        self.woken.notify_all();
    }
}

impl State {
    fn matters(&mut self, event: &Event) -> bool {
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
            EventKind::Access(_) => return false,
            _ => {}
        }
        // An overflow.
        if event.need_rescan() || event.paths.is_empty() {
            return true;
        }
        if matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))) {
            self.gone.extend(event.paths.iter().filter(|path| self.interests.contains_key(*path)).cloned());
        }
        event.paths.iter().any(|path| self.is_of_interest(path))
    }

    fn is_of_interest(&self, path: &Path) -> bool {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return true };
        match self.interests.get(parent) {
            Some(Interest::Names(names)) => names.contains(name) || self.interests.contains_key(path),
            _ => true,
        }
    }
}

impl Waker {
    pub fn wake(&self) {
        self.0.state().asked = true;
        self.0.woken.notify_all();
    }
}

impl Hints {
    pub fn new() -> Self {
        let shared = Arc::default();
        let watcher = inotify(&shared).ok();
        Self { watcher, shared, watches: BTreeMap::new(), blind: true, hindered: None }
    }

    pub fn waker(&self) -> Waker {
        Waker(self.shared.clone())
    }

    /// Watches exactly these directories. `Some(true)`: one was added that was not watched before, and what happened in
    /// it until now was not seen. `None`: not all can be watched, which is told once; only looking again tells of
    /// changes. A directory that is gone is no error, the next look finds out.
    pub fn watch(&mut self, directories: &BTreeMap<PathBuf, Interest>) -> Option<bool> {
        match self.try_watch(directories) {
            Ok(new) => {
                self.hindered = None;
                Some(new)
            }
            Err(error) => {
                let hindered = Some(error.to_string());
                if self.hindered != hindered {
                    tracing::warn!(%error, "cannot watch the source; looking again every now and then");
                    self.hindered = hindered;
                }
                None
            }
        }
    }

    fn try_watch(&mut self, directories: &BTreeMap<PathBuf, Interest>) -> notify::Result<bool> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => none.insert(inotify(&self.shared)?),
        };
        let mut new = false;
        let mut blind = false;
        let mut watches = BTreeMap::new();
        let gone = std::mem::take(&mut self.shared.state().gone);
        for directory in directories.keys() {
            let before = Identity::of(directory).ok();
            // Idempotent, and a directory that was made anew under the same name is watched anew.
            match watcher.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                Err(error) if is_absent(&error) => {
                    new = true;
                    continue;
                }
                // The directory above the root may be closed to us; the periodic look remains.
                Err(error) if is_closed(&error) => {
                    blind = true;
                    continue;
                }
                Err(error) => return Err(error),
            }
            let Some(identity) = Identity::of(directory).ok().filter(|now| Some(*now) == before) else {
                new = true;
                continue;
            };
            new |= self.watches.get(directory) != Some(&identity) || gone.contains(directory);
            blind |= !tells_of_every_change(directory);
            watches.insert(directory.clone(), identity);
        }
        for directory in self.watches.keys().filter(|directory| !directories.contains_key(*directory)) {
            // It may have gone by itself.
            let _ = watcher.unwatch(directory);
        }
        self.shared.state().interests = interests(directories, &watches);
        self.watches = watches;
        self.blind = blind;
        Ok(new)
    }

    /// Whether nothing that was found by the last look can have changed without a hint.
    pub const fn sees_everything(&self) -> bool {
        !self.blind
    }

    pub fn wait(&self, timeout: Duration) -> Hint {
        let state = self.shared.state();
        let waiting = self.shared.woken.wait_timeout_while(state, timeout, |state| !state.look && !state.asked);
        let (mut state, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut state.asked) {
            Hint::Asked
        } else if std::mem::take(&mut state.look) {
            Hint::Look
        } else {
            Hint::Timeout
        }
    }

    /// Forgets what was hinted at so far.
    pub fn drain(&self) {
        self.shared.state().look = false;
    }
}

fn inotify(shared: &Arc<Shared>) -> notify::Result<RecommendedWatcher> {
    let events = shared.clone();
    RecommendedWatcher::new(move |event| events.take(event), Config::default())
}

/// A file system of this machine alone: what others write to a shared one makes no event here.
fn tells_of_every_change(directory: &Path) -> bool {
    const LOCAL: [FsType; 6] = [
        EXT4_SUPER_MAGIC,
        XFS_SUPER_MAGIC,
        BTRFS_SUPER_MAGIC,
        TMPFS_MAGIC,
        OVERLAYFS_SUPER_MAGIC,
        FsType(nix::libc::F2FS_SUPER_MAGIC),
    ];
    statfs(directory).is_ok_and(|found| LOCAL.contains(&found.filesystem_type()))
}

/// Events come under one of a directory's names: each name stands for the interests of all.
fn interests(
    directories: &BTreeMap<PathBuf, Interest>,
    watches: &BTreeMap<PathBuf, Identity>,
) -> HashMap<PathBuf, Interest> {
    let mut merged: HashMap<&Identity, Interest> = HashMap::new();
    for (path, identity) in watches {
        let Some(interest) = directories.get(path) else { continue };
        let interest = match (merged.remove(identity), interest) {
            (Some(Interest::Names(one)), Interest::Names(other)) => Interest::Names(&one | other),
            (Some(_), _) => Interest::All,
            (None, only) => only.clone(),
        };
        merged.insert(identity, interest);
    }
    watches.iter().filter_map(|(path, identity)| Some((path.clone(), merged.get(identity)?.clone()))).collect()
}

fn is_absent(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound | ErrorKind::WatchNotFound => true,
        ErrorKind::Io(cause) => matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        _ => false,
    }
}

fn is_closed(error: &notify::Error) -> bool {
    matches!(&error.kind, ErrorKind::Io(cause) if cause.kind() == io::ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_no_hint_and_writing_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "x").unwrap();
        let mut hints = Hints::new();
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
        let mut hints = Hints::new();
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
        let mut hints = Hints::new();
        let interest = BTreeMap::from([(sub.clone(), Interest::All)]);
        for _ in 0..3 {
            fs::create_dir(&sub).unwrap();
            assert!(hints.watch(&interest).unwrap());
            // The end of the former one may be told only now, and ends the watch on this one. As a look does it:
            while {
                hints.drain();
                hints.watch(&interest).unwrap()
            } {}
            fs::write(sub.join("a"), "x").unwrap();
            assert_eq!(hints.wait(Duration::from_secs(10)), Hint::Look);
            fs::remove_dir_all(&sub).unwrap();
        }
    }
}
