//! Tests of the whole: against the binary and the real kernel.
//!
//! What the tests share lives here; each file in `tests/` is one subject.

pub mod etcd;
pub mod node;
pub mod packet;
pub mod property;
