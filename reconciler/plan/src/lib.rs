//! What is to be done, as a value.
//!
//! Tables as plain values ([`Tables`]), the three-way difference between what is desired, what was applied and what is
//! live ([`Plan`]), and the two doors to the outside ([`Datapath`], [`Store`]) as traits. What `diff` prints and what
//! `apply` executes is the same [`Plan`].
//!
//! Pure: no file, socket, clock or thread. It knows tables and entries; it never knows a manifest, a map's file
//! descriptor or a byte of netlink.
#![forbid(unsafe_code)]

mod datapath;
mod facts;
pub mod fake;
mod numbering;
mod object;
mod plan;
mod prefix;
mod probe;
mod service;
mod show;
mod store;
mod table;
mod tables;
mod wiring;

pub use datapath::{Datapath, DatapathError, Observed};
pub use facts::{Delivery, InterfaceFacts, NetnsFacts, NodeFacts, Session};
pub use numbering::{Numbering, OutOfNumbers, Space};
pub use object::{ObjectRef, Owner, Pending, Provenance, RuleRef};
pub use plan::{Action, ObjectChange, Plan, Summary, Target};
pub use prefix::{Prefix4, Prefix6};
pub use probe::{Backends, Onward, Probe, ProbeStep, TableCopy};
pub use service::{Service, address_of, ip_of};
pub use show::Show;
pub use store::{Commit, FileRef, Journal, Operation, Phase, Store, StoreError, Suspension};
pub use table::{Change, Iter, Table};
pub use tables::{AnyChange, Capacity, Delta, Tables, TablesDelta};
pub use wiring::{
    Device, EndpointPair, Hook, HookKey, HookState, InterfaceName, Place, ROUTER, ROUTER_PEER, RouterPair, Wiring,
    WiringDelta, XdpAttach,
};
