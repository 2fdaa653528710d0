//! What this machine must have, and how to mend what it lacks.
use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use serde::Serialize;
use weir_agent::Exit;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// How to mend it, where it is not right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
    #[serde(skip)]
    pub exit: Exit,
}

impl Check {
    fn new(name: &'static str, found: Result<String, String>, mend: impl Into<String>, exit: Exit) -> Self {
        let (ok, found) = match found {
            Ok(found) => (true, found),
            Err(found) => (false, found),
        };
        Self { name, ok, found, mend: (!ok).then(|| mend.into()), exit }
    }
}

/// Oldest kernel that has what the programs use.
const OLDEST: (u32, u32) = (6, 1);

pub fn checks(pin_dir: &Path) -> Vec<Check> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let bpffs = mount_point(pin_dir);
    vec![
        Check::new("kernel", kernel(&read("/proc/sys/kernel/osrelease")), "boot Linux 6.1 or later", Exit::KERNEL),
        Check::new(
            "capabilities",
            capabilities(&read("/proc/self/status")),
            "run as root, or with AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON CAP_SYS_ADMIN",
            Exit::CAPABILITY,
        ),
        Check::new(
            "bpffs",
            file_system(&bpffs, BPF_FS_MAGIC, "a BPF file system"),
            format!("mount -t bpf bpf {}", bpffs.display()),
            Exit::KERNEL,
        ),
        Check::new(
            "cgroup2",
            cgroup2(&read("/proc/self/mounts")),
            "mount -t cgroup2 none /sys/fs/cgroup",
            Exit::KERNEL,
        ),
        Check::new(
            "btf",
            present(Path::new("/sys/kernel/btf/vmlinux")),
            "boot a kernel that is built with CONFIG_DEBUG_INFO_BTF=y",
            Exit::KERNEL,
        ),
    ]
}

fn kernel(release: &str) -> Result<String, String> {
    let release = release.trim().to_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => Ok(release),
        _ if release.is_empty() => Err("unknown".to_owned()),
        _ => Err(format!("{release}; 6.1 is the oldest that works")),
    }
}

const CAPABILITIES: [(u32, &str); 4] =
    [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];

fn capabilities(status: &str) -> Result<String, String> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()) else {
        return Err("unknown".to_owned());
    };
    let missing: Vec<&str> =
        CAPABILITIES.iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        Ok(CAPABILITIES.map(|(_, name)| name).join(" "))
    } else {
        Err(format!("missing {}", missing.join(" ")))
    }
}

/// Where a BPF file system has to be for `pin_dir` to be in it: its parent, in the usual layout.
fn mount_point(pin_dir: &Path) -> PathBuf {
    let mut at = pin_dir.parent().unwrap_or(pin_dir);
    while !at.exists() {
        match at.parent() {
            Some(parent) => at = parent,
            None => break,
        }
    }
    at.to_owned()
}

fn file_system(path: &Path, wanted: FsType, name: &str) -> Result<String, String> {
    match statfs(path) {
        Ok(found) if found.filesystem_type() == wanted => Ok(path.display().to_string()),
        Ok(_) => Err(format!("{} is not {name}", path.display())),
        Err(errno) => Err(format!("{}: {errno}", path.display())),
    }
}

/// Anywhere: systemd may have it beside cgroup1.
fn cgroup2(mounts: &str) -> Result<String, String> {
    let found = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (path, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| path.to_owned())
    });
    let found = found.ok_or_else(|| "not mounted".to_owned())?;
    file_system(Path::new(&found), CGROUP2_SUPER_MAGIC, "cgroup2")
}

fn present(path: &Path) -> Result<String, String> {
    match fs::metadata(path) {
        Ok(_) => Ok(path.display().to_string()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels() {
        for good in ["6.1.0-13-cloud-amd64", "6.18.0", "10.0", "6.1-rc1\n"] {
            assert!(kernel(good).is_ok(), "{good}");
        }
        for bad in ["6.0.9", "5.15.0", "", "linux"] {
            assert!(kernel(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn capabilities_are_named_when_they_are_missing() {
        assert!(capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n").is_ok());
        let missing = capabilities("CapEff:\t0000000000001000\n").unwrap_err();
        assert_eq!(missing, "missing CAP_SYS_ADMIN CAP_PERFMON CAP_BPF");
        assert!(capabilities("").is_err());
    }

    #[test]
    fn a_directory_that_is_no_bpffs() {
        let dir = tempfile::tempdir().unwrap();
        let at = mount_point(&dir.path().join("bpf/weir"));
        assert_eq!(at, dir.path());
        assert!(file_system(&at, BPF_FS_MAGIC, "a BPF file system").unwrap_err().ends_with("is not a BPF file system"));
    }
}
