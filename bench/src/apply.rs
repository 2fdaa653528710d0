//! From YAML to the flip at 524,288 prefilter CIDRs, by the shipped binary and a real agent; and what both sides of the
//! quickstart's tables take.
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;
use weir_datapath::Kernel;
use weir_plan::{Datapath as _, Prefix4};

use crate::{
    Options,
    measure::{BenchError, Doing, figure, percentile},
    node::shell,
    report::Report,
    sets,
    weir::{Ran, Weir},
};

const COUNT: usize = 524_288;
/// Manifests that hold them, and lists that do.
const MANIFESTS: usize = 16;
const LISTS: usize = 4;
/// How long the agent waits for files to be at rest: no cost, but a choice.
const REST: Duration = Duration::from_millis(50);
const MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    let work = Work::new()?;
    pair("apply-tx", "apply-rx")?;
    let set = sets::mixed4(COUNT);
    let yaml = work.0.join("yaml");
    write_manifests(&yaml, &set)?;
    let lists = work.0.join("lists");
    write_lists(&lists, &set)?;

    let rounds = options.rounds.div_ceil(2);
    cold(&work, rounds, [("YAML lists", &yaml), ("fromFiles", &lists)], report)?;

    let weir = Weir::new(work.0.join("live"), &yaml)?;
    weir.apply()?;
    idle(&weir, rounds, report)?;
    agent(&weir, options.rounds, &work, &yaml, &set, report)?;
    drop(weir);
    first_start(&work, &yaml, report)?;
    quickstart(&work, report)
}

fn pair(one: &str, other: &str) -> Result<(), BenchError> {
    shell(&format!("ip link add {one} up type veth peer name {other}"))?;
    shell(&format!("ip link set {other} up"))?;
    Ok(())
}

/// A directory of our own on the file system that the build is on, as a state directory would be.
#[derive(Debug)]
struct Work(PathBuf);

impl Work {
    fn new() -> Result<Self, BenchError> {
        let own = std::env::current_exe().doing("finding our own path")?;
        let path = own.with_file_name(format!("bench-apply-{}", std::process::id()));
        fs::create_dir_all(&path).doing(format!("making {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn manifest(name: &str) -> String {
    format!("apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata:\n  name: {name}\nspec:\n  interfaces: [apply-rx]\n")
}

/// One manifest with a part of the set as a YAML list.
fn filter(number: usize, prefixes: &[Prefix4]) -> String {
    let mut text = manifest(&format!("part-{number:02}"));
    text.push_str("  cidrs:\n");
    for prefix in prefixes {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  - {prefix}");
    }
    text
}

fn part_path(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("part-{number:02}.yaml"))
}

fn write(path: &Path, text: &str) -> Result<(), BenchError> {
    fs::write(path, text).doing(format!("writing {}", path.display()))
}

fn write_manifests(directory: &Path, set: &[Prefix4]) -> Result<(), BenchError> {
    fs::create_dir_all(directory).doing("making a directory")?;
    for (number, prefixes) in set.chunks(set.len() / MANIFESTS).enumerate() {
        write(&part_path(directory, number), &filter(number, prefixes))?;
    }
    Ok(())
}

fn write_lists(directory: &Path, set: &[Prefix4]) -> Result<(), BenchError> {
    fs::create_dir_all(directory).doing("making a directory")?;
    let mut text = manifest("lists");
    text.push_str("  fromFiles:\n");
    for (number, prefixes) in set.chunks(set.len() / LISTS).enumerate() {
        let mut list = String::from("; a drop list, as it is published\n");
        for prefix in prefixes {
            let _ = writeln!(list, "{prefix} ; SBL{number}");
        }
        write(&directory.join(format!("list-{number}.txt")), &list)?;
        let _ = writeln!(text, "  - list-{number}.txt");
    }
    write(&directory.join("filter.yaml"), &text)
}

/// Samples of named quantities, in the order in which they were first seen.
#[derive(Debug, Default)]
struct Samples(Vec<(String, Vec<f64>)>);

impl Samples {
    fn add(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, samples)) => samples.push(value),
            None => self.0.push((name.to_owned(), vec![value])),
        }
    }

    fn of(&self, name: &str) -> &[f64] {
        self.0.iter().find(|(known, _)| known == name).map_or(&[], |(_, samples)| samples)
    }

    /// The phases of one apply, in milliseconds, and what is beside them.
    fn phases(&mut self, timings: &Value, whole: Duration) {
        let mut rest = milliseconds(whole);
        for phase in [
            "read", "open", "parse", "facts", "compile", "observe", "plan", "prepare", "stage", "flip", "record",
            "grace",
        ] {
            let ms = timings[format!("{phase}Us")].as_f64().unwrap_or(0.0) / 1000.0;
            rest -= ms;
            self.add(phase, ms);
        }
        self.add("start and end", rest);
    }

    /// Those that ever took any time.
    fn report(&self, prefix: &str, unit: &'static str, report: &mut Report) {
        for (name, samples) in &self.0 {
            if samples.iter().any(|sample| *sample != 0.0) {
                report.figure(figure(&format!("{prefix}{name}"), unit, samples));
            }
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// `apply` on an empty kernel, with an empty state: from the start of the process to its end.
fn cold(work: &Work, rounds: u32, sources: [(&str, &PathBuf); 2], report: &mut Report) -> Result<(), BenchError> {
    let mut samples = [Samples::default(), Samples::default()];
    for round in 0..=rounds {
        for ((_, source), samples) in sources.iter().zip(&mut samples) {
            let weir = Weir::new(work.0.join(format!("cold-{round}")), source)?;
            let Ran { json, wall } = weir.apply()?;
            expect(&json, "applied")?;
            // The first round finds nothing in any cache.
            if round > 0 {
                samples.add("whole", milliseconds(wall));
                samples.phases(&json["timings"], wall);
            }
        }
    }
    for ((name, _), samples) in sources.iter().zip(&samples) {
        samples.report(&format!("cold apply, {name}: "), "ms", report);
    }
    let whole = percentile(samples[0].of("whole"), 50) / 1000.0;
    report.at_most(format!("cold apply of {COUNT} CIDRs, {}, s", sources[0].0), whole, 0.6);
    Ok(())
}

fn expect(json: &Value, result: &str) -> Result<(), BenchError> {
    if json["result"] == result {
        return Ok(());
    }
    Err(BenchError::Wrong { what: format!("the apply is not `{result}` but {}", json["result"]) })
}

/// The same again, by a verb that works alone: it has to look at the kernel, and must not write to it.
fn idle(weir: &Weir, rounds: u32, report: &mut Report) -> Result<(), BenchError> {
    let (mut samples, mut written) = (Samples::default(), 0.0);
    for _ in 0..rounds {
        let Ran { json, wall } = weir.apply()?;
        expect(&json, "unchanged")?;
        samples.add("whole", milliseconds(wall));
        samples.phases(&json["timings"], wall);
        written += writes(&json["written"]);
    }
    samples.report("no-op apply, alone: ", "ms", report);
    report.at_most("no-op apply, alone: writes to the kernel".to_owned(), written, 0.0);
    Ok(())
}

/// System calls and stores.
fn writes(written: &Value) -> f64 {
    written["syscalls"].as_f64().unwrap_or(f64::NAN) + written["stores"].as_f64().unwrap_or(f64::NAN)
}

/// A running agent: nothing to do, and one entry changed.
fn agent(
    weir: &Weir,
    rounds: u32,
    work: &Work,
    yaml: &Path,
    set: &[Prefix4],
    report: &mut Report,
) -> Result<(), BenchError> {
    let start = Instant::now();
    // Verification and catching up would come in between.
    let mut agent = weir.agent(&["--verify", "1h", "--catch-up", "1h"])?;
    let status = agent.converged()?;
    report.figure(figure("agent: from its start to converged", "ms", &[milliseconds(start.elapsed())]));
    std::thread::sleep(Duration::from_millis(200));
    report.at_most("agent: RssAnon after its start, MiB".to_owned(), agent.memory.now(), 150.0);
    report.figure(figure("agent: most RssAnon until then", "MiB", &[agent.memory.peak()]));
    report.at_most("agent: writes to the kernel at its start".to_owned(), writes(&status["agent"]["written"]), 0.0);

    let mut samples = Samples::default();
    for _ in 0..rounds {
        let Ran { json, wall } = weir.apply()?;
        expect(&json, "unchanged")?;
        samples.add("whole", milliseconds(wall));
        samples.phases(&json["timings"], wall);
    }
    samples.report("no-op apply, by the agent: ", "ms", report);
    let after = agent.status()?;
    let written = writes(&after["agent"]["written"]) - writes(&status["agent"]["written"]);
    report.at_most("no-op apply, by the agent: writes to the kernel".to_owned(), written, 0.0);
    unread(&status, &after, "no-op apply, by the agent", report);

    changes(weir, &agent, rounds * 3, work, yaml, set, report)?;
    std::thread::sleep(Duration::from_millis(200));
    report.at_most("agent: RssAnon after the changes, MiB".to_owned(), agent.memory.now(), 150.0);
    report.figure(figure("agent: most RssAnon until then", "MiB", &[agent.memory.peak()]));
    Ok(())
}

/// The live tables are read back by a verification, and only then.
fn unread(before: &Value, after: &Value, what: &str, report: &mut Report) {
    let at = |status: &Value| status["agent"]["verifiedUnixMs"].as_f64().unwrap_or(f64::NAN);
    let looks = if at(before) == at(after) { 0.0 } else { 1.0 };
    report.at_most(format!("{what}: reads of whole tables"), looks, 0.0);
}

/// One CIDR more or one less, each time in another manifest: from its rename into place to the flip.
fn changes(
    weir: &Weir,
    agent: &crate::weir::Agent<'_>,
    rounds: u32,
    work: &Work,
    yaml: &Path,
    set: &[Prefix4],
    report: &mut Report,
) -> Result<(), BenchError> {
    let options = weir_datapath::Options::new(weir.pins());
    let mut kernel = Kernel::open(options).doing("opening the agent's tables")?;
    let parts: Vec<&[Prefix4]> = set.chunks(set.len() / MANIFESTS).collect();
    let rounds = rounds + 1;
    let strangers = sets::misses4(set, rounds as usize);
    let next = work.0.join("next.yaml");
    let begun = agent.status()?;
    let (mut samples, mut net, mut before) = (Samples::default(), Vec::new(), begun.clone());
    let already = agent.applied()?;
    // The first change also brings the standby side up to date, which has missed the cold apply: once, not each time.
    let mut first = 0.0;
    for (round, stranger) in strangers.iter().enumerate() {
        // Each file is changed twice: an entry comes, and it goes.
        let number = (round / 2) % parts.len();
        let stranger = Prefix4 { bits: *stranger, length: 32 };
        let mut part = parts[number].to_vec();
        if round % 2 == 0 {
            part.push(stranger);
        }
        write(&next, &filter(number, &part))?;
        let epoch = epoch(&mut kernel)?;
        let start = Instant::now();
        fs::rename(&next, part_path(yaml, number)).doing("renaming a manifest")?;
        while self::epoch(&mut kernel)? == epoch {
            if start.elapsed() > Duration::from_secs(30) {
                return Err(BenchError::Wrong { what: "the agent did not flip".to_owned() });
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        let whole = start.elapsed().saturating_sub(REST);
        agent.has_applied(already + round + 1)?;
        let status = agent.status()?;
        if round == 0 {
            first = milliseconds(whole);
            before = status;
            continue;
        }
        net.push(milliseconds(whole));
        let timings = &status["agent"]["timings"];
        // What comes after the flip is none of its way to it.
        let after = ["recordUs", "graceUs"].iter().filter_map(|phase| timings[*phase].as_u64()).sum();
        samples.phases(timings, whole + Duration::from_micros(after));
        for counter in ["syscalls", "stores"] {
            let of = |status: &Value| status["agent"]["written"][counter].as_f64().unwrap_or(f64::NAN);
            samples.add(counter, of(&status) - of(&before));
        }
        before = status;
    }
    let name = "one entry changed";
    report.figure(figure(&format!("{name}: the first after a cold apply"), "ms", &[first]));
    report.figure(figure(&format!("{name}: file to flip, net of {} ms of rest", REST.as_millis()), "ms", &net));
    report.figure(figure(&format!("{name}: the same, 99th percentile"), "ms", &[percentile(&net, 99)]));
    for (quantity, values) in &samples.0 {
        let (label, unit) = match quantity.as_str() {
            "syscalls" | "stores" => (format!("writes, {quantity}"), ""),
            "start and end" => ("looks at the source, and wake-ups".to_owned(), "ms"),
            phase => (phase.to_owned(), "ms"),
        };
        if values.iter().any(|value| *value != 0.0) {
            report.figure(figure(&format!("{name}: {label}"), unit, values));
        }
    }
    // A few lines of a tree, the generation word, and the journal's wait for RCU: nothing that grows with the tables.
    let most = percentile(samples.of("stores"), 100) + percentile(samples.of("syscalls"), 100);
    report.at_most(format!("{name}: writes to the kernel, at most"), most, 64.0);
    unread(&begun, &before, name, report);
    Ok(())
}

pub(crate) fn epoch(kernel: &mut Kernel) -> Result<u64, BenchError> {
    let generation = kernel.generation().doing("reading the generation word")?;
    generation.map(|generation| generation.epoch).ok_or(BenchError::Wrong { what: "there are no tables".to_owned() })
}

/// An agent that finds nothing and makes all of it, as on the first day.
fn first_start(work: &Work, yaml: &Path, report: &mut Report) -> Result<(), BenchError> {
    let weir = Weir::new(work.0.join("first"), yaml)?;
    let mut agent = weir.agent(&[])?;
    agent.converged()?;
    std::thread::sleep(Duration::from_millis(200));
    report.at_most("agent: RssAnon after the first apply, MiB".to_owned(), agent.memory.now(), 150.0);
    report.figure(figure("agent: most RssAnon until then", "MiB", &[agent.memory.peak()]));
    memory(&weir, &format!("tables at {COUNT} CIDRs"), report)?;
    Ok(())
}

/// What the kernel says that the tables take: (those that manifests fill, both sides; those that traffic fills), MiB.
fn memory(weir: &Weir, name: &str, report: &mut Report) -> Result<f64, BenchError> {
    let tables = weir.run(&["get", "tables"])?.json;
    let (mut filled, mut traffic) = (0.0, 0.0);
    for item in tables["items"].as_array().into_iter().flatten() {
        let Some(bytes) = item["bytes"].as_f64() else { continue };
        *(if item["side"].is_null() { &mut traffic } else { &mut filled }) += bytes / MIB;
    }
    report.figure(figure(&format!("{name}: that manifests fill, both sides"), "MiB", &[filled]));
    report.figure(figure(&format!("{name}: that traffic fills"), "MiB", &[traffic]));
    Ok(filled)
}

fn quickstart(work: &Work, report: &mut Report) -> Result<(), BenchError> {
    for netns in ["web", "db"] {
        shell(&format!("ip netns add {netns}"))?;
    }
    pair("uplink0", "outside0")?;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart");
    let weir = Weir::new(work.0.join("quickstart"), &examples)?;
    weir.apply()?;
    let filled = memory(&weir, "quickstart's tables", report)?;
    report.at_most("quickstart's tables that manifests fill, MiB".to_owned(), filled, 32.0);
    drop(weir);
    for netns in ["web", "db"] {
        shell(&format!("ip netns delete {netns}"))?;
    }
    Ok(())
}
