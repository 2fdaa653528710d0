//! Network namespaces of the benchmark's own, and threads in them.
use std::{fs, fs::File, os::fd::AsRawFd as _, thread};

use crate::{
    measure::{BenchError, Doing, last_error},
    node::shell,
};

/// A named one, with `lo` up; it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn new(name: &str) -> Result<Self, BenchError> {
        shell(&format!("ip netns add {name}"))?;
        let netns = Self { name: name.to_owned() };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// ip(8) in it.
    pub(crate) fn ip(&self, words: &str) -> Result<(), BenchError> {
        shell(&format!("ip -n {} {words}", self.name)).map(drop)
    }

    /// Sets a value below `/proc/sys/net`.
    pub(crate) fn set(&self, setting: &str, value: &str) -> Result<(), BenchError> {
        let path = format!("/proc/sys/net/{setting}");
        self.within(|| fs::write(&path, value).doing(format!("writing {path}")))?
    }

    /// Runs `work` in a thread that is in the namespace, and so is what it starts.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, BenchError> {
        let enter = || {
            let path = format!("/run/netns/{}", self.name);
            let file = File::open(&path).doing(format!("opening {path}"))?;
            // SAFETY: takes a descriptor, which is held; it moves this thread only.
            if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(last_error()).doing(format!("entering {path}"));
            }
            Ok(work())
        };
        let joined = thread::scope(|scope| scope.spawn(enter).join());
        joined.unwrap_or_else(|_| Err(BenchError::Wrong { what: format!("a thread in {} panicked", self.name) }))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(cause) = shell(&format!("ip netns delete {}", self.name)) {
            eprintln!("weir-bench: {cause}");
        }
    }
}
