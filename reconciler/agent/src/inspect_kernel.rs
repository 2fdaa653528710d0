//! The real kernel, looked into.
use std::time::Duration;

use weir_abi::{Counter, DropEvent};
use weir_datapath::Kernel;
use weir_plan::DatapathError;

use crate::{Attachment, EventSource, Inspect, Metrics, TableSize};

impl Inspect for Kernel {
    type Events = KernelEvents;

    fn attachments(&mut self) -> Result<Vec<Attachment>, DatapathError> {
        Ok(Vec::new())
    }

    fn metrics(&mut self) -> Result<Metrics, DatapathError> {
        Ok(Metrics::default())
    }

    fn rule_counters(&mut self) -> Result<Vec<(u32, Counter)>, DatapathError> {
        Ok(Vec::new())
    }

    fn sizes(&mut self) -> Result<Vec<TableSize>, DatapathError> {
        Ok(Vec::new())
    }

    fn events(&mut self) -> Result<Option<KernelEvents>, DatapathError> {
        Ok(None)
    }
}

/// The ring buffer's reading end.
#[derive(Debug)]
pub struct KernelEvents;

impl EventSource for KernelEvents {
    fn read(&mut self, timeout: Duration, _: &mut dyn FnMut(&DropEvent)) -> std::io::Result<()> {
        std::thread::sleep(timeout);
        Ok(())
    }
}
