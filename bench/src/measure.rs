use std::{fmt, io, time::Duration};

use crate::report::Figure;

/// Why there is no figure.
#[derive(Debug)]
pub(crate) enum BenchError {
    Failed {
        doing: String,
        cause: String,
    },
    /// A run did not do what it was to measure.
    Wrong {
        what: String,
    },
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { doing, cause } => write!(f, "{doing}: {cause}"),
            Self::Wrong { what } => f.write_str(what),
        }
    }
}

impl std::error::Error for BenchError {}

/// Turns any error into ours, with what was being done.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl Into<String>) -> Result<T, BenchError>;
}

impl<T, E: fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T, BenchError> {
        self.map_err(|cause| BenchError::Failed { doing: what.into(), cause: cause.to_string() })
    }
}

/// Rounds of several quantities, measured in turn.
pub(crate) struct Rounds {
    names: Vec<String>,
    samples: Vec<Vec<f64>>,
}

impl Rounds {
    /// Calls `measure(index)` for each name in turn, `rounds` times, after one round that is not counted.
    pub(crate) fn interleaved(
        rounds: u32,
        names: &[&str],
        mut measure: impl FnMut(usize) -> Result<f64, BenchError>,
    ) -> Result<Self, BenchError> {
        let mut samples = vec![Vec::with_capacity(rounds as usize); names.len()];
        for round in 0..=rounds {
            for (index, samples) in samples.iter_mut().enumerate() {
                let sample = measure(index)?;
                if round > 0 {
                    samples.push(sample);
                }
            }
        }
        Ok(Self { names: names.iter().map(|name| (*name).to_owned()).collect(), samples })
    }

    pub(crate) fn median(&self, index: usize) -> f64 {
        median(self.samples[index].clone())
    }

    /// Median over the rounds of `f(samples of one round)`: noise that hits a whole round cancels out.
    pub(crate) fn per_round(&self, f: impl Fn(&[f64]) -> f64) -> f64 {
        median(self.each_round(f))
    }

    /// As [`Rounds::per_round`], with its spread.
    pub(crate) fn derived(&self, name: &str, unit: &'static str, f: impl Fn(&[f64]) -> f64) -> Figure {
        figure(name, unit, &self.each_round(f))
    }

    fn each_round(&self, f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let rounds = self.samples.first().map_or(0, Vec::len);
        let values = (0..rounds).map(|round| {
            let row: Vec<f64> = self.samples.iter().map(|samples| samples[round]).collect();
            f(&row)
        });
        values.collect()
    }

    pub(crate) fn figures(&self, prefix: &str, unit: &'static str) -> Vec<Figure> {
        let figure = |(name, samples): (&String, &Vec<f64>)| {
            let mut sorted = samples.clone();
            sorted.sort_by(f64::total_cmp);
            Figure {
                name: format!("{prefix} {name}"),
                unit,
                median: median(sorted.clone()),
                low: sorted.first().copied().unwrap_or(f64::NAN),
                high: sorted.last().copied().unwrap_or(f64::NAN),
            }
        };
        self.names.iter().zip(&self.samples).map(figure).collect()
    }
}

/// Median and spread of what was sampled elsewhere.
pub(crate) fn figure(name: &str, unit: &'static str, samples: &[f64]) -> Figure {
    Figure {
        name: name.to_owned(),
        unit,
        median: median(samples.to_vec()),
        low: percentile(samples, 0),
        high: percentile(samples, 100),
    }
}

/// The sample below or at which `percent` of them lie.
pub(crate) fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).copied().unwrap_or(f64::NAN)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    match samples.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => samples[n / 2],
        n => f64::midpoint(samples[n / 2 - 1], samples[n / 2]),
    }
}

/// The last OS error, for calls that libc makes for us.
pub(crate) fn last_error() -> io::Error {
    io::Error::last_os_error()
}

/// CPU time of this thread.
pub(crate) fn own_time() -> Result<Duration, BenchError> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec, which is ours.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0 {
        return Err(last_error()).doing("reading a clock");
    }
    Ok(Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32))
}
