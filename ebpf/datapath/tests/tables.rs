//! Tables on the real kernel: made, pinned, found again, staged, flipped, grown, damaged.
mod node;

use node::{apply, capacity, node, node_alone, observe, open, prefix4, prefix6, run, some_tables};
use weir_abi::{Generation, PolicyEntry, PolicyKey, Side, TupleClass};
use weir_datapath::Kernel;
use weir_plan::{Capacity, Change, Datapath as _, DatapathError, Tables, TablesDelta};

#[test]
fn a_cold_kernel_is_not_observed_and_not_written() {
    node(|| {
        let mut kernel = open();
        assert!(kernel.is_cold());
        assert_eq!(kernel.observe().expect("observing"), None);
        assert_eq!(kernel.generation().expect("the generation"), None);
        assert!(!node::pin_dir().exists(), "looking makes nothing");
    });
}

#[test]
fn no_bpffs_is_said_with_what_mends_it() {
    node(|| {
        run("umount /sys/fs/bpf");
        let error = Kernel::open(weir_datapath::Options::new(node::pin_dir())).expect_err("no BPF file system");
        assert!(matches!(&error, DatapathError::NoBpffs { path } if path == "/sys/fs/bpf"), "{error}");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
    });
}

#[test]
fn what_was_staged_is_observed_and_only_a_flip_makes_it_active() {
    node(|| {
        let mut kernel = open();
        let tables = some_tables();
        kernel.prepare(&tables, &capacity()).expect("preparing");
        let before = observe(&mut kernel);
        assert!(before.sides.iter().all(|side| side.is_empty()));

        kernel.stage(&before.standby().diff(&tables)).expect("staging");
        let staged = observe(&mut kernel);
        assert_eq!(*staged.standby(), tables);
        assert!(staged.active().is_empty(), "only the standby side was written");
        assert_eq!(staged.generation, before.generation);

        let flipped = kernel.flip().expect("flipping");
        assert_eq!(flipped, before.generation.flipped());
        let live = observe(&mut kernel);
        assert_eq!(*live.active(), tables);
        assert!(live.standby().is_empty());
    });
}

#[test]
fn another_process_finds_everything_and_writes_nothing() {
    node_alone(|| {
        let tables = some_tables();
        let mut first = open();
        apply(&mut first, &tables);
        apply(&mut first, &tables);
        let observed = observe(&mut first);
        drop(first);

        let mut second = open();
        let before = second.writes();
        assert_eq!(observe(&mut second), observed);
        second.prepare(&tables, &capacity()).expect("preparing what is there");
        second.stage(&TablesDelta::default()).expect("staging nothing");
        assert_eq!(second.writes(), before, "nothing to do, nothing written");
        assert_eq!(observed.active(), observed.standby());
    });
}

#[test]
fn staging_again_what_is_there_stores_nothing() {
    node_alone(|| {
        let tables = some_tables();
        let mut kernel = open();
        apply(&mut kernel, &tables);
        apply(&mut kernel, &tables);
        let before = kernel.writes().stores;
        let delta = TablesDelta {
            settings: Tables::default().diff(&tables).settings,
            classes: Tables::default().diff(&tables).classes,
            prefilter4: Tables::default().diff(&tables).prefilter4,
            ..TablesDelta::default()
        };
        kernel.stage(&delta).expect("staging");
        assert_eq!(kernel.writes().stores, before);
    });
}

#[test]
fn every_table_changes_and_empties() {
    node(|| {
        let mut kernel = open();
        let first = some_tables();
        apply(&mut kernel, &first);
        let mut second = first.clone();
        second.ipcache4.insert(prefix4("10.1.0.0/16"), 7);
        second.ipcache4.remove(&prefix4("10.0.0.0/8"));
        second.ipcache6.insert(prefix6("::/0"), 9);
        second.policy.remove(first.policy.first().map(|(key, _)| key).expect("a policy"));
        second.prefilter4.insert(prefix4("100.1.1.0/24"), 2);
        second.classes.remove(&1);
        apply(&mut kernel, &second);
        assert_eq!(*observe(&mut kernel).active(), second);
        assert_eq!(*observe(&mut kernel).standby(), first);
        for _ in 0..2 {
            apply(&mut kernel, &Tables::default());
        }
        let empty = observe(&mut kernel);
        assert!(empty.active().is_empty() && empty.standby().is_empty());
    });
}

#[test]
fn tables_grow_while_they_hold_something() {
    node(|| {
        let mut kernel = open();
        let small = some_tables();
        apply(&mut kernel, &small);
        apply(&mut kernel, &small);
        let mut large = small.clone();
        let key = |n: u32| PolicyKey::new(300 + n, 0, 0, TupleClass::new(Some(16), true), 6, 80);
        large.policy =
            (0..5000).map(|n| (key(n), PolicyEntry { rule: n, verdict: 1, ..PolicyEntry::default() })).collect();
        large.prefilter4 = (0..30_000u32)
            .map(|n| (weir_plan::Prefix4 { bits: n.wrapping_mul(0x9e37_79b1), length: 32 }, 1 + n % 2))
            .collect();
        large.ipcache6 = (0..30_000u128)
            .map(|n| (weir_plan::Prefix6::from_bits(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_1234_5678_9abc_def1), 128), 5))
            .collect();
        apply(&mut kernel, &large);
        let observed = observe(&mut kernel);
        assert_eq!(*observed.active(), large);
        assert_eq!(*observed.standby(), small, "the former side was carried over");
        apply(&mut kernel, &large);
        assert_eq!(*observe(&mut kernel).standby(), large);
        drop(kernel);
        let mut again = open();
        assert_eq!(*observe(&mut again).active(), large, "the larger tables are the pinned ones");
    });
}

#[test]
fn a_tree_that_outgrows_the_estimate_grows_in_stage() {
    node(|| {
        let mut kernel = open();
        apply(&mut kernel, &Tables::default());
        // Not announced to prepare: stage itself must find the room.
        let prefixes: Vec<_> =
            (0..20_000u32).map(|n| weir_plan::Prefix4 { bits: n.wrapping_mul(0x9e37_79b1), length: 32 }).collect();
        for chunk in prefixes.chunks(900) {
            let mut changes: Vec<_> = chunk.iter().map(|key| Change { key: *key, from: None, to: Some(3) }).collect();
            changes.sort_by_key(|change| change.key);
            kernel.stage(&TablesDelta { prefilter4: changes, ..TablesDelta::default() }).expect("staging");
        }
        let observed = observe(&mut kernel);
        assert_eq!(observed.standby().prefilter4, prefixes.iter().map(|prefix| (*prefix, 3)).collect());
        assert!(observed.active().prefilter4.is_empty());
    });
}

#[test]
fn an_epoch_never_repeats_even_when_every_pin_was_removed() {
    node(|| {
        let mut kernel = open();
        apply(&mut kernel, &Tables::default());
        for _ in 0..5 {
            kernel.flip().expect("flipping");
        }
        let last = kernel.generation().expect("reading").expect("a word");
        kernel.uninstall().expect("uninstalling");
        assert!(kernel.is_cold());
        // Six flips were faster than one a second, at which the time of day, where epochs begin, keeps ahead of them.
        std::thread::sleep(std::time::Duration::from_secs(8));
        kernel.prepare(&Tables::default(), &capacity()).expect("preparing");
        let next = kernel.generation().expect("reading").expect("a word");
        assert!(next.epoch > last.epoch, "{next:?} after {last:?}");
        assert_eq!(kernel.conntrack().expect("conntrack").dump().expect("dumping"), []);
    });
}

#[test]
fn a_pin_that_is_gone_or_of_another_shape_is_made_right_without_losing_content() {
    node_alone(|| {
        let mut kernel = open();
        let tables = some_tables();
        apply(&mut kernel, &tables);
        apply(&mut kernel, &tables);
        // A table without a pin lives on in the programs that use it.
        kernel.load_all().expect("loading");
        let generation = kernel.generation().expect("reading");
        drop(kernel);
        let root = std::fs::read_dir(node::pin_dir()).expect("the pin directory").map(|e| e.expect("an entry").path());
        let root = root.into_iter().find(|path| !path.ends_with("links")).expect("the ABI's directory");
        for name in ["POLICY", "RUNTIME", "IPCACHE"] {
            std::fs::remove_file(root.join(name)).expect("unpinning");
        }
        // A map of another shape in the place of a table.
        std::fs::remove_file(root.join("SUBJECTS")).expect("unpinning");
        run(&format!(
            "bpftool map create {} type array key 4 value 4 entries 1 name foreign",
            root.join("SUBJECTS").display()
        ));
        let mut kernel = open();
        let observed = observe(&mut kernel);
        assert_eq!(*observed.active(), tables, "found by way of the programs that use them");
        assert_eq!(Some(observed.generation), generation);
        kernel.prepare(&tables, &capacity()).expect("preparing");
        drop(kernel);
        for name in ["POLICY", "RUNTIME", "IPCACHE", "SUBJECTS"] {
            assert!(root.join(name).exists(), "{name} is pinned again");
        }
        let mut kernel = open();
        let before = kernel.writes();
        assert_eq!(*observe(&mut kernel).active(), tables);
        kernel.prepare(&tables, &capacity()).expect("preparing");
        assert_eq!(kernel.writes(), before);
    });
}

#[test]
fn a_damaged_tree_is_seen_and_healed_by_the_standby_side() {
    node(|| {
        let mut kernel = open();
        let tables = some_tables();
        apply(&mut kernel, &tables);
        apply(&mut kernel, &tables);
        let standby = kernel.generation().expect("reading").expect("a word").side.other();
        drop(kernel);
        damage("wr_prefilter", standby);
        let mut kernel = open();
        let observed = observe(&mut kernel);
        assert_eq!(*observed.active(), tables, "the other side was not touched");
        assert_ne!(observed.standby().prefilter4, tables.prefilter4, "the damage shows");
        kernel.prepare(&tables, &capacity()).expect("preparing");
        kernel.stage(&observed.standby().diff(&tables)).expect("staging");
        assert_eq!(*observe(&mut kernel).standby(), tables);
    });
}

/// Overwrites the header of one side of a tree.
fn damage(name: &str, side: Side) {
    let root = std::fs::read_dir(node::pin_dir()).expect("the pin directory").map(|e| e.expect("an entry").path());
    let root = root.into_iter().find(|path| !path.ends_with("links")).expect("the ABI's directory");
    let table = name.trim_start_matches("wr_").to_uppercase();
    let outer = run(&format!("bpftool -j map lookup pinned {} key {} 0 0 0", root.join(table).display(), side.index()));
    // {"key":[…],"value":["0xce","0x0d","0x00","0x00"]}: the inner map's id.
    let bytes: Vec<u8> = outer
        .split("value")
        .nth(1)
        .unwrap_or_default()
        .split('"')
        .filter_map(|word| u8::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .collect();
    let inner = u32::from_le_bytes(bytes.try_into().unwrap_or_else(|_| panic!("no inner map in {outer}")));
    let value = "255 ".repeat(64);
    run(&format!("bpftool map update id {inner} key 0 0 0 0 value {value}"));
}

#[test]
fn conntrack_of_another_size_keeps_its_flows() {
    node(|| {
        let mut kernel = open();
        apply(&mut kernel, &some_tables());
        let root = std::fs::read_dir(node::pin_dir()).expect("the pin directory").map(|e| e.expect("an entry").path());
        let root = root.into_iter().find(|path| !path.ends_with("links")).expect("the ABI's directory");
        let key = (0..40).map(|n| if n == 36 { "6" } else { "9" }).collect::<Vec<_>>().join(" ");
        let value = "7 ".repeat(size_of::<weir_abi::ConntrackEntry>());
        run(&format!("bpftool map update pinned {} key {key} value {value}", root.join("CONNTRACK_TCP").display()));
        let flows = kernel.conntrack().expect("conntrack").dump().expect("dumping");
        assert_eq!(flows.len(), 1);
        let larger = Capacity { conntrack_tcp: 4096, ..capacity() };
        kernel.prepare(&some_tables(), &larger).expect("preparing");
        assert_eq!(kernel.conntrack().expect("conntrack").dump().expect("dumping"), flows);
        assert_eq!(observe(&mut kernel).capacity.conntrack_tcp, 4096);
        let conntrack = kernel.conntrack().expect("conntrack");
        assert!(conntrack.delete(&flows[0].0).expect("deleting"));
        assert!(!conntrack.delete(&flows[0].0).expect("deleting what is not there"));
    });
}

#[test]
fn rule_counters_grow_and_the_generation_packs() {
    node(|| {
        let mut kernel = open();
        apply(&mut kernel, &some_tables());
        let many = Capacity { rules: 5000, ..capacity() };
        kernel.prepare(&some_tables(), &many).expect("preparing");
        assert!(kernel.rule_counters().expect("counters").len() >= 5000);
        assert_eq!(kernel.rule_counters().expect("counters").get(4999).packets, 0);
        let generation = kernel.generation().expect("reading").expect("a word");
        assert_eq!(Generation::unpack(generation.pack()), generation);
    });
}

#[test]
fn half_a_million_prefixes_are_staged_and_one_of_them_changes() {
    node(|| {
        let mut kernel = open();
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        let tables = Tables {
            prefilter4: (0..524_288)
                .map(|_| {
                    let length = 20 + random() % 13;
                    let bits = random() & (u32::MAX << (32 - length));
                    (weir_plan::Prefix4 { bits, length: length as u8 }, 1 + random() % 3)
                })
                .collect(),
            ..Tables::default()
        };
        let mut last = std::time::Instant::now();
        let mut lap = |what: &str| {
            println!("{what}: {:?}", last.elapsed());
            last = std::time::Instant::now();
        };
        let delta = Tables::default().diff(&tables);
        lap("diff");
        kernel.prepare(&tables, &capacity()).expect("preparing");
        lap("prepare");
        kernel.stage(&delta).expect("staging");
        lap("stage");
        kernel.flip().expect("flipping");
        lap("flip");
        kernel.grace().expect("grace");
        lap("grace");
        let observed = observe(&mut kernel);
        lap("observe");
        assert!(*observed.active() == tables && observed.standby().is_empty());
        kernel.stage(&observed.standby().diff(&tables)).expect("staging");
        lap("diff and stage the other side");

        let prefix = tables.prefilter4.iter().nth(77).expect("77 prefixes").0;
        let before = kernel.writes();
        kernel
            .stage(&TablesDelta {
                prefilter4: vec![Change { key: prefix, from: None, to: Some(9) }],
                ..TablesDelta::default()
            })
            .expect("staging");
        lap("stage one");
        let after = kernel.writes();
        assert_eq!(after.syscalls, before.syscalls);
        assert!(after.stores - before.stores < 64, "{before:?} {after:?}");
        let mut expected = tables.clone();
        expected.prefilter4.insert(prefix, 9);
        assert!(*observe(&mut kernel).standby() == expected);
        drop(kernel);
        last = std::time::Instant::now();
        let mut again = open();
        println!("open: {:?}", last.elapsed());
        assert!(*observe(&mut again).active() == tables);
        println!("open and observe: {:?}", last.elapsed());
    });
}
