//! Programs at the root of cgroup2, which every process of the machine is in: links pinned as `<links>/cgroup=<program>`.
//!
//! A link does not replace what others have attached there or below, and is not replaced by them. Programs of several
//! network namespaces may hang there side by side: each passes by the sockets of the others.
use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    thread,
    time::{Duration, Instant},
};

use aya_obj::generated::bpf_attach_type;
use weir_plan::Hook;

use super::{AttachError, Attached, Attacher, Way};
use crate::{
    doctor::cgroup2,
    sys::{self, LinkKind},
};

/// What stands for a device's name in pins and messages.
const CGROUP: &str = "cgroup";

/// `None` for a hook of packets.
const fn attach_type(hook: Hook) -> Option<bpf_attach_type> {
    Some(match hook {
        Hook::Connect4 => bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
        Hook::Connect6 => bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
        Hook::Sendmsg4 => bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG,
        Hook::Sendmsg6 => bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG,
        Hook::Recvmsg4 => bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG,
        Hook::Recvmsg6 => bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG,
        Hook::Getpeername4 => bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME,
        Hook::Getpeername6 => bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME,
        Hook::XdpIngress
        | Hook::FromEndpoint
        | Hook::ToEndpoint
        | Hook::FromNetwork
        | Hook::ToNetwork
        | Hook::FromHost => return None,
    })
}

impl Attacher {
    /// Attaches `program`, or puts it in the place of the one that is there.
    pub fn attach_to_cgroup(&self, hook: Hook, program: BorrowedFd<'_>) -> Result<(), AttachError> {
        let refused =
            |cause| AttachError::Attach { program: hook.program(), interface: "the root of cgroup2".to_owned(), cause };
        fs::create_dir_all(&self.links).map_err(|cause| self.failed("creating", &self.links, cause))?;
        if let Some((link, there)) = self.cgroup_link(hook)? {
            if sys::prog_info(program).map_err(refused)?.id == there {
                return Ok(());
            }
            return sys::link_update(link.as_fd(), program).map_err(refused);
        }
        let Some((root, kind)) = cgroup2().zip(attach_type(hook)) else {
            return Err(AttachError::NoCgroup { program: hook.program() });
        };
        let root = File::open(&root).map_err(|cause| self.failed("opening", &root, cause))?;
        let link = create(program, root.as_fd(), kind).map_err(refused)?;
        let pin = self.pin(CGROUP, hook);
        sys::pin_replace(link.as_fd(), &pin).map_err(|cause| self.failed("pinning a link to", &pin, cause))
    }

    /// Ours that are attached.
    pub(super) fn at_the_cgroup(&self) -> Result<Vec<Attached>, AttachError> {
        let mut found = Vec::new();
        for hook in Hook::of_sockets() {
            if let Some((_, program)) = self.cgroup_link(hook)? {
                found.push(Attached { interface: CGROUP.to_owned(), ifindex: 0, hook, way: Way::Cgroup, program });
            }
        }
        Ok(found)
    }

    /// The link behind a pin, and its program; `None` unless it is one to the root.
    fn cgroup_link(&self, hook: Hook) -> Result<Option<(OwnedFd, u32)>, AttachError> {
        let pin = self.pin(CGROUP, hook);
        let link = match sys::pin_get(&pin) {
            Ok(link) => link,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(self.failed("opening the link", &pin, cause)),
        };
        let info = sys::link_info(link.as_fd()).map_err(|cause| self.failed("asking after the link", &pin, cause))?;
        // A cgroup's number is that of its directory.
        let root = cgroup2().and_then(|root| fs::metadata(root).ok()).map(|root| root.ino());
        Ok(match info.kind {
            LinkKind::Cgroup { cgroup } if Some(cgroup) == root => Some((link, info.program)),
            _ => None,
        })
    }
}

/// The kernel takes a link whose pin was unlinked apart a moment later, and refuses the same program twice until then.
fn create(program: BorrowedFd<'_>, root: BorrowedFd<'_>, kind: bpf_attach_type) -> io::Result<OwnedFd> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let begun = Instant::now();
    loop {
        match sys::link_attach_cgroup(program, root, kind) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && begun.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}
