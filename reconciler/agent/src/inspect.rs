//! What a datapath tells beyond its tables: for status, `get` and `monitor`.
use std::time::Duration;

use weir_abi::{Counter, Direction, PacketEvent, Reason};
use weir_plan::{Datapath, DatapathError};

use crate::{FlowSource, NoFlows, WrittenDocument};

/// A datapath that can be looked into.
pub trait Inspect: Datapath {
    type Events: EventSource;
    type Flows: FlowSource;

    /// Every attached program, in the order of their interfaces.
    fn attachments(&mut self) -> Result<Vec<Attachment>, DatapathError>;

    /// Packets per reason and direction; reasons that never happened are left out.
    fn metrics(&mut self) -> Result<Metrics, DatapathError>;

    /// Packets per rule number, ascending; rules that never matched are left out.
    fn rule_counters(&mut self) -> Result<Vec<(u32, Counter)>, DatapathError>;

    /// Starts these rules' counters anew: the numbers stand for other rules from now on.
    fn reset_rules(&mut self, rules: &[u32]) -> Result<(), DatapathError>;

    /// What this process wrote so far.
    fn written(&mut self) -> WrittenDocument;

    /// What each kernel table takes.
    fn sizes(&mut self) -> Result<Vec<TableSize>, DatapathError>;

    /// The reader of the events; there is one. `None` before the tables exist.
    fn events(&mut self) -> Result<Option<Self::Events>, DatapathError>;

    /// A reader of the flows, which can be taken elsewhere. `None` before the tables exist.
    fn flows(&mut self) -> Result<Option<Self::Flows>, DatapathError>;
}

/// The reading end of the ring buffer.
pub trait EventSource: Send + 'static {
    /// For the next second, flows that begin are events, too.
    fn tell_flows(&mut self) -> std::io::Result<()>;

    /// Waits at most `timeout` for events, and takes them all.
    fn read(&mut self, timeout: Duration, each: &mut dyn FnMut(&PacketEvent)) -> std::io::Result<()>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub interface: String,
    pub program: String,
    /// `xdp native`, `xdp generic`, `tcx`, `clsact`.
    pub mode: String,
    /// Why it is not attached as it was wished.
    pub note: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    pub reasons: Vec<(Reason, Direction, Counter)>,
    /// Events that found the ring buffer full.
    pub lost_events: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSize {
    pub table: String,
    pub side: Option<u32>,
    pub max_entries: u64,
    pub bytes: u64,
}

/// There is nothing to see in a kernel of values beyond its tables.
impl Inspect for weir_plan::fake::FakeDatapath {
    type Events = NoEvents;
    type Flows = NoFlows;

    fn attachments(&mut self) -> Result<Vec<Attachment>, DatapathError> {
        let hooks = |kernel: &mut weir_plan::fake::FakeKernel| {
            let hooks = kernel.live.iter().flat_map(|live| live.wiring.hooks.iter());
            let attachment = |(key, state): &(weir_plan::HookKey, weir_plan::HookState)| Attachment {
                interface: key.place.to_string(),
                program: key.hook.program().to_owned(),
                mode: weir_plan::Show::show(state),
                note: None,
            };
            hooks.map(attachment).collect()
        };
        Ok(self.kernel(hooks))
    }

    fn metrics(&mut self) -> Result<Metrics, DatapathError> {
        Ok(Metrics::default())
    }

    fn rule_counters(&mut self) -> Result<Vec<(u32, Counter)>, DatapathError> {
        Ok(Vec::new())
    }

    fn reset_rules(&mut self, _: &[u32]) -> Result<(), DatapathError> {
        Ok(())
    }

    fn written(&mut self) -> WrittenDocument {
        WrittenDocument::default()
    }

    fn sizes(&mut self) -> Result<Vec<TableSize>, DatapathError> {
        Ok(Vec::new())
    }

    fn events(&mut self) -> Result<Option<NoEvents>, DatapathError> {
        Ok(None)
    }

    fn flows(&mut self) -> Result<Option<NoFlows>, DatapathError> {
        Ok(None)
    }
}

/// No event ever comes.
#[derive(Clone, Copy, Debug)]
pub struct NoEvents;

impl EventSource for NoEvents {
    fn tell_flows(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    fn read(&mut self, timeout: Duration, _: &mut dyn FnMut(&PacketEvent)) -> std::io::Result<()> {
        std::thread::sleep(timeout);
        Ok(())
    }
}
