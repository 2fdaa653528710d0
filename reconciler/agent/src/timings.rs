use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Where an apply's time went, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Timings {
    pub parse_us: u64,
    pub facts_us: u64,
    pub compile_us: u64,
    /// Reading back the live tables, 0 where they were known.
    pub observe_us: u64,
    /// The three-way difference.
    pub plan_us: u64,
    pub prepare_us: u64,
    pub stage_us: u64,
    pub flip_us: u64,
    pub record_us: u64,
    pub grace_us: u64,
    /// From the manifests' bytes to the flip, or to the finding that there is nothing to do.
    pub live_us: u64,
    pub total_us: u64,
}

/// Measures one phase after the other.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    start: Instant,
    lap: Instant,
}

impl Stopwatch {
    pub fn start() -> Self {
        let now = Instant::now();
        Self { start: now, lap: now }
    }

    /// Since the last lap.
    pub fn lap(&mut self) -> u64 {
        let now = Instant::now();
        let lap = now - self.lap;
        self.lap = now;
        lap.as_micros() as u64
    }

    pub fn total(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }
}
