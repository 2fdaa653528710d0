//! The property, in the kernel: the real programs on the real tables answer as the reference evaluator does, for every
//! first packet at every hook, for replies, for flows that live through a change of policy, and for flows to services.
use weir_abi::Generation;
use weir_tests::property::{
    census::Census,
    check::Counts,
    faults::{FAULTS, Plant},
    flows::flows,
    generate::{Generated, generate_on, generate_with_services},
    kernel::{Aim, Lab},
    random::Random,
    seeds::{search, seeds},
    services,
};

const FLOWS: usize = 20;

/// Two sets for one cluster.
fn pair(seed: u64) -> [Generated; 2] {
    [generate_on(seed, seed), generate_on(seed, seed ^ (1 << 63))]
}

fn fail_on(found: &[String]) {
    let first: Vec<&str> = found.iter().take(20).map(String::as_str).collect();
    assert!(found.is_empty(), "{} disagreements:\n{}", found.len(), first.join("\n"));
}

#[test]
fn the_programs_say_what_the_evaluator_says() {
    Lab::run(|lab| {
        let mut counts = Counts::default();
        let mut census = Census::default();
        let mut found = Vec::new();
        for seed in seeds(500) {
            let sets = pair(seed);
            for set in &sets {
                census.add(set);
                let live = lab.install(set, None).expect("a set without a fault is valid");
                found.extend(lab.compare_first(&live, &flows(set, &mut Random::new(seed), FLOWS), &mut counts));
            }
            found.extend(lab.compare_lives([&sets[0], &sets[1]], &mut counts));
            if found.len() > 100 {
                break;
            }
        }
        fail_on(&found);
        census.close(&counts);
    });
}

#[test]
fn the_programs_show_every_planted_fault() {
    const SETS: u64 = 1000;
    Lab::run(|lab| {
        let seeds = search(SETS);
        let mut unseen = Vec::new();
        for fault in FAULTS {
            let mut tried = 0;
            let first = seeds.clone().find_map(|seed| {
                tried += 1;
                let set = generate_on(seed, seed);
                let live = lab.install(&set, Some(&fault.plant))?;
                let flows = flows(&set, &mut Random::new(seed), FLOWS);
                lab.compare_first(&live, &flows, &mut Counts::default()).into_iter().next()
            });
            match first {
                Some(first) => println!("{:55} set {tried:3}: {first}", fault.name),
                None => unseen.push(fault.name),
            }
        }
        println!("{} faults", FAULTS.len());
        assert!(FAULTS.len() >= 20 && unseen.is_empty(), "not seen in {SETS} sets: {unseen:?}");
    });
}

#[test]
fn the_programs_send_flows_where_the_evaluator_says() {
    Lab::run(|lab| {
        let mut counts = services::check::Counts::default();
        let mut found = Vec::new();
        for seed in seeds(200) {
            let set = generate_with_services(seed);
            let live = lab.install(&set, None).expect("a set without a fault is valid");
            let to_services = services::flows::flows(&set, &mut Random::new(seed), FLOWS);
            found.extend(lab.compare_services(&live, &to_services, &mut counts));
            let others = flows(&set, &mut Random::new(seed), FLOWS);
            found.extend(lab.compare_services(&live, &others, &mut counts));
            found.extend(lab.compare_masquerade(&live, &mut counts));
            if found.len() > 100 {
                break;
            }
        }
        println!("{counts:?}");
        fail_on(&found);
        let services::check::Counts { direct, balanced, denied, own, no_service, .. } = counts;
        let services::check::Counts { no_backend, source_range, masqueraded, spared, .. } = counts;
        let each = [direct, balanced, denied, own, no_service, no_backend, source_range, masqueraded, spared];
        assert!(each.iter().all(|count| *count > 0), "{counts:?}: an answer that was never given proves nothing");
    });
}

#[test]
fn the_programs_show_every_planted_fault_of_services() {
    const SETS: u64 = 200;
    Lab::run(|lab| {
        let seeds = search(SETS);
        let mut unseen = Vec::new();
        for (name, plant) in services::faults::FAULTS.iter().chain(services::faults::OUTWARD_FAULTS) {
            let first = seeds.clone().find_map(|seed| {
                let set = generate_with_services(seed);
                let live = lab.install(&set, Some(&Plant::Tables(*plant)))?;
                let to_services = services::flows::flows(&set, &mut Random::new(seed), FLOWS);
                let mut counts = services::check::Counts::default();
                let mut found = lab.compare_services(&live, &to_services, &mut counts);
                found.extend(lab.compare_masquerade(&live, &mut counts));
                found.into_iter().next()
            });
            match first {
                Some(first) => println!("{name:55} {first}"),
                None => unseen.push(*name),
            }
        }
        assert!(unseen.is_empty(), "not seen in {SETS} sets: {unseen:?}");
    });
}

/// What a wrong generation word does to flows that live on.
const STALE: [(&str, Aim); 3] = [
    ("the epoch does not grow", |before, after| Generation { epoch: before.epoch.min(2), ..after }),
    ("the side is the old one", |before, after| Generation { side: before.side, ..after }),
    ("the word is the old one", |before, _| before),
];

#[test]
fn a_stale_generation_is_seen() {
    const SETS: u64 = 200;
    Lab::run(|lab| {
        let seeds = search(SETS);
        let mut unseen = Vec::new();
        // Told the truth, the second instance agrees.
        lab.mislead(Some(|_, after| after));
        for seed in seeds.clone().take(10) {
            let sets = pair(seed);
            fail_on(&lab.compare_lives([&sets[0], &sets[1]], &mut Counts::default()));
        }
        for (name, aim) in STALE {
            lab.mislead(Some(aim));
            let mut tried = 0;
            let first = seeds.clone().find_map(|seed| {
                tried += 1;
                let sets = pair(seed);
                lab.compare_lives([&sets[0], &sets[1]], &mut Counts::default()).into_iter().next()
            });
            match first {
                Some(first) => println!("{name:55} set {tried:3}: {first}"),
                None => unseen.push(name),
            }
        }
        assert!(unseen.is_empty(), "not seen in {SETS} sets: {unseen:?}");
    });
}
