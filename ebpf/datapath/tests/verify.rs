//! Whether everything is as it was known to be, told without reading it back.
mod node;

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

use node::{apply, ip, node, observe, open, pin_dir, prefix4, prefix6, some_tables};
use weir_abi::{
    BackendInfo, InterfaceInfo, PolicyEntry, PolicyKey, PrefilterClass, Settings, Side, SubjectInfo, TupleClass,
    tree::Line,
};
use weir_datapath::{
    Kernel,
    sys::{MapSpec, Mapping, map_by_id, map_info, pin_get},
};
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
        std::fs::remove_file(pin("POLICY")).expect("unpinning");
        assert!(!unchanged(&mut kernel, &known));
    });
}

fn pin(table: &str) -> PathBuf {
    walk(&pin_dir()).into_iter().find(|path| path.ends_with(table)).expect("a pin")
}

fn walk(path: &std::path::Path) -> Vec<PathBuf> {
    match std::fs::read_dir(path) {
        Ok(inside) => inside.flatten().flat_map(|entry| walk(&entry.path())).collect(),
        Err(_) => vec![path.to_owned()],
    }
}

/// The tables that are mapped, and the words of their values.
const MAPPED: [(&str, usize); 5] = [
    ("SETTINGS", size_of::<Settings>() / 4),
    ("IPCACHE", size_of::<Line>() / 4),
    ("PREFILTER", size_of::<Line>() / 4),
    ("PREFILTER_CLASSES", size_of::<PrefilterClass>() / 4),
    ("BACKENDS", size_of::<BackendInfo>() / 4),
];

/// A side's memory, as anybody can map it: entries of eight bytes, whatever the table's values are.
fn foreign_words(table: &str, side: Side) -> Mapping<u64> {
    let (inner, spec) = inner(table, side);
    Mapping::new(inner.as_fd(), spec.max_entries * spec.value_size.next_multiple_of(8) / 8).expect("a mapping")
}

/// The same, of a table of lines.
fn foreign(table: &str, side: Side) -> Mapping<Line> {
    let (inner, spec) = inner(table, side);
    assert_eq!(spec.value_size as usize, size_of::<Line>());
    Mapping::new(inner.as_fd(), spec.max_entries).expect("a mapping")
}

fn inner(table: &str, side: Side) -> (OwnedFd, MapSpec) {
    let outer = pin_get(&pin(table)).expect("the outer map");
    let (key, mut inner) = (side.index(), 0u32);
    // What `BPF_MAP_LOOKUP_ELEM` is given: the map, its key, and where the value goes.
    let mut attr = [outer.as_raw_fd() as u64, (&raw const key) as u64, (&raw mut inner) as u64, 0];
    // SAFETY: the kernel reads the attribute and the key, four bytes, and writes four to the value.
    let done = unsafe { libc::syscall(libc::SYS_bpf, 1, attr.as_mut_ptr(), size_of_val(&attr)) };
    assert_eq!(done, 0, "{table}: {}", std::io::Error::last_os_error());
    let inner = map_by_id(inner).expect("the inner map");
    let spec = map_info(inner.as_fd()).expect("its shape").spec;
    (inner, spec)
}

fn flip(memory: &mut Mapping<u64>, word: usize, bit: u32) {
    let former = memory.read_word(word / 2, word % 2);
    memory.write_word(word / 2, word % 2, former ^ 1 << bit);
}

#[test]
fn a_bit_that_flips_in_mapped_memory_is_found_wherever_it_is() {
    node(|| {
        let mut kernel = open();
        let known = settled(&mut kernel, &many());
        for (table, words) in MAPPED {
            for side in Side::BOTH {
                let mut memory = foreign_words(table, side);
                let last = memory.len() * 2 / words - 1;
                let mut values = vec![0, 1.min(last), last / 2, last];
                values.dedup();
                for value in values {
                    for word in 0..words {
                        let bit = (value as u32 * 7 + word as u32 * 13) % 32;
                        flip(&mut memory, value * words + word, bit);
                        assert!(!unchanged(&mut kernel, &known), "{table}, {side:?}, value {value}, word {word}");
                        flip(&mut memory, value * words + word, bit);
                    }
                    assert!(unchanged(&mut kernel, &known), "{table}, {side:?}, value {value}, as it was");
                }
            }
        }
    });
}

/// Neither side can be what the other is held against.
#[test]
fn what_changes_on_both_sides_alike_is_found() {
    node(|| {
        let mut kernel = open();
        let known = settled(&mut kernel, &many());
        for (table, words) in MAPPED {
            let [mut a, mut b] = Side::BOTH.map(|side| foreign_words(table, side));
            for value in [0, a.len() * 2 / words - 1] {
                for word in value * words..(value + 1) * words {
                    flip(&mut a, word, 5);
                    flip(&mut b, word, 5);
                    assert!(!unchanged(&mut kernel, &known), "{table}, value {value}, word {word}");
                    flip(&mut a, word, 5);
                    flip(&mut b, word, 5);
                }
            }
            assert!(unchanged(&mut kernel, &known), "{table}, as it was");
        }
    });
}

/// The same lines, and the same sum of all words, in other places.
#[test]
fn what_only_changes_places_in_mapped_memory_is_found() {
    node(|| {
        let mut kernel = open();
        let known = settled(&mut kernel, &many());
        for table in ["IPCACHE", "PREFILTER", "PREFILTER_CLASSES"] {
            for side in Side::BOTH {
                let mut memory = foreign(table, side);
                let used: Vec<usize> = (1..memory.len()).filter(|line| memory.read(*line) != Line::ZERO).collect();
                let (a, b) = (used[0], used[1]);
                let (first, second) = (memory.read(a), memory.read(b));
                assert_ne!(first, second, "{table}");
                let mut swapped = |at: [usize; 2], lines: [Line; 2]| {
                    at.into_iter().zip(lines).for_each(|(at, line)| memory.write(at, line));
                    let found = !unchanged(&mut kernel, &known);
                    memory.write(a, first);
                    memory.write(b, second);
                    found && unchanged(&mut kernel, &known)
                };
                assert!(swapped([a, b], [second, first]), "{table}, {side:?}: lines {a} and {b}");
                let (mut less, mut more) = (first, second);
                less.0[2] = less.0[2].wrapping_sub(1);
                more.0[2] = more.0[2].wrapping_add(1);
                assert!(swapped([a, b], [less, more]), "{table}, {side:?}: from line {a} to line {b}");
                let words = first.0.iter().position(|word| *word != first.0[15]);
                let mut turned = first;
                turned.0.swap(words.expect("words that differ"), 15);
                assert!(swapped([a, b], [turned, second]), "{table}, {side:?}: inside line {a}");
            }
        }
    });
}
