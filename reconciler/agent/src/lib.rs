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

mod clock;
mod engine;
mod error;
mod guard;
mod manifests;
mod session;
mod snapshot;
mod timings;
mod view;

pub use engine::{Applied, Engine, EngineOptions, Look, Planned};
pub use error::{Error, Exit, Failure, Problem};
pub use guard::{Allow, Refusal};
pub use manifests::Manifests;
pub use session::{Session, sessions};
pub use snapshot::Snapshot;
pub use timings::Timings;
pub use view::{
    ChangeDocument, EntryDocument, FORMAT_VERSION, ObjectDocument, PlanDocument, PlanSource, PlanView, SummaryDocument,
    hexadecimal,
};
