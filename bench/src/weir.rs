//! The shipped binary, with a state, a pin directory and a socket of its own.
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    measure::{BenchError, Doing},
    node::BPFFS,
};

/// Nothing here takes that long.
const PATIENCE: Duration = Duration::from_secs(180);

/// What the node is called.
pub(crate) const NODE: &str = "node1";

#[derive(Debug)]
pub(crate) struct Weir {
    binary: PathBuf,
    directory: PathBuf,
    source: PathBuf,
}

/// What a verb printed as JSON, and how long it took from its start to its end.
#[derive(Debug)]
pub(crate) struct Ran {
    pub json: Value,
    pub wall: Duration,
}

impl Weir {
    /// State and socket are below `directory`, the pins beside those of others.
    pub(crate) fn new(directory: PathBuf, source: &Path) -> Result<Self, BenchError> {
        let own = std::env::current_exe().doing("finding our own path")?;
        let binary = own.with_file_name("weir");
        if !binary.is_file() {
            return Err(BenchError::Wrong { what: format!("{} is not there: `cargo xtask build`", binary.display()) });
        }
        fs::create_dir_all(&directory).doing(format!("making {}", directory.display()))?;
        Ok(Self { binary, directory, source: source.to_owned() })
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    pub(crate) fn pins(&self) -> PathBuf {
        Path::new(BPFFS).join(self.directory.file_name().unwrap_or_default())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("WEIR_NODE", NODE)
            .env("WEIR_STATE_DIR", self.directory.join("state"))
            .env("WEIR_PIN_DIR", self.pins())
            .env("WEIR_SOCKET", self.directory.join("agent.sock"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a verb to its end, which must be a good one.
    pub(crate) fn run(&self, words: &[&str]) -> Result<Ran, BenchError> {
        let what = format!("weir {}", words.join(" "));
        let mut command = self.command(words);
        command.args(["-o", "json"]).stderr(Stdio::piped()).stdout(Stdio::piped());
        let start = Instant::now();
        let output = command.output().doing(&what)?;
        let wall = start.elapsed();
        if !output.status.success() {
            let text = [output.stderr, output.stdout].concat();
            return Err(String::from_utf8_lossy(&text).trim().to_owned()).doing(what);
        }
        let json =
            if output.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&output.stdout).doing(what)? };
        Ok(Ran { json, wall })
    }

    pub(crate) fn apply(&self) -> Result<Ran, BenchError> {
        let source = self.source.display().to_string();
        self.run(&["apply", "-f", &source])
    }

    /// Follows the source. The log is JSON, one event a line.
    pub(crate) fn agent(&self, words: &[&str]) -> Result<Agent<'_>, BenchError> {
        self.agent_of(&format!("dir:{}", self.source.display()), words)
    }

    /// Follows another source.
    pub(crate) fn agent_of(&self, source: &str, words: &[&str]) -> Result<Agent<'_>, BenchError> {
        let log = self.directory.join("agent.log");
        let file = File::create(&log).doing(format!("creating {}", log.display()))?;
        let mut command = self.command(&["run", "--source", source, "--log-format", "json"]);
        let child = command.args(words).stdout(Stdio::null()).stderr(file).spawn().doing("weir run")?;
        let memory = Memory::watch(child.id());
        Ok(Agent { weir: self, child, log, memory })
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        match self.command(&["uninstall", "--purge"]).stdout(Stdio::null()).status() {
            Ok(status) if status.success() => {}
            Ok(status) => eprintln!("weir-bench: weir uninstall: {status}"),
            Err(cause) => eprintln!("weir-bench: weir uninstall: {cause}"),
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// `weir run`, stopped when it is dropped.
#[derive(Debug)]
pub(crate) struct Agent<'w> {
    weir: &'w Weir,
    child: Child,
    log: PathBuf,
    pub(crate) memory: Memory,
}

impl Agent<'_> {
    pub(crate) fn status(&self) -> Result<Value, BenchError> {
        Ok(self.weir.run(&["status"])?.json)
    }

    /// Waits until it says that all is as it should be.
    pub(crate) fn converged(&mut self) -> Result<Value, BenchError> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().doing("waiting for the agent")? {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                return Err(BenchError::Wrong { what: format!("the agent ended with {status}: {log}") });
            }
            // Without an agent, the verb would work alone, and keep the agent from the store.
            if self.weir.directory.join("agent.sock").exists()
                && let Ok(status) = self.status()
                && status["state"] == "converged"
                && !status["agent"]["revision"].is_null()
            {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(BenchError::Wrong { what: "the agent did not converge".to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it logs that it is ready: at the moment itself, where [`Self::converged`] asks now and then.
    pub(crate) fn ready(&self) -> Result<(), BenchError> {
        let start = Instant::now();
        loop {
            let log = fs::read_to_string(&self.log).doing("reading the agent's log")?;
            let says = |line: &str| line.contains(r#""condition":"Ready""#) && line.contains(r#""status":"True""#);
            if log.lines().any(says) {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(BenchError::Wrong { what: format!("the agent did not become ready: {log}") });
            }
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// How often it applied something.
    pub(crate) fn applied(&self) -> Result<usize, BenchError> {
        let log = fs::read_to_string(&self.log).doing("reading the agent's log")?;
        Ok(log.lines().filter(|line| line.contains(r#""message":"applied""#)).count())
    }

    /// Waits until it has applied something `count` times, and is done with it.
    pub(crate) fn has_applied(&self, count: usize) -> Result<(), BenchError> {
        let start = Instant::now();
        while self.applied()? < count {
            if start.elapsed() > PATIENCE {
                return Err(BenchError::Wrong { what: "the agent did not apply a change".to_owned() });
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        // SAFETY: our own child, which is not reaped before the wait below.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        if let Err(cause) = self.child.wait() {
            eprintln!("weir-bench: waiting for the agent: {cause}");
        }
    }
}

/// A process's anonymous memory, sampled by a thread.
#[derive(Debug)]
pub(crate) struct Memory {
    pid: u32,
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sampler: Option<JoinHandle<()>>,
}

const SAMPLE: Duration = Duration::from_millis(2);

impl Memory {
    fn watch(pid: u32) -> Self {
        let (peak, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let sample = {
            let (peak, stop) = (peak.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    peak.fetch_max(rss_anon(pid).unwrap_or(0), Ordering::Relaxed);
                    thread::sleep(SAMPLE);
                }
            }
        };
        Self { pid, peak, stop, sampler: Some(thread::spawn(sample)) }
    }

    /// `RssAnon` now, in MiB.
    pub(crate) fn now(&self) -> f64 {
        rss_anon(self.pid).unwrap_or(0) as f64 / 1024.0
    }

    /// The most since the last call, in MiB.
    pub(crate) fn peak(&self) -> f64 {
        self.peak.swap(0, Ordering::Relaxed) as f64 / 1024.0
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sampler) = self.sampler.take() {
            let _ = sampler.join();
        }
    }
}

fn rss_anon(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix("kB")?.trim().parse().ok())
}
