use std::{
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
        Self {
            source: source.into(),
            revision: revision.id.as_str().into(),
            authorship: revision.authorship.clone(),
            files: revision.files.iter().map(Self::file_of).collect(),
        }
    }

    pub(crate) fn file_of(file: &weir_source::SourceFile) -> File {
        File { path: file.path.clone(), bytes: file.bytes.clone(), hash: ContentHash(file.hash) }
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

    /// Whether both are the same files.
    pub fn are(&self, other: &Self) -> bool {
        let same = |(own, other): (&File, &File)| {
            (Arc::ptr_eq(&own.bytes, &other.bytes) || own.hash == other.hash) && own.path == other.path
        };
        Arc::ptr_eq(&self.files, &other.files)
            || self.files.len() == other.files.len() && self.files.iter().zip(&*other.files).all(same)
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
        PlanSource {
            kind: kind.into(),
            revision: self.revision.clone(),
            author: self.authorship.as_ref().map(|by| by.author.as_str().into()),
            subject: self.authorship.as_ref().map(|by| by.subject.as_str().into()),
        }
    }

    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| &*file.path == path)
    }
}

/// Parses, and does not parse again what it parsed lately.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    options: Options,
    /// What the next set is likely to be an edit of.
    last: Inventory,
    /// The files of the last two sets, good or not: somebody's diff of other files in between must not make the next
    /// look at these parse everything.
    lately: [Parsed; 2],
    /// What was to be let go, and takes its time to go.
    waste: Vec<Parsed>,
}

/// What files were parsed into, one for one, sorted by path.
#[derive(Debug, Default)]
struct Parsed {
    files: Arc<[File]>,
    parsed: Arc<[Arc<ParsedFile>]>,
}

impl Parsed {
    /// Fills in what is known of `files`. There are thousands, and most are the very same as before: those are told by
    /// their addresses, without a look at them.
    fn recall(&self, files: &[File], known: &mut [Option<Arc<ParsedFile>>]) {
        let mut at = 0;
        for (file, known) in files.iter().zip(known) {
            let is_before = |former: &File| !Arc::ptr_eq(&former.path, &file.path) && former.path < file.path;
            while self.files.get(at).is_some_and(is_before) {
                at += 1;
            }
            let Some(former) = self.files.get(at) else { return };
            let same_path = Arc::ptr_eq(&former.path, &file.path) || former.path == file.path;
            if known.is_none() && same_path && former.hash == file.hash {
                *known = Some(Arc::clone(&self.parsed[at]));
            }
        }
    }
}

impl Parser {
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// The set, and how many documents had to be parsed for it. `cached` is asked for what [`Self::parsed`] gave once.
    pub fn parse(
        &mut self,
        manifests: &Manifests,
        cached: impl Fn(&File) -> Option<Vec<u8>>,
    ) -> Result<(Inventory, usize), Diagnostics> {
        let mut known: Vec<Option<Arc<ParsedFile>>> = manifests.files.iter().map(|_| None).collect();
        for former in &self.lately {
            if known.iter().any(Option::is_none) {
                former.recall(&manifests.files, &mut known);
            }
        }
        let unknown: Vec<&File> =
            manifests.files.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(file, _)| file).collect();
        let unknown: Vec<(&File, Option<Vec<u8>>)> = unknown.into_iter().map(|file| (file, cached(file))).collect();
        let mut new = parse_all(&unknown, &self.options, &self.last).into_iter();
        let mut documents = 0;
        let parsed: Arc<[Arc<ParsedFile>]> = known
            .into_iter()
            .filter_map(|known| {
                known.or_else(|| {
                    let parsed = new.next()?;
                    documents += parsed.counts().parsed;
                    Some(parsed)
                })
            })
            .collect();
        self.lately.swap(0, 1);
        let parsed = Parsed { files: Arc::clone(&manifests.files), parsed };
        self.waste.push(std::mem::replace(&mut self.lately[0], parsed));
        self.last = self.last.update(&self.lately[0].parsed, &manifests.files)?.0;
        Ok((self.last.clone(), documents))
    }

    /// The set that was parsed last with some more files: both count as one of the sets to remember.
    pub fn parse_more(&mut self, manifests: &Manifests) -> Result<(Inventory, usize), Diagnostics> {
        let former = std::mem::take(&mut self.lately[1]);
        let parsed = self.parse(manifests, |_| None);
        self.lately[1] = former;
        parsed
    }
}

impl Parser {
    /// Lets go of what is no longer needed, in a moment when nobody waits.
    pub fn tidy(&mut self) {
        self.waste.clear();
    }

    /// What the last set's files were parsed into, for [`Self::parse`] to be spared it.
    pub fn parsed(&self) -> &[Arc<ParsedFile>] {
        &self.lately[0].parsed
    }
}

/// Less than this is parsed before a thread has started.
const WORTH_A_THREAD: usize = 1 << 18;

/// In the order of `files`.
fn parse_all(files: &[(&File, Option<Vec<u8>>)], options: &Options, last: &Inventory) -> Vec<Arc<ParsedFile>> {
    let parse = |(file, made): &(&File, Option<Vec<u8>>)| {
        if let Some(parsed) = made.as_ref().and_then(|made| ParsedFile::decode(made, file)) {
            return Arc::new(parsed);
        }
        let former = last.file(&file.path).map(|former| &**former);
        Arc::new(weir_schema::parse_file_after(file, options, former))
    };
    let worth = files.iter().map(|(file, _)| file.bytes.len()).sum::<usize>() >= WORTH_A_THREAD;
    // Asked only then, because the answer takes several files to be read.
    let threads = if worth { thread::available_parallelism().map_or(1, Into::into).min(files.len()) } else { 1 };
    if threads < 2 {
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
