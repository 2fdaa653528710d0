//! Jiffies a second. User space is told another number (`USER_HZ`), so it is worked out.
use std::{
    io,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use weir_plan::DatapathError;

use crate::{
    error::{Result, failed},
    sys,
};

/// What kernels are built with.
const CHOICES: [u32; 4] = [100, 250, 300, 1000];
/// Jiffies begin this many seconds before zero (`INITIAL_JIFFIES`).
const HEAD_START: f64 = 300.0;

pub fn jiffies_per_second() -> Result<u32> {
    let measured = || -> io::Result<Option<u32>> {
        let program = sys::jiffies_program()?;
        let now = || sys::test_run(program.as_fd(), &[0; 64], &[], 1).map(|run| run.retval);
        match by_uptime(now()?, uptime()?) {
            Some(hz) => Ok(Some(hz)),
            None => by_ticks(now),
        }
    };
    match measured() {
        Ok(Some(hz)) => Ok(hz),
        Ok(None) => Err(DatapathError::Failed {
            doing: "measuring",
            what: "jiffies a second".to_owned(),
            cause: "they stand still".to_owned(),
        }),
        Err(cause) => Err(failed("measuring", "jiffies a second", cause)),
    }
}

/// The one rate at which jiffies (their lower half) would stand where they do after so many seconds.
fn by_uptime(jiffies: u32, uptime: f64) -> Option<u32> {
    let fits = |hz: &u32| {
        let expected = ((uptime - HEAD_START) * f64::from(*hz)) as i64 as u32;
        // Ticks start a moment after the clock.
        u64::from((jiffies.wrapping_sub(expected) as i32).unsigned_abs()) <= 3 * u64::from(*hz)
    };
    let mut fitting = CHOICES.into_iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(hz), None) => Some(hz),
        _ => None,
    }
}

/// Times a few ticks, from one edge to another.
fn by_ticks(now: impl Fn() -> io::Result<u32>) -> io::Result<Option<u32>> {
    const TICKS: u32 = 4;
    let deadline = Instant::now() + Duration::from_secs(2);
    let edge = |ticks: u32| -> io::Result<Option<Instant>> {
        let start = now()?;
        while Instant::now() < deadline {
            if now()?.wrapping_sub(start) >= ticks {
                return Ok(Some(Instant::now()));
            }
        }
        Ok(None)
    };
    let (Some(first), Some(last)) = (edge(1)?, edge(TICKS)?) else { return Ok(None) };
    let hz = f64::from(TICKS) / (last - first).as_secs_f64();
    let distance = |choice: &u32| (f64::from(*choice) / hz).ln().abs();
    Ok(CHOICES.into_iter().min_by(|a, b| distance(a).total_cmp(&distance(b))))
}

/// Seconds of `CLOCK_MONOTONIC`, which is what ticks follow.
fn uptime() -> io::Result<f64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec() as f64 + now.tv_nsec() as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_from_where_jiffies_stand() {
        for hz in CHOICES {
            for uptime in [10.0, 7_000.0, 3e6, 5e7] {
                let jiffies = ((uptime - HEAD_START) * f64::from(hz)) as i64 as u32;
                assert_eq!(by_uptime(jiffies, uptime), Some(hz), "{hz} after {uptime} s");
            }
            // Around zero every rate fits: ticks must be timed.
            assert_eq!(by_uptime(0, HEAD_START), None);
        }
    }
}
