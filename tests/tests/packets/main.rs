//! Packet conformance: one packet at a time through the real programs, by `BPF_PROG_TEST_RUN`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod conntrack;
mod nat;
mod policy;
mod prefilter;
mod service;
mod shape;
