use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use weir_plan::{Commit, FileRef, Store};
use weir_schema::{ContentHash, Diagnostics, File, Inventory, Options, ParsedFile};
use weir_source::{Authorship, Revision};

use crate::{Error, PlanSource};

/// One revision's bytes, and where they come from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Manifests {
    /// `dir:/etc/weir`; empty for standard input.
    pub source: Arc<str>,
    pub revision: Arc<str>,
    pub authorship: Option<Authorship>,
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
            authorship: revision.authorship.clone(),
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
            authorship: commit
                .authorship
                .as_ref()
                .map(|(author, subject)| Authorship { author: author.clone(), subject: subject.clone() }),
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
    /// What the next set is likely to be an edit of.
    last: Inventory,
}

impl Parser {
    pub fn new(options: Options) -> Self {
        Self { options, files: HashMap::new(), turn: 0, last: Inventory::default() }
    }

    pub fn parse(&mut self, manifests: &Manifests) -> Result<Inventory, Diagnostics> {
        self.turn += 1;
        let unknown = |file: &&File| !self.files.contains_key(&(file.path.clone(), file.hash));
        let unknown: Vec<&File> = manifests.files.iter().filter(unknown).collect();
        for (file, parsed) in unknown.iter().zip(parse_all(&unknown, &self.options, &self.last)) {
            self.files.insert((file.path.clone(), file.hash), (parsed, 0));
        }
        let known = |file: &File| {
            let known = self.files.get_mut(&(file.path.clone(), file.hash))?;
            known.1 = self.turn;
            Some(known.0.clone())
        };
        let parsed: Vec<Arc<ParsedFile>> = manifests.files.iter().filter_map(known).collect();
        // Somebody's diff of other files in between must not make the next look at these parse everything.
        let turn = self.turn;
        self.files.retain(|_, (_, used)| *used + 1 >= turn);
        self.last = self.last.update(&parsed, &manifests.files)?.0;
        Ok(self.last.clone())
    }
}

/// Less than this is parsed before a thread has started.
const WORTH_A_THREAD: usize = 1 << 18;

/// In the order of `files`.
fn parse_all(files: &[&File], options: &Options, last: &Inventory) -> Vec<Arc<ParsedFile>> {
    let parse = |file: &&File| {
        let former = last.file(&file.path).map(|former| &**former);
        Arc::new(weir_schema::parse_file_after(file, options, former))
    };
    let threads = thread::available_parallelism().map_or(1, Into::into).min(files.len());
    if threads < 2 || files.iter().map(|file| file.bytes.len()).sum::<usize>() < WORTH_A_THREAD {
        return files.iter().map(parse).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut parsed = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(at) else { return parsed };
            parsed.push((at, parse(file)));
        }
    };
    let mut parsed = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut parsed = work();
        for other in others {
            match other.join() {
                Ok(more) => parsed.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        parsed
    });
    parsed.sort_unstable_by_key(|(at, _)| *at);
    parsed.into_iter().map(|(_, parsed)| parsed).collect()
}
