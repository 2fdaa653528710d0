use std::{collections::BTreeMap, time::Instant};

use proptest::{collection::vec, prelude::*};
use weir_abi::tree::{Guard, Line, SKIP_GUARD, lookup_v4, lookup_v6};
use weir_plan::{Change, Prefix4, Prefix6, Table};

use super::{Lines, Node, Tree, TreePrefix, prefix::masked, walk};

type Host = Tree<Vec<Line>>;

fn empty(lines: usize) -> Host {
    let lines = vec![Line::ZERO; lines];
    let walked = walk(&lines);
    Tree::open(lines, &walked)
}

fn built(v4: &Table<Prefix4, u32>, v6: &Table<Prefix6, u32>) -> Host {
    let mut size = 1 << 12;
    loop {
        match Tree::rebuild(vec![Line::ZERO; size], v4, v6) {
            Ok(tree) => return tree,
            Err(_) => size *= 2,
        }
    }
}

fn answer4(tree: &Host, address: u32) -> u32 {
    lookup_v4(address, |line| tree.lines().get(line as usize))
}

fn answer6(tree: &Host, address: u128) -> u32 {
    lookup_v6((address >> 64) as u64, address as u64, |line| tree.lines().get(line as usize))
}

/// The longest prefix that covers the address, by looking at each length.
fn naive<P: TreePrefix>(set: &BTreeMap<P, u32>, address: u128) -> u32 {
    (0..=P::WIDTH)
        .rev()
        .find_map(|length| set.get(&P::from_bits(masked(address, length), length)))
        .copied()
        .unwrap_or(0)
}

/// Addresses where something could go wrong: the ends of every prefix, and beyond them.
fn borders<P: TreePrefix>(set: &BTreeMap<P, u32>) -> impl Iterator<Item = u128> + '_ {
    let unit = 1u128 << (128 - P::WIDTH);
    set.keys().flat_map(move |prefix| {
        let first = prefix.bits();
        let last = first | !masked(u128::MAX, prefix.length()) & masked(u128::MAX, P::WIDTH);
        [first, last, first.wrapping_sub(unit) & masked(u128::MAX, P::WIDTH), last.wrapping_add(unit)]
    })
}

/// Prefixes that are close together, so that they nest, share paths and collide.
fn dense<P: TreePrefix>() -> impl Strategy<Value = P> {
    let seed = (0u128..16, 0u128..4, any::<u8>(), any::<u32>(), 0u32..=P::WIDTH);
    seed.prop_map(|(top, middle, low, noise, length)| {
        let bits = top << 124
            | middle << (128 - P::WIDTH / 2)
            | u128::from(low) << (128 - P::WIDTH)
            | u128::from(noise & 0x0101_0000) << (128 - P::WIDTH);
        P::from_bits(masked(bits, length), length)
    })
}

fn table<P: TreePrefix>(set: &BTreeMap<P, u32>) -> Table<P, u32> {
    set.iter().map(|(prefix, value)| (*prefix, *value)).collect()
}

#[derive(Clone, Debug)]
enum Edit {
    Four(Prefix4, Option<u32>),
    Six(Prefix6, Option<u32>),
}

fn edit() -> impl Strategy<Value = Edit> {
    let value = || prop_oneof![3 => (0u32..5).prop_map(Some), 2 => Just(None)];
    prop_oneof![
        (dense::<Prefix4>(), value()).prop_map(|(prefix, value)| Edit::Four(prefix, value)),
        (dense::<Prefix6>(), value()).prop_map(|(prefix, value)| Edit::Six(prefix, value)),
    ]
}

fn agree(tree: &Host, v4: &BTreeMap<Prefix4, u32>, v6: &BTreeMap<Prefix6, u32>) -> Result<(), TestCaseError> {
    let walked = walk(tree.lines());
    prop_assert!(!walked.damaged, "a tree of our own is sound");
    prop_assert_eq!(&walked.v4, &table(v4));
    prop_assert_eq!(&walked.v6, &table(v6));
    for address in borders(v4) {
        prop_assert_eq!(answer4(tree, (address >> 96) as u32), naive(v4, address), "{:#x}", address >> 96);
    }
    for address in borders(v6) {
        prop_assert_eq!(answer6(tree, address), naive(v6, address), "{:#x}", address);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_built_tree_answers_as_the_set_does(
        v4 in vec((dense::<Prefix4>(), 0u32..5), 0..300),
        v6 in vec((dense::<Prefix6>(), 0u32..5), 0..300),
        anywhere in any::<u128>(),
    ) {
        let (v4, v6): (BTreeMap<_, _>, BTreeMap<_, _>) = (v4.into_iter().collect(), v6.into_iter().collect());
        let tree = built(&table(&v4), &table(&v6));
        agree(&tree, &v4, &v6)?;
        prop_assert_eq!(answer6(&tree, anywhere), naive(&v6, anywhere));
    }

    #[test]
    fn an_edited_tree_answers_as_the_set_does(
        start in vec(edit(), 0..100),
        edits in vec(edit(), 0..400),
    ) {
        let (mut v4, mut v6) = (BTreeMap::new(), BTreeMap::new());
        for edit in start {
            match edit {
                Edit::Four(prefix, value) => drop(value.map(|value| v4.insert(prefix, value))),
                Edit::Six(prefix, value) => drop(value.map(|value| v6.insert(prefix, value))),
            }
        }
        let mut lines = built(&table(&v4), &table(&v6)).into_lines();
        lines.resize(1 << 15, Line::ZERO);
        let walked = walk(&lines);
        let mut tree = Tree::open(lines, &walked);
        for edit in edits {
            match edit {
                Edit::Four(prefix, to) => change(&mut tree, &mut v4, prefix, to)?,
                Edit::Six(prefix, to) => change(&mut tree, &mut v6, prefix, to)?,
            }
        }
        agree(&tree, &v4, &v6)?;
        // What was given back is found again by a walk.
        let walked = walk(tree.lines());
        let (used, lines) = (tree.used(), tree.into_lines());
        prop_assert_eq!(Tree::open(lines, &walked).used(), used);
    }

    #[test]
    fn a_tree_emptied_edit_by_edit_gives_all_lines_back(prefixes in vec(dense::<Prefix6>(), 1..200)) {
        let mut tree = empty(1 << 14);
        for prefix in &prefixes {
            prop_assert!(tree.insert(*prefix, 7).is_ok());
        }
        for prefix in &prefixes {
            prop_assert!(tree.remove(*prefix).is_ok());
        }
        prop_assert_eq!(tree.count(), 0);
        let records = tree.lines().word(0, Prefix6::RECORDS_LINES);
        prop_assert_eq!(tree.used(), 1 + records);
    }

    #[test]
    fn a_damaged_tree_is_recognised_and_never_panics(
        v4 in vec((dense::<Prefix4>(), 1u32..5), 1..200),
        v6 in vec((dense::<Prefix6>(), 1u32..5), 1..200),
        word in any::<prop::sample::Index>(),
        to in prop_oneof![Just(0u32), Just(u32::MAX), any::<u32>(), 0u32..64],
    ) {
        let (v4, v6): (BTreeMap<_, _>, BTreeMap<_, _>) = (v4.into_iter().collect(), v6.into_iter().collect());
        let (v4, v6) = (table(&v4), table(&v6));
        let tree = built(&v4, &v6);
        let used = tree.used() as usize;
        let mut lines = tree.into_lines();
        let word = word.index(used * 16);
        let former = std::mem::replace(&mut lines[word / 16].0[word % 16], to);
        let walked = walk(&lines);
        // Either it is noticed, or the set reads differently, or it was a word that nobody looks at.
        if !walked.damaged && walked.v4 == v4 && walked.v6 == v6 && former != to {
            for (prefix, value) in &v4 {
                prop_assert!(walked.v4.get(prefix) == Some(value));
                prop_assert_eq!(
                    lookup_v4(prefix.bits, |line| lines.get(line as usize)),
                    naive(&v4.iter().copied().collect(), prefix.bits())
                );
            }
            for (prefix, _) in &v6 {
                prop_assert_eq!(
                    lookup_v6(prefix.high, prefix.low, |line| lines.get(line as usize)),
                    naive(&v6.iter().copied().collect(), prefix.bits())
                );
            }
        }
    }
}

fn change<P: TreePrefix>(
    tree: &mut Host,
    set: &mut BTreeMap<P, u32>,
    prefix: P,
    to: Option<u32>,
) -> Result<(), TestCaseError> {
    match to {
        Some(value) => set.insert(prefix, value),
        None => set.remove(&prefix),
    };
    let done = tree.apply(&[Change { key: prefix, from: None, to }]);
    prop_assert!(done.is_ok());
    Ok(())
}

/// A deterministic stream of well-mixed numbers.
fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The benchmark's sets: IPv4 /20 to /32 mixed, IPv6 /32 to /128 inside 64 /32s.
fn large(v4: usize, v6: usize) -> (Table<Prefix4, u32>, Table<Prefix6, u32>) {
    let mut next = numbers(7);
    let v4 = (0..v4).map(|_| {
        let length = 20 + (next() % 13) as u32;
        (TreePrefix::from_bits(masked(u128::from(next()) << 64, length), length), 1 + (next() % 100) as u32)
    });
    let v4 = v4.collect();
    let tops: Vec<u128> = (0..64).map(|_| u128::from(0x2000_0000 | next() as u32 >> 3) << 96).collect();
    let v6 = (0..v6).map(|_| {
        let length = 32 + (next() % 97) as u32;
        let low = u128::from(next()) << 64 | u128::from(next());
        let bits = tops[(next() % 64) as usize] | low >> 32;
        (TreePrefix::from_bits(masked(bits, length), length), 1 + (next() % 100) as u32)
    });
    (v4, v6.collect())
}

#[test]
fn large_sets_build_and_read_back() {
    for (n4, n6) in [(1_000, 0), (100_000, 0), (524_288, 0), (0, 524_288), (100_000, 100_000)] {
        let (v4, v6) = large(n4, n6);
        let lines = vec![Line::ZERO; super::lines_estimate(v4.len(), v6.len()) * 5 / 4];
        let start = Instant::now();
        let tree = Tree::rebuild(lines, &v4, &v6)
            .map_err(|(_, full)| full)
            .expect("a class above the estimate is enough for these");
        let build = start.elapsed();
        let start = Instant::now();
        let walked = walk(tree.lines());
        println!(
            "{n4} + {n6}: build {build:?}, walk {:?}, {} of {} lines ({} KiB)",
            start.elapsed(),
            tree.used(),
            tree.lines().len(),
            tree.used() / 16
        );
        assert!(!walked.damaged);
        assert!(walked.v4 == v4 && walked.v6 == v6);
        let (v4, v6): (BTreeMap<_, _>, BTreeMap<_, _>) = (v4.iter().copied().collect(), v6.iter().copied().collect());
        for address in borders(&v4).step_by(37) {
            assert_eq!(answer4(&tree, (address >> 96) as u32), naive(&v4, address));
        }
        for address in borders(&v6).step_by(37) {
            assert_eq!(answer6(&tree, address), naive(&v6, address));
        }
    }
}

#[test]
fn a_table_that_fills_up_in_the_middle_of_an_edit_still_knows_its_set() {
    let mut next = numbers(11);
    for spare in 0..40 {
        // Full buckets below what a short prefix will cover: giving each of them a default takes lines.
        let v6: Table<Prefix6, u32> = (0..600)
            .map(|_| (TreePrefix::from_bits(masked(u128::from(next()) << 64, 40), 40), 1 + (next() % 3) as u32))
            .collect();
        let mut lines = built(&Table::new(), &v6).into_lines();
        lines.truncate(Tree::open(lines.clone(), &walk(&lines)).used() as usize + spare);
        let walked = walk(&lines);
        let mut tree = Tree::open(lines, &walked);
        let mut set: BTreeMap<Prefix6, u32> = v6.iter().copied().collect();
        for length in [1, 2, 3, 5, 8] {
            let prefix = Prefix6::from_bits(masked(u128::from(next()) << 64, length), length as u8);
            match tree.insert(prefix, 9) {
                Ok(()) => drop(set.insert(prefix, 9)),
                Err(_) => {
                    let walked = super::walk_records(tree.lines());
                    let mut kept = walked.v6.clone();
                    kept.remove(&prefix);
                    set.remove(&prefix);
                    assert!(kept == table(&set), "nothing but the new prefix differs");
                    break;
                }
            }
        }
    }
}

#[test]
fn a_full_table_is_an_error_and_loses_nothing() {
    let (v4, v6) = large(2_000, 2_000);
    let mut lines = built(&v4, &v6).into_lines();
    let used = Tree::open(lines.clone(), &walk(&lines)).used();
    lines.truncate(used as usize + 4);
    let walked = walk(&lines);
    let mut tree = Tree::open(lines, &walked);
    let mut next = numbers(9);
    let mut inserted = Vec::new();
    loop {
        let prefix = Prefix4 { bits: next() as u32, length: 32 };
        if tree.insert(prefix, 5).is_err() {
            break;
        }
        inserted.push(prefix);
    }
    let walked = walk(tree.lines());
    assert!(v4.iter().all(|(prefix, _)| walked.v4.get(prefix).is_some()));
    assert!(inserted.iter().all(|prefix| walked.v4.get(prefix) == Some(&5)));
    assert_eq!(walked.v6, v6);
}

#[test]
fn a_guard_answers_for_what_is_not_there() {
    let (v4, v6) = large(20_000, 20_000);
    let tree = built(&v4, &v6);
    let mut next = numbers(3);
    let reads = |tree: &Host, six: bool, address: u128| {
        let count = std::cell::Cell::new(0);
        let read = |line: u32| {
            count.set(count.get() + 1);
            tree.lines().get(line as usize)
        };
        let answer = if six {
            lookup_v6((address >> 64) as u64, address as u64, read)
        } else {
            lookup_v4((address >> 96) as u32, read)
        };
        (answer, count.get())
    };
    let mut short = 0;
    for _ in 0..1000 {
        let (answer, count) = reads(&tree, false, u128::from(next()) << 64);
        // The header, the skip of no bits, and its bitmap.
        short += u32::from(answer == 0 && count == 3);
    }
    assert!(short > 800, "{short} of 1000 ended at the guard");
}

#[test]
fn a_bit_that_was_cleared_in_a_guard_is_damage_and_shows_what_is_hidden() {
    let (v4, _) = large(5_000, 0);
    let tree = built(&v4, &Table::new());
    let mut lines = tree.into_lines();
    let Node::Skip(guard) = Node::of(lines.word(0, Prefix4::ROOT)) else { panic!("no guard at the root") };
    let guard = Guard(lines.word(guard, SKIP_GUARD as u32));
    assert_eq!(guard.bits(), 16, "for 5,000 prefixes");
    let bitmap = guard.line() as usize;
    let (prefix, _) = *v4.iter().find(|(prefix, _)| prefix.length > 16).expect("a long one");
    let bit = prefix.bits >> 16;
    lines[bitmap + (bit >> 9) as usize].0[(bit >> 5 & 15) as usize] &= !(1 << (bit & 31));
    let walked = walk(&lines);
    assert!(walked.damaged);
    assert!(walked.v4.get(&prefix).is_none());
    assert_eq!(
        lookup_v4(prefix.bits, |line| lines.get(line as usize)),
        naive(&walked.v4.iter().copied().collect(), prefix.bits())
    );
}
