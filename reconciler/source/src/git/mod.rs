//! A git repository as the source: a commit is a revision.
use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{Revision, SourceError, Watch, WatchOptions};

/// How a repository is read.
#[derive(Clone, Debug)]
pub struct GitOptions {
    /// Only what is below this directory of the tree; empty for all of it.
    pub path: String,
    /// Where clones of remote repositories are kept.
    pub cache: PathBuf,
    /// Between two looks at a remote.
    pub poll: Duration,
    /// Signers whose commits are accepted: `gpg.ssh.allowedSignersFile`'s format, or a file of OpenPGP keys.
    pub signers: Option<PathBuf>,
}

impl Default for GitOptions {
    fn default() -> Self {
        Self { path: String::new(), cache: "/var/lib/weir/git".into(), poll: Duration::from_secs(60), signers: None }
    }
}

#[derive(Debug)]
pub struct GitSource {
    spec: String,
}

impl GitSource {
    pub fn new(spec: &str, _options: &GitOptions) -> Result<Self, SourceError> {
        Ok(Self { spec: spec.to_owned() })
    }

    /// The commit that the branch names now. Blocking, `patience` at most.
    pub fn read(&mut self, _patience: Duration) -> Result<Arc<Revision>, SourceError> {
        Err(SourceError::NotSupported { spec: self.spec.clone(), what: "git" })
    }

    pub fn follow(self, _options: WatchOptions) -> Result<Watch, SourceError> {
        Err(SourceError::NotSupported { spec: self.spec, what: "git" })
    }
}
