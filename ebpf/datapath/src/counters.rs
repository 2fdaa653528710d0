//! What the programs count.
use std::os::fd::AsFd as _;

use weir_abi::{Counter, Direction, METRIC_SLOTS, RULE_COUNTERS, Reason, metric_slot};

use crate::{
    error::{Result, entry, failed},
    kernel::{Kernel, not_prepared},
    live::possible_cpus,
    maps::Map,
    sys::{self, Mapping},
};

/// Packets and bytes per reason and direction, summed over all CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics(Vec<Counter>);

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];
/// The slot of events that were lost.
const LOST: u32 = METRIC_SLOTS - 1;

impl Metrics {
    pub(crate) fn read(map: &Map) -> Result<Self> {
        let mut cells = vec![0u8; size_of::<Counter>() * possible_cpus() as usize];
        let mut slots = vec![Counter::default(); METRIC_SLOTS as usize];
        // Most codes stand for no reason, and each slot is a system call.
        let known = Reason::ALL.iter().flat_map(|reason| DIRECTIONS.map(|direction| metric_slot(*reason, direction)));
        for slot in known.chain([LOST]) {
            sys::lookup_bytes(map.as_fd(), &slot, &mut cells)
                .map_err(|cause| entry("reading from", "METRICS", slot, cause))?;
            let counters = cells.chunks_exact(size_of::<Counter>()).filter_map(sys::value_of);
            slots[slot as usize] = counters.fold(Counter::default(), sum);
        }
        Ok(Self(slots))
    }

    pub fn get(&self, reason: Reason, direction: Direction) -> Counter {
        self.0[metric_slot(reason, direction) as usize]
    }

    /// Those that are not zero.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, Direction, Counter)> + '_ {
        Reason::ALL.iter().flat_map(|reason| {
            DIRECTIONS
                .into_iter()
                .map(|direction| (*reason, direction, self.get(*reason, direction)))
                .filter(|(_, _, counter)| *counter != Counter::default())
        })
    }

    /// Drop events that found the ring buffer full.
    pub fn lost_events(&self) -> u64 {
        self.0[LOST as usize].packets
    }
}

/// Packets and bytes per rule.
#[derive(Debug)]
pub struct RuleCounters {
    mapping: Mapping<Counter>,
    rules: u32,
}

impl RuleCounters {
    pub(crate) fn new(map: &Map) -> Result<Self> {
        let mapping =
            Mapping::new(map.as_fd(), map.entries()).map_err(|cause| failed("mapping", RULE_COUNTERS, cause))?;
        Ok(Self { mapping, rules: map.entries() / possible_cpus() })
    }

    /// Rules that have a counter.
    pub const fn len(&self) -> u32 {
        self.rules
    }

    pub const fn is_empty(&self) -> bool {
        self.rules == 0
    }

    /// Summed over all CPUs; zero for a rule beyond the table.
    pub fn get(&self, rule: u32) -> Counter {
        if rule >= self.rules {
            return Counter::default();
        }
        (0..possible_cpus())
            .map(|cpu| self.mapping.read((cpu * self.rules + rule) as usize))
            .fold(Counter::default(), sum)
    }

    /// Starts a rule's counter anew: its number now stands for another rule.
    pub fn reset(&mut self, rule: u32) {
        if rule < self.rules {
            for cpu in 0..possible_cpus() {
                self.mapping.write((cpu * self.rules + rule) as usize, Counter::default());
            }
        }
    }
}

fn sum(a: Counter, b: Counter) -> Counter {
    Counter { packets: a.packets.wrapping_add(b.packets), bytes: a.bytes.wrapping_add(b.bytes) }
}

impl Kernel {
    pub fn metrics(&mut self) -> Result<Metrics> {
        Metrics::read(self.live()?.metrics.as_ref().ok_or_else(not_prepared)?)
    }

    pub fn rule_counters(&mut self) -> Result<RuleCounters> {
        RuleCounters::new(self.live()?.rule_counters.as_ref().ok_or_else(not_prepared)?)
    }
}
