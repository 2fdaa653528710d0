use std::{
    fmt::{self, Write as _},
    io::{self, Read},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use crate::{MAX_FILE_BYTES, SourceError};

/// One file, whatever the source.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Below the source's root, with `/`.
    pub path: Arc<str>,
    pub bytes: Arc<[u8]>,
    /// SHA-256 of `bytes`.
    pub hash: [u8; 32],
}

impl SourceFile {
    pub fn new(path: impl Into<Arc<str>>, bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let hash = Sha256::digest(&bytes).into();
        Self { path: path.into(), bytes, hash }
    }

    /// Whether the name says that it holds manifests; the others are there for manifests to refer to.
    pub fn is_manifest(&self) -> bool {
        is_manifest(&self.path)
    }
}

impl fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.path, self.bytes.len())
    }
}

pub(crate) fn is_manifest(path: &str) -> bool {
    path.ends_with(".yaml") || path.ends_with(".yml")
}

/// Who wrote a revision, and what they called it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorship {
    /// `Name <address>`
    pub author: String,
    pub subject: String,
}

/// The whole desired state as a source delivered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The source's own name for it: a git commit, the digest that was pushed to etcd; else of the list of (path, hash)
    /// as 16 hexadecimal digits, so that equal content under equal names has an equal id.
    pub id: String,
    /// Where the source knows it.
    pub authorship: Option<Authorship>,
    /// Sorted by path, no path twice.
    pub files: Vec<SourceFile>,
}

impl Revision {
    pub fn new(files: Vec<SourceFile>) -> Self {
        Self::named("", None, files).with_id()
    }

    /// The one that follows `last`: the very same where nothing changed, and nothing is hashed then.
    pub(crate) fn after(last: Option<&Arc<Self>>, files: Vec<SourceFile>) -> Arc<Self> {
        let mut revision = Self::named("", None, files);
        let Some(last) = last else { return Arc::new(revision.with_id()) };
        let is_same = |(one, other): (&SourceFile, &SourceFile)| one.hash == other.hash && one.path == other.path;
        if revision.files.len() == last.files.len() && revision.files.iter().zip(&last.files).all(is_same) {
            return last.clone();
        }
        revision.share_paths(last);
        Arc::new(revision.with_id())
    }

    fn with_id(mut self) -> Self {
        let files = self.files.iter().map(|file| (&*file.path, &file.hash));
        self.id = hexadecimal(&digest(files)[..8]);
        self
    }

    /// Under the name that the source gives it.
    pub fn named(id: impl Into<String>, authorship: Option<Authorship>, mut files: Vec<SourceFile>) -> Self {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Self { id: id.into(), authorship, files }
    }

    /// Makes equal paths the very same, so that whoever compares two revisions need not look at their text.
    pub(crate) fn share_paths(&mut self, former: &Self) {
        let mut former = former.files.iter().peekable();
        for file in &mut self.files {
            while former.next_if(|former| former.path < file.path).is_some() {}
            if let Some(known) = former.next_if(|former| former.path == file.path) {
                file.path = known.path.clone();
            }
        }
    }

    pub fn manifests(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(|file| file.is_manifest())
    }

    pub fn get(&self, path: &str) -> Option<&SourceFile> {
        self.files.binary_search_by(|file| (*file.path).cmp(path)).ok().map(|at| &self.files[at])
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes.len() as u64).sum()
    }
}

/// SHA-256 of a list of (path, SHA-256 of the content), which is sorted by path.
pub(crate) fn digest<'a>(files: impl Iterator<Item = (&'a str, &'a [u8; 32])>) -> [u8; 32] {
    let mut digest = Sha256::new();
    for (path, hash) in files {
        digest.update((path.len() as u64).to_be_bytes());
        digest.update(path.as_bytes());
        digest.update(hash);
    }
    digest.finalize().into()
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The revision that standard input is: one manifest called `stdin.yaml`.
pub fn read_stdin(input: impl Read) -> Result<Revision, SourceError> {
    let path = || "standard input".into();
    let mut bytes = Vec::new();
    let read = |bytes: &mut Vec<u8>| -> io::Result<usize> { input.take(MAX_FILE_BYTES + 1).read_to_end(bytes) };
    read(&mut bytes).map_err(|cause| SourceError::Unreadable { path: path(), cause })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(SourceError::FileTooLarge { path: path(), limit: MAX_FILE_BYTES });
    }
    Ok(Revision::new(vec![SourceFile::new("stdin.yaml", bytes)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_of_names_and_content() {
        let revision = |files: &[(&str, &str)]| {
            Revision::new(files.iter().map(|(path, bytes)| SourceFile::new(*path, bytes.as_bytes())).collect()).id
        };
        let id = revision(&[("a", "x"), ("b", "y")]);
        assert_eq!(id.len(), 16);
        assert_eq!(id, revision(&[("b", "y"), ("a", "x")]), "the order of delivery does not matter");
        assert_ne!(id, revision(&[("a", "y"), ("b", "x")]));
        assert_ne!(id, revision(&[("a", "x")]));
        assert_ne!(revision(&[("ab", "")]), revision(&[("a", "")]));
    }

    #[test]
    fn standard_input_is_one_manifest() {
        let revision = read_stdin(&b"kind: Node\n"[..]).unwrap();
        assert_eq!(revision.manifests().count(), 1);
        assert_eq!(&*revision.files[0].bytes, b"kind: Node\n");
        let endless = io::repeat(b'x');
        assert!(matches!(read_stdin(endless), Err(SourceError::FileTooLarge { .. })));
    }
}
