//! The live side: the kernel behind `weir_plan::Datapath`.
//!
//! [`Kernel`] finds, makes, pins and checks the maps, loads and attaches the programs, writes the standby side of the
//! tables and flips the generation word. The programs' object is inside this crate (`build.rs` makes it).
//!
//! Promises: only the standby side is written, only after no program can hold it, and only what differs; what is
//! written is read back; pins are replaced by rename; a packet never meets no program where one was before.
//! Must never: touch a pin, link, filter or device that is not ours; mount a file system; read a manifest; decide what
//! should be.
mod attach;
mod clock;
mod conntrack;
mod counters;
mod digest;
mod doctor;
mod error;
mod events;
mod generation;
mod hash;
mod kernel;
mod live;
mod mapped;
mod maps;
mod netlink;
mod observe;
mod orphans;
mod pins;
mod predecessor;
pub mod prefix_tree;
mod prepare;
mod probe;
mod programs;
mod services;
mod sessions;
mod sided;
mod stage;
mod status;
pub mod sys;
mod test_run;
mod uninstall;
mod verify;
mod wiring;

pub use clock::jiffies_per_second;
pub use conntrack::{Conntrack, FlowCount, Flows};
pub use counters::{Metrics, RuleCounters};
pub use doctor::Machine;
pub use events::Events;
pub use kernel::{Kernel, Options, Writes};
pub use programs::object;
pub use status::{Attachment, ProgramUse, TableUse};
pub use test_run::{CheckInstance, Outcome, Packet};
pub use uninstall::{Belongings, Residue};

/// What the tc programs return for a packet that goes on, as a test run shows it.
pub const TC_PASS: i32 = weir_abi::tc_action::CONTINUE;

const _: () = {
    const fn send<T: Send>() {}
    send::<Kernel>();
    send::<CheckInstance>();
};
