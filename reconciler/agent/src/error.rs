use std::fmt;

use serde::{Deserialize, Serialize};
use weir_compile::CompileError;
use weir_plan::{DatapathError, StoreError};
use weir_schema::{Diagnostic, Diagnostics};
use weir_source::{EtcdError, SourceError};

use crate::{FlowTestsDocument, Refusal};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the manifests are invalid:\n{0}")]
    Manifests(Diagnostics),
    #[error("the manifests cannot become tables:\n{}", lines(.0))]
    Compile(Vec<CompileError>),
    #[error("{0}")]
    Guard(Refusal),
    #[error("{}", failed_tests(.0))]
    FlowTests(Box<FlowTestsDocument>),
    #[error("{0}")]
    Source(#[from] SourceError),
    #[error("{0}")]
    Datapath(#[from] DatapathError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the history has no commit {sequence}")]
    NoCommit { sequence: u64 },
    #[error("nothing was applied yet")]
    NothingApplied,
    #[error("there is nothing to roll back to: the history has no earlier revision")]
    NothingEarlier,
    #[error("commit {sequence} cannot be brought back: the bytes of {path} are no longer in the store")]
    BytesLost { sequence: u64, path: String },
    #[error("the agent follows {follows}; it takes manifests from elsewhere only while it is suspended")]
    Follows { follows: String },
    #[error("an agent is running (pid {pid}); {what}")]
    AgentRuns { pid: u32, what: &'static str },
    #[error("{socket}: {cause}")]
    Unreachable { socket: String, cause: String },
    #[error("{what}")]
    Ambiguous { what: String, candidates: Vec<String> },
    #[error("{what}")]
    Usage { what: String },
    #[error("{what}: {cause}")]
    Failed { what: String, cause: String },
    /// What an agent answered.
    #[error("{}", .0.message)]
    Remote(Box<Failure>),
}

fn failed_tests(tests: &FlowTestsDocument) -> String {
    let failed = tests.failed().map(|failed| format!("\n  {}: {}", failed.test, failed.complaint()));
    format!("{} of {} flow tests failed{}", tests.summary.failed, tests.summary.total(), failed.collect::<String>())
}

fn lines(errors: &[CompileError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The exit codes of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Exit(pub u8);

impl Exit {
    pub const DONE: Self = Self(0);
    /// `diff`: there is a change or drift. Others: failed at run time.
    pub const FAILED: Self = Self(1);
    pub const USAGE: Self = Self(64);
    pub const INVALID: Self = Self(65);
    pub const SOURCE: Self = Self(66);
    pub const UNREACHABLE: Self = Self(69);
    pub const OTHER_WRITER: Self = Self(75);
    pub const CAPABILITY: Self = Self(77);
    pub const KERNEL: Self = Self(78);
}

/// An [`Error`] as JSON, for the socket and for `-o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable.
    pub code: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    pub exit: Exit,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Problem>,
}

impl Failure {
    /// In one line: the first of several things that are wrong, with its place.
    pub fn line(&self) -> String {
        let Some(first) = self.errors.first() else {
            return self.message.lines().next().unwrap_or_default().to_owned();
        };
        let place = match (&first.file, first.line, &first.object) {
            (Some(file), Some(line), _) => format!("{file}:{line}: "),
            (Some(file), None, _) => format!("{file}: "),
            (None, _, Some(object)) => format!("{object}: "),
            (None, _, None) => String::new(),
        };
        let more = match self.errors.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        format!("{place}{}{more}", first.message)
    }
}

/// One of several things that are wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub code: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl From<&Diagnostic> for Problem {
    fn from(diagnostic: &Diagnostic) -> Self {
        let place = (diagnostic.line > 0).then_some(());
        Self {
            code: diagnostic.code.to_owned(),
            object: None,
            file: Some(diagnostic.path.to_string()),
            line: place.map(|()| diagnostic.line),
            column: place.map(|()| diagnostic.column),
            message: diagnostic.message.clone(),
            help: diagnostic.help.clone(),
        }
    }
}

impl From<&CompileError> for Problem {
    fn from(error: &CompileError) -> Self {
        Self {
            code: error.code.to_owned(),
            object: error.object.as_ref().map(ToString::to_string),
            file: None,
            line: None,
            column: None,
            message: error.path.iter().map(|path| format!("{path}: ")).chain([error.message.clone()]).collect(),
            help: error.help.clone(),
        }
    }
}

impl Error {
    /// Stable.
    pub fn code(&self) -> &str {
        match self {
            Self::Manifests(_) => "invalid-manifests",
            Self::Compile(errors) => errors.first().map_or("invalid-manifests", |error| error.code),
            Self::Guard(refusal) => refusal.code(),
            Self::FlowTests(_) => "flow-test",
            Self::Source(error) => error.code(),
            Self::Datapath(error) => match error {
                DatapathError::Full { .. } => "table-full",
                DatapathError::ForeignXdp { .. } => "foreign-xdp",
                DatapathError::InterfaceMissing { .. } => "interface-missing",
                DatapathError::NetnsMissing { .. } => "netns-missing",
                DatapathError::NoBpffs { .. } => "no-bpffs",
                DatapathError::NotPermitted { .. } => "missing-capability",
                DatapathError::Unsupported { .. } => "kernel-unsupported",
                DatapathError::Table { .. } => "table-write",
                DatapathError::Failed { .. } => "datapath",
                DatapathError::ReadBack { .. } => "read-back",
            },
            Self::Store(error) => match error {
                StoreError::Locked { .. } => "state-in-use",
                StoreError::Full { .. } => "disk-full",
                StoreError::Failed { .. } => "state",
            },
            Self::NoCommit { .. } => "no-such-commit",
            Self::NothingApplied => "nothing-applied",
            Self::NothingEarlier => "nothing-earlier",
            Self::BytesLost { .. } => "bytes-lost",
            Self::Follows { .. } => "other-source",
            Self::AgentRuns { .. } => "agent-runs",
            Self::Unreachable { .. } => "agent-unreachable",
            Self::Ambiguous { .. } => "ambiguous",
            Self::Usage { .. } => "usage",
            Self::Failed { .. } => "failed",
            Self::Remote(failure) => &failure.code,
        }
    }

    pub fn exit(&self) -> Exit {
        match self {
            Self::Manifests(_) | Self::Compile(_) | Self::Guard(_) => Exit::INVALID,
            Self::Source(SourceError::Unnamed | SourceError::UnknownScheme { .. } | SourceError::Malformed { .. }) => {
                Exit::USAGE
            }
            Self::Source(SourceError::Etcd(error)) => match error {
                EtcdError::Address { .. } => Exit::USAGE,
                EtcdError::ValueTooLarge { .. } => Exit::INVALID,
                EtcdError::Unreachable { .. } => Exit::UNREACHABLE,
                EtcdError::Concurrent { .. } => Exit::OTHER_WRITER,
                EtcdError::Full { .. } | EtcdError::Directory { .. } | EtcdError::Write { .. } => Exit::FAILED,
                _ => Exit::SOURCE,
            },
            Self::Source(_) => Exit::SOURCE,
            Self::Datapath(error) => match error {
                DatapathError::Full { .. } => Exit::INVALID,
                DatapathError::ForeignXdp { .. } => Exit::OTHER_WRITER,
                DatapathError::NotPermitted { .. } => Exit::CAPABILITY,
                DatapathError::NoBpffs { .. } | DatapathError::Unsupported { .. } => Exit::KERNEL,
                _ => Exit::FAILED,
            },
            Self::Store(StoreError::Locked { .. }) | Self::Follows { .. } | Self::AgentRuns { .. } => {
                Exit::OTHER_WRITER
            }
            Self::Unreachable { .. } => Exit::UNREACHABLE,
            Self::Ambiguous { .. } | Self::Usage { .. } => Exit::USAGE,
            Self::Store(_)
            | Self::FlowTests(_)
            | Self::NoCommit { .. }
            | Self::NothingApplied
            | Self::NothingEarlier
            | Self::BytesLost { .. }
            | Self::Failed { .. } => Exit::FAILED,
            Self::Remote(failure) => failure.exit,
        }
    }

    /// How to mend it.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::Guard(refusal) => refusal.help(),
            Self::FlowTests(_) => {
                "nothing went live; mend the rule or the test, or pass --allow-failed-tests if this is what you want"
            }
            Self::Source(error) => error.help(),
            Self::Datapath(DatapathError::Full { .. }) => "raise the limit in NodeConfig, or put less into the set",
            Self::Datapath(DatapathError::NotPermitted { .. }) => "run as root, or grant the capability",
            Self::Datapath(DatapathError::Unsupported { .. }) => "`weir doctor` says what this kernel lacks",
            Self::Datapath(DatapathError::Table { .. } | DatapathError::ReadBack { .. }) => {
                "nothing went live; `weir diff` shows where things stand, and the next apply starts again from there"
            }
            Self::Store(StoreError::Locked { .. }) => "wait until it is done, or talk to the agent through its socket",
            Self::Store(StoreError::Full { .. }) => "free some space on the file system of the state directory",
            Self::NoCommit { .. } => "`weir history` lists the commits",
            Self::Follows { .. } => "change that source, or run `weir suspend` first",
            Self::Unreachable { .. } => "start it with `weir run`, or name its socket with --socket",
            Self::Ambiguous { candidates, .. } => {
                return Some(format!("write one of: {}", candidates.join(", ")));
            }
            Self::Remote(failure) => return failure.help.clone(),
            _ => return None,
        };
        Some(help.to_owned())
    }

    fn problems(&self) -> Vec<Problem> {
        match self {
            Self::Manifests(diagnostics) => diagnostics.0.iter().map(Problem::from).collect(),
            Self::Compile(errors) => errors.iter().map(Problem::from).collect(),
            Self::FlowTests(tests) => tests.failed().map(Problem::from).collect(),
            Self::Remote(failure) => failure.errors.clone(),
            _ => Vec::new(),
        }
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        if let Error::Remote(failure) = error {
            return (**failure).clone();
        }
        Self {
            code: error.code().to_owned(),
            message: error.to_string(),
            help: error.help(),
            exit: error.exit(),
            errors: error.problems(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n  = help: {help}"),
            None => Ok(()),
        }
    }
}
