use std::{fmt, fs, io, path::Path};

use serde::Serialize;

/// Everything that was measured, and what was promised of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    rounds: u32,
    figures: Vec<Figure>,
    targets: Vec<Target>,
}

#[derive(Debug, Serialize)]
struct Machine {
    kernel: String,
    processor: String,
    cpus: usize,
}

/// Median and spread of one quantity over the rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub name: String,
    pub unit: &'static str,
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Target {
    name: String,
    value: f64,
    bound: Bound,
    met: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "at most {bound}"),
            Self::AtLeast(bound) => write!(f, "at least {bound}"),
        }
    }
}

impl Report {
    pub(crate) fn new(rounds: u32) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()))
            .unwrap_or_default();
        let machine = Machine {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor,
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
        };
        println!("{} CPUs, {}, Linux {}, {rounds} rounds", machine.cpus, machine.processor, machine.kernel);
        Self { machine, rounds, figures: Vec::new(), targets: Vec::new() }
    }

    pub(crate) fn figure(&mut self, figure: Figure) {
        println!(
            "{:<52} {:>10.1} {} ({:.1} to {:.1})",
            figure.name, figure.median, figure.unit, figure.low, figure.high
        );
        self.figures.push(figure);
    }

    /// A promise: `value` is at most `bound`.
    pub(crate) fn at_most(&mut self, name: String, value: f64, bound: f64) {
        self.target(name, value, Bound::AtMost(bound), value <= bound);
    }

    /// A promise: `value` is at least `bound`.
    pub(crate) fn at_least(&mut self, name: String, value: f64, bound: f64) {
        self.target(name, value, Bound::AtLeast(bound), value >= bound);
    }

    fn target(&mut self, name: String, value: f64, bound: Bound, met: bool) {
        println!("{name:<52} {value:>10.2} {bound}: {}", if met { "ok" } else { "MISSED" });
        self.targets.push(Target { name, value, bound, met });
    }

    pub(crate) fn missed(&self) -> Vec<String> {
        let missed = self.targets.iter().filter(|target| !target.met);
        missed.map(|target| format!("{}: {:.2}, {}", target.name, target.value, target.bound)).collect()
    }

    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text)
    }
}
