//! What a run was made of: a property that is never asked a question always holds.
use std::collections::BTreeMap;

use super::{FEATURES, check::Counts, generate::Generated};

#[derive(Clone, Debug, Default)]
pub struct Census {
    features: BTreeMap<&'static str, usize>,
    sets: usize,
    rules: usize,
}

impl Census {
    pub fn add(&mut self, set: &Generated) {
        assert!((2..=50).contains(&set.rules), "set {:#x} has {} rules", set.seed, set.rules);
        self.sets += 1;
        self.rules += set.rules;
        set.features.iter().for_each(|feature| *self.features.entry(feature).or_default() += 1);
    }

    /// Prints what there was, and fails when something hardly was.
    pub fn close(&self, counts: &Counts) {
        let of = |feature: &&'static str| self.features.get(feature).copied().unwrap_or(0);
        let rare: Vec<_> = FEATURES.iter().filter(|feature| of(feature) * 50 < self.sets).collect();
        for feature in FEATURES {
            println!("{feature:40} {:5.1} % of the sets", of(feature) as f64 * 100.0 / self.sets as f64);
        }
        println!("{} sets, {} rules, {counts:?}", self.sets, self.rules);
        // A handful of sets says nothing about shares.
        if self.sets >= 500 {
            assert!(rare.is_empty(), "in less than 2 % of the sets: {rare:?}");
            let share = counts.allowed * 100 / counts.flows.max(1);
            assert!((30..=70).contains(&share), "{} of {} flows are allowed", counts.allowed, counts.flows);
        }
    }
}
