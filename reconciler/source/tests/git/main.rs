//! git as a source, against the real git: repositories on this machine and elsewhere, whatever is done to them.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod following;
mod http;
mod reading;
mod remote;
mod repo;
mod signatures;
mod trees;
