//! The property, for services: by compiled tables a flow goes to the backends that the reference evaluator names, and
//! policy makes the same of it there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::{net::IpAddr, sync::Arc};

use serde_json::Value;
use weir_abi::Reason;
use weir_compile::{
    BackendFate, BackendTrace, ChangedFlow, Compiled, Decision, Fate, Outcome, Trace, TraceFlow, Who, flow_changes,
};
use weir_oracle::{Delivery, End, Flow, Verdict, World};
use weir_plan::{Numbering, Provenance, Tables};
use weir_tests::property::{
    check::Disagreement,
    compiled::{compiled, facts},
    generate::generate_with_services,
    model::protocol_and_port,
    objects::{objects, try_objects},
    random::Random,
    seeds::{search, seeds},
    services::{
        check::{Counts, compare, compare_masquerade},
        faults::{FAULTS, OUTWARD_FAULTS},
        flows::flows,
    },
    topology::NODE,
};

const FLOWS: usize = 30;

fn disagreements(seed: u64, plant: fn(&mut Tables), counts: &mut Counts) -> Vec<Disagreement> {
    let set = generate_with_services(seed);
    let inventory = objects(&set);
    let all: Vec<Arc<_>> = inventory.objects().collect();
    let compiled = compiled(&inventory, &facts(), &mut Numbering::default(), 1)
        .unwrap_or_else(|errors| panic!("set {seed:#x} does not compile: {errors}"));
    let mut tables = (*compiled.tables).clone();
    plant(&mut tables);
    let rule_of = |rule| compiled.provenance.rule(rule).cloned();
    let mut found = compare(&set, &all, &tables, &rule_of, &flows(&set, &mut Random::new(seed), FLOWS), counts);
    found.extend(compare_masquerade(&set, &all, &tables, counts));
    found
}

#[test]
fn compiled_services_send_flows_where_the_evaluator_says() {
    let mut counts = Counts::default();
    let mut found = Vec::new();
    for seed in seeds(3000) {
        found.extend(disagreements(seed, |_| {}, &mut counts));
    }
    println!("{counts:?}");
    let first: Vec<String> = found.iter().take(20).map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} disagreements:\n{}", found.len(), first.join("\n"));
    let Counts { direct, balanced, backends, denied, own, no_service, no_backend, source_range, masqueraded, spared } =
        counts;
    let each = [direct, balanced, backends, denied, own, no_service, no_backend, source_range, masqueraded, spared];
    assert!(each.iter().all(|count| *count > 0), "{counts:?}: an answer that was never given proves nothing");
}

fn trace(compiled: &Compiled, flow: &Flow) -> Trace {
    let (source, destination) = (Who::Addresses(vec![flow.source]), Who::Addresses(vec![flow.destination]));
    let (protocol, port) = protocol_and_port(flow.protocol);
    compiled.trace(&TraceFlow { source, destination, protocol, port }).unwrap()
}

/// The verdict and the rule's path, of an end that is of this node.
type Said = Option<(Verdict, Option<String>)>;

fn evaluated(end: &End) -> Said {
    end.subject.as_ref().map(|_| (end.verdict, end.rule.as_ref().map(|rule| rule.path.clone())))
}

fn traced(decision: &Option<Decision>) -> Said {
    let decision = decision.as_ref()?;
    let verdict = match decision.outcome {
        Outcome::NotEnforced | Outcome::Allow => Verdict::Allow,
        Outcome::Deny => Verdict::RuleDeny,
        Outcome::DefaultDeny => Verdict::DefaultDeny,
    };
    Some((verdict, decision.rule.as_ref().map(|rule| rule.path.to_string())))
}

#[test]
fn a_trace_says_what_the_evaluator_says() {
    let mut counts = [0; 3];
    for seed in seeds(1000) {
        let set = generate_with_services(seed);
        let inventory = objects(&set);
        let all: Vec<Arc<_>> = inventory.objects().collect();
        let world = World::new(&all, NODE, &set.topology.host);
        let compiled = compiled(&inventory, &facts(), &mut Numbering::default(), 1).unwrap();
        for flow in flows(&set, &mut Random::new(seed), FLOWS) {
            let found = trace(&compiled, &flow).service;
            let name = |found: &Option<weir_plan::ObjectRef>| found.as_ref().map(|one| Arc::clone(&one.name));
            match world.deliver(&flow) {
                Delivery::Direct(_) => {
                    counts[0] += 1;
                    assert_eq!(found, None, "set {seed:#x}: {flow}");
                }
                Delivery::Dropped(drop) => {
                    counts[1] += 1;
                    let found = found.unwrap_or_else(|| panic!("set {seed:#x}: {flow}: no service"));
                    assert_eq!(found.dropped.map(Reason::name), Some(drop.reason()), "set {seed:#x}: {flow}");
                    if let Some(service) = drop.service() {
                        assert_eq!(name(&found.service).as_deref(), Some(&*service.name), "set {seed:#x}: {flow}");
                    }
                }
                Delivery::Balanced { service, backends } => {
                    counts[2] += 1;
                    let found = found.unwrap_or_else(|| panic!("set {seed:#x}: {flow}: no service"));
                    assert_eq!(name(&found.service).as_deref(), Some(&*service.name), "set {seed:#x}: {flow}");
                    let meant = backends.iter().map(|one| {
                        let judged = &one.judgement;
                        (Some(one.address), one.port, evaluated(&judged.egress), evaluated(&judged.ingress))
                    });
                    let of =
                        |one: &BackendTrace| (one.backend.address, one.port, traced(&one.egress), traced(&one.ingress));
                    let said: Vec<_> = found.backends.iter().map(of).collect();
                    assert_eq!(said, meant.collect::<Vec<_>>(), "set {seed:#x}: {flow}");
                }
            }
        }
    }
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

/// What a service makes of a flow.
type Served = (Option<Reason>, Vec<(IpAddr, u16, bool)>);

fn served(trace: &Trace) -> Served {
    let Some(service) = &trace.service else { return (None, Vec::new()) };
    let of = |one: &BackendTrace| Some((one.backend.address?, one.port, one.passes()));
    (service.dropped, service.backends.iter().filter_map(of).collect())
}

fn told(fate: &Fate) -> Served {
    let of = |one: &BackendFate| (one.address, one.port, one.passes);
    (fate.dropped, fate.backends.iter().map(of).collect())
}

#[test]
fn every_flow_to_a_frontend_that_changes_is_told() {
    let seeds = seeds(1000);
    let sets = (seeds.end - seeds.start) as usize;
    let mut changed = 0;
    for seed in seeds {
        let set = generate_with_services(seed);
        let mut random = Random::new(seed ^ 0x5eed);
        let mut fewer = set.documents.clone();
        fewer.retain(|document| {
            let kind = document["kind"].as_str().unwrap_or_default();
            !(kind.ends_with("Policy") || matches!(kind, "Service" | "EndpointSlice")) || random.chance(66)
        });
        for document in &mut fewer {
            if let Some(backends) = document.pointer_mut("/spec/backends").and_then(Value::as_array_mut) {
                backends.truncate(random.within(1..=6));
            }
        }
        let Ok(fewer) = try_objects(&set.rewritten(fewer)) else { continue };
        let mut numbering = Numbering::default();
        let mut compile = |inventory, sequence| compiled(inventory, &facts(), &mut numbering, sequence).unwrap();
        let (before, after) = (compile(&objects(&set), 1), compile(&fewer, 2));
        let changes = flow_changes(&before, &after);
        let of_services = changes.iter().filter(|change| matches!(change.flow, ChangedFlow::Service { .. }));
        let fates: Vec<[Served; 2]> = of_services.map(|one| [told(&one.before), told(&one.after)]).collect();
        for flow in flows(&set, &mut Random::new(seed), FLOWS) {
            let fate = [&before, &after].map(|compiled| served(&trace(compiled, &flow)));
            let is_of_port =
                |one: &Served| one.0.is_some_and(|reason| reason != Reason::NoService) || !one.1.is_empty();
            // One that is its own backend is told of by another client.
            let is_own = fate.iter().any(|one| one.1.iter().any(|backend| backend.0 == flow.source));
            if fate[0] == fate[1] || !fate.iter().any(is_of_port) || is_own {
                continue;
            }
            changed += 1;
            assert!(fates.contains(&fate), "set {seed:#x}: {flow}, {fate:?} is not told: {fates:#?}");
        }
    }
    println!("{changed} flows changed");
    assert!(changed > sets / 4, "{changed} flows of {sets} sets");
}

#[test]
fn every_planted_fault_is_seen() {
    for (name, plant) in FAULTS.iter().chain(OUTWARD_FAULTS) {
        let seen = search(500).any(|seed| !disagreements(seed, *plant, &mut Counts::default()).is_empty());
        assert!(seen, "not seen: {name}");
    }
}
