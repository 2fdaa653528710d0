use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::Numbering;

/// What was applied, kept across restarts. A cache, not the truth: losing it costs a full observation, never a wrong
/// delete.
///
/// Contracts: `record` is atomic (all of a commit or nothing, whatever kills us) and durable once it returns; blobs
/// are content-addressed and written once; a blob that no kept commit names may be dropped.
pub trait Store {
    /// The commit that the live tables were last brought to, if any.
    fn head(&self) -> Result<Option<Commit>, StoreError>;

    /// The newest `limit` commits, newest first.
    fn history(&self, limit: usize) -> Result<Vec<Commit>, StoreError>;

    fn commit(&self, sequence: u64) -> Result<Option<Commit>, StoreError>;

    /// A file's bytes by the SHA-256 of its content.
    fn blob(&self, hash: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError>;

    fn numbering(&self) -> Result<Numbering, StoreError>;

    /// What an interrupted apply was about to do; only for the report, never for the decision.
    fn journal(&self) -> Result<Option<Journal>, StoreError>;

    /// Notes a phase before it begins. Cheap: not flushed.
    fn note(&mut self, journal: &Journal) -> Result<(), StoreError>;

    /// Records a commit as the head, with the blobs that it adds, and clears the journal.
    fn record(
        &mut self,
        commit: &Commit,
        blobs: &[([u8; 32], Arc<[u8]>)],
        numbering: &Numbering,
    ) -> Result<(), StoreError>;

    /// What [`Self::cache`] was given for this content, unless it was lost.
    fn cached(&self, content: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Keeps something that was made of contents that the head names, so that it need not be made again. It may be lost
    /// at any time.
    fn cache(&mut self, made: &[([u8; 32], Vec<u8>)]) -> Result<(), StoreError>;

    /// What happened to what was kept: damage that was moved aside, in a sentence for the status.
    fn mishap(&self) -> Option<String> {
        None
    }

    fn suspension(&self) -> Result<Option<Suspension>, StoreError>;

    fn set_suspension(&mut self, suspension: Option<&Suspension>) -> Result<(), StoreError>;
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the store open.
    #[error("the state in {path} is in use by another process{}", .holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked { path: String, holder: Option<u32> },
    #[error("the state in {path} cannot be written: no space is left")]
    Full { path: String },
    #[error("{doing} in {path}: {cause}")]
    Failed { doing: &'static str, path: String, cause: String },
}

/// One apply, as history shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// From 1, never used twice.
    pub sequence: u64,
    pub time_unix_ms: u64,
    pub operation: Operation,
    pub node: String,
    /// `dir:/etc/weir`, `git+https://…`; empty for bytes from standard input.
    pub source: String,
    /// The source's own name for what it delivered (for a directory the digest of its files).
    pub revision: String,
    /// Author and subject, where the source knows them.
    pub authorship: Option<(String, String)>,
    /// Whole desired state, sorted by path.
    pub files: Vec<FileRef>,
    /// Boot id of the kernel that holds it.
    pub boot_id: String,
    pub epoch: u64,
    /// 0 or 1: the side that went live.
    pub side: u32,
    pub created: u32,
    pub updated: u32,
    pub deleted: u32,
    pub drift: u64,
    pub writes: u64,
    /// Of the plan, hexadecimal.
    pub digest: String,
    pub duration_us: u64,
    /// Sequence of the commit whose content this one brought back, for a rollback.
    pub restores: Option<u64>,
    /// The kernel held nothing of ours before: epochs of earlier commits were another generation word's, and the other
    /// side was empty.
    pub cold: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileRef {
    pub path: Arc<str>,
    pub hash: [u8; 32],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    Apply,
    Heal,
    Rollback,
}

/// As JSON writes it.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Apply => "apply",
            Self::Heal => "heal",
            Self::Rollback => "rollback",
        })
    }
}

/// Where an apply stood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    pub sequence: u64,
    pub phase: Phase,
    pub revision: String,
    pub pid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Stage,
    Check,
    Flip,
    Record,
    CatchUp,
    /// Nothing is under way: the standby side has caught up.
    Settled,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    pub since_unix_ms: u64,
    pub until_unix_ms: Option<u64>,
    pub reason: String,
    /// Drift is still healed: only the source is not followed. So after a rollback; somebody who suspends by hand wants
    /// to be left alone.
    pub heals: bool,
}
