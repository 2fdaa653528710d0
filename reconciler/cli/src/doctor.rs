//! What this machine must have, and how to mend what it lacks.
use std::{fs, path::Path};

use serde::Serialize;
use weir_agent::Exit;
use weir_datapath::{Kernel, Machine, Options};
use weir_plan::{Capacity, Datapath, DatapathError, Tables};

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
    fn new(name: &'static str, ok: bool, found: impl Into<String>, mend: impl Into<String>, exit: Exit) -> Self {
        Self { name, ok, found: found.into(), mend: (!ok).then(|| mend.into()), exit }
    }
}

/// One program, as the verifier saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    pub program: &'static str,
    pub instructions: u32,
    pub jited_bytes: u32,
}

/// Oldest kernel that has what the programs use.
const OLDEST: (u32, u32) = (6, 1);

pub fn checks(machine: &Machine, pin_dir: &Path) -> Vec<Check> {
    let base = pin_dir.parent().unwrap_or(pin_dir).display();
    let missing = machine.missing_capabilities.join(" ");
    let granted = missing.is_empty();
    let cgroup2 = machine.cgroup2.as_ref().map_or("not mounted".to_owned(), |path| path.display().to_string());
    let bpffs = if machine.bpffs { format!("{base}") } else { format!("{base} is not in a BPF file system") };
    vec![
        Check::new("kernel", machine.version >= OLDEST, &machine.kernel, "boot Linux 6.1 or later", Exit::KERNEL),
        Check::new(
            "capabilities",
            granted,
            if granted { "all that are needed".to_owned() } else { format!("missing {missing}") },
            format!("run as root, or in a unit with AmbientCapabilities={missing}"),
            Exit::CAPABILITY,
        ),
        Check::new("bpffs", machine.bpffs, bpffs, format!("mount -t bpf bpf {base}"), Exit::KERNEL),
        Check::new("cgroup2", machine.cgroup2.is_some(), cgroup2, "mount -t cgroup2 none /sys/fs/cgroup", Exit::KERNEL),
        Check::new(
            "btf",
            machine.btf,
            if machine.btf { "/sys/kernel/btf/vmlinux" } else { "/sys/kernel/btf/vmlinux is missing" },
            "boot a kernel that is built with CONFIG_DEBUG_INFO_BTF=y",
            Exit::KERNEL,
        ),
    ]
}

/// What is good to know, and no condition.
pub fn notes(machine: &Machine) -> Vec<String> {
    let on = |flag: bool| if flag { "on" } else { "off" };
    vec![
        format!("tcx: {}", if machine.tcx { "yes" } else { "no (before Linux 6.6): clsact is used" }),
        format!("jit: {}", on(machine.jit)),
        format!("forwarding: IPv4 {}, IPv6 {}", on(machine.forwarding[0]), on(machine.forwarding[1])),
    ]
}

/// The programs that are loaded, or else those of a set of tables that is made for the occasion and thrown away.
pub fn verified(pin_dir: &Path) -> Result<Vec<Verified>, DatapathError> {
    let list = |kernel: &mut Kernel| -> Result<Vec<Verified>, DatapathError> {
        let verified = |program: weir_datapath::ProgramUse| Verified {
            program: program.name,
            instructions: program.verified_instructions,
            jited_bytes: program.jited_bytes,
        };
        Ok(kernel.loaded_programs()?.into_iter().map(verified).collect())
    };
    let live = list(&mut Kernel::open(Options::new(pin_dir))?)?;
    // Those that a node needs are loaded; the others are as good as theirs.
    if live.len() == weir_plan::Hook::ALL.len() {
        return Ok(live);
    }
    let mut name = pin_dir.file_name().unwrap_or("weir".as_ref()).to_owned();
    name.push(format!("-doctor-{}", std::process::id()));
    let pins = pin_dir.with_file_name(name);
    let tried = try_load(&pins).and_then(|mut kernel| {
        kernel.load_all()?;
        list(&mut kernel)
    });
    // Nothing but pins was made, and they are all below this directory.
    match fs::remove_dir_all(&pins) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            Err(DatapathError::Failed { doing: "removing", what: pins.display().to_string(), cause: cause.to_string() })
        }
        _ => tried,
    }
}

fn try_load(pins: &Path) -> Result<Kernel, DatapathError> {
    let mut kernel = Kernel::open(Options::new(pins))?;
    let capacity = Capacity {
        conntrack_tcp: 1024,
        conntrack_other: 1024,
        fragments: 1024,
        affinity: 16,
        nat: 16,
        sockets: 16,
        rules: 16,
    };
    kernel.prepare(&Tables::default(), &capacity)?;
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Machine {
        Machine {
            kernel: "6.18.44".to_owned(),
            version: (6, 18),
            missing_capabilities: Vec::new(),
            bpffs: true,
            cgroup2: Some("/sys/fs/cgroup".into()),
            btf: true,
            tcx: true,
            jit: true,
            forwarding: [true, false],
        }
    }

    #[test]
    fn each_lack_is_named_and_can_be_mended() {
        let pins = Path::new("/sys/fs/bpf/weir");
        assert!(checks(&good(), pins).iter().all(|check| check.ok && check.mend.is_none()));
        let cases: [(&str, Machine, Exit, &str); 5] = [
            ("kernel", Machine { version: (6, 0), ..good() }, Exit::KERNEL, "6.1"),
            ("capabilities", Machine { missing_capabilities: vec!["CAP_BPF"], ..good() }, Exit::CAPABILITY, "CAP_BPF"),
            ("bpffs", Machine { bpffs: false, ..good() }, Exit::KERNEL, "mount -t bpf bpf /sys/fs/bpf"),
            ("cgroup2", Machine { cgroup2: None, ..good() }, Exit::KERNEL, "mount -t cgroup2"),
            ("btf", Machine { btf: false, ..good() }, Exit::KERNEL, "CONFIG_DEBUG_INFO_BTF"),
        ];
        for (name, machine, exit, mend) in cases {
            let checks = checks(&machine, pins);
            let wrong: Vec<_> = checks.iter().filter(|check| !check.ok).collect();
            assert_eq!(wrong.len(), 1, "{name}");
            assert_eq!((wrong[0].name, wrong[0].exit), (name, exit));
            assert!(wrong[0].mend.as_ref().is_some_and(|text| text.contains(mend)), "{:?}", wrong[0].mend);
        }
    }
}
