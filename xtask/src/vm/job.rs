//! What runs in the guest, and how its serial line is read.

use super::kernel::Kernel;
use crate::{failure::Failure, libtest::Tally};

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
  if "$@"; then echo "weir-vm: ok $what"; else echo "weir-vm: FAILED $what (exit $?)"; fi
}
"#;

/// The last thing that the guest says; nothing after it counts.
const EPILOGUE: &str = r#"
echo "weir-vm: done"
/bin/busybox poweroff -f
"#;

/// The script that the guest's first process runs.
pub fn script(kernel: &Kernel) -> Result<String, Failure> {
    let mut script = format!("MODULES={}\n", kernel.root.join("lib/modules").display());
    script.push_str(PROLOGUE);
    script.push_str(
        "step 'namespaces and a veth pair' bash -c 'uname -r && ip netns add a && ip link add x type veth peer name y \
         netns a && ip netns exec a ip link set y up && ip netns del a'\n",
    );
    script.push_str("step 'a clsact qdisc' bash -c 'ip link add x type veth peer name y && tc qdisc add dev x clsact && ip link del x'\n");
    script.push_str("step 'a BPF file system' bash -c 'mkdir /sys/fs/bpf/x && rmdir /sys/fs/bpf/x'\n");
    script.push_str(EPILOGUE);
    Ok(script)
}

/// What the serial line has said so far.
#[derive(Debug, Default)]
pub struct Outcome {
    tally: Tally,
    done: bool,
}

impl Outcome {
    pub fn line(&mut self, line: &str) {
        if line == DONE {
            self.done = true;
        } else if let Some(step) = line.strip_prefix(STEP) {
            if step.starts_with("ok ") {
                self.tally.passed += 1;
            } else {
                self.tally.failed += 1;
            }
        } else {
            self.tally.line(line);
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
    fn a_guest_that_never_says_done_has_failed() {
        let mut outcome = Outcome::default();
        outcome.line("weir-vm: ok a veth pair");
        assert_eq!(outcome.tally(), Tally { passed: 1, failed: 1, ignored: 0 });
        outcome.line("weir-vm: FAILED doctor (exit 78)");
        outcome.line("weir-vm: done");
        assert_eq!(outcome.tally(), Tally { passed: 1, failed: 1, ignored: 0 });
    }
}
