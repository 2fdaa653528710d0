use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{Node, eventually};

/// `weir run`, killed when it is dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    log: PathBuf,
    node: Node,
}

impl Agent {
    pub(super) fn start(node: &Node, words: &[&str]) -> Self {
        Self::spawn(node, words).answering()
    }

    /// Of a source that `words` name, in an environment with `variables` in it.
    pub fn following(node: &Node, words: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::launch(node, words, variables).answering()
    }

    fn answering(self) -> Self {
        let mut agent = self;
        eventually("the agent answers", || {
            if let Some(status) = agent.child.try_wait().expect("our own child") {
                panic!("the agent ended with {status}:\n{}", agent.log());
            }
            // Without an agent, the verb works alone, and keeps the agent from the state.
            if !agent.node.directory().join("agent.sock").exists() {
                return None;
            }
            let status = agent.node.weir(&["status", "-o", "json"]);
            (status.code() == 0 && !status.json()["agent"].is_null()).then_some(())
        });
        agent
    }

    /// As [`Node::agent`], without waiting for it.
    pub fn spawn(node: &Node, words: &[&str]) -> Self {
        Self::launch(node, &[&["-f", "."], words].concat(), &[])
    }

    fn launch(node: &Node, words: &[&str], variables: &[(&str, &str)]) -> Self {
        let log = node.directory().join("agent.log");
        let file = File::options().create(true).append(true).open(&log).expect("a file in /run");
        let mut command = node.command(&["run"]);
        command
            .args(words)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a descriptor"))
            .stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("weir run: {error}"));
        Self { child, log, node: node.clone() }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn status(&self) -> Value {
        self.node.expect(0, &["status", "-o", "json"]).json()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Asks it to stop, and waits until it did.
    pub fn stop(mut self) -> ExitStatus {
        kill(self.pid(), Signal::SIGTERM).expect("our own child");
        eventually("the agent stops", || self.child.try_wait().expect("our own child"))
    }

    /// `kill -9`.
    pub fn murder(mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Already gone is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("the agent's log:\n{}", self.log());
        }
    }
}
