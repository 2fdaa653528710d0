//! The loop: source to flip.
//!
//! [`Engine`] decides and acts for whoever holds it: a verb of the command line that works alone, or the agent
//! ([`run`]), which holds it for as long as it lives, follows a source, verifies and heals what is live, keeps history,
//! and answers on a socket ([`Client`] is the other end).
//!
//! It promises that what a plan shows is what an apply does, that an apply either goes live whole or not at all, that
//! a second apply writes nothing, and that after any failure the next one converges. The last good revision stays live
//! whatever the source says.
//!
//! It must never touch a table but through [`weir_plan::Datapath`], nor delete for want of knowledge: a source or store
//! that cannot be read is an error, never an empty set.
#![forbid(unsafe_code)]

mod agent;
mod api;
mod bundle;
mod client;
mod clock;
mod conditions;
mod documents;
mod drops;
mod engine;
mod error;
mod exporter;
mod fleet;
mod flow_list;
mod flow_test;
mod flows;
mod guard;
mod handle;
mod inspect;
mod inspect_kernel;
mod kept;
mod links;
mod manifests;
mod metrics;
mod netns;
mod place;
mod report;
mod resource;
mod run;
mod service;
mod service_list;
mod snapshot;
mod spared;
mod tally;
mod timings;
mod trace;
mod view;
mod waiting;

pub use agent::{Agent, Intervals};
pub use client::Client;
pub use conditions::{ConditionDocument, ConditionStatus};
pub use documents::{
    AgentDocument, ApplyDocument, AttachmentDocument, CommitDocument, DropDocument, GenerationDocument,
    HistoryDocument, ListDocument, LostDocument, PartyDocument, PendingDocument, RuleDocument, SkippedDocument,
    StatusDocument, StepDocument, SuspendDocument, SuspensionDocument, TableDocument, TraceDocument,
    TracedBackendDocument, TracedServiceDocument, WorkDocument, WrittenDocument,
};
pub use engine::{Applied, Engine, EngineOptions, Look, Planned};
pub use error::{Error, Exit, Failure, Problem};
pub use fleet::{FleetDocument, FleetOptions, NodeDocument, RevisionDocument};
pub use flow_list::{FlowDocument, FlowQuery, FlowVerdictDocument, FlowView, FlowsDocument};
pub use flow_test::{
    BackendFateDocument, FateDocument, FlowChangeDocument, FlowResult, FlowSummary, FlowTestsDocument, Judge,
    PacketDocument, Result as FlowTestResult, VerdictDocument, flow_tests_by_oracle,
};
pub use flows::{FlowSource, NoFlows};
pub use guard::{Allow, Refusal};
pub use handle::Handle;
pub use inspect::{Attachment, EventSource, Inspect, Metrics, TableSize};
pub use manifests::Manifests;
pub use place::Place;
pub use report::SHOWN;
pub use resource::Resource;
pub use run::{RunOptions, run};
pub use snapshot::Snapshot;
pub use timings::Timings;
pub use trace::{parse_port, parse_protocol};
pub use view::{
    ChangeDocument, EntryDocument, FORMAT_VERSION, KeptDocument, ObjectDocument, Places, PlanDocument, PlanSource,
    PlanView, SummaryDocument, hexadecimal,
};
