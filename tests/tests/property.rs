//! The property, in memory: compiled tables answer as the reference evaluator does. The same with the real programs in
//! the kernel is `property_kernel.rs`.
use std::{collections::BTreeMap, sync::Arc};

use weir_oracle::World;
use weir_plan::{Numbering, Provenance};
use weir_tests::property::{
    FEATURES,
    check::{Counts, Disagreement, compare},
    compiled::{compiled, facts},
    faults::{FAULTS, Fault, Plant},
    flows::flows,
    generate::{Generated, generate},
    objects::{objects, try_objects},
    random::Random,
    seeds::seeds,
    topology,
};

const FLOWS: usize = 20;

#[test]
fn every_feature_appears_and_flows_are_allowed_and_denied_about_equally() {
    const SETS: usize = 1000;
    let mut seen: BTreeMap<&str, usize> = FEATURES.iter().map(|feature| (*feature, 0)).collect();
    let (mut allowed, mut all, mut rules) = (0, 0, 0);
    for seed in seeds(SETS as u64) {
        let set = generate(seed);
        set.features.iter().for_each(|feature| *seen.entry(feature).or_default() += 1);
        rules += set.rules;
        assert!((2..=50).contains(&set.rules), "set {seed:#x} has {} rules", set.rules);
        let objects: Vec<Arc<_>> = objects(&set).objects().cloned().collect();
        let world = World::new(&objects, topology::NODE, &set.topology.host);
        for flow in flows(&set, &mut Random::new(seed), FLOWS) {
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

/// A set through parser and compiler, compared with the evaluator. The numbers are the ones of a fresh node. With a
/// fault, what is compiled or what comes of it is not what the evaluator reads.
fn disagreements(set: &Generated, fault: Option<&Fault>, counts: &mut Counts) -> Vec<Disagreement> {
    let all: Vec<Arc<_>> = objects(set).objects().cloned().collect();
    let inventory = match fault.map(|fault| fault.plant) {
        Some(Plant::Manifests(plant)) => {
            let mut documents = set.documents.clone();
            plant(&mut documents);
            // A fault may make a set that is refused: another will do.
            match try_objects(&set.rewritten(documents)) {
                Ok(inventory) => inventory,
                Err(_) => return Vec::new(),
            }
        }
        _ => objects(set),
    };
    let compiled = compiled(&inventory, &facts(), &mut Numbering::default(), 1)
        .unwrap_or_else(|errors| panic!("set {:#x} does not compile: {errors}", set.seed));
    let mut tables = (*compiled.tables).clone();
    if let Some(Plant::Tables(plant)) = fault.map(|fault| fault.plant) {
        plant(&mut tables);
    }
    let rule_of = |rule| compiled.provenance.rule(rule).cloned();
    let flows = flows(set, &mut Random::new(set.seed), FLOWS);
    compare(set, &all, &tables, &rule_of, &flows, counts)
}

#[test]
fn compiled_tables_say_what_the_evaluator_says() {
    let mut counts = Counts::default();
    let mut found = Vec::new();
    for seed in seeds(4000) {
        found.extend(disagreements(&generate(seed), None, &mut counts));
    }
    println!("{counts:?}");
    let first: Vec<String> = found.iter().take(20).map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} disagreements:\n{}", found.len(), first.join("\n"));
}

#[test]
fn every_planted_fault_is_seen() {
    const SETS: u64 = 3000;
    let seeds = seeds(SETS);
    let mut unseen = Vec::new();
    for fault in FAULTS {
        let mut tried = 0;
        let first = seeds.clone().find_map(|seed| {
            tried += 1;
            // By what it does to packets, not by the name of the rule alone.
            let found = disagreements(&generate(seed), Some(fault), &mut Counts::default());
            found.into_iter().find(|one| fault.renames_only || one.differs_in_verdict)
        });
        match first {
            Some(first) => println!("{:55} set {tried:3}: {}", fault.name, first.what),
            None => unseen.push(fault.name),
        }
    }
    println!("{} faults", FAULTS.len());
    assert!(FAULTS.len() - unseen.len() >= 20 && unseen.is_empty(), "not seen in {SETS} sets: {unseen:?}");
}
