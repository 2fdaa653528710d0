use std::{
    fmt,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};

use super::{Netlink, NetlinkError};

/// A network namespace, held open.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

/// Where `ip netns` keeps names.
fn path(name: &str) -> PathBuf {
    if name.starts_with('/') { PathBuf::from(name) } else { Path::new("/run/netns").join(name) }
}

/// Whether `name`, of `ip netns` or an absolute path, is a network namespace.
pub fn exists(name: &str) -> bool {
    Netns::open(name).is_ok()
}

impl Netns {
    pub fn open(name: &str) -> Result<Self, NetlinkError> {
        let netns = Self::file(name)?;
        // The file that `ip netns` left behind after a crash is there, and no namespace.
        netns.enter(|_| Ok(()))?;
        Ok(netns)
    }

    fn file(name: &str) -> Result<Self, NetlinkError> {
        let file = File::open(path(name)).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => NetlinkError::NetnsMissing { netns: name.to_owned() },
            _ => NetlinkError::Enter { netns: name.to_owned(), cause },
        })?;
        Ok(Self { name: name.to_owned(), file })
    }

    /// Asks something of a namespace by name: one thread, where [`Self::open`] and [`Self::enter`] take two.
    pub fn look<T: Send>(
        name: &str,
        ask: impl FnOnce(&mut Netlink) -> Result<T, NetlinkError> + Send,
    ) -> Result<T, NetlinkError> {
        Self::file(name)?.enter(ask)
    }

    /// Asks something of that namespace, on a thread that ends there.
    pub fn enter<T: Send>(
        &self,
        ask: impl FnOnce(&mut Netlink) -> Result<T, NetlinkError> + Send,
    ) -> Result<T, NetlinkError> {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .map_err(|cause| NetlinkError::Enter { netns: self.name.clone(), cause: cause.into() })?;
            ask(&mut Netlink::open()?)
        };
        let failed = || NetlinkError::Enter {
            netns: self.name.clone(),
            cause: io::Error::other("the thread that entered it ended early"),
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|_| Err(failed())))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
