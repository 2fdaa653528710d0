//! Running git.
//!
//! The program, not a library: users have an ssh configuration, credential helpers, proxies, `insteadOf` rules and
//! repositories in SHA-256, reftable or with alternates, and only git itself understands all of them alike.
use std::{
    env,
    io::Read,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::error::GitError;

/// When to give up: at an instant, or once somebody says stop.
#[derive(Clone, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    patience: Duration,
    stop: Arc<AtomicBool>,
}

/// How soon a stop is noticed.
const SLICE: Duration = Duration::from_millis(100);
/// More than any answer that is waited for whole.
const MOST_OUTPUT: u64 = 64 << 20;

impl Deadline {
    pub fn new(patience: Duration, stop: Arc<AtomicBool>) -> Self {
        Self { at: Instant::now() + patience, patience, stop }
    }

    /// How long to wait before asking again.
    pub fn slice(&self, what: &'static str) -> Result<Duration, GitError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(GitError::Stopped);
        }
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(GitError::Late { what, after: self.patience });
        }
        Ok(left.min(SLICE))
    }
}

/// Variables that say how to reach a remote. All other `GIT_…` are dropped: inside a hook, say, `GIT_DIR` and
/// `GIT_INDEX_FILE` mean another repository.
const KEPT: [&str; 8] =
    ["GIT_ASKPASS", "GIT_SSH", "GIT_SSL_", "GIT_HTTP_", "GIT_PROXY_", "GIT_CONFIG_", "GIT_TRACE", "GIT_EXEC_PATH"];

/// What must not be decided by a repository's own configuration, which whoever may write to it may change: nothing
/// that it names is ever run.
const SETTINGS: [&str; 9] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.pager=cat",
    // Whose repository it is does not matter where nothing of it is run.
    "safe.directory=*",
    "protocol.ext.allow=never",
    // A clone is tended while we wait for it, or it would outlive the deadline.
    "gc.autoDetach=false",
    "maintenance.autoDetach=false",
    "gc.pruneExpire=1.hour.ago",
    "advice.detachedHead=false",
];

/// git, in an environment that neither asks questions nor runs what a repository says.
pub(crate) fn git() -> Command {
    let mut command = Command::new("git");
    for (name, _) in env::vars_os() {
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(b"GIT_") && !KEPT.iter().any(|kept| bytes.starts_with(kept.as_bytes())) {
            command.env_remove(&name);
        }
    }
    command
        .env("LC_ALL", "C")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_OPTIONAL_LOCKS", "0")
        // A replacement would stand in for what was signed.
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        // A missing object is missing; looking for it elsewhere would run what the repository's configuration says.
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_ALLOW_PROTOCOL", "http:https:ssh")
        // Whatever would ask gets no answer, at once.
        .env("SSH_ASKPASS", "/bin/false")
        .env("SSH_ASKPASS_REQUIRE", "force");
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    command
}

/// git in the repository whose directory is `git_dir`; without a way to any other.
pub(crate) fn git_in(git_dir: &Path) -> Command {
    let mut command = git();
    command.arg("--git-dir").arg(git_dir).env("GIT_ALLOW_PROTOCOL", "none").current_dir("/");
    command
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    /// The output of a run that must succeed.
    pub fn success(self, what: &str) -> Result<Vec<u8>, GitError> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        Err(GitError::Failed { what: what.to_owned(), said: self.said() })
    }

    /// What it said on standard error, as one line.
    pub fn said(&self) -> String {
        one_line(&self.stderr, &self.status.to_string())
    }
}

/// Lines that say nothing are left out, and so is what differs from one try to the next: the same failure must have
/// the same text.
pub(crate) fn one_line(stderr: &str, otherwise: &str) -> String {
    const SHOWN: usize = 500;
    let lines = stderr.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("hint:"));
    let lines: Vec<String> = lines
        .map(|line| line.trim_start_matches("fatal: ").trim_start_matches("error: "))
        .map(without_times)
        .filter(|line| !line.starts_with("Please make sure you have the correct access rights"))
        .filter(|line| line != "and the repository exists.")
        .collect();
    let mut text: String = lines.join("; ").chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    if text.is_empty() {
        text = otherwise.to_owned();
    }
    text
}

/// `after 12 ms` of curl's.
fn without_times(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let mut kept = Vec::new();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let number = words.get(at + 1).is_some_and(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
        let unit = words.get(at + 2).is_some_and(|word| matches!(word.trim_end_matches(':'), "ms" | "milliseconds"));
        if *word == "after" && number && unit {
            if words[at + 2].ends_with(':')
                && let Some(last) = kept.last_mut()
            {
                *last = format!("{last}:");
            }
            at += 3;
        } else {
            kept.push((*word).to_owned());
            at += 1;
        }
    }
    kept.join(" ")
}

/// Runs a program to its end, or ends it and all that it started.
pub(crate) fn run(
    mut command: Command,
    program: &'static str,
    what: &'static str,
    deadline: &Deadline,
) -> Result<Ran, GitError> {
    deadline.slice(what)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let failed = |cause| GitError::Program { program, cause };
    let child = command.spawn().map_err(failed)?;
    let mut group = Group(Some(child));
    let Some(child) = &mut group.0 else { unreachable!("it was put there one line above") };
    let (told, outputs) = mpsc::channel();
    let streams: [(usize, Option<Box<dyn Read + Send>>); 2] = [
        (0, child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>)),
        (1, child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>)),
    ];
    for (number, stream) in streams {
        let told = told.clone();
        let read = move || {
            let mut bytes = Vec::new();
            if let Some(stream) = stream {
                // What could be read until it failed is all there is to tell.
                let _ = stream.take(MOST_OUTPUT).read_to_end(&mut bytes);
            }
            // Nobody waits any more where the deadline has passed.
            let _ = told.send((number, bytes));
        };
        thread::Builder::new().name("weir-git".to_owned()).spawn(read).map_err(failed)?;
    }
    let mut texts = [Vec::new(), Vec::new()];
    let mut open = texts.len();
    while open > 0 {
        match outputs.recv_timeout(deadline.slice(what)?) {
            Ok((number, bytes)) => {
                texts[number] = bytes;
                open -= 1;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    // Both ends are closed: it has ended or is about to.
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        deadline.slice(what)?;
        thread::sleep(Duration::from_micros(200));
    };
    group.0 = None;
    let [stdout, stderr] = texts;
    Ok(Ran { status, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() })
}

/// A process group of ours that does not outlive this.
struct Group(Option<Child>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Its helpers (ssh, git-remote-https) are in its group. Already gone is fine.
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            let _ = child.wait();
        }
    }
}

pub(crate) fn run_git(command: Command, what: &'static str, deadline: &Deadline) -> Result<Ran, GitError> {
    run(command, "git", what, deadline)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deadline(patience: Duration) -> Deadline {
        Deadline::new(patience, Arc::default())
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_hangs_is_ended_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let result = run(shell(&script), "sh", "the script", &deadline(Duration::from_millis(500)));
        assert!(matches!(result, Err(GitError::Late { .. })), "{result:?}");
        let child: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        // A zombie until its new parent has looked.
        let ended = |pid: i32| match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        while !ended(child) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_stop_ends_it_too() {
        let stop = Arc::new(AtomicBool::new(false));
        let deadline = Deadline::new(Duration::from_secs(1000), stop.clone());
        let waiting = thread::spawn(move || run(shell("sleep 1000"), "sh", "the script", &deadline));
        thread::sleep(Duration::from_millis(20));
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(waiting.join().unwrap(), Err(GitError::Stopped)));
    }

    #[test]
    fn output_larger_than_a_pipe_and_a_failure() {
        let ran =
            run(shell("head -c 300000 /dev/zero; echo fatal: no >&2; exit 3"), "sh", "it", &deadline(SLICE * 600));
        let ran = ran.unwrap();
        assert_eq!((ran.stdout.len(), ran.status.code(), ran.said()), (300_000, Some(3), "no".to_owned()));
        let missing = run(Command::new("/nonexistent"), "git", "it", &deadline(SLICE * 600));
        assert!(matches!(missing, Err(GitError::Program { .. })));
    }

    #[test]
    fn the_same_failure_has_the_same_text() {
        let said = |ms: u32| {
            one_line(
                &format!(
                    "hint: x\nfatal: unable to access 'https://h/': Failed to connect to h port 1 after {ms} ms: \
                     Couldn't connect to server\nPlease make sure you have the correct access rights\nand the \
                     repository exists.\n"
                ),
                "",
            )
        };
        assert_eq!(said(1), said(200));
        assert_eq!(said(1), "unable to access 'https://h/': Failed to connect to h port 1: Couldn't connect to server");
    }
}
