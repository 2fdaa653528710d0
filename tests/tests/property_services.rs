//! The property, for services: by compiled tables a flow goes to the backends that the reference evaluator names, and
//! policy makes the same of it there.
use std::sync::Arc;

use weir_abi::frontend_flags;
use weir_plan::{Numbering, Provenance, Table, Tables};
use weir_tests::property::{
    check::Disagreement,
    compiled::{compiled, facts},
    generate::generate_with_services,
    objects::objects,
    random::Random,
    seeds::{search, seeds},
    services::{
        check::{Counts, compare},
        flows::flows,
    },
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
    compare(&set, &all, &tables, &rule_of, &flows(&set, &mut Random::new(seed), FLOWS), counts)
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
    let Counts { direct, balanced, backends, denied, own, no_service, no_backend, source_range } = counts;
    let each = [direct, balanced, backends, denied, own, no_service, no_backend, source_range];
    assert!(each.iter().all(|count| *count > 0), "{counts:?}: an answer that was never given proves nothing");
}

fn frontends(tables: &mut Tables, change: fn(u32) -> u32) {
    let changed = tables.frontends.iter().map(|(key, info)| {
        let mut info = *info;
        info.flags = change(info.flags);
        (*key, info)
    });
    tables.frontends = Table::from_unsorted(changed.collect());
}

type Fault = (&'static str, fn(&mut Tables));

const FAULTS: &[Fault] = &[
    ("the other ports of an address are left to themselves", |tables| {
        let others = tables.frontends.iter().filter(|(key, _)| !key.is_address());
        tables.frontends = Table::from_unsorted(others.map(|(key, info)| (*key, *info)).collect());
    }),
    ("cluster addresses are open to everybody", |tables| frontends(tables, |flags| flags | frontend_flags::EXTERNAL)),
    ("externalTrafficPolicy is forgotten", |tables| frontends(tables, |flags| flags & !frontend_flags::EXTERNAL_LOCAL)),
    ("internalTrafficPolicy is forgotten", |tables| frontends(tables, |flags| flags & !frontend_flags::INTERNAL_LOCAL)),
    ("source ranges are forgotten", |tables| frontends(tables, |flags| flags & !frontend_flags::SOURCE_RANGES)),
    ("IPv6 source ranges are lost", |tables| {
        let services = tables.services.iter().map(|(number, service)| {
            let mut service = service.clone();
            service.ranges_v6 = [0; 3];
            (*number, service)
        });
        tables.services = Table::from_unsorted(services.collect());
    }),
    ("local backends are all backends", |tables| {
        let services = tables.services.iter().map(|(number, service)| {
            let mut service = service.clone();
            service.local_slots = Arc::clone(&service.slots);
            (*number, service)
        });
        tables.services = Table::from_unsorted(services.collect());
    }),
    ("backends' ports are in the wrong byte order", |tables| {
        let backends = tables.backends.iter().map(|(number, info)| {
            let mut info = *info;
            info.port_be = info.port_be.swap_bytes();
            (*number, info)
        });
        tables.backends = Table::from_unsorted(backends.collect());
    }),
];

#[test]
fn every_planted_fault_is_seen() {
    for (name, plant) in FAULTS {
        let seen = search(500).any(|seed| !disagreements(seed, *plant, &mut Counts::default()).is_empty());
        assert!(seen, "not seen: {name}");
    }
}
