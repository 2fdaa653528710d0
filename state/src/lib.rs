//! What was applied, the numbers that were given out, history and journal: [`weir_plan::Store`] on sled.
//!
//! A cache of what was applied, never the truth. It promises that a commit is recorded whole or not at all, whatever
//! kills the process, that it is on the disk once `record` returns, and that damage never panics or stops anything:
//! what is damaged is moved aside, the store begins empty, and [`Recovery`] says so. One process at a time has it open.
//!
//! It must never keep one record per table entry (sled would need gigabytes), never delete what it cannot read, and
//! never see a secret.
#![forbid(unsafe_code)]

mod blob;
mod database;
mod journal;
mod lock;
mod numbers;
mod quiet;
mod record;
mod recovery;
mod space;
mod store;

pub use recovery::Recovery;
pub use store::{KEPT_BYTES, KEPT_COMMITS, SledStore};
