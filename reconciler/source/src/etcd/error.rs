use std::{io, path::PathBuf};

/// Why etcd delivers nothing, or takes nothing.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("{spec}: {why}")]
    Address { spec: String, why: String },
    #[error("{path}: cannot be read: {cause}")]
    Secret { path: PathBuf, cause: io::Error },
    #[error("{spec}: cannot be reached: {cause}")]
    Unreachable { spec: String, cause: String },
    /// It answers, and does not let us.
    #[error("{spec}: refused: {cause}")]
    Refused { spec: String, cause: String },
    #[error("{spec}: holds no manifest")]
    Empty { spec: String },
    #[error("{spec}: the key {key:?} {why}")]
    Key { spec: String, key: String, why: &'static str },
    #[error("{spec}: the set {digest} is not whole: {why}")]
    Incomplete { spec: String, digest: String, why: String },
    /// What stands at `<prefix>revision`.
    #[error("{spec}: {value:?} at `revision` is not the digest of a set")]
    Pointer { spec: String, value: String },
    #[error("{path}: is larger than {} KiB, and etcd takes no larger value", limit >> 10)]
    ValueTooLarge { path: String, limit: usize },
    /// The listing's revision was compacted away while it was read.
    #[error("{spec}: was compacted while it was read")]
    Compacted { spec: String },
    #[error("{spec}: has no space left: {cause}")]
    Full { spec: String, cause: String },
    #[error("{spec}: somebody else pushed at the same time")]
    Concurrent { spec: String },
    #[error("{path}: {why}")]
    Directory { path: PathBuf, why: String },
    #[error("{path}: cannot be written: {cause}")]
    Write { path: PathBuf, cause: io::Error },
}

impl EtcdError {
    /// Stable, for scripts.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Address { .. } => "etcd-address",
            Self::Secret { .. } => "etcd-secret",
            Self::Unreachable { .. } => "etcd-unreachable",
            Self::Refused { .. } => "etcd-refused",
            Self::Empty { .. } => "source-empty",
            Self::Key { .. } => "etcd-key",
            Self::Incomplete { .. } => "etcd-incomplete",
            Self::Pointer { .. } => "etcd-revision",
            Self::ValueTooLarge { .. } => "etcd-value-too-large",
            Self::Compacted { .. } => "etcd-compacted",
            Self::Full { .. } => "etcd-full",
            Self::Concurrent { .. } => "etcd-concurrent-push",
            Self::Directory { .. } => "pull-directory",
            Self::Write { .. } => "pull-write",
        }
    }

    /// How to mend it.
    pub const fn help(&self) -> &'static str {
        match self {
            Self::Address { .. } => "write etcd://HOST:2379[,HOST2:2379]/PREFIX/, or etcds:// for TLS",
            Self::Secret { .. } => "check the file's path and permissions",
            Self::Unreachable { .. } => "check that etcd runs and that a firewall lets this host reach it",
            Self::Refused { .. } => "check --etcd-user and --etcd-password-file, and what that user's role may read",
            Self::Empty { .. } => "push manifests there; to remove everything from a node, run `weir uninstall` on it",
            Self::Key { .. } => "delete the key, or rename it so that what follows the prefix is a relative path",
            Self::Incomplete { .. } | Self::Pointer { .. } => "push the set again with `weir push`",
            Self::ValueTooLarge { .. } => "split the file: several lists may be named under fromFiles",
            Self::Compacted { .. } => "try again",
            Self::Full { .. } => "compact and defragment etcd or raise its quota, then `etcdctl alarm disarm`",
            Self::Concurrent { .. } => "look at what is there with `weir pull`, and push again",
            Self::Directory { .. } => "name an empty directory or one that does not exist, or pass --replace",
            Self::Write { .. } => "check the directory's permissions and the space on its file system",
        }
    }

    /// Whether it says something of the way to etcd, not of what etcd holds.
    pub const fn is_of_the_way(&self) -> bool {
        matches!(self, Self::Secret { .. } | Self::Unreachable { .. } | Self::Compacted { .. } | Self::Refused { .. })
    }
}
