use std::{io, path::PathBuf, time::Duration};

use crate::{EtcdError, GitError};

/// Why a source delivers nothing. The last good revision stays what it was.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{path}: the source is not there")]
    Missing { path: PathBuf },
    #[error("{path}: cannot be read: {cause}")]
    Unreadable { path: PathBuf, cause: io::Error },
    /// Another directory than the one that was last read stands there, and it has no manifest: unmounted, or on its way.
    #[error("{path}: was replaced or unmounted, and what stands there now holds no manifest")]
    Replaced { path: PathBuf },
    #[error("{path}: the symbolic link leads to {target}, outside {root}")]
    OutsideRoot { path: PathBuf, target: PathBuf, root: PathBuf },
    #[error("{path}: the symbolic link leads nowhere")]
    Dangling { path: PathBuf },
    #[error("{path}: the symbolic link leads back to a directory above it")]
    Loop { path: PathBuf },
    #[error("{path}: the name is not UTF-8")]
    NotUtf8 { path: PathBuf },
    #[error("{path}: a manifest must be a regular file")]
    NotAFile { path: PathBuf },
    #[error("{path}: is larger than {} MiB", limit >> 20)]
    FileTooLarge { path: PathBuf, limit: u64 },
    #[error("{path}: the files below it are larger than {} MiB together", limit >> 20)]
    TotalTooLarge { path: PathBuf, limit: u64 },
    #[error("{path}: more than {limit} files are below it")]
    TooManyFiles { path: PathBuf, limit: usize },
    #[error("{inner} is named as a source and lies inside {outer}, which is one too")]
    Nested { inner: PathBuf, outer: PathBuf },
    /// Something changed under the reader's hands: look again.
    #[error("{path}: changed while it was read")]
    Changing { path: PathBuf },
    #[error("{path}: did not come to rest within {waited:?}")]
    Restless { path: PathBuf, waited: Duration },
    #[error("{spec}: {what} sources are not supported yet")]
    NotSupported { spec: String, what: &'static str },
    #[error("{spec}: is named beside another source, and must stand alone")]
    Mixed { spec: String },
    #[error("{spec}: {what}")]
    Malformed { spec: String, what: &'static str },
    #[error("{spec}: {error}")]
    Git { spec: String, error: GitError },
    #[error("{spec}: unknown kind of source")]
    UnknownScheme { spec: String },
    #[error("no source was named")]
    Unnamed,
    #[error("{0}")]
    Etcd(#[from] EtcdError),
}

impl SourceError {
    /// Stable, for scripts.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "source-missing",
            Self::Unreadable { .. } | Self::NotUtf8 { .. } | Self::NotAFile { .. } => "source-unreadable",
            Self::Replaced { .. } => "source-replaced",
            Self::OutsideRoot { .. } | Self::Dangling { .. } | Self::Loop { .. } => "source-symlink",
            Self::FileTooLarge { .. } | Self::TotalTooLarge { .. } | Self::TooManyFiles { .. } => "source-too-large",
            Self::Nested { .. } => "source-nested",
            Self::Changing { .. } | Self::Restless { .. } => "source-changing",
            Self::NotSupported { .. } => "source-not-supported",
            Self::Mixed { .. } => "source-mixed",
            Self::Git { error, .. } => error.code(),
            Self::UnknownScheme { .. } | Self::Unnamed | Self::Malformed { .. } => "source-unknown",
            Self::Etcd(error) => error.code(),
        }
    }

    /// How to mend it.
    pub const fn help(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "create it or name another; a source that is missing never means an empty one",
            Self::Unreadable { .. } => "check the permissions of the file and of the directories above it",
            Self::Replaced { .. } => {
                "mount it again, or put manifests there; to delete everything, empty the directory"
            }
            Self::OutsideRoot { .. } => "copy the file below the source's directory, or name the directory above both",
            Self::Dangling { .. } => "remove the link or restore what it leads to",
            Self::Loop { .. } => "remove the link",
            Self::NotUtf8 { .. } => "rename the file",
            Self::NotAFile { .. } => "put a regular file there, or rename it so that it does not end in .yaml or .yml",
            Self::FileTooLarge { .. } | Self::TotalTooLarge { .. } | Self::TooManyFiles { .. } => {
                "every file below the source's directory is delivered: move what is not part of the configuration away"
            }
            Self::Nested { .. } => "name only the outer one",
            Self::Changing { .. } | Self::Restless { .. } => "wait until whoever writes there is done",
            Self::NotSupported { .. } => "use a directory: `-f PATH` or `--source dir:PATH`",
            Self::Mixed { .. } => "name one source; only directories and files may be several",
            Self::Git { error, .. } => error.help(),
            Self::Malformed { .. } => {
                "write `git+file:///PATH#BRANCH`, `git+https://HOST/PATH`, `git+ssh://USER@HOST/PATH`"
            }
            Self::UnknownScheme { .. } => "write a path, `-`, `dir:PATH`, `git+URL` or `etcd://HOST`",
            Self::Unnamed => "name one with `-f PATH` or `--source dir:PATH`",
            Self::Etcd(error) => error.help(),
        }
    }

    /// Whether the next look may well succeed without anybody mending anything.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Changing { .. } | Self::Restless { .. })
    }
}
