//! What a verification of large tables costs, by reading everything back and by digest. Needs root; everything happens
//! in namespaces of its own.
#[path = "../tests/node/mod.rs"]
mod node;

use std::time::Instant;

use weir_abi::{PolicyEntry, PolicyKey, TupleClass};
use weir_plan::{Datapath as _, Prefix4, Tables};

const ROUNDS: usize = 11;

fn main() {
    node::node(|| {
        let prefix = |n: u32| {
            let length = 20 + (n % 13) as u8;
            Prefix4 { bits: n.wrapping_mul(0x9e37_79b1) & (u32::MAX << (32 - length)), length }
        };
        let key = |n: u32| PolicyKey::new(300 + n, 0, 0, TupleClass::new(Some(16), true), 6, 80);
        let entry = |rule| PolicyEntry { rule, verdict: 1, ..PolicyEntry::default() };
        let prefilter = (0..512 << 10).map(|n| (prefix(n), 1)).collect::<std::collections::BTreeMap<_, _>>();
        let prefilter4 = prefilter.into_iter().collect();
        measure("512k prefilter entries", &Tables { prefilter4, ..node::some_tables() });
        let policy = (0..128 << 10).map(|n| (key(n), entry(n))).collect();
        measure("128k policy entries", &Tables { policy, ..node::some_tables() });
    });
}

fn measure(what: &str, tables: &Tables) {
    let mut kernel = node::open();
    node::apply(&mut kernel, tables);
    node::apply(&mut kernel, tables);
    let known = node::observe(&mut kernel);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        assert!(kernel.unchanged(&known).expect("verifying"), "nobody else is here");
        times[0].push(begun.elapsed());
        let begun = Instant::now();
        assert_eq!(node::observe(&mut kernel), known);
        times[1].push(begun.elapsed());
    }
    for (how, mut times) in ["digest", "read back"].into_iter().zip(times) {
        times.sort_unstable();
        println!("{what}, both sides, {how}: {:?} ({:?} to {:?})", times[ROUNDS / 2], times[0], times[ROUNDS - 1]);
    }
}
