use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Where an apply's time went, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Timings {
    /// Reading the source until it was at rest; 0 where a watch delivered it.
    pub read_us: u64,
    /// Opening the store and what is pinned; 0 in the agent, which has them open.
    pub open_us: u64,
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

impl Timings {
    /// The phases that took any time, in their order, for the log.
    pub fn phases(&self) -> String {
        let phases = [
            ("parse", self.parse_us),
            ("facts", self.facts_us),
            ("compile", self.compile_us),
            ("observe", self.observe_us),
            ("plan", self.plan_us),
            ("prepare", self.prepare_us),
            ("stage", self.stage_us),
            ("flip", self.flip_us),
            ("record", self.record_us),
            ("grace", self.grace_us),
        ];
        let shown = phases.iter().filter(|(_, us)| *us > 0);
        shown.map(|(phase, us)| format!("{phase} {:.3} ms", *us as f64 / 1000.0)).collect::<Vec<_>>().join(", ")
    }
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
