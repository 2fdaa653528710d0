//! A git repository as the source: a commit is a revision.
//!
//! Files are read from the commit's own objects, never from a work tree, so that a checkout in progress, an index or
//! an edit that nobody committed is never seen. A repository on this machine is read where it stands; one elsewhere
//! is fetched, as little of it as possible, into a clone below [`GitOptions::cache`].
//!
//! Nothing that a repository's configuration or its content names is ever run.
mod commit;
mod error;
mod follow;
mod object_id;
mod objects;
mod program;
mod remote;
mod repository;
mod signature;
mod spec;
mod tree;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

pub use error::{GitError, SignatureFault};
pub(crate) use spec::GitSpec;

use self::{
    commit::Commit,
    object_id::ObjectId,
    objects::Objects,
    program::Deadline,
    remote::{Clone as RemoteClone, FETCHED, Locked},
    repository::{Repository, Search},
    signature::Signers,
    spec::{Place, Reference},
    tree::{Files, Known, Look},
};
use crate::{Effort, Revision, SourceError, Watch, WatchOptions};

/// How a repository is read.
#[derive(Clone, Debug)]
pub struct GitOptions {
    /// Only what is below this directory of the tree; empty for all of it.
    pub path: String,
    /// Where clones of remote repositories are kept.
    pub cache: PathBuf,
    /// Between two looks at a remote.
    pub poll: Duration,
    /// Whoever is on one of these lists may sign; without a list, nobody needs to. Each is in the format of
    /// ssh-keygen's allowed signers, or OpenPGP public keys.
    pub signers: Vec<PathBuf>,
    /// How long a remote may take, for all of one look.
    pub timeout: Duration,
}

impl Default for GitOptions {
    fn default() -> Self {
        Self {
            path: String::new(),
            cache: "/var/lib/weir/git".into(),
            poll: Duration::from_secs(60),
            signers: Vec::new(),
            timeout: Duration::from_secs(120),
        }
    }
}

#[derive(Debug)]
pub struct GitSource {
    /// As it was named, for messages.
    spec: String,
    reference: Reference,
    options: GitOptions,
    origin: Origin,
    open: Option<Open>,
    known: Known,
    signers: Signers,
    last: Option<(ObjectId, Arc<Revision>)>,
    effort: Effort,
    stop: Arc<AtomicBool>,
}

/// Where objects come from.
#[derive(Debug)]
enum Origin {
    Local {
        path: PathBuf,
        search: Search,
    },
    Remote {
        url: String,
        clone: Option<RemoteClone>,
    },
    /// Every branch and tag, fetched once, for whoever asks for several revisions.
    History {
        clone: RemoteClone,
    },
}

/// A repository that is being read.
#[derive(Debug)]
struct Open {
    repository: Repository,
    objects: Objects,
}

impl GitSource {
    /// Reaches nothing yet.
    pub fn new(spec: &str, options: &GitOptions) -> Result<Self, SourceError> {
        let GitSpec { place, reference } = GitSpec::parse(spec)?;
        let origin = match place {
            Place::Local(path) => Origin::Local { path, search: Search::Here },
            Place::Remote(url) => {
                if url.starts_with("http://") && options.signers.is_empty() {
                    tracing::warn!(
                        source = spec,
                        "is neither encrypted nor signed: whoever is on the way can change it"
                    );
                }
                Origin::Remote { url, clone: None }
            }
        };
        Self::with(spec.to_owned(), reference, origin, options)
    }

    /// The repository that the directory `path` is in; only what is below `path`, unless the options say otherwise.
    pub fn around(path: &Path, options: &GitOptions) -> Result<Self, SourceError> {
        let origin = Origin::Local { path: path.into(), search: Search::Upwards };
        Self::with(path.display().to_string(), Reference::Head, origin, options)
    }

    fn with(spec: String, reference: Reference, origin: Origin, options: &GitOptions) -> Result<Self, SourceError> {
        let path = options.path.trim_matches('/');
        let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
        let path = parts.collect::<Vec<_>>().join("/");
        if path.split('/').any(|part| part == "..") {
            return Err(SourceError::Malformed {
                spec: options.path.clone(),
                what: "must be a path below the tree's root",
            });
        }
        let signers = Signers::new(&options.signers);
        Ok(Self {
            spec,
            reference,
            options: GitOptions { path, ..options.clone() },
            origin,
            open: None,
            known: Known::default(),
            signers,
            last: None,
            effort: Effort::default(),
            stop: Arc::default(),
        })
    }

    /// The commit that the reference names now. Blocking, `patience` at most, or as long as a remote may take.
    pub fn read(&mut self, patience: Duration) -> Result<Arc<Revision>, SourceError> {
        let patience = if self.is_remote() { patience.max(self.options.timeout) } else { patience };
        self.look(&Deadline::new(patience, self.stop.clone()))
    }

    /// The commit that `rev` leads to, as `git rev-parse` has it: `v1.2`, `HEAD~3`, `origin/main`. Of a remote
    /// repository the whole history is fetched, once.
    pub fn read_at(&mut self, rev: &str, patience: Duration) -> Result<Arc<Revision>, SourceError> {
        let patience = if self.is_remote() { patience.max(self.options.timeout) } else { patience };
        let deadline = Deadline::new(patience, self.stop.clone());
        if rev.is_empty() || rev.starts_with('-') || rev.contains(char::is_control) {
            return Err(self.error(GitError::NoCommit { name: rev.to_owned() }));
        }
        if let Origin::Remote { url, .. } = &self.origin {
            let clone = RemoteClone::temporary(url).map_err(|error| self.error(error))?;
            clone.fetch_history(&deadline).map_err(|error| self.error(error))?;
            self.origin = Origin::History { clone };
        }
        self.open(&deadline).map_err(|error| self.error(error))?;
        self.commit_at(&[rev.to_owned()], &deadline).map_err(|error| match error {
            SourceError::Git { spec, error: GitError::NoReference { .. } } => {
                SourceError::Git { spec, error: GitError::NoCommit { name: rev.to_owned() } }
            }
            error => error,
        })
    }

    /// Begins to follow.
    pub fn follow(self, options: WatchOptions) -> Result<Watch, SourceError> {
        follow::follow(self, options)
    }

    /// What the last look cost.
    pub const fn effort(&self) -> Effort {
        self.effort
    }

    /// Forgets what is known: the next look reads every object.
    pub fn forget(&mut self) {
        self.open = None;
        self.known = Known::default();
        self.last = None;
    }

    const fn is_remote(&self) -> bool {
        matches!(self.origin, Origin::Remote { .. })
    }

    fn error(&self, error: GitError) -> SourceError {
        SourceError::Git { spec: self.spec.clone(), error }
    }

    fn look(&mut self, deadline: &Deadline) -> Result<Arc<Revision>, SourceError> {
        self.effort = Effort::default();
        match self.try_look(deadline) {
            // A pack that went, a process that was killed, a damaged clone: once more, with nothing taken for granted.
            Err(SourceError::Git { error: GitError::Failed { .. } | GitError::Object { .. }, .. }) => {
                self.open = None;
                if let Origin::Remote { clone: Some(clone), .. } = &self.origin {
                    tracing::warn!(source = self.spec, "the clone is damaged, and is made anew");
                    let locked = clone.lock(deadline);
                    let removed = locked.and_then(|_locked| clone.remove());
                    removed.map_err(|error| self.error(error))?;
                }
                self.try_look(deadline)
            }
            result => result,
        }
    }

    fn try_look(&mut self, deadline: &Deadline) -> Result<Arc<Revision>, SourceError> {
        if self.is_remote() {
            let (name, _locked) = self.fetch(deadline).map_err(|error| self.error(error))?;
            return self.commit_at(&[name], deadline);
        }
        self.open(deadline).map_err(|error| self.error(error))?;
        self.commit_at(&self.reference.candidates(), deadline)
    }

    /// Has the remote's commit in the clone, and says under which name.
    fn fetch(&mut self, deadline: &Deadline) -> Result<(String, Option<Locked>), GitError> {
        let Origin::Remote { url, clone } = &mut self.origin else { return Ok((FETCHED.to_owned(), None)) };
        let clone = match clone {
            Some(clone) => clone,
            none => none.insert(RemoteClone::new(url, &self.reference, &self.options.cache)?),
        };
        // A commit never changes: once it is here, nobody needs to be asked.
        let (wanted, id) = match &self.reference {
            Reference::Commit(id) => {
                (id.clone(), ObjectId::parse(id).ok_or_else(|| GitError::NoCommit { name: id.clone() })?)
            }
            reference => clone.ask(reference, deadline)?,
        };
        if let (Some((last, _)), Some(_)) = (&self.last, &self.open)
            && *last == id
        {
            return Ok((id.to_string(), None));
        }
        let locked = clone.lock(deadline)?;
        let kept = clone.directory().join("HEAD").exists();
        if !kept || self.open(deadline).is_err() || self.objects()?.commit(&id.to_string(), deadline)?.is_none() {
            let Origin::Remote { clone: Some(clone), .. } = &self.origin else { return Err(GitError::NoRepository) };
            clone.fetch(&wanted, &id, deadline)?;
            self.open(deadline)?;
            // The branch may have moved on since it was asked for.
            return Ok((FETCHED.to_owned(), Some(locked)));
        }
        Ok((id.to_string(), Some(locked)))
    }

    /// Opens the repository unless it is open and still the one that stands there.
    fn open(&mut self, deadline: &Deadline) -> Result<(), GitError> {
        if self.open.as_ref().is_some_and(|open| open.repository.stands()) {
            return Ok(());
        }
        self.open = None;
        let (path, search) = match &self.origin {
            Origin::Local { path, search } => (path.as_path(), *search),
            Origin::Remote { clone: Some(clone), .. } | Origin::History { clone } => (clone.directory(), Search::Here),
            Origin::Remote { clone: None, .. } => return Err(GitError::NoRepository),
        };
        let repository = Repository::find(path, search, deadline)?;
        if search == Search::Upwards && self.options.path.is_empty() {
            self.options.path = repository.prefix.trim_matches('/').to_owned();
        }
        let objects = Objects::open(&repository.git_dir, self.signers.are_named())?;
        self.open = Some(Open { repository, objects });
        Ok(())
    }

    fn objects(&mut self) -> Result<&mut Objects, GitError> {
        self.open.as_mut().map(|open| &mut open.objects).ok_or(GitError::NoRepository)
    }

    /// The revision that the first of `names` that exists leads to.
    fn commit_at(&mut self, names: &[String], deadline: &Deadline) -> Result<Arc<Revision>, SourceError> {
        let found = self.find_commit(names, deadline).map_err(|error| self.error(error))?;
        let Some(object) = found else {
            let name = self.reference.name().to_owned();
            return Err(self.error(match &self.reference {
                // It was there when it was fetched.
                _ if self.is_remote() => {
                    GitError::Object { object: names.join(", "), fault: "is not in the clone".to_owned() }
                }
                Reference::Commit(_) => GitError::NoCommit { name },
                _ => GitError::NoReference { name },
            }));
        };
        let fault = || "has not the form of a commit".to_owned();
        let commit = Commit::parse(&object.bytes)
            .ok_or_else(|| self.error(GitError::Object { object: object.id.to_string(), fault: fault() }))?;
        let Some(Open { repository, objects }) = &mut self.open else { return Err(self.error(GitError::NoRepository)) };
        let author = &commit.authorship.author;
        let accepted = self.signers.accept(&repository.git_dir, object.id, commit.signed, author, deadline);
        accepted.map_err(|error| SourceError::Git { spec: self.spec.clone(), error })?;
        if let Some((last, revision)) = &self.last
            && *last == object.id
        {
            return Ok(revision.clone());
        }
        let id = object.id.to_string();
        let short = &id[..12];
        let mut look = Look { objects, known: &mut self.known, deadline, spec: &self.spec, commit: short };
        let Files { files, effort } = look.files(commit.tree, &self.options.path)?;
        self.effort = effort;
        if !files.iter().any(crate::SourceFile::is_manifest) {
            return Err(self.error(GitError::NoManifest { commit: short.to_owned(), path: self.options.path.clone() }));
        }
        let revision = Arc::new(Revision::named(id, Some(commit.authorship), files));
        self.last = Some((object.id, revision.clone()));
        Ok(revision)
    }

    fn find_commit(&mut self, names: &[String], deadline: &Deadline) -> Result<Option<objects::Object>, GitError> {
        let objects = self.objects()?;
        for name in names {
            if let Some(object) = objects.commit(name, deadline)? {
                return Ok(Some(object));
            }
        }
        Ok(None)
    }
}
