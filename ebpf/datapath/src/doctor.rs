//! What this machine can do, before anything is asked of it.
use std::path::{Path, PathBuf};

use crate::{pins::Pins, sys};

/// Facts, without a verdict: which of them are a problem, and how to mend it, is for the reader to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// `6.18.44`
    pub kernel: String,
    /// Major and minor version.
    pub version: (u32, u32),
    /// Effective capabilities that are needed and missing.
    pub missing_capabilities: Vec<&'static str>,
    /// Whether the pin directory is in a BPF file system.
    pub bpffs: bool,
    /// Where cgroup2 is mounted.
    pub cgroup2: Option<PathBuf>,
    /// Whether the kernel has type information of its own (`/sys/kernel/btf/vmlinux`).
    pub btf: bool,
    pub tcx: bool,
    pub jit: bool,
    /// `net.ipv4.ip_forward` and `net.ipv6.conf.all.forwarding`, of this network namespace.
    pub forwarding: [bool; 2],
}

/// Capabilities and their bits.
const NEEDED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_BPF", 39)];

impl Machine {
    pub fn examine(pin_dir: &Path) -> Self {
        let kernel = read("/proc/sys/kernel/osrelease");
        let mut numbers = kernel.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Self {
            version,
            missing_capabilities: missing_capabilities(),
            bpffs: Pins::new(pin_dir.to_owned()).check().is_ok(),
            cgroup2: cgroup2(),
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            tcx: has_tcx(),
            jit: read("/proc/sys/net/core/bpf_jit_enable") != "0",
            forwarding: ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"]
                .map(|path| read(path) == "1"),
            kernel,
        }
    }
}

/// Where cgroup2 is mounted, first of all.
pub fn cgroup2() -> Option<PathBuf> {
    let mounts = read("/proc/thread-self/mounts");
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (place, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })
}

/// Those of [`NEEDED`] that this thread does not have in effect.
pub fn missing_capabilities() -> Vec<&'static str> {
    let status = read("/proc/thread-self/status");
    let effective =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok()).unwrap_or(0);
    NEEDED.iter().filter(|(_, bit)| effective >> bit & 1 == 0).map(|(name, _)| *name).collect()
}

/// A small file of /proc, trimmed; empty where it cannot be read.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Whether tcx is there (Linux 6.6).
pub fn has_tcx() -> bool {
    // Every namespace has `lo`, index 1. Without tcx the attach type is unknown: EINVAL.
    match sys::tcx_programs(1, false) {
        Ok(_) => true,
        Err(error) => error.raw_os_error() != Some(libc::EINVAL),
    }
}
