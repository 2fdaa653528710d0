//! 512,000 entries in 1,000 files that do not change: what it costs to look again, to start again, and to start for
//! the first time, beside the bare work that each of them cannot do without.
//!
//! CPU time where that is what is compared: it is the same on a machine that does other things as well.
use std::{
    collections::BTreeMap,
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use weir_datapath::Kernel;
use weir_plan::Datapath as _;
use weir_schema::{CidrFilterSpec, Metadata};

use crate::{
    Options, edit,
    measure::{BenchError, Doing, figure, own_time, percentile},
    node::shell,
    report::Report,
    sets,
    weir::{Agent, Weir},
};

const FILES: usize = 1000;
const DEVICE: &str = "restart-rx";
/// Between two looks of the agent at its source; `--rest` is kept short, as it is no cost but a choice.
const RESYNC: Duration = Duration::from_millis(100);
const REST: Duration = Duration::from_millis(1);
const WINDOW: Duration = Duration::from_secs(4);

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    shell("ip link set lo up")?;
    shell(&format!("ip link add {DEVICE} up type veth peer name restart-tx"))?;
    shell("ip link set restart-tx up")?;
    let work = tempfile::tempdir().doing("making a directory")?;
    let source = work.path().join("source");
    fs::create_dir_all(&source).doing("making a directory")?;
    let set = sets::mixed4(FILES * edit::ENTRIES);
    let mut paths = Vec::new();
    for (number, prefixes) in set.chunks(edit::ENTRIES).enumerate() {
        let path = source.join(edit::name(number));
        fs::write(&path, edit::file_for(DEVICE, number, prefixes)).doing("writing a manifest")?;
        paths.push(path);
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load average: {}", load.trim());
    let rounds = options.rounds.div_ceil(4).max(3);
    cold(work.path(), &source, &paths, rounds, report)?;
    let weir = Weir::new(work.path().join("weir-live"), &source)?;
    weir.apply()?;
    restart(&weir, &paths, rounds, report)?;
    resync(&weir, &paths, report)
}

const fn milliseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e6
}

fn read(path: &Path) -> Result<Vec<u8>, BenchError> {
    fs::read(path).doing(format!("reading {}", path.display()))
}

/// Where the time of one run went, phase by phase.
fn phases(what: &str, runs: &[Value], report: &mut Report) {
    for phase in
        ["read", "open", "parse", "facts", "compile", "observe", "plan", "prepare", "stage", "flip", "record", "grace"]
    {
        let name = format!("{phase}Us");
        let samples: Vec<f64> = runs.iter().map(|run| run[&name].as_f64().unwrap_or(f64::NAN) / 1000.0).collect();
        if samples.iter().any(|sample| *sample >= 0.05) {
            report.figure(figure(&format!("{what}: {phase}"), "ms", &samples));
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "what it costs to make them is what counts")]
struct Manifest {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: CidrFilterSpec,
}

/// The same YAML into the same types, by as many threads as there are cores.
fn bare_parse(texts: &[String]) -> Result<Duration, BenchError> {
    let threads = thread::available_parallelism().map_or(1, Into::into);
    let start = Instant::now();
    let parse = |texts: &[String]| {
        texts.iter().map(|text| serde_yaml::from_str::<Manifest>(text)).collect::<Result<Vec<_>, _>>()
    };
    thread::scope(|scope| {
        let parts = texts.chunks(texts.len().div_ceil(threads)).map(|part| scope.spawn(move || parse(part)));
        let parts: Vec<_> = parts.collect();
        for part in parts {
            let parsed = part.join().map_err(|_| "a panic".to_owned()).doing("parsing")?;
            black_box(parsed.doing("parsing with serde_yaml")?);
        }
        Ok(())
    })?;
    Ok(start.elapsed())
}

/// As many bare stores of eight bytes as were made, into memory that nobody has touched.
fn bare_stores(stores: u64) -> Duration {
    let start = Instant::now();
    let memory: Vec<u64> = (0..stores).map(|n| black_box(n | 1)).collect();
    black_box(&memory);
    start.elapsed()
}

fn cold(work: &Path, source: &Path, paths: &[PathBuf], rounds: u32, report: &mut Report) -> Result<(), BenchError> {
    let texts: Vec<String> =
        paths.iter().map(|path| fs::read_to_string(path).doing("reading a manifest")).collect::<Result<_, _>>()?;
    let (mut flips, mut floors, mut runs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut parses, mut stores) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let parse = bare_parse(&texts)?;
        let weir = Weir::new(work.join(format!("weir-cold-{round}")), source)?;
        let ran = weir.apply()?;
        let store = bare_stores(ran.json["written"]["stores"].as_u64().unwrap_or(0));
        let timings = ran.json["timings"].clone();
        let after: u64 = ["recordUs", "graceUs"].iter().filter_map(|phase| timings[*phase].as_u64()).sum();
        if round > 0 {
            flips.push(milliseconds(ran.wall.saturating_sub(Duration::from_micros(after))));
            parses.push(milliseconds(parse));
            stores.push(milliseconds(store));
            floors.push(milliseconds(parse + store));
            runs.push(timings);
        }
    }
    report.figure(figure("cold start to the flip", "ms", &flips));
    phases("cold start", &runs, report);
    report.figure(figure("floor: the same YAML by serde_yaml, every core", "ms", &parses));
    report.figure(figure("floor: as many stores", "ms", &stores));
    report.at_most("cold start to the flip: times its floors".to_owned(), ratio(&flips, &floors), 1.5);
    Ok(())
}

/// Median of what was measured in turn.
fn ratio(values: &[f64], floors: &[f64]) -> f64 {
    let ratios: Vec<f64> = values.iter().zip(floors).map(|(value, floor)| value / floor).collect();
    percentile(&ratios, 50)
}

fn restart(weir: &Weir, paths: &[PathBuf], rounds: u32, report: &mut Report) -> Result<(), BenchError> {
    let words = ["--verify", "1h", "--catch-up", "1h", "--resync", "1h", "--rest", "1ms"];
    // It keeps what it parsed when it has nothing else to do.
    let mut agent = weir.agent(&words)?;
    agent.converged()?;
    thread::sleep(Duration::from_secs(3));
    drop(agent);
    let (mut starts, mut floors, mut hashes, mut looks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut runs, mut parsed) = (Vec::new(), 0.0);
    for _ in 0..rounds {
        let begun = Instant::now();
        for path in paths {
            black_box(Sha256::digest(read(path)?));
        }
        let hash = begun.elapsed();
        let begun = Instant::now();
        let mut kernel = Kernel::open(weir_datapath::Options::new(weir.pins())).doing("opening the tables")?;
        black_box(kernel.observe().doing("reading the tables")?);
        let look = begun.elapsed();
        drop(kernel);

        let begun = Instant::now();
        let agent = weir.agent(&words)?;
        agent.ready()?;
        let start = begun.elapsed();
        let status = agent.status()?;
        drop(agent);
        parsed += status["agent"]["parsed"].as_f64().unwrap_or(f64::NAN);
        starts.push(milliseconds(start));
        hashes.push(milliseconds(hash));
        looks.push(milliseconds(look));
        floors.push(milliseconds(hash + look));
        runs.push(status["agent"]["idleTimings"].clone());
    }
    report.figure(figure("restart, from the process's start to ready", "ms", &starts));
    phases("restart", &runs, report);
    report.figure(figure("floor: reading and hashing the files", "ms", &hashes));
    report.figure(figure("floor: reading the live tables back", "ms", &looks));
    report.at_most("restart: documents parsed".to_owned(), parsed, 0.0);
    report.at_most("restart: times its floors".to_owned(), ratio(&starts, &floors), 3.0);
    Ok(())
}

/// What a thread has had of the CPUs, and how long it waited for one.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    run: Duration,
    wait: Duration,
}

/// Of the agent's thread that looks at the source.
fn spent(agent: &Agent<'_>) -> Result<Spent, BenchError> {
    let tasks = PathBuf::from(format!("/proc/{}/task", agent.pid()));
    for task in fs::read_dir(&tasks).doing("looking at the agent's threads")? {
        let task = task.doing("looking at the agent's threads")?.path();
        if fs::read_to_string(task.join("comm")).unwrap_or_default().trim() != "weir-source" {
            continue;
        }
        let text = fs::read_to_string(task.join("schedstat")).doing("reading schedstat")?;
        let mut numbers = text.split_whitespace().map(|number| number.parse().map(Duration::from_nanos));
        let mut next = || numbers.next().ok_or("it is short".to_owned()).doing("reading schedstat")?.doing("schedstat");
        return Ok(Spent { run: next()?, wait: next()? });
    }
    Err(BenchError::Wrong { what: "the agent has no thread for its source".to_owned() })
}

type Footprint = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

/// Sizes and times of everything in the state.
fn footprint(directory: &Path, to: &mut Footprint) -> Result<(), BenchError> {
    for entry in fs::read_dir(directory).doing("looking at the state")? {
        let path = entry.doing("looking at the state")?.path();
        let found = fs::symlink_metadata(&path).doing("looking at the state")?;
        to.insert(path.clone(), (found.len(), found.modified().ok()));
        if found.is_dir() {
            footprint(&path, to)?;
        }
    }
    Ok(())
}

fn resync(weir: &Weir, paths: &[PathBuf], report: &mut Report) -> Result<(), BenchError> {
    let interval = format!("{}ms", RESYNC.as_millis());
    let rest = format!("{}ms", REST.as_millis());
    let mut agent = weir.agent(&["--verify", "1h", "--catch-up", "1h", "--resync", &interval, "--rest", &rest])?;
    agent.converged()?;
    thread::sleep(Duration::from_secs(3));

    let (mut looks, mut stats) = (Vec::new(), Vec::new());
    let (mut before, mut after) = (Footprint::new(), Footprint::new());
    footprint(&weir.state(), &mut before)?;
    let status = agent.status()?;
    for _ in 0..5 {
        let begun = (Instant::now(), spent(&agent)?);
        thread::sleep(WINDOW);
        let (window, now) = (begun.0.elapsed(), spent(&agent)?);
        let (run, wait) = (now.run - begun.1.run, now.wait - begun.1.wait);
        // What is left of the window was slept through, one interval and one rest for each look.
        let slept = window.saturating_sub(run + wait);
        looks.push(milliseconds(run) * (RESYNC + REST).as_secs_f64() / slept.as_secs_f64());

        let begun = own_time()?;
        for _ in 0..10 {
            for path in paths {
                black_box(fs::metadata(path).doing("looking at a file")?);
            }
        }
        stats.push(milliseconds(own_time()? - begun) / 10.0);
    }
    let later = agent.status()?;
    footprint(&weir.state(), &mut after)?;
    report.figure(figure("no-op resync, CPU time", "ms", &looks));
    report.figure(figure("floor: stat of every file, CPU time", "ms", &stats));
    report.at_most("no-op resync: times a stat of every file".to_owned(), ratio(&looks, &stats), 3.0);
    let changed =
        |before: &Value, after: &Value| f64::from(u8::from(before["agent"]["written"] != after["agent"]["written"]));
    report.at_most("no-op resync: writes to the kernel".to_owned(), changed(&status, &later), 0.0);
    report.at_most("no-op resync: files of the state changed".to_owned(), f64::from(u8::from(before != after)), 0.0);
    Ok(())
}
