//! Whether everything is as it was known to be, told without reading it back.
mod node;

use std::sync::Arc;

use node::{apply, ip, node, observe, open, pin_dir, prefix4, prefix6, some_tables};
use weir_abi::{InterfaceInfo, PolicyEntry, PolicyKey, PrefilterClass, Settings, SubjectInfo, TupleClass};
use weir_datapath::Kernel;
use weir_plan::{Datapath as _, Observed, Tables};

/// Enough policies that they are summed up inside the kernel.
fn many() -> Tables {
    let key = |n: u32| PolicyKey::new(300 + n, 0, 0, TupleClass::new(Some(16), true), 6, 80);
    let policy = (0..5000).map(|n| (key(n), PolicyEntry { rule: n, verdict: 1, ..PolicyEntry::default() })).collect();
    Tables { policy, ..some_tables() }
}

/// Both sides hold `tables`, and this process knows it.
fn settled(kernel: &mut Kernel, tables: &Tables) -> Observed {
    apply(kernel, tables);
    apply(kernel, tables);
    observe(kernel)
}

fn unchanged(kernel: &mut Kernel, known: &Observed) -> bool {
    kernel.unchanged(known).expect("verifying")
}

/// In each table something that is not in [`many`], and what it is in.
fn changes() -> Vec<(&'static str, Tables)> {
    let mut all = Vec::new();
    let mut change = |name, change: &dyn Fn(&mut Tables)| {
        let mut tables = many();
        change(&mut tables);
        all.push((name, tables));
    };
    change("settings", &|tables| {
        tables.settings.insert(0, Settings { flags: 1, ..Settings::default() });
    });
    change("interfaces", &|tables| {
        tables.interfaces.insert("lo".into(), InterfaceInfo { endpoint: 9, ..InterfaceInfo::default() });
    });
    change("endpoints, one fewer", &|tables| {
        tables.endpoints.remove(&ip("fd00::1"));
    });
    change("subjects, one more", &|tables| {
        tables.subjects.insert(77, SubjectInfo::default());
    });
    change("policy, one fewer", &|tables| {
        let (key, _) = tables.policy.first().map(|(key, entry)| (*key, *entry)).expect("a policy");
        tables.policy.remove(&key);
    });
    change("policy, another rule", &|tables| {
        let (key, entry) = tables.policy.first().map(|(key, entry)| (*key, *entry)).expect("a policy");
        tables.policy.insert(key, PolicyEntry { rule: entry.rule + 1, ..entry });
    });
    change("ipcache4", &|tables| {
        tables.ipcache4.insert(prefix4("10.2.0.0/16"), 7);
    });
    change("ipcache6", &|tables| {
        tables.ipcache6.remove(&prefix6("fd00::/8"));
    });
    change("prefilter4", &|tables| {
        tables.prefilter4.insert(prefix4("100.1.1.0/24"), 2);
    });
    change("classes", &|tables| {
        tables.classes.insert(2, PrefilterClass::default());
        tables.classes.remove(&2);
    });
    all
}

#[test]
fn what_somebody_else_writes_is_found_in_every_table_of_both_sides() {
    node(|| {
        let mut ours = open();
        for (what, tables) in changes() {
            for active in [false, true] {
                let known = settled(&mut ours, &many());
                assert!(unchanged(&mut ours, &known), "before {what}");
                // Another process, which knows how to write a side.
                let mut other = open();
                let seen = observe(&mut other);
                other.stage(&seen.standby().diff(&tables)).expect("staging");
                if active {
                    // Twice, so that the generation's side is the same again.
                    other.flip().expect("flipping");
                    other.grace().expect("grace");
                }
                let mut expected = known.clone();
                expected.generation = other.generation().expect("the generation").expect("a word");
                assert!(!unchanged(&mut ours, &expected), "{what}, active: {active}");
                let found = observe(&mut ours);
                assert!(unchanged(&mut ours, &found), "after {what} was read");
            }
        }
    });
}

#[test]
fn what_this_process_stages_is_known_without_reading_it_back() {
    node(|| {
        let mut kernel = open();
        let mut known = settled(&mut kernel, &many());
        for (what, tables) in changes() {
            for to in [Arc::new(tables), Arc::new(many())] {
                kernel.stage(&known.standby().diff(&to)).expect("staging");
                let standby = known.generation.side.other().index() as usize;
                known.sides[standby] = to.clone();
                assert!(unchanged(&mut kernel, &known), "{what} staged");
                known.generation = kernel.flip().expect("flipping");
                kernel.grace().expect("grace");
                assert!(unchanged(&mut kernel, &known), "{what} flipped");
                assert_eq!(*known.active(), *to);
            }
        }
        assert_eq!(observe(&mut kernel), known);
    });
}

#[test]
fn a_generation_or_a_pin_that_changed_is_found() {
    node(|| {
        let mut kernel = open();
        let known = settled(&mut kernel, &many());
        let mut other = known.clone();
        other.generation = known.generation.flipped();
        assert!(!unchanged(&mut kernel, &other));
        assert!(unchanged(&mut kernel, &known));
        let pins = std::fs::read_dir(pin_dir()).expect("the pins").flatten().map(|entry| entry.path());
        let policy = pins.flat_map(|path| walk(&path)).find(|path| path.ends_with("POLICY")).expect("a pin");
        std::fs::remove_file(policy).expect("unpinning");
        assert!(!unchanged(&mut kernel, &known));
    });
}

fn walk(path: &std::path::Path) -> Vec<std::path::PathBuf> {
    match std::fs::read_dir(path) {
        Ok(inside) => inside.flatten().flat_map(|entry| walk(&entry.path())).collect(),
        Err(_) => vec![path.to_owned()],
    }
}
