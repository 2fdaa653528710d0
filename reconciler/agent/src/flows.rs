//! The flows that traffic made.
use weir_abi::{ConntrackEntry, ConntrackKey};
use weir_datapath::FlowCount;
use weir_plan::DatapathError;

/// Reads flows, wherever it was taken: whoever holds the engine need not wait for it.
pub trait FlowSource: Send + 'static {
    /// The programs' jiffies: an entry exists for as long as its `expires` is greater.
    fn now(&self) -> Result<u64, DatapathError>;

    fn jiffies_per_second(&self) -> u32;

    /// Every flow, expired ones included.
    fn walk(&self, each: &mut dyn FnMut(&ConntrackKey, &ConntrackEntry)) -> Result<(), DatapathError>;

    /// Flows per table that have not expired. Costs about the same however many there are.
    fn count(&self) -> Result<Vec<FlowCount>, DatapathError>;
}

/// There never are any.
#[derive(Clone, Copy, Debug)]
pub struct NoFlows;

impl FlowSource for NoFlows {
    fn now(&self) -> Result<u64, DatapathError> {
        Ok(0)
    }

    fn jiffies_per_second(&self) -> u32 {
        1
    }

    fn walk(&self, _: &mut dyn FnMut(&ConntrackKey, &ConntrackEntry)) -> Result<(), DatapathError> {
        Ok(())
    }

    fn count(&self) -> Result<Vec<FlowCount>, DatapathError> {
        Ok(Vec::new())
    }
}
