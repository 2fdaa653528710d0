//! Packet conformance: one packet at a time through the real programs, by `BPF_PROG_TEST_RUN`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod balancer;
mod conntrack;
mod hairpin;
mod nat;
mod policy;
mod prefilter;
mod service;
mod service_shape;
mod shape;
