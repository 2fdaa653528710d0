use std::{collections::HashMap, sync::Arc};

use weir_plan::{Commit, FileRef, Store};
use weir_schema::{ContentHash, Diagnostics, File, Inventory, Options, ParsedFile};
use weir_source::Revision;

use crate::{Error, PlanSource};

/// One revision's bytes, and where they come from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Manifests {
    /// `dir:/etc/weir`; empty for standard input.
    pub source: Arc<str>,
    pub revision: Arc<str>,
    /// Sorted by path.
    pub files: Arc<[File]>,
}

impl Manifests {
    pub fn new(source: &str, revision: &Revision) -> Self {
        let file = |file: &weir_source::SourceFile| File {
            path: file.path.clone(),
            bytes: file.bytes.clone(),
            hash: ContentHash(file.hash),
        };
        Self {
            source: source.into(),
            revision: revision.id.as_str().into(),
            files: revision.files.iter().map(file).collect(),
        }
    }

    /// What a commit applied, from the bytes that the store keeps.
    pub fn from_commit(commit: &Commit, store: &impl Store) -> Result<Self, Error> {
        let file = |file: &FileRef| -> Result<File, Error> {
            let lost = || Error::BytesLost { sequence: commit.sequence, path: file.path.to_string() };
            let bytes = store.blob(&file.hash)?.ok_or_else(lost)?;
            Ok(File { path: file.path.clone(), bytes: bytes.into(), hash: ContentHash(file.hash) })
        };
        Ok(Self {
            source: commit.source.as_str().into(),
            revision: commit.revision.as_str().into(),
            files: commit.files.iter().map(file).collect::<Result<_, _>>()?,
        })
    }

    pub fn refs(&self) -> Vec<FileRef> {
        self.files.iter().map(|file| FileRef { path: file.path.clone(), hash: file.hash.0 }).collect()
    }

    pub fn is(&self, files: &[FileRef]) -> bool {
        self.files.len() == files.len()
            && self.files.iter().zip(files).all(|(own, other)| own.path == other.path && own.hash.0 == other.hash)
    }

    pub fn plan_source(&self) -> PlanSource {
        let kind = match &*self.source {
            "" | "-" => "stdin",
            source if source.starts_with("git+") => "git",
            source if source.starts_with("etcd") => "etcd",
            _ => "dir",
        };
        PlanSource { kind: kind.into(), revision: self.revision.clone() }
    }

    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| &*file.path == path)
    }
}

/// Parses, and does not parse again what it parsed lately.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    options: Options,
    /// With the turn that last needed it.
    files: HashMap<(Arc<str>, ContentHash), (Arc<ParsedFile>, u64)>,
    turn: u64,
}

impl Parser {
    pub fn new(options: Options) -> Self {
        Self { options, files: HashMap::new(), turn: 0 }
    }

    pub fn parse(&mut self, manifests: &Manifests) -> Result<Inventory, Diagnostics> {
        self.turn += 1;
        let parse = |file: &File| {
            let parsed = || Arc::new(weir_schema::parse_file(file, &self.options));
            let known = self.files.entry((file.path.clone(), file.hash)).or_insert_with(|| (parsed(), 0));
            known.1 = self.turn;
            known.0.clone()
        };
        let parsed: Vec<Arc<ParsedFile>> = manifests.files.iter().map(parse).collect();
        // Somebody's diff of other files in between must not make the next look at these parse everything.
        let turn = self.turn;
        self.files.retain(|_, (_, used)| *used + 1 >= turn);
        weir_schema::assemble(&parsed, &manifests.files)
    }
}
