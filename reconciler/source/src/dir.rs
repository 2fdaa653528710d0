use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Component, Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    Revision, SourceError, SourceFile, mentioned,
    read::{self, ReadFile},
    stamp::Stamp,
    walk::{self, Found, Interest, Listing},
};

pub const MAX_FILE_BYTES: u64 = 64 << 20;
pub const MAX_TOTAL_BYTES: u64 = 1 << 30;
pub const MAX_FILES: usize = 1 << 18;

/// Directories and single files, joined to one revision.
///
/// One root: paths are below it. Several: each root's path, as it was given, stands before its files'.
#[derive(Debug)]
pub struct DirSource {
    roots: Vec<Root>,
    /// By real path. Exactly the files of `last`.
    cache: HashMap<PathBuf, Cached>,
    last: Option<Arc<Revision>>,
}

#[derive(Debug)]
struct Root {
    given: PathBuf,
    prefix: String,
    /// When it was last read well.
    identity: Option<Identity>,
}

#[derive(Debug)]
struct Cached {
    stamp: Stamp,
    /// An equal stamp proves nothing: it was read too soon after its last change.
    racy: bool,
    bytes: Arc<[u8]>,
    hash: [u8; 32],
}

/// One look at the whole source.
#[derive(Clone, Debug)]
pub struct Scan {
    pub revision: Arc<Revision>,
    /// Whether the revision differs from the one that the look before delivered; the first look always does.
    pub changed: bool,
    pub effort: Effort,
    /// The latest change of any file or directory, by the file system's clock.
    pub newest: SystemTime,
    /// Where a change could matter.
    pub(crate) watched: BTreeMap<PathBuf, Interest>,
}

/// What a look cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Files that were found and compared with what is known of them.
    pub examined: usize,
    pub read: usize,
    pub bytes_read: u64,
}

impl DirSource {
    pub fn new(roots: &[PathBuf]) -> Self {
        let mut distinct: Vec<&PathBuf> = Vec::new();
        for root in roots {
            if !distinct.contains(&root) {
                distinct.push(root);
            }
        }
        let prefixes = prefixes(&distinct);
        let root = |(given, prefix): (&PathBuf, String)| Root { given: given.clone(), prefix, identity: None };
        let roots = distinct.into_iter().zip(prefixes).map(root).collect();
        Self { roots, cache: HashMap::new(), last: None }
    }

    /// The roots as they were given.
    pub fn roots(&self) -> impl Iterator<Item = &Path> {
        self.roots.iter().map(|root| &*root.given)
    }

    /// Where a delivered path stands on this machine, for messages.
    pub fn locate(&self, path: &str) -> Option<PathBuf> {
        self.roots.iter().find_map(|root| {
            let file = root.given.is_file();
            let (base, prefix) = if file {
                (root.given.parent()?, root.prefix.rsplit_once('/').map_or("", |(prefix, _)| prefix))
            } else {
                (&*root.given, &*root.prefix)
            };
            let below = match path.strip_prefix(prefix)? {
                rest if prefix.is_empty() => rest,
                rest => rest.strip_prefix('/')?,
            };
            Some(base.join(below))
        })
    }

    /// Forgets what is known: the next look reads every file. For the periodic full comparison.
    pub fn forget(&mut self) {
        self.cache.clear();
    }

    /// One look. Files whose stamp proves that they are unchanged are not read again. Blocking.
    ///
    /// # Errors
    /// [`SourceError::Changing`] when something moved during the look; nothing is ever delivered in part.
    pub fn scan(&mut self) -> Result<Scan, SourceError> {
        let roots = self.resolve_roots()?;
        let mut look = Look { cache: std::mem::take(&mut self.cache), ..Look::default() };
        let result = look.all(&self.roots, &roots);
        let Look { cache, kept, effort, listing, bare, .. } = look;
        let files = match result {
            Ok(files) => files,
            Err(error) => {
                self.cache = cache;
                self.cache.extend(kept);
                return Err(error);
            }
        };
        self.cache = kept;

        let revision = Revision::after(self.last.as_ref(), files);
        for ((root, resolved), bare) in self.roots.iter().zip(&roots).zip(bare) {
            let other = root.identity.is_some_and(|identity| identity != resolved.identity);
            if other && resolved.directory && bare {
                return Err(SourceError::Replaced { path: root.given.clone() });
            }
        }
        for (root, resolved) in self.roots.iter_mut().zip(&roots) {
            root.identity = Some(resolved.identity);
        }

        let changed = self.last.as_ref().is_none_or(|last| last.id != revision.id);
        self.last = Some(revision.clone());
        Ok(Scan { revision, changed, effort, newest: listing.newest, watched: listing.watched })
    }

    /// Looks until two looks in a row agree and the last change is at least `rest` ago, so that a checkout in progress
    /// or a half-written file is not taken for a revision. Blocking, `patience` at most.
    pub fn settled(&mut self, rest: Duration, patience: Duration) -> Result<Scan, SourceError> {
        let start = Instant::now();
        let mut before: Option<Result<String, String>> = None;
        let mut first_changed = false;
        let mut effort = Effort::default();
        loop {
            let outcome = self.scan();
            let summary = match &outcome {
                Ok(scan) => Ok(scan.revision.id.clone()),
                Err(error) => Err(error.to_string()),
            };
            let quiet = match &outcome {
                Ok(scan) => {
                    first_changed |= scan.changed;
                    effort.read += scan.effort.read;
                    effort.bytes_read += scan.effort.bytes_read;
                    effort.examined = scan.effort.examined;
                    // A stamp from the future says nothing about rest.
                    SystemTime::now().duration_since(scan.newest).map_or(Duration::ZERO, |age| rest.saturating_sub(age))
                }
                Err(error) if error.is_transient() => rest.max(Duration::from_millis(1)),
                Err(_) => Duration::ZERO,
            };
            let agrees = before.as_ref() == Some(&summary);
            match outcome {
                Ok(scan) if agrees && quiet.is_zero() => {
                    return Ok(Scan { changed: first_changed, effort, ..scan });
                }
                Err(error) if agrees && !error.is_transient() => return Err(error),
                _ if start.elapsed() >= patience => {
                    let path = self.roots.first().map(|root| root.given.clone()).unwrap_or_default();
                    return Err(SourceError::Restless { path, waited: start.elapsed() });
                }
                // A mistake must be seen twice as well, with time for it to pass.
                Err(_) => thread::sleep(rest),
                Ok(_) => thread::sleep(quiet),
            }
            before = Some(summary);
        }
    }

    fn resolve_roots(&self) -> Result<Vec<Resolved>, SourceError> {
        let mut resolved: Vec<Resolved> = Vec::new();
        for root in &self.roots {
            let failed = |cause: io::Error| match cause.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                    SourceError::Missing { path: root.given.clone() }
                }
                _ => SourceError::Unreadable { path: root.given.clone(), cause },
            };
            let real = fs::canonicalize(&root.given).map_err(failed)?;
            let metadata = fs::metadata(&real).map_err(failed)?;
            if !metadata.is_dir() && !metadata.is_file() {
                return Err(SourceError::NotAFile { path: root.given.clone() });
            }
            for (other, given) in resolved.iter().zip(self.roots.iter().map(|root| &root.given)) {
                if real.starts_with(&other.real) {
                    return Err(SourceError::Nested { inner: root.given.clone(), outer: given.clone() });
                }
                if other.real.starts_with(&real) {
                    return Err(SourceError::Nested { inner: given.clone(), outer: root.given.clone() });
                }
            }
            let stamp = Stamp::of(&metadata);
            let identity = (stamp.device, stamp.inode, metadata.created().ok());
            resolved.push(Resolved { real, directory: metadata.is_dir(), identity, stamp });
        }
        Ok(resolved)
    }
}

/// A root as it stands at the beginning of a look.
struct Resolved {
    real: PathBuf,
    directory: bool,
    identity: Identity,
    stamp: Stamp,
}

/// Device, inode and time of birth: a directory made anew often gets the number of the one before.
type Identity = (u64, u64, Option<SystemTime>);

/// The state of one look.
struct Look {
    cache: HashMap<PathBuf, Cached>,
    kept: HashMap<PathBuf, Cached>,
    effort: Effort,
    listing: Listing,
    total: u64,
    /// Per root: without any manifest.
    bare: Vec<bool>,
}

impl Default for Look {
    fn default() -> Self {
        Self {
            cache: HashMap::new(),
            kept: HashMap::new(),
            effort: Effort::default(),
            listing: Listing::new(),
            total: 0,
            bare: Vec::new(),
        }
    }
}

impl Look {
    fn all(&mut self, roots: &[Root], resolved: &[Resolved]) -> Result<Vec<SourceFile>, SourceError> {
        let mut files = Vec::new();
        for (root, resolved) in roots.iter().zip(resolved) {
            // To see the root itself being replaced.
            self.listing.watch_name(&root.given);
            self.listing.watch_name(&resolved.real);
            let before = files.len();
            if resolved.directory {
                walk::list(&resolved.real, &root.prefix, &mut self.listing)?;
                self.deliver(&root.given, &mut files)?;
            } else {
                self.single(root, resolved, &mut files)?;
            }
            self.bare.push(!files[before..].iter().any(SourceFile::is_manifest));
        }
        Ok(files)
    }

    fn single(&mut self, root: &Root, resolved: &Resolved, files: &mut Vec<SourceFile>) -> Result<(), SourceError> {
        let name = root.given.file_name().and_then(|name| name.to_str());
        let Some(name) = name else { return Err(SourceError::NotUtf8 { path: root.given.clone() }) };
        // The file's own prefix already ends in its name.
        let (path, prefix) = match root.prefix.rsplit_once('/') {
            _ if root.prefix.is_empty() => (name.to_owned(), ""),
            Some((prefix, _)) => (root.prefix.clone(), prefix),
            None => (root.prefix.clone(), ""),
        };
        self.listing.saw(&resolved.stamp);
        self.listing.files.push(Found { path, real: resolved.real.clone(), stamp: resolved.stamp });
        self.deliver(&root.given, files)?;
        if let Some(bytes) = files.last().map(|file| file.bytes.clone()) {
            mentioned::list(&root.given, &bytes, prefix, &mut self.listing)?;
        }
        self.deliver(&root.given, files)
    }

    /// Reads what was listed, or takes it from the cache.
    fn deliver(&mut self, root: &Path, files: &mut Vec<SourceFile>) -> Result<(), SourceError> {
        let listed = std::mem::take(&mut self.listing.files);
        for found in &listed {
            if found.stamp.size > MAX_FILE_BYTES {
                return Err(SourceError::FileTooLarge { path: found.real.clone(), limit: MAX_FILE_BYTES });
            }
            self.total += found.stamp.size;
        }
        if self.total > MAX_TOTAL_BYTES {
            return Err(SourceError::TotalTooLarge { path: root.into(), limit: MAX_TOTAL_BYTES });
        }
        // Later looks find most of it unchanged.
        let mut read = if self.cache.is_empty() { read::together(&listed) } else { HashMap::new() };
        for found in listed {
            let file = self.file(&found.real, found.stamp, &mut read)?;
            files.push(SourceFile { path: found.path.into(), bytes: file.0, hash: file.1 });
        }
        Ok(())
    }

    fn file(
        &mut self,
        real: &Path,
        stamp: Stamp,
        read: &mut HashMap<PathBuf, ReadFile>,
    ) -> Result<(Arc<[u8]>, [u8; 32]), SourceError> {
        self.effort.examined += 1;
        let (key, cached) = match self.cache.remove_entry(real) {
            Some((key, cached)) if cached.stamp == stamp && !cached.racy => (key, cached),
            old => {
                // Two names may lead to one file.
                if let Some(cached) = self.kept.get(real).filter(|cached| cached.stamp == stamp) {
                    return Ok((cached.bytes.clone(), cached.hash));
                }
                let ReadFile { started, file } = read.remove(real).unwrap_or_else(|| ReadFile::of(real, stamp));
                let read = file?;
                self.effort.read += 1;
                self.effort.bytes_read += read.bytes.len() as u64;
                // The same content keeps its place in memory: the last revision shares it.
                let bytes = match old {
                    Some((_, old)) if old.hash == read.hash => old.bytes,
                    _ => read.bytes,
                };
                (real.to_path_buf(), Cached { stamp, racy: stamp.is_racy(started), bytes, hash: read.hash })
            }
        };
        let result = (cached.bytes.clone(), cached.hash);
        self.kept.insert(key, cached);
        Ok(result)
    }
}

/// What stands before the files of each root among several: its path as it was given; or, where those climb or would
/// run into each other, its absolute path. Nothing for a root that is alone.
fn prefixes(roots: &[&PathBuf]) -> Vec<String> {
    if roots.len() == 1 {
        return vec![String::new()];
    }
    let given: Vec<String> = roots.iter().map(|root| join(root)).collect();
    let climb = roots.iter().any(|root| root.components().any(|part| part == Component::ParentDir));
    let meet = |(index, a): (usize, &String)| {
        let below = |b: &String| a == b || b.strip_prefix(&**a).is_some_and(|rest| rest.starts_with('/'));
        a.is_empty() || given.iter().enumerate().any(|(other, b)| other != index && below(b))
    };
    if climb || given.iter().enumerate().any(meet) {
        let absolute = |root: &&PathBuf| join(&fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf()));
        return roots.iter().map(absolute).collect();
    }
    given
}

fn join(path: &Path) -> String {
    let parts: Vec<_> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(part) => Some(part.to_string_lossy()),
            _ => None,
        })
        .collect();
    parts.join("/")
}
