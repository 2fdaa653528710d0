//! The property, in memory: compiled tables answer as the reference evaluator does. The same with the real programs in
//! the kernel is `property_kernel.rs`.
use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;
use weir_compile::{Outcome, Trace, TraceFlow, Who, flow_changes};
use weir_oracle::FlowProtocol;
use weir_plan::{Numbering, Provenance};
use weir_tests::property::{
    census::Census,
    check::{Counts, Disagreement, compare},
    compiled::{compiled, facts},
    faults::{FAULTS, Fault, Plant},
    flows::flows,
    generate::{Generated, generate},
    objects::{objects, try_objects},
    random::Random,
    seeds::{search, seeds},
};

const FLOWS: usize = 20;

/// A set through parser and compiler, compared with the evaluator. The numbers are the ones of a fresh node. With a
/// fault, what is compiled or what comes of it is not what the evaluator reads.
fn disagreements(set: &Generated, fault: Option<&Fault>, counts: &mut Counts) -> Vec<Disagreement> {
    let all: Vec<Arc<_>> = objects(set).objects().collect();
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
    let mut census = Census::default();
    for seed in seeds(4000) {
        let set = generate(seed);
        census.add(&set);
        found.extend(disagreements(&set, None, &mut counts));
    }
    let first: Vec<String> = found.iter().take(20).map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} disagreements:\n{}", found.len(), first.join("\n"));
    census.close(&counts);
}

/// A commit that takes policies and filters away: whenever a flow meets another fate, `diff --flows` has something to say.
#[test]
fn no_flow_changes_its_verdict_untold() {
    let (mut changed, mut told) = (0, 0);
    let seeds = seeds(1500);
    let sets = (seeds.end - seeds.start) as usize;
    for seed in seeds {
        let set = generate(seed);
        let mut random = Random::new(seed ^ 0x5eed);
        let judges = ["NetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "CidrFilter"];
        let is_judge = |document: &Value| judges.iter().any(|kind| document["kind"] == *kind);
        let mut fewer = set.documents.clone();
        fewer.retain(|document| !is_judge(document) || random.chance(66));
        let Ok(fewer) = try_objects(&set.rewritten(fewer)) else { continue };
        let mut numbering = Numbering::default();
        let mut compile = |inventory, sequence| {
            compiled(inventory, &facts(), &mut numbering, sequence)
                .unwrap_or_else(|errors| panic!("set {seed:#x} does not compile: {errors}"))
        };
        let (before, after) = (compile(&objects(&set), 1), compile(&fewer, 2));
        let changes = flow_changes(&before, &after);
        told += usize::from(!changes.is_empty());
        for flow in flows(&set, &mut Random::new(seed), FLOWS) {
            let (protocol, port) = match flow.protocol {
                FlowProtocol::Tcp { destination, .. } => (6, destination),
                FlowProtocol::Udp { destination, .. } => (17, destination),
                FlowProtocol::Sctp { destination, .. } => (132, destination),
                FlowProtocol::Icmp { kind } => (1, kind.into()),
                FlowProtocol::Icmpv6 { kind } => (58, kind.into()),
                FlowProtocol::Other(number) => (number, 0),
            };
            let (source, destination) = (Who::Addresses(vec![flow.source]), Who::Addresses(vec![flow.destination]));
            let asked = TraceFlow { source, destination, protocol, port };
            let [was, is] = [&before, &after].map(|compiled| compiled.trace(&asked).unwrap());
            // A device that no filter watches drops nothing.
            let fate = |trace: &Trace| {
                let dropped = trace.prefilter.iter().filter(|device| device.drops);
                let judged = trace.egress.iter().chain(&trace.ingress);
                let dropped: BTreeSet<_> = dropped.map(|device| device.interface.clone()).collect();
                (dropped, judged.map(|decision| decision.outcome).all(Outcome::passes))
            };
            if fate(&was) != fate(&is) {
                changed += 1;
                assert!(!changes.is_empty(), "set {seed:#x}: {flow}, and nothing is told: {was:#?} {is:#?}");
            }
        }
    }
    println!("{changed} flows changed, {told} commits were told of");
    assert!(changed > sets / 4 && told > sets / 4, "{changed} flows, {told} commits of {sets}");
}

#[test]
fn every_planted_fault_is_seen() {
    const SETS: u64 = 3000;
    let seeds = search(SETS);
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
