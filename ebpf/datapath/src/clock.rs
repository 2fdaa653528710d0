//! Jiffies a second. User space is told another number (`USER_HZ`), so it is worked out.
use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
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
    Clock::new().map(|clock| clock.hz)
}

/// The clock that programs go by, without what a test adds to it.
#[derive(Debug)]
pub struct Clock {
    program: OwnedFd,
    /// Jiffies a second.
    pub hz: u32,
}

impl Clock {
    pub fn new() -> Result<Self> {
        let measured = || -> io::Result<Option<Self>> {
            let program = sys::jiffies_program()?;
            let now = || lower_half(&program);
            let hz = match by_uptime(now()?, uptime()?) {
                Some(hz) => Some(hz),
                None => by_ticks(now)?,
            };
            Ok(hz.map(|hz| Self { program, hz }))
        };
        match measured() {
            Ok(Some(clock)) => Ok(clock),
            Ok(None) => Err(DatapathError::Failed {
                doing: "measuring",
                what: "jiffies a second".to_owned(),
                cause: "they stand still".to_owned(),
            }),
            Err(cause) => Err(failed("measuring", "jiffies a second", cause)),
        }
    }

    /// Jiffies since the kernel began, all 64 bits.
    pub fn now(&self) -> Result<u64> {
        let now = || -> io::Result<u64> { Ok(whole(lower_half(&self.program)?, uptime()?, self.hz)) };
        now().map_err(|cause| failed("reading", "jiffies", cause))
    }
}

fn lower_half(program: &OwnedFd) -> io::Result<u32> {
    sys::test_run(program.as_fd(), &[0; 64], &[], 1).map(|run| run.retval)
}

/// The jiffies with this lower half that are nearest to where they stand after so many seconds. They begin in the lower
/// half alone, whatever their width.
fn whole(low: u32, uptime: f64, hz: u32) -> u64 {
    let near = (1u64 << 32).wrapping_add_signed(((uptime - HEAD_START) * f64::from(hz)) as i64);
    near.wrapping_add_signed(i64::from(low.wrapping_sub(near as u32).cast_signed()))
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

    #[test]
    fn the_upper_half_follows_from_the_uptime() {
        for hz in CHOICES {
            // The last two on either side of where the lower half begins anew, seconds off.
            let begin = (1u64 << 32) - 300 * u64::from(hz);
            for ticks in [0, 1, 299 * u64::from(hz), 300 * u64::from(hz), 301 * u64::from(hz), 1 << 32, 3 << 33] {
                let jiffies = begin + ticks;
                for off in [-2.0, 0.0, 2.0] {
                    let uptime = ticks as f64 / f64::from(hz) + off;
                    assert_eq!(whole(jiffies as u32, uptime, hz), jiffies, "{hz} after {uptime} s");
                }
            }
        }
    }
}
