//! The generated sets themselves: valid, varied, and about as often allowed as denied.
use std::{collections::BTreeMap, sync::Arc};

use weir_oracle::World;
use weir_tests::property::{FEATURES, flows::flows, generate::generate, objects::objects, random::Random, topology};

#[test]
fn every_feature_appears_and_flows_are_allowed_and_denied_about_equally() {
    const SETS: usize = 1000;
    let mut seen: BTreeMap<&str, usize> = FEATURES.iter().map(|feature| (*feature, 0)).collect();
    let (mut allowed, mut all, mut rules) = (0, 0, 0);
    for seed in 0..SETS as u64 {
        let set = generate(seed);
        set.features.iter().for_each(|feature| *seen.entry(feature).or_default() += 1);
        rules += set.rules;
        assert!((2..=50).contains(&set.rules), "set {seed:#x} has {} rules", set.rules);
        let objects: Vec<Arc<_>> = objects(&set).objects().cloned().collect();
        let world = World::new(&objects, topology::NODE, &set.topology.host);
        for flow in flows(&set, &mut Random::new(seed), 20) {
            all += 1;
            allowed += usize::from(world.judge(&flow).allowed());
        }
    }
    for (feature, count) in &seen {
        println!("{feature:40} {:5.1} % of the sets", *count as f64 * 100.0 / SETS as f64);
    }
    println!("{SETS} sets, {rules} rules, {all} flows, {allowed} allowed");
    let rare: Vec<_> = seen.iter().filter(|(_, count)| **count * 50 < SETS).collect();
    assert!(rare.is_empty(), "in less than 2 % of the sets: {rare:?}");
    assert!((30..=70).contains(&(allowed * 100 / all)), "{allowed} of {all} flows are allowed");
}
