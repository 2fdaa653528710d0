//! Which sets a run draws.
use std::{env, ops::Range, time::SystemTime};

/// `count` seeds, new ones at each run and printed. `WEIR_PROPERTY_SEED` (hexadecimal) repeats a run from that seed on,
/// `WEIR_PROPERTY_FACTOR` multiplies the count.
pub fn seeds(count: u64) -> Range<u64> {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let first = match env::var("WEIR_PROPERTY_SEED") {
        Ok(text) => match u64::from_str_radix(text.trim_start_matches("0x"), 16) {
            Ok(seed) => seed,
            Err(error) => panic!("WEIR_PROPERTY_SEED={text}: {error}"),
        },
        Err(_) => now() << 20,
    };
    let factor = match env::var("WEIR_PROPERTY_FACTOR") {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("WEIR_PROPERTY_FACTOR={text}: {error}")),
        Err(_) => 1.0,
    };
    let count = ((count as f64 * factor) as u64).max(1);
    println!("{count} sets: WEIR_PROPERTY_SEED={first:#x}");
    first..first + count
}
