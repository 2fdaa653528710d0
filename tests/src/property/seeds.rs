//! Which sets a run draws.
use std::{env, ops::Range, time::SystemTime};

use crate::node::rounds;

/// The first seed: a new one at each run, or what `WEIR_SEED` says, and printed, so that a run can be repeated.
fn first() -> u64 {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = match env::var("WEIR_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("WEIR_SEED={text}: {error}")),
        Err(_) => now() << 20,
    };
    // A test may use the upper bits to draw several sets from one seed.
    seed & (u64::MAX >> 2)
}

/// `count` seeds in CI, a twentieth of them in a quick run, ten times as many in a soak.
pub fn seeds(count: u32) -> Range<u64> {
    let (first, count) = (first(), rounds((count / 20).max(1), count, count * 10));
    println!("campaign: {count} sets, seed {first}");
    first..first + u64::from(count)
}

/// As many seeds as it may take to find something.
pub fn search(most: u64) -> Range<u64> {
    let first = first();
    println!("campaign: at most {most} sets each, seed {first}");
    first..first + most
}
