use std::sync::Arc;

use weir_abi::{Generation, Side};

use crate::{
    Capacity, InterfaceName, NodeFacts, Probe, ProbeStep, Session, TableCopy, Tables, TablesDelta, Wiring, WiringDelta,
};

/// The kernel's side of the door.
///
/// The order of an apply is `observe`, then `prepare`, `build` for devices, `stage`, `build` for programs, `flip`,
/// `grace`, `tear`. Every method is
/// idempotent: creating what is there and deleting what is missing are fine. Only `stage` writes tables, only ever the
/// standby side, and never before `grace` has returned for the flip that made it standby.
pub trait Datapath {
    /// Interfaces, addresses and the named network namespaces, now.
    fn facts(&mut self, netns: &[String]) -> Result<NodeFacts, DatapathError>;

    /// Established TCP sessions of others to ports that this host listens on.
    fn sessions(&mut self) -> Vec<Session>;

    /// The whole live state, or `None` when the kernel holds nothing of ours (a cold start). A device that is not up
    /// is left out: an apply that was interrupted before `tear` is then finished by the next one.
    fn observe(&mut self) -> Result<Option<Observed>, DatapathError>;

    /// Whether everything is still `known`: what `observe` gave, with what was staged, flipped, built and torn since.
    /// Costs less than to observe. `false` also where that cannot be told without observing.
    fn unchanged(&mut self, known: &Observed) -> Result<bool, DatapathError>;

    /// The generation word, or `None` on a cold start. Cheap.
    fn generation(&mut self) -> Result<Option<Generation>, DatapathError>;

    /// On a cold start: what [`Self::prepare`] will probably be asked for, so that what takes long may be begun in the
    /// background. Nothing of it can be seen from outside. `None`: it will not come to that.
    fn foresee(&mut self, _capacity: Option<&Capacity>) {}

    /// Makes sure that every table exists and that `tables` will fit: creates, or grows by classes without losing a
    /// packet. Where nothing runs yet, programs may be loaded in the background: that they cannot be is then said by
    /// the first method that needs them.
    fn prepare(&mut self, tables: &Tables, capacity: &Capacity) -> Result<(), DatapathError>;

    /// Creates devices (down) and attaches programs that `delta` adds or changes.
    fn build(&mut self, delta: &WiringDelta) -> Result<(), DatapathError>;

    /// Writes `delta` to the standby side, deletes first, and reads back what was written.
    fn stage(&mut self, delta: &TablesDelta) -> Result<(), DatapathError>;

    /// Sends packets through the programs, on either copy of the tables, unseen by traffic: with a conntrack, counters and
    /// events of their own. Gives for each probe what every program made of it, up to the first that dropped it.
    fn probe(&mut self, copy: TableCopy, probes: &[Probe]) -> Result<Vec<Vec<ProbeStep>>, DatapathError>;

    /// One store: the standby side goes live under a new epoch.
    fn flip(&mut self) -> Result<Generation, DatapathError>;

    /// Returns when no program can still be running on the side that was active before.
    fn grace(&mut self) -> Result<(), DatapathError>;

    /// Brings up what `build` made, detaches and removes what `delta` deletes.
    fn tear(&mut self, delta: &WiringDelta) -> Result<(), DatapathError>;
}

/// Everything that is live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    pub generation: Generation,
    /// Indexed by [`Side::index`].
    pub sides: [Arc<Tables>; 2],
    pub wiring: Wiring,
    pub capacity: Capacity,
}

impl Observed {
    pub fn side(&self, side: Side) -> &Tables {
        &self.sides[side.index() as usize]
    }

    pub fn active(&self) -> &Tables {
        self.side(self.generation.side)
    }

    pub fn standby(&self) -> &Tables {
        self.side(self.generation.side.other())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error("table {table} is full at {limit} entries")]
    Full { table: &'static str, limit: u64 },
    #[error(
        "{interface}: a foreign XDP program (id {program}) is attached; detach it with `ip link set dev {interface} xdp off` or leave the interface out"
    )]
    ForeignXdp { interface: InterfaceName, program: u32 },
    #[error("the interface {interface} is not there")]
    InterfaceMissing { interface: InterfaceName },
    #[error("the network namespace {netns} is not there")]
    NetnsMissing { netns: String },
    #[error("{path} is not a BPF file system; mount one with `mount -t bpf bpf {path}`")]
    NoBpffs { path: String },
    #[error("missing capability {capability}: {cause}")]
    NotPermitted { capability: &'static str, cause: String },
    #[error("the kernel cannot do this: {what}: {cause}")]
    Unsupported { what: String, cause: String },
    #[error("{doing}: table {table}, key {key}: {cause}")]
    Table { doing: &'static str, table: &'static str, key: String, cause: std::io::Error },
    #[error("{doing} {what}: {cause}")]
    Failed { doing: &'static str, what: String, cause: String },
    /// What was read back is not what was written.
    #[error("table {table}: wrote {key} and read something else back")]
    ReadBack { table: &'static str, key: String },
}
