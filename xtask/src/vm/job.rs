//! What runs in the guest, and how its serial line is read.

use std::{env, fmt::Write as _, path::PathBuf};

use super::{
    kernel::Kernel,
    verified::{Counts, Reader},
};
use crate::{campaign::Campaign, command::heading, failure::Failure, libtest::Tally, workspace};

const STEP: &str = "weir-vm: ";
const DONE: &str = "weir-vm: done";

/// The guest's second half of starting up: file systems, modules, and one function per result.
const PROLOGUE: &str = r#"#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mkdir -p /lib/modules
mount --bind "$MODULES" /lib/modules
ip link set lo up
# A kernel without autoload entries for these would make the first use fail.
modprobe -a veth sch_ingress cls_bpf
step() {
  local what=$1; shift
  echo "==> $what"
  # Through a pipe: a program that sees the serial line as a terminal would colour what is read from it.
  "$@" 2>&1 | cat
  local code=${PIPESTATUS[0]}
  if [ "$code" = 0 ]; then echo "weir-vm: ok $what"; else echo "weir-vm: FAILED $what (exit $code)"; fi
}
"#;

/// The last thing that the guest says; nothing after it counts.
const EPILOGUE: &str = r#"
echo "weir-vm: done"
/bin/busybox poweroff -f
"#;

/// Test targets that run in the guest, and which of their tests: what loads, attaches and sends packets.
const TESTS: &[(&str, &str)] = &[("packets", ""), ("flow_test", "a_commit_that_fails_its_tests_never_goes_live")];

/// The script that the guest's first process runs. Builds the test binaries.
pub fn script(kernel: &Kernel) -> Result<String, Failure> {
    let target = workspace::target();
    let weir = target.join("release/weir").display().to_string();
    let xtask = env::current_exe().map_err(|cause| Failure::Start { program: "xtask".to_owned(), cause })?;
    let mut script = format!("MODULES={}\n", kernel.root.join("lib/modules").display());
    script.push_str(PROLOGUE);
    let mut export = |name: &str, value: &str| {
        let _ = writeln!(script, "export {name}={value}");
    };
    export("WEIR_BIN", &weir);
    export("WEIR_CAMPAIGN", Campaign::Quick.name());
    let _ = writeln!(script, "cd {}", workspace::root().display());
    let mut step = |what: &str, command: &str| {
        let _ = writeln!(script, "step '{what}' {command}");
    };
    step("the node can do what Weir needs", &format!("{weir} doctor"));
    let inside = format!("unshare --mount --net --propagation private -- {} demo-inside {weir}", xtask.display());
    step("every program loads, attached by clsact; the quickstart", &inside);
    let binaries = test_binaries()?;
    for (wanted, filter) in TESTS {
        for (name, path) in binaries.iter().filter(|(name, _)| name == wanted) {
            step(&format!("tests/{name}"), &format!("{} {filter}", path.display()));
        }
    }
    script.push_str(EPILOGUE);
    Ok(script)
}

/// Every integration test of the workspace: its name, and its executable.
fn test_binaries() -> Result<Vec<(String, PathBuf)>, Failure> {
    heading("the test binaries");
    let call = workspace::cargo().args(["test", "--release", "--workspace", "--no-run", "--message-format=json"]);
    let mut found = Vec::new();
    if call.show().lines(|line| found.extend(test_binary(line)))? {
        return Ok(found);
    }
    Err(Failure::Failed("the tests do not build".to_owned()))
}

/// What one line of cargo's messages says about a test binary:
/// <https://doc.rust-lang.org/cargo/reference/external-tools.html#artifact-messages>
fn test_binary(message: &str) -> Option<(String, PathBuf)> {
    let text_after = |text: &str, key: &str| Some(text.split_once(key)?.1.split_once('"')?.0.to_owned());
    let target = message.split_once(r#""target":{"kind":["test"]"#)?.1;
    Some((text_after(target, r#""name":""#)?, text_after(target, r#""executable":""#)?.into()))
}

/// What the serial line has said so far.
#[derive(Debug, Default)]
pub struct Outcome {
    tally: Tally,
    done: bool,
    verified: Reader,
}

impl Outcome {
    pub fn line(&mut self, line: &str) {
        self.verified.line(line);
        if line == DONE {
            self.done = true;
        } else if let Some(step) = line.strip_prefix(STEP) {
            self.count(step.starts_with("ok "));
        } else {
            self.tally.line(line);
        }
    }

    /// What the verifier counted in the guest.
    pub fn verified(&self) -> &Counts {
        &self.verified.counts
    }

    /// Adds a check that was made outside the guest.
    pub fn result(&mut self, what: &str, ok: bool) {
        println!("{} {what}", if ok { "ok" } else { "FAILED:" });
        self.count(ok);
    }

    fn count(&mut self, ok: bool) {
        if ok {
            self.tally.passed += 1;
        } else {
            self.tally.failed += 1;
        }
    }

    /// A guest that stopped early has failed, whatever it had said.
    pub fn tally(&self) -> Tally {
        let mut tally = self.tally;
        if !self.done {
            tally.failed += 1;
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_executable_of_a_test() {
        let message = r#"{"reason":"compiler-artifact","package_id":"x","target":{"kind":["test"],"crate_types":["bin"],"name":"packets","src_path":"p.rs"},"executable":"/t/packets-1","fresh":true}"#;
        assert_eq!(test_binary(message), Some(("packets".to_owned(), "/t/packets-1".into())));
        assert_eq!(test_binary(&message.replace("[\"test\"]", "[\"lib\"]")), None);
    }

    #[test]
    fn a_guest_that_never_says_done_has_failed() {
        let mut outcome = Outcome::default();
        outcome.line("weir-vm: ok a veth pair");
        assert_eq!(outcome.tally(), Tally { passed: 1, failed: 1, ignored: 0 });
        outcome.line("weir-vm: FAILED doctor (exit 78)");
        outcome.line("weir-vm: done");
        assert_eq!(outcome.tally(), Tally { passed: 1, failed: 1, ignored: 0 });
    }
}
