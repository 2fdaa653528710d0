//! A repository on this machine: where its parts are, and where a change of a reference shows.
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    error::GitError,
    program::{Deadline, git, run_git},
    spec::Reference,
};
use crate::walk::Interest;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repository {
    /// As it was named: a work tree, or the repository itself.
    named: PathBuf,
    /// Of this work tree: where HEAD is.
    pub git_dir: PathBuf,
    /// Of all work trees: where objects and references are.
    common_dir: PathBuf,
    /// Where `named` is in the work tree: empty at its top and in a bare repository, else with `/` at its end.
    pub prefix: String,
    identity: Option<Identity>,
}

/// A directory, whatever its name.
type Identity = (u64, u64, Option<SystemTime>);

/// Whether a directory inside a work tree names its repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Search {
    /// As git does it.
    Upwards,
    Here,
}

impl Repository {
    pub fn find(path: &Path, search: Search, deadline: &Deadline) -> Result<Self, GitError> {
        let named = fs::canonicalize(path).map_err(|_| GitError::NoRepository)?;
        let mut command = git();
        if let (Search::Here, Some(above)) = (search, named.parent()) {
            command.env("GIT_CEILING_DIRECTORIES", above);
        }
        command.arg("-C").arg(&named);
        command.args(["rev-parse", "--absolute-git-dir", "--git-common-dir", "--show-prefix"]);
        let ran = run_git(command, "looking for the repository", deadline)?;
        if ran.stderr.contains("not a git repository") {
            return Err(GitError::NoRepository);
        }
        let output = ran.success("looking for the repository")?;
        let mut lines = output.split(|byte| *byte == b'\n');
        let mut path = || lines.next().map(|line| PathBuf::from(OsStr::from_bytes(line)));
        let (Some(git_dir), Some(common), Some(prefix)) = (path(), path(), path()) else {
            return Err(GitError::NoRepository);
        };
        // Relative to where git was started.
        let common_dir = fs::canonicalize(named.join(common)).map_err(|_| GitError::NoRepository)?;
        let prefix = prefix.into_os_string().into_string().unwrap_or_default();
        let identity = identity(&common_dir);
        Ok(Self { named, git_dir, common_dir, prefix, identity })
    }

    /// Whether what was found is still what stands there.
    pub fn stands(&self) -> bool {
        self.identity.is_some() && identity(&self.common_dir) == self.identity && self.git_dir.join("HEAD").exists()
    }

    /// Where a change of the reference shows.
    pub fn watched(&self, reference: &Reference) -> BTreeMap<PathBuf, Interest> {
        let mut watched = Watched::default();
        // The repository itself may be replaced.
        watched.name(&self.named);
        watched.name(&self.common_dir);
        let mut names = reference.candidates();
        match reference {
            // Nothing that it names can change.
            Reference::Commit(_) => return watched.0,
            Reference::Name(_) => {}
            Reference::Head => {
                watched.name(&self.git_dir.join("HEAD"));
                let head = fs::read_to_string(self.git_dir.join("HEAD")).unwrap_or_default();
                names = head.trim().strip_prefix("ref: ").map(str::to_owned).into_iter().collect();
            }
        }
        watched.name(&self.common_dir.join("packed-refs"));
        let tables = self.common_dir.join("reftable");
        if tables.is_dir() {
            watched.name(&tables.join("tables.list"));
        }
        for name in names {
            let mut path = self.common_dir.clone();
            for part in name.split('/') {
                path.push(part);
                // As far as it exists: what is made later shows in the directory above.
                watched.name(&path);
                if !path.is_dir() {
                    break;
                }
            }
        }
        watched.0
    }
}

#[derive(Default)]
struct Watched(BTreeMap<PathBuf, Interest>);

impl Watched {
    fn name(&mut self, path: &Path) {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return };
        let interest = self.0.entry(directory.into()).or_insert_with(|| Interest::Names(BTreeSet::new()));
        if let Interest::Names(names) = interest {
            names.insert(name.into());
        }
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.created().ok()))
}
