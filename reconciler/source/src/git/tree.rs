//! What a commit's tree holds below a directory: the same rules as for a directory of files, on git's own objects.
use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    error::GitError,
    object_id::ObjectId,
    objects::{Kind, Objects, TOO_LARGE},
    program::Deadline,
};
use crate::{Effort, MAX_FILE_BYTES, MAX_FILES, MAX_TOTAL_BYTES, SourceError, SourceFile};

/// Objects by name: an object's bytes never change, so what was read once is known.
#[derive(Debug, Default)]
pub(crate) struct Known {
    trees: HashMap<ObjectId, Arc<[Entry]>>,
    links: HashMap<ObjectId, Arc<[u8]>>,
    /// What the last look found, in its order.
    files: Vec<(ObjectId, SourceFile)>,
}

#[derive(Debug)]
struct Entry {
    name: Box<[u8]>,
    id: ObjectId,
    mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Directory,
    File,
    Link,
    Submodule,
}

/// More than anybody's directory listing.
const MAX_TREE_BYTES: u64 = 64 << 20;
/// As Linux has it (`PATH_MAX`).
const MAX_LINK_BYTES: u64 = 4096;
/// As Linux has it, for one path.
const MAX_LINKS: usize = 40;

/// One look at a tree.
pub(crate) struct Look<'a> {
    pub objects: &'a mut Objects,
    pub known: &'a mut Known,
    pub deadline: &'a Deadline,
    /// For messages.
    pub spec: &'a str,
    /// As much of the commit's name as tells it from others.
    pub commit: &'a str,
}

/// The files, and what it cost to read them.
#[derive(Debug)]
pub(crate) struct Files {
    pub files: Vec<SourceFile>,
    pub effort: Effort,
}

/// What the last look found, for one that most likely finds the same in the same order.
struct Former<'a> {
    files: &'a [(ObjectId, SourceFile)],
    /// Where the next is looked for.
    at: usize,
    /// By object; made for the first file that stands elsewhere.
    moved: Option<HashMap<ObjectId, &'a SourceFile>>,
}

/// Bytes and their hash.
type Content = (Arc<[u8]>, [u8; 32]);

impl Former<'_> {
    /// So many files that are new or gone side by side are come by.
    const GAP: usize = 64;

    fn recall(&mut self, path: &str, id: ObjectId) -> (Arc<str>, Option<Content>) {
        let ahead = self.files.iter().skip(self.at).take(Self::GAP);
        if let Some(gap) = ahead.map(|(_, file)| &*file.path).position(|former| former == path) {
            let (former, file) = &self.files[self.at + gap];
            self.at += gap + 1;
            if *former == id {
                return (file.path.clone(), Some((file.bytes.clone(), file.hash)));
            }
            // Content of another path is not looked for: that costs more than to read one file.
            return (file.path.clone(), None);
        }
        (path.into(), self.moved(id))
    }

    /// Of the same content at another path.
    fn moved(&mut self, id: ObjectId) -> Option<Content> {
        let files = self.files;
        let moved = self.moved.get_or_insert_with(|| files.iter().map(|(id, file)| (*id, file)).collect());
        moved.get(&id).map(|file| (file.bytes.clone(), file.hash))
    }
}

/// Where a directory really is: names and trees from the root on; the root has no name.
#[derive(Clone)]
struct Place(Vec<(Arc<[u8]>, ObjectId)>);

/// What a path leads to.
enum Found {
    Directory(Place),
    File(ObjectId),
}

/// The state of a listing.
struct Listing {
    files: Vec<(String, ObjectId)>,
    entries: usize,
    used: Known,
}

impl Look<'_> {
    /// Every file below `path` of the tree. What the tree does not use is forgotten.
    pub fn files(&mut self, tree: ObjectId, path: &str) -> Result<Files, SourceError> {
        let mut listing = Listing { files: Vec::new(), entries: 0, used: Known::default() };
        let root = self.root(tree, path, &mut listing)?;
        let mut above = vec![root.clone()];
        self.directory(&root, "", &mut above, &mut listing)?;
        let Listing { files: found, mut used, .. } = listing;

        let mut effort = Effort { examined: found.len(), ..Effort::default() };
        let mut former = Former { files: &self.known.files, at: 0, moved: None };
        let found: Vec<(ObjectId, Arc<str>, Option<Content>)> = found
            .into_iter()
            .map(|(path, id)| {
                let (path, content) = former.recall(&path, id);
                (id, path, content)
            })
            .collect();
        let mut seen = HashSet::new();
        let new = found.iter().filter(|(id, _, content)| content.is_none() && seen.insert(*id));
        let unknown: Vec<(ObjectId, &str)> = new.map(|(id, path, _)| (*id, &**path)).collect();
        let ids: Vec<ObjectId> = unknown.iter().map(|(id, _)| *id).collect();
        let mut read = Vec::with_capacity(ids.len());
        let mut total = 0;
        let result = self.objects.blobs(
            &ids,
            self.deadline,
            |_| MAX_FILE_BYTES,
            |at, bytes| -> Result<(), Failed> {
                total += bytes.len() as u64;
                if total > MAX_TOTAL_BYTES {
                    return Err(Failed::TotalTooLarge);
                }
                if is_lfs_pointer(&bytes) {
                    return Err(Failed::LfsPointer(at));
                }
                read.push(SourceFile::new("", bytes));
                Ok(())
            },
        );
        result.map_err(|failed| match failed {
            Failed::TotalTooLarge => SourceError::TotalTooLarge { path: self.place(path), limit: MAX_TOTAL_BYTES },
            Failed::LfsPointer(at) => {
                self.error(GitError::LfsPointer { commit: self.commit.to_owned(), path: unknown[at].1.to_owned() })
            }
            Failed::Git(GitError::Object { object, fault }) if fault == TOO_LARGE => {
                let path = unknown.iter().find(|(id, _)| id.to_string() == object).map_or(path, |(_, path)| path);
                SourceError::FileTooLarge { path: self.place(path), limit: MAX_FILE_BYTES }
            }
            Failed::Git(error) => self.error(error),
        })?;
        effort.read = read.len();
        effort.bytes_read = total;
        let read: HashMap<ObjectId, SourceFile> = ids.into_iter().zip(read).collect();
        let mut total = 0;
        for (id, path, content) in found {
            // What was not known has just been read.
            let content = content.or_else(|| read.get(&id).map(|file| (file.bytes.clone(), file.hash)));
            let Some((bytes, hash)) = content else { continue };
            total += bytes.len() as u64;
            used.files.push((id, SourceFile { path, bytes, hash }));
        }
        if total > MAX_TOTAL_BYTES {
            return Err(SourceError::TotalTooLarge { path: self.place(path), limit: MAX_TOTAL_BYTES });
        }
        let files = used.files.iter().map(|(_, file)| file.clone()).collect();
        *self.known = used;
        Ok(Files { files, effort })
    }

    /// The directory that everything must stay below.
    fn root(&mut self, tree: ObjectId, path: &str, listing: &mut Listing) -> Result<Place, SourceError> {
        let mut id = tree;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let entries = self.tree(id, listing)?;
            let missing = || self.error(GitError::NoPath { commit: self.commit.to_owned(), path: path.to_owned() });
            match entries.iter().find(|entry| *entry.name == *name.as_bytes()) {
                Some(entry) if entry.mode == Mode::Directory => id = entry.id,
                Some(entry) if entry.mode == Mode::Submodule => return Err(self.submodule(path)),
                _ => return Err(missing()),
            }
        }
        Ok(Place(vec![(Arc::from(&b""[..]), id)]))
    }

    fn directory(
        &mut self,
        place: &Place,
        delivered: &str,
        above: &mut Vec<Place>,
        listing: &mut Listing,
    ) -> Result<(), SourceError> {
        let entries = self.tree(place.tree(), listing)?;
        for entry in &*entries {
            // Hidden names are not looked at; a link may lead to one.
            if entry.name.starts_with(b".") {
                continue;
            }
            let Ok(name) = std::str::from_utf8(&entry.name) else {
                let name = Path::new(OsStr::from_bytes(&entry.name));
                return Err(SourceError::NotUtf8 { path: self.place(delivered).join(name) });
            };
            let path = if delivered.is_empty() { name.to_owned() } else { format!("{delivered}/{name}") };
            listing.entries += 1;
            if listing.entries > MAX_FILES {
                return Err(SourceError::TooManyFiles { path: self.place(""), limit: MAX_FILES });
            }
            let found = match entry.mode {
                Mode::File => Found::File(entry.id),
                Mode::Directory => Found::Directory(place.below(&entry.name, entry.id)),
                Mode::Submodule => return Err(self.submodule(&path)),
                Mode::Link => self.resolve(place, entry.id, &path, listing)?,
            };
            match found {
                Found::File(id) => listing.files.push((path, id)),
                Found::Directory(place) => {
                    if entry.mode == Mode::Link && above.iter().any(|above| above.is(&place)) {
                        return Err(SourceError::Loop { path: self.place(&path) });
                    }
                    above.push(place.clone());
                    self.directory(&place, &path, above, listing)?;
                    above.pop();
                }
            }
        }
        Ok(())
    }

    /// Where the link at `path`, in the directory `place`, leads.
    fn resolve(
        &mut self,
        place: &Place,
        id: ObjectId,
        path: &str,
        listing: &mut Listing,
    ) -> Result<Found, SourceError> {
        let target = self.link(id, listing)?;
        let outside = |look: &Self| SourceError::OutsideRoot {
            path: look.place(path),
            target: PathBuf::from(OsStr::from_bytes(&target)),
            root: look.place(""),
        };
        if target.starts_with(b"/") {
            return Err(outside(self));
        }
        let mut at = place.clone();
        let mut links = 1;
        // The next name is the last.
        let mut names: Vec<Vec<u8>> = split(&target);
        while let Some(name) = names.pop() {
            match &*name {
                b"" | b"." => continue,
                b".." if at.0.len() == 1 => return Err(outside(self)),
                b".." => {
                    at.0.pop();
                    continue;
                }
                _ => {}
            }
            let entries = self.tree(at.tree(), listing)?;
            let dangling = || SourceError::Dangling { path: self.place(path) };
            let entry = entries.iter().find(|entry| *entry.name == *name).ok_or_else(dangling)?;
            match entry.mode {
                Mode::Directory => at = at.below(&entry.name, entry.id),
                Mode::File if names.is_empty() => return Ok(Found::File(entry.id)),
                Mode::File => return Err(dangling()),
                Mode::Submodule => return Err(self.submodule(path)),
                Mode::Link => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(SourceError::Loop { path: self.place(path) });
                    }
                    let next = self.link(entry.id, listing)?;
                    if next.starts_with(b"/") {
                        return Err(outside(self));
                    }
                    names.extend(split(&next));
                }
            }
        }
        Ok(Found::Directory(at))
    }

    fn tree(&mut self, id: ObjectId, listing: &mut Listing) -> Result<Arc<[Entry]>, SourceError> {
        if let Some(entries) = listing.used.trees.get(&id) {
            return Ok(entries.clone());
        }
        let entries = match self.known.trees.get(&id) {
            Some(entries) => entries.clone(),
            None => {
                let bytes = self.objects.object(id, Kind::Tree, MAX_TREE_BYTES, self.deadline);
                let bytes = bytes.map_err(|error| self.error(error))?;
                let malformed =
                    || GitError::Object { object: id.to_string(), fault: "has not the form of a tree".to_owned() };
                let entries = parse(&bytes, id.raw().len()).ok_or_else(|| self.error(malformed()))?;
                entries.into()
            }
        };
        listing.used.trees.insert(id, entries.clone());
        Ok(entries)
    }

    fn link(&mut self, id: ObjectId, listing: &mut Listing) -> Result<Arc<[u8]>, SourceError> {
        let target = match self.known.links.get(&id).or_else(|| listing.used.links.get(&id)) {
            Some(target) => target.clone(),
            None => {
                let bytes = self.objects.object(id, Kind::Blob, MAX_LINK_BYTES, self.deadline);
                bytes.map_err(|error| self.error(error))?.into()
            }
        };
        listing.used.links.insert(id, target.clone());
        Ok(target)
    }

    fn error(&self, error: GitError) -> SourceError {
        SourceError::Git { spec: self.spec.to_owned(), error }
    }

    fn submodule(&self, path: &str) -> SourceError {
        self.error(GitError::Submodule { commit: self.commit.to_owned(), path: path.to_owned() })
    }

    /// As `git show` takes it.
    fn place(&self, path: &str) -> PathBuf {
        format!("{}:{path}", self.commit).into()
    }
}

/// Why reading blobs ended early.
enum Failed {
    Git(GitError),
    TotalTooLarge,
    /// Of the blob at this index.
    LfsPointer(usize),
}

impl From<GitError> for Failed {
    fn from(error: GitError) -> Self {
        Self::Git(error)
    }
}

impl Place {
    fn tree(&self) -> ObjectId {
        self.0[self.0.len() - 1].1
    }

    fn below(&self, name: &[u8], id: ObjectId) -> Self {
        let mut place = self.clone();
        place.0.push((name.into(), id));
        place
    }

    /// By names: equal trees may stand in several places.
    fn is(&self, other: &Self) -> bool {
        self.0.iter().map(|(name, _)| name).eq(other.0.iter().map(|(name, _)| name))
    }
}

/// Last name first.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect()
}

/// A tree's bytes: `mode SP name NUL id`, again and again. `None`: it has another form.
fn parse(mut bytes: &[u8], id_length: usize) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let end = space + bytes[space..].iter().position(|byte| *byte == 0)?;
        let mode = u32::from_str_radix(std::str::from_utf8(&bytes[..space]).ok()?, 8).ok()?;
        let mode = match mode & 0o170_000 {
            0o040_000 => Mode::Directory,
            0o100_000 => Mode::File,
            0o120_000 => Mode::Link,
            0o160_000 => Mode::Submodule,
            _ => return None,
        };
        let name = &bytes[space + 1..end];
        if name.is_empty() || name.contains(&b'/') || matches!(name, b"." | b"..") {
            return None;
        }
        let id = ObjectId::new(bytes.get(end + 1..end + 1 + id_length)?)?;
        entries.push(Entry { name: name.into(), id, mode });
        bytes = &bytes[end + 1 + id_length..];
    }
    Some(entries)
}

/// Its manifest would be three lines of no kind.
fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.len() < 1024 && bytes.starts_with(b"version https://git-lfs.github.com/spec/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_read_or_refused() {
        let id = [7; 20];
        let tree = |entries: &[(&str, &[u8])]| -> Vec<u8> {
            entries.iter().flat_map(|(mode, name)| [mode.as_bytes(), b" ", name, b"\0", &id].concat()).collect()
        };
        let bytes = tree(&[("100644", b"a b.yaml"), ("40000", b"d"), ("120000", b"l\xff"), ("160000", b"s")]);
        let entries = parse(&bytes, 20).unwrap();
        let modes: Vec<Mode> = entries.iter().map(|entry| entry.mode).collect();
        assert_eq!(modes, [Mode::File, Mode::Directory, Mode::Link, Mode::Submodule]);
        assert_eq!((&*entries[0].name, entries[0].id.raw()), (&b"a b.yaml"[..], &id[..]));
        for cut in 1..bytes.len() {
            assert!(parse(&bytes[..cut], 20).is_none_or(|entries| cut % bytes.len() != 0 && entries.len() < 4));
        }
        for (mode, name) in [("100644", &b"a/b"[..]), ("40000", b".."), ("40000", b""), ("10000", b"p"), ("x", b"a")] {
            assert!(parse(&tree(&[(mode, name)]), 20).is_none(), "{mode} {name:?}");
        }
    }

    #[test]
    fn a_pointer_of_lfs_is_known_by_its_first_line() {
        assert!(is_lfs_pointer(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"));
        assert!(!is_lfs_pointer(b"# version https://git-lfs.github.com/spec/v1\n"));
    }
}
