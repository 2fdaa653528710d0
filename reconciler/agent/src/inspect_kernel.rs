//! The real kernel, looked into.
use std::{io, os::fd::AsFd, time::Duration};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use weir_abi::{ConntrackEntry, ConntrackKey, Counter, PacketEvent};
use weir_datapath::{Events, FlowCount, Flows, Kernel};
use weir_plan::DatapathError;

use crate::{Attachment, EventSource, FlowSource, Inspect, Metrics, TableSize, WrittenDocument};

impl Inspect for Kernel {
    type Events = Events;
    type Flows = Flows;

    fn attachments(&mut self) -> Result<Vec<Attachment>, DatapathError> {
        let attachment = |found: weir_datapath::Attachment| {
            let mut notes = Vec::new();
            notes.extend(found.reason.map(|reason| format!("native was refused: {reason}")));
            if !found.current {
                notes.push("not the program that is loaded now".to_owned());
            }
            if !found.beside.is_empty() {
                let ids: Vec<String> = found.beside.iter().map(ToString::to_string).collect();
                notes.push(format!("runs before the programs {} of others", ids.join(", ")));
            }
            Attachment {
                interface: found.interface,
                program: found.hook.program().to_owned(),
                mode: found.way.to_owned(),
                note: (!notes.is_empty()).then(|| notes.join("; ")),
            }
        };
        Ok(Kernel::attachments(self)?.into_iter().map(attachment).collect())
    }

    fn metrics(&mut self) -> Result<Metrics, DatapathError> {
        let metrics = Kernel::metrics(self)?;
        Ok(Metrics { reasons: metrics.iter().collect(), lost_events: metrics.lost_events() })
    }

    fn rule_counters(&mut self) -> Result<Vec<(u32, Counter)>, DatapathError> {
        let counters = Kernel::rule_counters(self)?;
        let all = (0..counters.len()).map(|rule| (rule, counters.get(rule)));
        Ok(all.filter(|(_, counter)| *counter != Counter::default()).collect())
    }

    fn reset_rules(&mut self, rules: &[u32]) -> Result<(), DatapathError> {
        if self.is_cold() || rules.is_empty() {
            return Ok(());
        }
        let mut counters = Kernel::rule_counters(self)?;
        for rule in rules {
            if counters.get(*rule) != Counter::default() {
                counters.reset(*rule);
            }
        }
        Ok(())
    }

    fn written(&mut self) -> WrittenDocument {
        let weir_datapath::Writes { syscalls, stores } = Kernel::writes(self);
        WrittenDocument { syscalls, stores }
    }

    fn sizes(&mut self) -> Result<Vec<TableSize>, DatapathError> {
        let tables = Kernel::tables(self)?;
        let sizes = tables.into_iter().flat_map(|table| {
            let sided = weir_abi::sided_tables().iter().any(|known| known.name == table.table);
            (0..if sided { 2 } else { 1 }).map(move |side: usize| TableSize {
                table: table.table.to_owned(),
                side: sided.then_some(side as u32),
                max_entries: table.room[side].into(),
                bytes: table.bytes[side],
            })
        });
        Ok(sizes.collect())
    }

    fn events(&mut self) -> Result<Option<Events>, DatapathError> {
        if self.is_cold() { Ok(None) } else { Kernel::events(self).map(Some) }
    }

    fn flows(&mut self) -> Result<Option<Flows>, DatapathError> {
        Kernel::flows(self)
    }
}

impl EventSource for Events {
    fn tell_flows(&mut self) -> io::Result<()> {
        Self::tell_flows(self).map_err(io::Error::other)
    }

    fn read(&mut self, timeout: Duration, each: &mut dyn FnMut(&PacketEvent)) -> io::Result<()> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        while let Some(event) = self.take() {
            each(&event);
        }
        Ok(())
    }
}

/// Entries of a table that are counted one by one: 65,536 take 26 ms.
const COUNTED: usize = 1 << 16;

impl FlowSource for Flows {
    fn now(&self) -> Result<u64, DatapathError> {
        Flows::now(self)
    }

    fn jiffies_per_second(&self) -> u32 {
        Flows::jiffies_per_second(self)
    }

    fn walk(&self, each: &mut dyn FnMut(&ConntrackKey, &ConntrackEntry)) -> Result<(), DatapathError> {
        Flows::walk(self, each)
    }

    fn count(&self) -> Result<Vec<FlowCount>, DatapathError> {
        Flows::count(self, COUNTED).map(Vec::from)
    }
}
