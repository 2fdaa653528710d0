//! What the agent counts of its own work, since it started.
use std::time::{Duration, Instant};

use weir_plan::Operation;

use crate::clock;

/// How attempts to bring the node into the wanted state ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Applied,
    Healed,
    RolledBack,
    Unchanged,
    Failed,
}

impl Outcome {
    pub const ALL: [Self; 5] = [Self::Applied, Self::Healed, Self::RolledBack, Self::Unchanged, Self::Failed];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Healed => "healed",
            Self::RolledBack => "rolled_back",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// In the order of [`Outcome::ALL`].
    outcomes: [u64; Outcome::ALL.len()],
    pub durations: Durations,
    pub flips: u64,
    /// Entries that others changed.
    pub drift_found: u64,
    pub drift_healed: u64,
    /// The last attempt that did not fail.
    pub succeeded_unix_ms: Option<u64>,
    /// What the attempt that is being made has done so far.
    done: Option<Operation>,
}

impl Tally {
    /// An attempt begins.
    pub fn begin(&mut self) -> Instant {
        self.done = None;
        Instant::now()
    }

    /// A commit was made.
    pub fn committed(&mut self, operation: Operation, flipped: bool) {
        self.done = Some(operation);
        self.flips += u64::from(flipped);
    }

    /// The attempt that began at `start` is over.
    pub fn end(&mut self, start: Instant, succeeded: bool) {
        let outcome = match (succeeded, self.done.take()) {
            (false, _) => Outcome::Failed,
            (true, Some(Operation::Apply)) => Outcome::Applied,
            (true, Some(Operation::Heal)) => Outcome::Healed,
            (true, Some(Operation::Rollback)) => Outcome::RolledBack,
            (true, None) => Outcome::Unchanged,
        };
        self.outcomes[outcome as usize] += 1;
        self.durations.add(start.elapsed());
        if succeeded {
            self.succeeded_unix_ms = Some(clock::unix_ms());
        }
    }

    /// Drift is `now` entries where it was `before`, and `healed` were written again.
    pub fn drifted(&mut self, before: u64, now: u64, healed: u64) {
        self.drift_found += (now + healed).saturating_sub(before);
        self.drift_healed += healed;
    }

    pub fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> + '_ {
        Outcome::ALL.into_iter().zip(self.outcomes)
    }
}

/// A histogram of durations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durations {
    /// Up to each bound; longer ones are only in `count`.
    within: [u64; BOUNDS.len()],
    pub count: u64,
    pub sum: Duration,
}

/// In seconds. A look that finds nothing takes a few milliseconds, half a million entries half a second.
const BOUNDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

impl Durations {
    fn add(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        for (within, bound) in self.within.iter_mut().zip(BOUNDS) {
            *within += u64::from(seconds <= bound);
        }
        self.count += 1;
        self.sum += duration;
    }

    /// Each bound, and how many were not longer.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        BOUNDS.into_iter().zip(self.within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(tally: &Tally) -> Vec<(&'static str, u64)> {
        tally.outcomes().filter(|(_, count)| *count > 0).map(|(outcome, count)| (outcome.name(), count)).collect()
    }

    #[test]
    fn an_attempt_is_counted_once_as_what_it_came_to() {
        let mut tally = Tally::default();
        for (operation, succeeds) in [
            (None, true),
            (Some(Operation::Apply), true),
            (Some(Operation::Heal), true),
            (Some(Operation::Rollback), true),
            (Some(Operation::Heal), false),
            (None, false),
        ] {
            let start = tally.begin();
            if let Some(operation) = operation {
                tally.committed(operation, operation != Operation::Heal);
            }
            tally.end(start, succeeds);
        }
        let expected = [("applied", 1), ("healed", 1), ("rolled_back", 1), ("unchanged", 1), ("failed", 2)];
        assert_eq!(counts(&tally), expected);
        assert_eq!((tally.flips, tally.durations.count), (2, 6));
        assert!(tally.succeeded_unix_ms.is_some());
    }

    #[test]
    fn drift_is_found_once() {
        let mut tally = Tally::default();
        // Seen and left, seen again, more of it, healed.
        for (before, now, healed) in [(0, 2, 0), (2, 2, 0), (2, 5, 0), (5, 0, 5)] {
            tally.drifted(before, now, healed);
        }
        assert_eq!((tally.drift_found, tally.drift_healed), (5, 5));
        tally.drifted(0, 0, 3);
        assert_eq!((tally.drift_found, tally.drift_healed), (8, 8));
        // Somebody else put it back.
        tally.drifted(4, 0, 0);
        assert_eq!((tally.drift_found, tally.drift_healed), (8, 8));
    }

    #[test]
    fn buckets_are_cumulative() {
        let mut durations = Durations::default();
        for ms in [1, 4, 600, 40_000] {
            durations.add(Duration::from_millis(ms));
        }
        let within = |bound: f64| durations.cumulative().find(|(found, _)| *found == bound).unwrap().1;
        assert_eq!([0.001, 0.0025, 0.005, 0.5, 1.0, 30.0].map(within), [1, 1, 2, 2, 3, 3]);
        assert_eq!((durations.count, durations.sum), (4, Duration::from_millis(40_605)));
    }
}
