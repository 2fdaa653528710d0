//! What the socket and `-o json` say, one type per answer.
use serde::{Deserialize, Serialize};
use weir_plan::{Commit, Operation, Pending, Suspension};

use crate::{
    Applied, ChangeDocument, ConditionDocument, FORMAT_VERSION, Failure, KeptDocument, ObjectDocument, PlanDocument,
    PlanSource, SummaryDocument, Timings,
};

/// The answer to apply and rollback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyDocument {
    pub format_version: String,
    pub node: String,
    pub source: PlanSource,
    /// `applied` or `unchanged`.
    pub result: String,
    /// Whether the tables changed; a change of attachments alone needs no flip.
    pub flipped: bool,
    /// `None`: there was nothing to do.
    pub commit: Option<CommitDocument>,
    /// As in a plan, with few of each object's entries.
    pub changes: Vec<ChangeDocument>,
    pub summary: SummaryDocument,
    pub digest: String,
    pub pending: Vec<PendingDocument>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptDocument>,
    pub timings: Timings,
    pub work: WorkDocument,
    pub written: WrittenDocument,
}

/// What had to be gone through: of a set in which one entry changed, that entry's object and no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkDocument {
    /// Documents that were parsed.
    pub documents: usize,
    /// Objects that were compiled.
    pub objects: usize,
    /// The whole set was compiled.
    pub whole: bool,
    /// Entries that differ from the live ones.
    pub entries: usize,
}

/// What was written to the kernel, in its own terms: an apply that finds nothing to do writes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WrittenDocument {
    /// `bpf(2)` calls and rtnetlink requests that change something.
    pub syscalls: u64,
    /// Stores through mapped tables.
    pub stores: u64,
}

impl WrittenDocument {
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            syscalls: self.syscalls.saturating_sub(before.syscalls),
            stores: self.stores.saturating_sub(before.stores),
        }
    }
}

impl ApplyDocument {
    pub fn new(plan: PlanDocument, applied: &Applied) -> Self {
        Self {
            format_version: FORMAT_VERSION.to_owned(),
            node: plan.node,
            source: plan.source,
            result: if applied.commit.is_some() { "applied" } else { "unchanged" }.to_owned(),
            flipped: applied.flipped,
            commit: applied.commit.as_ref().map(CommitDocument::from),
            changes: plan.changes,
            summary: plan.summary,
            digest: plan.digest,
            pending: applied.desired.compiled.pending.iter().map(PendingDocument::from).collect(),
            kept: plan.kept,
            timings: applied.timings,
            work: applied.work,
            written: applied.written,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingDocument {
    pub object: ObjectDocument,
    pub code: String,
    pub message: String,
    /// How often the agent looked for it in vain since the node last changed; `None` where no agent runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_in_ms: Option<u64>,
}

impl From<&Pending> for PendingDocument {
    fn from(pending: &Pending) -> Self {
        Self {
            object: ObjectDocument::from(&pending.object),
            code: pending.code.to_owned(),
            message: pending.message.clone(),
            attempts: None,
            next_try_in_ms: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitDocument {
    pub sequence: u64,
    pub time_unix_ms: u64,
    pub operation: Operation,
    pub node: String,
    pub source: String,
    pub revision: String,
    /// `Name <address>`, where the source knows who wrote the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    pub epoch: u64,
    pub side: u32,
    pub summary: SummaryDocument,
    pub digest: String,
    pub duration_us: u64,
    pub restores: Option<u64>,
    pub files: usize,
}

impl From<&Commit> for CommitDocument {
    fn from(commit: &Commit) -> Self {
        Self {
            sequence: commit.sequence,
            time_unix_ms: commit.time_unix_ms,
            operation: commit.operation,
            node: commit.node.clone(),
            source: commit.source.clone(),
            revision: commit.revision.clone(),
            author: commit.authorship.as_ref().map(|(author, _)| author.clone()),
            subject: commit.authorship.as_ref().map(|(_, subject)| subject.clone()),
            epoch: commit.epoch,
            side: commit.side,
            summary: SummaryDocument {
                create: commit.created,
                update: commit.updated,
                delete: commit.deleted,
                drift: commit.drift,
                writes: commit.writes,
            },
            digest: commit.digest.clone(),
            duration_us: commit.duration_us,
            restores: commit.restores,
            files: commit.files.len(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryDocument {
    pub format_version: String,
    /// Newest first.
    pub commits: Vec<CommitDocument>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SuspensionDocument {
    pub since_unix_ms: u64,
    pub until_unix_ms: Option<u64>,
    pub reason: String,
}

impl From<&Suspension> for SuspensionDocument {
    fn from(suspension: &Suspension) -> Self {
        let Suspension { since_unix_ms, until_unix_ms, reason, .. } = suspension.clone();
        Self { since_unix_ms, until_unix_ms, reason }
    }
}

/// The answer to suspend and resume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SuspendDocument {
    pub format_version: String,
    pub suspended: Option<SuspensionDocument>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusDocument {
    pub format_version: String,
    pub node: String,
    /// `converged`, `pending`, `drifted`, `suspended`, `failing`; `idle` where nothing was ever applied.
    pub state: String,
    /// Of the agent; empty where none runs.
    #[serde(default)]
    pub conditions: Vec<ConditionDocument>,
    /// `None`: no agent runs, and this is what the kernel and the store tell.
    pub agent: Option<AgentDocument>,
    pub commit: Option<CommitDocument>,
    /// The generation word; `None` where the kernel holds nothing of Weir's.
    pub generation: Option<GenerationDocument>,
    pub suspended: Option<SuspensionDocument>,
    pub pending: Vec<PendingDocument>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptDocument>,
    /// Entries that differ from what was applied, as of the last verification.
    pub drift: u64,
    pub tables: Vec<TableDocument>,
    pub attachments: Vec<AttachmentDocument>,
    /// What is outside of what Weir guards, and what happened to its state.
    pub notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationDocument {
    pub side: u32,
    pub epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentDocument {
    pub pid: u32,
    pub version: String,
    pub started_unix_ms: u64,
    pub source: String,
    /// What the source delivered last, whether or not it could be applied.
    pub revision: Option<String>,
    /// Why it is not live.
    pub failure: Option<Failure>,
    pub retry_in_ms: Option<u64>,
    pub verified_unix_ms: Option<u64>,
    pub healed: u64,
    /// Of the last apply that did something.
    pub timings: Timings,
    /// What the last apply that changed something went through.
    pub work: WorkDocument,
    /// Documents that were parsed since it started.
    #[serde(default)]
    pub parsed: u64,
    /// Of the last look that found nothing to do.
    pub idle_timings: Timings,
    /// Since it started.
    pub written: WrittenDocument,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableDocument {
    pub table: String,
    pub active: usize,
    pub standby: usize,
    /// From NodeConfig.
    pub limit: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentDocument {
    pub interface: String,
    pub program: String,
    pub mode: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One line of `monitor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DropDocument {
    /// Nanoseconds since boot.
    pub time_ns: u64,
    /// `deny`, or `allow` of a packet that begins a flow.
    pub verdict: String,
    pub reason: String,
    pub direction: String,
    pub hook: String,
    pub interface: String,
    pub endpoint: Option<ObjectDocument>,
    pub source: std::net::IpAddr,
    pub destination: std::net::IpAddr,
    /// Whom the sender believes to speak to, where a service gave it another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<std::net::SocketAddr>,
    pub protocol: String,
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    pub subject: u32,
    pub peer: u32,
    pub rule: Option<RuleDocument>,
    pub length: u32,
    pub epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleDocument {
    pub object: ObjectDocument,
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

impl std::fmt::Display for RuleDocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.object, self.path)?;
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, " ({file}:{line})"),
            _ => Ok(()),
        }
    }
}

/// Events that a slow reader missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostDocument {
    pub lost: u64,
}

/// The answer to `trace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceDocument {
    pub format_version: String,
    /// `allowed` or `dropped`; `varies` by the backend that a service sends it to.
    pub verdict: String,
    pub source: PartyDocument,
    pub destination: PartyDocument,
    pub protocol: String,
    pub port: u16,
    /// In the order that the packet meets them; those behind a service are its backends'.
    pub steps: Vec<StepDocument>,
    /// Of a flow to a service's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<TracedServiceDocument>,
}

/// What a service makes of a traced flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TracedServiceDocument {
    /// Whose address it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Why it has no backend for the flow: `no_service`, `no_backend`, `source_range`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Chance or a hash picks one of these: sorted by address and port.
    pub backends: Vec<TracedBackendDocument>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TracedBackendDocument {
    pub backend: PartyDocument,
    pub port: u16,
    /// `allowed` or `dropped`.
    pub verdict: String,
    /// It is the client itself: nobody is asked.
    #[serde(default)]
    pub hairpin: bool,
    pub steps: Vec<StepDocument>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartyDocument {
    pub address: Option<std::net::IpAddr>,
    pub identity: u32,
    pub labels: std::collections::BTreeMap<String, String>,
    pub endpoint: Option<ObjectDocument>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepDocument {
    /// `prefilter`, `egress`, `ingress`.
    pub step: String,
    /// Of the prefilter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// `pass`, `drop`, `allow`, `deny`, `default deny`, `not enforced`.
    pub decision: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleDocument>,
}

/// The answer to `get`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListDocument {
    pub format_version: String,
    pub node: String,
    pub resource: String,
    pub items: Vec<serde_json::Value>,
    /// With `services`: those that nothing is balanced for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedDocument>,
}

/// A service that nothing is balanced for, which is no fault of its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SkippedDocument {
    pub object: ObjectDocument,
    pub why: String,
}
