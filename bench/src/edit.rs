//! One entry changed in one file of many: from the write to the flip, by a directory, a git repository and etcd; the
//! same at 1,000 entries and at 512,000.
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use etcd_client::Client;
use serde_json::Value;
use tokio::runtime::Runtime;
use weir_datapath::Kernel;
use weir_plan::Prefix4;
use weir_tests::etcd::{Etcd, PREFIX};

use crate::{
    Options,
    apply::epoch,
    measure::{BenchError, Doing, figure, percentile},
    node::shell,
    report::Report,
    sets,
    weir::{Agent, Weir},
};

/// Entries of one file: with their comments some 45 KB.
pub(crate) const ENTRIES: usize = 512;
const FILES: [usize; 2] = [2, 1000];
/// What the agent waits for after a hint, to see that nothing else comes: no cost, but a choice.
const REST: Duration = Duration::from_millis(50);
const ETCD_REST: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Directory,
    Git,
    Etcd,
}

impl From {
    const ALL: [Self; 3] = [Self::Directory, Self::Git, Self::Etcd];

    const fn name(self) -> &'static str {
        match self {
            Self::Directory => "a file",
            Self::Git => "a commit",
            Self::Etcd => "an etcd key",
        }
    }

    const fn rest(self) -> Duration {
        match self {
            Self::Directory => REST,
            Self::Git => Duration::ZERO,
            Self::Etcd => ETCD_REST,
        }
    }
}

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    shell("ip link set lo up")?;
    shell("ip link add edit-rx up type veth peer name edit-tx")?;
    shell("ip link set edit-tx up")?;
    let work = tempfile::tempdir().doing("making a directory")?;
    for from in From::ALL {
        let mut medians = Vec::new();
        for files in FILES {
            let set = sets::mixed4(files * ENTRIES);
            medians.push(one(options, work.path(), from, &set, report)?);
        }
        let name = format!("one entry changed by {}: 512k against 1k entries", from.name());
        report.at_most(name, medians[1] / medians[0], 1.3);
    }
    Ok(())
}

fn file(number: usize, prefixes: &[Prefix4]) -> String {
    file_for("edit-rx", number, prefixes)
}

/// A filter of one device.
pub(crate) fn file_for(device: &str, number: usize, prefixes: &[Prefix4]) -> String {
    let mut text = format!(
        "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata:\n  name: part-{number:04}\nspec:\n  interfaces: [{device}]\n  cidrs:\n"
    );
    for prefix in prefixes {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  - {prefix} # feed {}, listed for scanning, first seen 2026-01-01", number % 7);
    }
    text
}

pub(crate) fn name(number: usize) -> String {
    format!("part-{number:04}.yaml")
}

/// The place that is written to.
enum Place {
    Directory(PathBuf),
    Git { repository: PathBuf, parent: String },
    Etcd(Box<Written>),
}

/// An etcd, and a client that is connected: a program that starts first would be in the figure.
struct Written {
    etcd: Etcd,
    runtime: Runtime,
    client: Client,
}

impl Written {
    fn start() -> Result<Self, BenchError> {
        let etcd = Etcd::start();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing("making a runtime")?;
        let client = runtime.block_on(Client::connect([etcd.host()], None)).doing("connecting to etcd")?;
        Ok(Self { etcd, runtime, client })
    }

    /// Returns when etcd has answered.
    fn put(&mut self, path: &str, text: &str) -> Result<(), BenchError> {
        let put = self.client.put(format!("{PREFIX}{path}"), text, None);
        self.runtime.block_on(put).doing("putting a key").map(|_| ())
    }
}

fn git(repository: &Path, words: &[&str]) -> Result<String, BenchError> {
    let what = format!("git {}", words.join(" "));
    let output = Command::new("git")
        .arg("-C")
        .arg(repository)
        .args(words)
        .envs([("GIT_AUTHOR_NAME", "bench"), ("GIT_AUTHOR_EMAIL", "bench@example.org")])
        .envs([("GIT_COMMITTER_NAME", "bench"), ("GIT_COMMITTER_EMAIL", "bench@example.org")])
        .stdin(Stdio::null())
        .output()
        .doing(&what)?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()).doing(what);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Place {
    fn new(from: From, directory: &Path, set: &[Prefix4]) -> Result<Self, BenchError> {
        fs::create_dir_all(directory).doing("making a directory")?;
        let parts = set.chunks(ENTRIES).enumerate();
        match from {
            From::Directory | From::Git => {
                for (number, prefixes) in parts {
                    fs::write(directory.join(name(number)), file(number, prefixes)).doing("writing a manifest")?;
                }
                if from == From::Directory {
                    return Ok(Self::Directory(directory.to_owned()));
                }
                git(directory, &["init", "-q", "-b", "main"])?;
                git(directory, &["add", "."])?;
                git(directory, &["commit", "-q", "-m", "all of it"])?;
                let parent = git(directory, &["rev-parse", "HEAD"])?;
                Ok(Self::Git { repository: directory.to_owned(), parent })
            }
            From::Etcd => {
                let mut written = Written::start()?;
                for (number, prefixes) in parts {
                    written.put(&name(number), &file(number, prefixes))?;
                }
                Ok(Self::Etcd(Box::new(written)))
            }
        }
    }

    fn source(&self) -> String {
        match self {
            Self::Directory(directory) => format!("dir:{}", directory.display()),
            Self::Git { repository, .. } => format!("git+file://{}#main", repository.display()),
            Self::Etcd(written) => written.etcd.source(),
        }
    }

    /// Makes all ready, writes, and says when.
    fn write(&mut self, number: usize, text: &str) -> Result<Instant, BenchError> {
        match self {
            Self::Directory(directory) => {
                let next = directory.join(".next");
                fs::write(&next, text).doing("writing a manifest")?;
                let start = Instant::now();
                fs::rename(&next, directory.join(name(number))).doing("renaming a manifest")?;
                Ok(start)
            }
            Self::Git { repository, parent } => {
                fs::write(repository.join(name(number)), text).doing("writing a manifest")?;
                git(repository, &["add", &name(number)])?;
                let tree = git(repository, &["write-tree"])?;
                let commit = git(repository, &["commit-tree", &tree, "-p", parent, "-m", "one entry"])?;
                let branch = repository.join(".git/refs/heads/main");
                let lock = branch.with_extension("lock");
                fs::write(&lock, format!("{commit}\n")).doing("writing a branch")?;
                *parent = commit;
                // What `git update-ref` does last.
                let start = Instant::now();
                fs::rename(&lock, &branch).doing("moving a branch")?;
                Ok(start)
            }
            Self::Etcd(written) => {
                // What etcd needs to make it last is etcd's.
                written.put(&name(number), text)?;
                Ok(Instant::now())
            }
        }
    }
}

fn one(options: &Options, work: &Path, from: From, set: &[Prefix4], report: &mut Report) -> Result<f64, BenchError> {
    let parts: Vec<&[Prefix4]> = set.chunks(ENTRIES).collect();
    let directory = work.join(format!("{from:?}-{}", parts.len()).to_lowercase());
    let mut place = Place::new(from, &directory, set)?;
    let weir = Weir::new(work.join(format!("weir-{from:?}-{}", parts.len()).to_lowercase()), &directory)?;
    let mut agent = weir.agent_of(&place.source(), &["--verify", "1h", "--catch-up", "1h"])?;
    agent.converged()?;
    // The other side catches up, and what the first change needs is made ready.
    thread::sleep(Duration::from_secs(2));
    let memory = (agent.memory.peak(), agent.memory.now());
    let entries = set.len();
    let what = format!("one entry of {entries} changed by {}", from.name());
    if from == From::Directory {
        report.at_most(
            format!("agent with {entries} entries in {} files: most RssAnon, MiB", parts.len()),
            memory.0,
            250.0,
        );
        report.at_most(format!("agent with {entries} entries in {} files: RssAnon, MiB", parts.len()), memory.1, 100.0);
    }
    let mut kernel = Kernel::open(weir_datapath::Options::new(weir.pins())).doing("opening the agent's tables")?;
    let strangers = sets::misses4(set, options.rounds as usize * 3);
    let mut samples = Vec::new();
    let already = agent.applied()?;
    for (round, stranger) in strangers.iter().enumerate() {
        let number = round % parts.len();
        let mut part = parts[number].to_vec();
        part[round % ENTRIES] = Prefix4 { bits: *stranger, length: 32 };
        let before = epoch(&mut kernel)?;
        let start = place.write(number, &file(number, &part))?;
        while epoch(&mut kernel)? == before {
            if start.elapsed() > Duration::from_secs(30) {
                return Err(BenchError::Wrong { what: format!("{what}: the agent did not flip") });
            }
            thread::sleep(Duration::from_micros(20));
        }
        samples.push((start.elapsed().saturating_sub(from.rest())).as_secs_f64() * 1000.0);
        agent.has_applied(already + round + 1)?;
    }
    work_done(&agent, &what, report)?;
    report.figure(figure(&format!("{what}: write to flip, net of rest"), "ms", &samples));
    if entries > 100_000 {
        report.at_most(format!("{what}: median, ms"), percentile(&samples, 50), 2.0);
        report.at_most(format!("{what}: 99th percentile, ms"), percentile(&samples, 99), 6.0);
    }
    Ok(percentile(&samples, 50))
}

/// One document, one object, and that object's entries: the one that went and the one that came.
fn work_done(agent: &Agent<'_>, what: &str, report: &mut Report) -> Result<(), BenchError> {
    let status = agent.status()?;
    let work = &status["agent"]["work"];
    for (counter, most) in [("documents", 1.0), ("objects", 1.0), ("entries", 4.0)] {
        report.at_most(format!("{what}: {counter}"), work[counter].as_f64().unwrap_or(f64::NAN), most);
    }
    if work["whole"] != Value::Bool(false) {
        return Err(BenchError::Wrong { what: format!("{what}: the whole set was compiled") });
    }
    Ok(())
}
