//! What is below a root, without reading it.
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{MAX_FILES, SourceError, revision::is_manifest, stamp::Stamp};

/// One file that is to be delivered.
#[derive(Debug)]
pub(crate) struct Found {
    /// As it is delivered.
    pub path: String,
    /// Free of symbolic links: what is opened.
    pub real: PathBuf,
    pub stamp: Stamp,
}

/// Which names of a directory matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    All,
    /// Of the directory above a root, say, which may well be `/tmp`.
    Names(BTreeSet<OsString>),
}

/// What one look at all roots found.
#[derive(Debug)]
pub(crate) struct Listing {
    pub files: Vec<Found>,
    /// Where a change could matter.
    pub watched: BTreeMap<PathBuf, Interest>,
    /// The latest change of any file or directory.
    pub newest: SystemTime,
    pub entries: usize,
}

impl Listing {
    pub const fn new() -> Self {
        Self { files: Vec::new(), watched: BTreeMap::new(), newest: UNIX_EPOCH, entries: 0 }
    }

    pub fn saw(&mut self, stamp: &Stamp) {
        self.newest = self.newest.max(stamp.changed());
    }

    /// A change of anything in `directory` matters.
    pub fn watch(&mut self, directory: &Path) {
        self.watched.insert(directory.into(), Interest::All);
    }

    /// A change of this one name matters.
    pub fn watch_name(&mut self, path: &Path) {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return };
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let interest = self.watched.entry(directory.into()).or_insert_with(|| Interest::Names(BTreeSet::new()));
        if let Interest::Names(names) = interest {
            names.insert(name.into());
        }
    }

    fn count(&mut self, root: &Path) -> Result<(), SourceError> {
        self.entries += 1;
        if self.entries > MAX_FILES {
            return Err(SourceError::TooManyFiles { path: root.into(), limit: MAX_FILES });
        }
        Ok(())
    }
}

/// Lists everything below the directory `root` (free of links), each under `prefix`.
///
/// Hidden names are not looked at. Kubernetes' `..data` is hidden, too, but the visible names beside it are symbolic
/// links that lead into it, and links are followed wherever they stay below the root.
pub(crate) fn list(root: &Path, prefix: &str, listing: &mut Listing) -> Result<(), SourceError> {
    let mut above = vec![root.to_path_buf()];
    directory(root, root, prefix, &mut above, listing)
}

fn directory(
    root: &Path,
    real: &Path,
    prefix: &str,
    above: &mut Vec<PathBuf>,
    listing: &mut Listing,
) -> Result<(), SourceError> {
    let failed = |cause| unreadable(real, cause);
    listing.saw(&Stamp::of(&fs::metadata(real).map_err(failed)?));
    listing.watch(real);
    for entry in fs::read_dir(real).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let Some(name) = name.to_str() else { return Err(SourceError::NotUtf8 { path }) };
        let delivered = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        listing.count(root)?;

        let mut metadata = entry.metadata().map_err(|cause| unreadable(&path, cause))?;
        let mut target = path;
        if metadata.is_symlink() {
            listing.saw(&Stamp::of(&metadata));
            let link = target;
            target = resolve(&link, root)?;
            metadata = fs::metadata(&target).map_err(|cause| unreadable(&target, cause))?;
            if metadata.is_dir() && above.contains(&target) {
                return Err(SourceError::Loop { path: link });
            }
            listing.watch_name(&target);
        }

        if metadata.is_dir() {
            above.push(target);
            let target = above[above.len() - 1].clone();
            directory(root, &target, &delivered, above, listing)?;
            above.pop();
        } else if metadata.is_file() {
            let stamp = Stamp::of(&metadata);
            listing.saw(&stamp);
            listing.files.push(Found { path: delivered, real: target, stamp });
        } else if is_manifest(name) {
            return Err(SourceError::NotAFile { path: target });
        }
    }
    Ok(())
}

/// Where a link leads, which must be below `root`.
pub(crate) fn resolve(link: &Path, root: &Path) -> Result<PathBuf, SourceError> {
    let target = fs::canonicalize(link).map_err(|cause| match cause.raw_os_error() {
        Some(errno) if errno == nix::errno::Errno::ELOOP as i32 => SourceError::Loop { path: link.into() },
        // A link that is gone itself was removed just now; one that stays leads nowhere.
        _ if leads_nowhere(&cause) && fs::symlink_metadata(link).is_ok() => SourceError::Dangling { path: link.into() },
        _ => unreadable(link, cause),
    })?;
    if target.starts_with(root) {
        Ok(target)
    } else {
        Err(SourceError::OutsideRoot { path: link.into(), target, root: root.into() })
    }
}

/// An error below a root: what was listed a moment ago and is gone now is a change in progress.
pub(crate) fn unreadable(path: &Path, cause: io::Error) -> SourceError {
    match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => SourceError::Changing { path: path.into() },
        _ => SourceError::Unreadable { path: path.into(), cause },
    }
}

/// A name on the way is absent, or is a file.
fn leads_nowhere(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
