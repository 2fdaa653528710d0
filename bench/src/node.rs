//! A node of the benchmark's own: mount and network namespaces, a BPF file system.
use std::{ffi::CString, fs, path::Path, process::Command};

use aya::programs::ProgramFd;
use weir_abi::{Direction, Reason};
use weir_datapath::Kernel;
use weir_plan::{Capacity, Change, Datapath, Hook, HookKey, HookState, Tables, WiringDelta, XdpAttach};

use crate::measure::{BenchError, Doing, last_error};

/// Where the namespace's own BPF file system is mounted.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// Moves this process, while it has one thread, into fresh namespaces with `lo` up.
pub(crate) fn enter() -> Result<(), BenchError> {
    // SAFETY: takes no pointers; called before any thread is started.
    if unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWNET) } != 0 {
        return Err(last_error()).doing("making namespaces (are you root?)");
    }
    mount("none", "/", None, libc::MS_REC | libc::MS_PRIVATE)?;
    // Where names of network namespaces go.
    mount("tmpfs", "/run", Some("tmpfs"), 0)?;
    fs::create_dir_all(BPFFS).doing(format!("creating {BPFFS}"))?;
    mount("bpf", BPFFS, Some("bpf"), 0)
}

fn mount(source: &str, target: &str, kind: Option<&str>, flags: libc::c_ulong) -> Result<(), BenchError> {
    let text = |text: &str| CString::new(text).doing("mount");
    let (source, target_text) = (text(source)?, text(target)?);
    let kind = kind.map(text).transpose()?;
    // SAFETY: every pointer is a NUL-terminated string that outlives the call, or null where the kernel allows it.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target_text.as_ptr(),
            kind.as_ref().map_or(std::ptr::null(), |kind| kind.as_ptr()),
            flags,
            std::ptr::null(),
        )
    };
    if result != 0 {
        return Err(last_error()).doing(format!("mounting {}", Path::new(target).display()));
    }
    Ok(())
}

/// Runs a program, its words separated by blanks, to a good end.
pub(crate) fn shell(command: &str) -> Result<String, BenchError> {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap_or_default()).args(words).output().doing(command)?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()).doing(command);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Weir's datapath with tables of the benchmark's own, live.
pub(crate) struct Node {
    kernel: Kernel,
}

impl Node {
    pub(crate) fn new(name: &str, tables: &Tables) -> Result<Self, BenchError> {
        let capacity = Capacity {
            conntrack_tcp: 1024,
            conntrack_other: 1024,
            fragments: 64,
            affinity: 64,
            nat: 64,
            sockets: 64,
            rules: 1024,
        };
        Self::with_capacity(name, tables, &capacity)
    }

    pub(crate) fn with_capacity(name: &str, tables: &Tables, capacity: &Capacity) -> Result<Self, BenchError> {
        let pin_dir = Path::new(BPFFS).join(name);
        let mut kernel = Kernel::open(weir_datapath::Options::new(pin_dir)).doing("opening the datapath")?;
        kernel.prepare(tables, capacity).doing("making the tables")?;
        kernel.stage(&Tables::default().diff(tables)).doing("filling the tables")?;
        kernel.flip().doing("flipping")?;
        Ok(Self { kernel })
    }

    /// Attaches the prefilter to a device.
    pub(crate) fn attach_xdp(&mut self, interface: &str) -> Result<(), BenchError> {
        let key = HookKey::on(interface.into(), Hook::XdpIngress);
        let change = Change { key, from: None, to: Some(HookState::Xdp(XdpAttach::Native)) };
        let delta = WiringDelta { devices: Vec::new(), hooks: vec![change] };
        self.kernel.build(&delta).doing("attaching the prefilter")
    }

    /// Packets that the prefilter dropped.
    pub(crate) fn drops(&mut self) -> Result<u64, BenchError> {
        let metrics = self.kernel.metrics().doing("reading the metrics")?;
        Ok(metrics.get(Reason::Prefilter, Direction::Ingress).packets)
    }

    /// Packets that were let through, and left.
    pub(crate) fn sent_on(&mut self) -> Result<u64, BenchError> {
        let metrics = self.kernel.metrics().doing("reading the metrics")?;
        Ok(metrics.get(Reason::Forwarded, Direction::Egress).packets)
    }

    pub(crate) fn program(&mut self, hook: Hook) -> Result<ProgramFd, BenchError> {
        self.kernel.program_fd(hook).doing("cloning a program")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(cause) = self.kernel.uninstall() {
            eprintln!("weir-bench: cleaning up: {cause}");
        }
    }
}
