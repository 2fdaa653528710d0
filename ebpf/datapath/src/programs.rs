//! The programs: loaded against the pinned maps, pinned, found again.
//!
//! Verifying all of them costs half a second of a CPU, and most nodes attach some: those are loaded, another when it is
//! first attached.
use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::LazyLock,
    thread,
};

use aya::{
    EbpfLoader,
    programs::{Program, ProgramFd, SchedClassifier, Xdp},
};
use aya_obj::programs::XdpAttachType;
use sha2::{Digest, Sha256};
use weir_plan::{DatapathError, Hook};

use crate::{
    error::{Result, failed},
    pins::{Pins, entries, hex, remove_tree},
    sys::{self, ProgInfo},
};

/// The object file, as the build script made it.
static OBJECT: &[u8] = include_bytes_aligned!(env!("WEIR_PROGRAMS"));

/// The eBPF object of this build, aligned as a loader wants it.
pub fn object() -> &'static [u8] {
    OBJECT
}

/// ELF is read in place, so its start must be aligned.
macro_rules! include_bytes_aligned {
    ($path:expr) => {{
        #[repr(C, align(32))]
        struct Aligned<T: ?Sized>(T);
        const ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        &ALIGNED.0
    }};
}
use include_bytes_aligned;

/// What the programs are told when they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Globals {
    /// Rules that `RULE_COUNTERS` has room for on each CPU.
    pub rules: u32,
    pub hz: u32,
    /// Whether every run writes the trace cell.
    pub trace: bool,
    /// While conntrack is on its way from other tables, which are pinned under the names of [`FORMER`]: the bytes of an
    /// entry in them. Else 0.
    pub former: u32,
}

/// What the programs call the tables that conntrack was before, and what it is.
pub const FORMER: [(&str, &str); 2] = [("FORMER_TCP", "CONNTRACK_TCP"), ("FORMER_OTHER", "CONNTRACK_OTHER")];

/// The programs of one build that were needed so far, sorted by hook.
#[derive(Debug)]
pub struct Programs {
    loaded: Vec<(Hook, OwnedFd, ProgInfo)>,
    /// Where they are pinned.
    directory: Option<PathBuf>,
}

/// Programs that the verifier is still at.
#[derive(Debug)]
pub struct Loading(thread::JoinHandle<Result<Programs>>);

impl Loading {
    /// As [`Programs::load`], on a thread of its own.
    pub fn start(pins: Pins, names: Vec<&'static str>, globals: Globals, hooks: Vec<Hook>) -> Self {
        Self(thread::spawn(move || Programs::load(|name| pins.table(name), &names, globals, &hooks)))
    }

    pub fn finish(self) -> Result<Programs> {
        self.0.join().unwrap_or_else(|_| {
            let cause = "the thread that loaded it ended early".to_owned();
            Err(DatapathError::Failed { doing: "loading", what: "the eBPF object".to_owned(), cause })
        })
    }
}

impl Programs {
    /// Loads the programs of `hooks`. `table` says where each map is pinned.
    pub fn load(
        table: impl Fn(&str) -> PathBuf,
        names: &[&'static str],
        globals: Globals,
        hooks: &[Hook],
    ) -> Result<Self> {
        let object = |cause: &dyn std::fmt::Display| DatapathError::Failed {
            doing: "loading",
            what: "the eBPF object".to_owned(),
            cause: cause.to_string(),
        };
        let (rules, hz, trace) = (globals.rules, globals.hz, u32::from(globals.trace));
        let mut loader = EbpfLoader::new();
        // No program relocates against the kernel's own types: its BTF need not be read.
        loader.btf(None);
        for name in names {
            loader.map_pin_path(name, table(name));
        }
        for (former, current) in FORMER {
            loader.map_pin_path(former, table(if globals.former == 0 { current } else { former }));
        }
        loader.override_global("FORMER", &globals.former, true);
        loader.override_global("RULES", &rules, true);
        loader.override_global("HZ", &hz, true);
        loader.override_global("TRACING", &trace, true);
        let mut ebpf = loader.load(OBJECT).map_err(|cause| object(&chain(&cause)))?;
        // The verifier works on one program at a time, and may on all of them at once.
        let mut loaded = std::thread::scope(|scope| {
            let mut loading = Vec::new();
            for (name, program) in ebpf.programs_mut() {
                if let Some(hook) = hooks.iter().copied().find(|hook| hook.program() == name) {
                    loading.push(scope.spawn(move || load_one(hook, program)));
                }
            }
            let ended = |_| Err(object(&"the thread that loaded it ended early"));
            loading.into_iter().map(|program| program.join().unwrap_or_else(ended)).collect::<Result<Vec<_>>>()
        })?;
        loaded.sort_by_key(|(hook, ..)| *hook);
        if loaded.len() != hooks.len() {
            return Err(object(&format!("it has {} programs of {}", loaded.len(), hooks.len())));
        }
        Ok(Self { loaded, directory: None })
    }

    /// The newest set of pinned programs, and whether it is this build's, with or without tracing as asked.
    pub fn pinned(pins: &Pins, trace: bool) -> io::Result<Option<(Self, bool)>> {
        for directory in sets(pins)?.into_iter().rev() {
            if let Some(programs) = Self::open(&directory)? {
                let current = directory.file_name().is_some_and(|name| {
                    name.to_str()
                        .is_some_and(|name| name.split_once('-').is_some_and(|(_, set)| set == set_name(trace)))
                });
                return Ok(Some((programs, current)));
            }
        }
        Ok(None)
    }

    fn open(directory: &Path) -> io::Result<Option<Self>> {
        let mut loaded = Vec::new();
        for hook in Hook::ALL {
            let fd = match sys::pin_get(&directory.join(hook.program())) {
                Ok(fd) => fd,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if !sys::is_prog(fd.as_fd())? {
                return Ok(None);
            }
            let info = sys::prog_info(fd.as_fd())?;
            loaded.push((hook, fd, info));
        }
        Ok((!loaded.is_empty()).then(|| Self { loaded, directory: Some(directory.to_owned()) }))
    }

    /// Takes in programs of the same build that were loaded later.
    pub fn add(&mut self, more: Self) -> io::Result<()> {
        if let Some(directory) = &self.directory {
            more.pin_in(directory)?;
        }
        self.loaded.extend(more.loaded);
        self.loaded.sort_by_key(|(hook, ..)| *hook);
        Ok(())
    }

    fn pin_in(&self, directory: &Path) -> io::Result<()> {
        self.loaded.iter().try_for_each(|(hook, fd, _)| sys::pin_replace(fd.as_fd(), &directory.join(hook.program())))
    }

    /// Pins the set under the next number, and only then forgets the former ones: at every moment what is attached is
    /// pinned.
    pub fn pin(&mut self, pins: &Pins, trace: bool) -> io::Result<()> {
        let former = sets(pins)?;
        let number = former.last().map_or(1, |last| number(last) + 1);
        let directory = pins.programs().join(format!("{number:08}-{}", set_name(trace)));
        fs::create_dir(&directory)?;
        self.pin_in(&directory)?;
        self.directory = Some(directory);
        former.iter().try_for_each(|directory| remove_tree(directory))
    }

    /// A program as aya holds it: what a program array takes.
    pub fn aya_fd(&self, hook: Hook) -> Result<ProgramFd> {
        let name = hook.program();
        let refused = |cause: &dyn std::error::Error| DatapathError::Failed {
            doing: "opening the program",
            what: name.to_owned(),
            cause: chain(cause),
        };
        let pin = self.directory.as_ref().ok_or_else(crate::kernel::not_prepared)?.join(name);
        let fd = if hook == Hook::XdpIngress {
            let program = Xdp::from_pin(&pin, XdpAttachType::Interface).map_err(|cause| refused(&cause))?;
            program.fd().map_err(|cause| refused(&cause))?.try_clone()
        } else {
            let program = SchedClassifier::from_pin(&pin).map_err(|cause| refused(&cause))?;
            program.fd().map_err(|cause| refused(&cause))?.try_clone()
        };
        fd.map_err(|cause| refused(&cause))
    }

    pub fn fd(&self, hook: Hook) -> Result<BorrowedFd<'_>> {
        let found = self.loaded.iter().find(|(loaded, ..)| *loaded == hook);
        found.map(|(_, fd, _)| fd.as_fd()).ok_or_else(crate::kernel::not_prepared)
    }

    /// `None` where it was not needed so far.
    pub fn id(&self, hook: Hook) -> Option<u32> {
        self.all().find(|(loaded, _)| *loaded == hook).map(|(_, info)| info.id)
    }

    /// Those that are loaded, in the order of the hooks.
    pub fn all(&self) -> impl Iterator<Item = (Hook, &ProgInfo)> {
        self.loaded.iter().map(|(hook, _, info)| (*hook, info))
    }

    /// Ids of every map that some program uses.
    pub fn maps(&self) -> impl Iterator<Item = u32> {
        self.loaded.iter().flat_map(|(_, _, info)| info.maps.iter().copied())
    }
}

fn load_one(hook: Hook, program: &mut Program) -> Result<(Hook, OwnedFd, ProgInfo)> {
    let name = hook.program();
    let loaded = match program {
        Program::Xdp(program) => program.load().and_then(|()| program.fd()?.try_clone().map_err(Into::into)),
        Program::SchedClassifier(program) => {
            program.load().and_then(|()| program.fd()?.try_clone().map_err(Into::into))
        }
        Program::CgroupSockAddr(program) => program.load().and_then(|()| program.fd()?.try_clone().map_err(Into::into)),
        _ => {
            let cause = "it is of another type".to_owned();
            return Err(DatapathError::Failed { doing: "loading the program", what: name.to_owned(), cause });
        }
    };
    let fd = loaded.map_err(|cause| DatapathError::Failed {
        doing: "loading the program",
        what: name.to_owned(),
        cause: chain(&cause),
    })?;
    let fd = fd.as_fd().try_clone_to_owned().map_err(|cause| failed("holding", name, cause))?;
    let info = sys::prog_info(fd.as_fd()).map_err(|cause| failed("asking after", name, cause))?;
    Ok((hook, fd, info))
}

/// Directories of program sets, oldest first.
fn sets(pins: &Pins) -> io::Result<Vec<PathBuf>> {
    let mut sets = entries(&pins.programs())?;
    sets.sort_by_key(|path| number(path));
    Ok(sets)
}

fn number(directory: &Path) -> u64 {
    let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Names a build of the programs.
fn set_name(trace: bool) -> String {
    // Asked for by each verification.
    static DIGEST: LazyLock<String> = LazyLock::new(|| hex(&Sha256::digest(OBJECT)[..8]));
    let digest = &*DIGEST;
    if trace { format!("{digest}t") } else { digest.clone() }
}

/// An error with its causes: the verifier's log is in one of them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
