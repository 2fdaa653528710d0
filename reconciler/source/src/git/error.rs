//! Why a repository delivers nothing.
use std::{io, path::PathBuf, time::Duration};

/// Within a [`crate::SourceError::Git`], which says of which repository.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("cannot run `{program}`: {cause}")]
    Program { program: &'static str, cause: io::Error },
    #[error("there is no git repository")]
    NoRepository,
    #[error("there is no branch or tag `{name}`")]
    NoReference { name: String },
    #[error("there is no commit `{name}`")]
    NoCommit { name: String },
    #[error("commit {commit} has no directory `{path}`")]
    NoPath { commit: String, path: String },
    #[error("commit {commit} holds no manifest{}", below(path))]
    NoManifest { commit: String, path: String },
    #[error("{path}: is a submodule, and its files are not part of commit {commit}")]
    Submodule { commit: String, path: String },
    #[error("{path}: is a pointer of Git LFS in commit {commit}; the file itself is not in the repository")]
    LfsPointer { commit: String, path: String },
    #[error("cannot be reached: {said}")]
    Unreachable { said: String },
    #[error("access is denied: {said}")]
    Denied { said: String },
    #[error("{what} did not end within {after:?}")]
    Late { what: &'static str, after: Duration },
    /// Of the repository, or of our clone of it.
    #[error("{what}: {said}")]
    Failed { what: String, said: String },
    #[error("object {object} {fault}")]
    Object { object: String, fault: String },
    #[error("commit {commit} by {author} is not accepted: {fault}")]
    Signature { commit: String, author: String, fault: SignatureFault },
    #[error("{path}: cannot be used as a list of signers: {cause}")]
    Signers { path: PathBuf, cause: String },
    #[error("{path}: the clone cannot be kept there: {cause}")]
    Cache { path: PathBuf, cause: io::Error },
    /// Whoever followed the source stopped.
    #[error("was interrupted")]
    Stopped,
}

/// What is wrong with a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    #[error("it is not signed")]
    Unsigned,
    #[error("it is signed, but by nobody on the list ({said})")]
    Foreign { said: String },
    #[error("the signature does not fit the commit ({said})")]
    Bad { said: String },
    #[error("the signer's key was revoked ({said})")]
    Revoked { said: String },
    #[error("the signature or the signer's key has expired ({said})")]
    Expired { said: String },
    #[error("the signature cannot be checked ({said})")]
    Unchecked { said: String },
}

fn below(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" below `{path}`") }
}

impl GitError {
    /// Stable, for scripts.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Program { .. } | Self::Failed { .. } | Self::Stopped => "source-git",
            Self::NoRepository => "source-missing",
            Self::NoReference { .. } | Self::NoCommit { .. } => "source-branch",
            Self::NoPath { .. } => "source-path",
            Self::NoManifest { .. } => "source-empty",
            Self::Submodule { .. } => "source-submodule",
            Self::LfsPointer { .. } => "source-lfs",
            Self::Unreachable { .. } | Self::Late { .. } => "source-unreachable",
            Self::Denied { .. } => "source-denied",
            Self::Object { .. } => "source-object",
            Self::Signature { .. } => "source-signature",
            Self::Signers { .. } => "source-signers",
            Self::Cache { .. } => "source-cache",
        }
    }

    /// How to mend it.
    pub const fn help(&self) -> &'static str {
        match self {
            Self::Program { .. } => "install it: `apt-get install git gnupg openssh-client`",
            Self::NoRepository => "name a repository that exists: `git+file:///srv/repository.git`, `git+https://…`",
            Self::NoReference { .. } => "create it, or name another after `#`",
            Self::NoCommit { .. } => "fetch it first; a shallow clone has only the newest commits",
            Self::NoPath { .. } => "create it, or name another with --path",
            Self::NoManifest { .. } => {
                "an empty tree never means an empty state; `weir uninstall` removes everything from a node"
            }
            Self::Submodule { .. } => "copy its files into the repository, or name a directory beside it with --path",
            Self::LfsPointer { .. } => "store the file in the repository itself: `git lfs migrate export`",
            Self::Unreachable { .. } | Self::Late { .. } => "what is live stays live; it is tried again",
            Self::Denied { .. } => {
                "give the user that runs weir a credential helper or an SSH key, and the host's key in known_hosts"
            }
            Self::Failed { .. } | Self::Stopped => "`git fsck` in the repository says more",
            Self::Object { .. } => "`git fsck` says what is damaged; a partial clone lacks objects on purpose",
            Self::Signature { .. } => {
                "the commit that the branch names must be signed by a key of --verify-signatures; what is live stays live"
            }
            Self::Signers { .. } => {
                "give a file in the format of ssh-keygen's allowed signers, or `gpg --export --armor` of the keys"
            }
            Self::Cache { .. } => "let the user that runs weir write there, or name another with --state-dir",
        }
    }
}
