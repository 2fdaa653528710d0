//! Programs on devices: XDP and tcx by pinned links, clsact by filters with a priority and a handle of our own. And
//! those at the cgroup, by pinned links too.
//!
//! A link's pin is `<links>/<device>=<program>`; where we made the clsact qdisc, the directory `<links>/clsact=<ifindex>`
//! says so, for only what we made is removed. How XDP was asked for, and why native was not possible, stands in the
//! symbolic link `<links>/<device>=xdp_ingress=asked`: the one thing in a BPF file system that can hold a text. A newer program replaces an older one in place. Going from clsact to tcx
//! or back attaches the new before it detaches the old; but the kernel stops a device's queues for a moment when a
//! clsact qdisc is added to it or removed (`qdisc_graft` calls `dev_deactivate`), and what is sent in that moment is
//! lost, whatever is in the qdisc. A foreign tcx program or filter is left alone; a foreign XDP
//! program is a conflict.
mod cgroup;

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use weir_plan::{Hook, HookState, XdpAttach};

use crate::{
    netlink::{Filter, Half, Link, Netlink, NetlinkError},
    sys::{self, LinkKind},
};

/// Priority and handle of our clsact filters.
const PRIORITY: u16 = 0x5e1;
const HANDLE: u32 = 0x5e1;

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("{interface} has a foreign XDP program (id {program})")]
    ForeignXdp { interface: String, program: u32 },
    #[error("attaching {program} to {interface}: {cause}")]
    Attach { program: &'static str, interface: String, cause: io::Error },
    #[error("attaching {program}: cgroup2 is not mounted")]
    NoCgroup { program: &'static str },
    #[error("{doing} {}: {cause}", .path.display())]
    Pin { doing: &'static str, path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Where a link puts its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Xdp {
        native: bool,
    },
    /// Before every other program of the hook: what we drop, nobody after us sees.
    Tcx {
        egress: bool,
    },
}

const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

impl Target {
    fn attach(self, program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
        match self {
            Self::Xdp { native: true } => sys::link_attach_xdp(program, ifindex, XDP_FLAGS_DRV_MODE),
            Self::Xdp { native: false } => sys::link_attach_xdp(program, ifindex, XDP_FLAGS_SKB_MODE),
            Self::Tcx { egress } => sys::link_attach_tcx(program, ifindex, egress),
        }
    }
}

/// A link that is pinned, and whose device is there.
struct LiveLink {
    link: OwnedFd,
    ifindex: u32,
    program: u32,
    xdp: bool,
}

/// How a program really is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    pub interface: String,
    pub ifindex: u32,
    pub hook: Hook,
    pub way: Way,
    /// Id of the program that the kernel runs there.
    pub program: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    XdpNative,
    XdpGeneric,
    Tcx,
    Clsact,
    Cgroup,
}

impl Way {
    /// In words, for status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp native",
            Self::XdpGeneric => "xdp generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Cgroup => "cgroup",
        }
    }

    /// Whether this is what `want` asks for.
    pub const fn satisfies(self, want: HookState) -> bool {
        match want {
            HookState::Xdp(XdpAttach::Auto) => matches!(self, Self::XdpNative | Self::XdpGeneric),
            HookState::Xdp(XdpAttach::Native) => matches!(self, Self::XdpNative),
            HookState::Xdp(XdpAttach::Generic) => matches!(self, Self::XdpGeneric),
            HookState::Tcx => matches!(self, Self::Tcx),
            HookState::Clsact => matches!(self, Self::Clsact),
            HookState::Cgroup => matches!(self, Self::Cgroup),
            HookState::Stale => false,
        }
    }
}

/// Knows where our attachments are noted.
#[derive(Clone, Debug)]
pub struct Attacher {
    links: PathBuf,
}

/// Of a device.
const fn half(hook: Hook) -> Half {
    match hook {
        Hook::ToEndpoint | Hook::ToNetwork | Hook::FromHost => Half::Egress,
        _ => Half::Ingress,
    }
}

/// A device's name as part of a pin's: bpffs refuses dots.
fn escape(name: &str) -> String {
    name.chars().fold(String::new(), |mut out, character| {
        match character {
            '.' => out.push_str("%2e"),
            '%' => out.push_str("%25"),
            '=' => out.push_str("%3d"),
            other => out.push(other),
        }
        out
    })
}

fn unescape(name: &str) -> String {
    name.replace("%2e", ".").replace("%3d", "=").replace("%25", "%")
}

impl Attacher {
    /// `links` is a directory in a BPF file system; it is made when it is first needed.
    pub fn new(links: PathBuf) -> Self {
        Self { links }
    }

    fn pin(&self, interface: &str, hook: Hook) -> PathBuf {
        self.links.join(format!("{}={}", escape(interface), hook.program()))
    }

    fn note(&self, interface: &str) -> PathBuf {
        self.links.join(format!("{}={}=asked", escape(interface), Hook::XdpIngress.program()))
    }

    fn marker(&self, ifindex: u32) -> PathBuf {
        self.links.join(format!("clsact={ifindex}"))
    }

    /// Attaches `program` to a device, or puts it in the place of the one that is there.
    pub fn attach(
        &self,
        netlink: &mut Netlink,
        device: &Link,
        hook: Hook,
        want: HookState,
        program: BorrowedFd<'_>,
    ) -> Result<(), AttachError> {
        fs::create_dir_all(&self.links).map_err(|cause| self.failed("creating", &self.links, cause))?;
        match want {
            HookState::Xdp(mode) => {
                let reason = self.attach_xdp(device, hook, mode, program)?;
                self.write_note(&device.name, mode, reason)
            }
            HookState::Clsact => {
                self.attach_clsact(netlink, device, hook, program)?;
                self.drop_link(&device.name, hook)
            }
            HookState::Cgroup => self.attach_to_cgroup(hook, program),
            HookState::Tcx | HookState::Stale => {
                self.attach_link(device, hook, Target::Tcx { egress: half(hook) == Half::Egress }, program)?;
                self.drop_filter(netlink, device.ifindex, hook)
            }
        }
    }

    /// Notes how XDP was asked for, and why it is generic. Without a new reason the old one stands.
    fn write_note(&self, interface: &str, mode: XdpAttach, reason: Option<String>) -> Result<(), AttachError> {
        let note = self.note(interface);
        let (noted, former) = self.read_note(interface).unzip();
        if noted == Some(mode) && reason.is_none() {
            return Ok(());
        }
        let word = match mode {
            XdpAttach::Auto => "auto",
            XdpAttach::Native => "native",
            XdpAttach::Generic => "generic",
        };
        let text = match reason.or(former.flatten()).filter(|_| mode == XdpAttach::Auto) {
            Some(reason) => format!("{word}:{reason}"),
            None => word.to_owned(),
        };
        remove(&note)
            .and_then(|()| std::os::unix::fs::symlink(text, &note))
            .map_err(|cause| self.failed("writing", &note, cause))
    }

    fn read_note(&self, interface: &str) -> Option<(XdpAttach, Option<String>)> {
        let text = fs::read_link(self.note(interface)).ok()?;
        let text = text.to_str()?;
        let (word, reason) = text.split_once(':').map_or((text, None), |(word, reason)| (word, Some(reason)));
        let mode = match word {
            "auto" => XdpAttach::Auto,
            "native" => XdpAttach::Native,
            "generic" => XdpAttach::Generic,
            _ => return None,
        };
        Some((mode, reason.map(str::to_owned)))
    }

    /// How an attachment was asked for, if what is there satisfies that; what is there, otherwise.
    pub fn asked(&self, attached: &Attached) -> HookState {
        let real = match attached.way {
            Way::Tcx => return HookState::Tcx,
            Way::Clsact => return HookState::Clsact,
            Way::Cgroup => return HookState::Cgroup,
            Way::XdpNative => XdpAttach::Native,
            Way::XdpGeneric => XdpAttach::Generic,
        };
        let asked = self.read_note(&attached.interface).map(|(mode, _)| HookState::Xdp(mode));
        asked.filter(|asked| attached.way.satisfies(*asked)).unwrap_or(HookState::Xdp(real))
    }

    /// Why `Auto` fell back to generic XDP on a device.
    pub fn generic_reason(&self, interface: &str) -> Option<String> {
        self.read_note(interface)?.1
    }

    fn attach_xdp(
        &self,
        device: &Link,
        hook: Hook,
        mode: XdpAttach,
        program: BorrowedFd<'_>,
    ) -> Result<Option<String>, AttachError> {
        if let Some(live) = self.live_link(&self.pin(&device.name, hook))?.filter(|live| live.ifindex == device.ifindex)
        {
            let native = device.xdp.is_some_and(|xdp| xdp.native);
            let fits = match mode {
                XdpAttach::Auto => true,
                XdpAttach::Native => native,
                XdpAttach::Generic => !native,
            };
            if fits {
                self.update(&live, device, hook, program)?;
                return Ok(None);
            }
            // The kernel has one XDP program per device: the other mode needs the place.
            drop(live);
            self.drop_link(&device.name, hook)?;
        } else if let Some(there) = device.xdp
            && there.id != self.id(device, hook, program)?
        {
            return Err(AttachError::ForeignXdp { interface: device.name.clone(), program: there.id });
        }
        let attach = |native| self.attach_link(device, hook, Target::Xdp { native }, program);
        match mode {
            XdpAttach::Native => attach(true).map(|()| None),
            XdpAttach::Generic => attach(false).map(|()| None),
            XdpAttach::Auto => match attach(true) {
                Ok(()) => Ok(None),
                Err(AttachError::Attach { cause, .. }) if cause.raw_os_error() != Some(libc::EPERM) => {
                    attach(false).map(|()| Some(cause.to_string()))
                }
                Err(error) => Err(error),
            },
        }
    }

    fn attach_link(
        &self,
        device: &Link,
        hook: Hook,
        target: Target,
        program: BorrowedFd<'_>,
    ) -> Result<(), AttachError> {
        let pin = self.pin(&device.name, hook);
        if let Some(live) = self.live_link(&pin)?
            && live.ifindex == device.ifindex
        {
            return self.update(&live, device, hook, program);
        }
        let link = self.create(device, target, program).map_err(|cause| match cause.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) if matches!(target, Target::Xdp { .. }) => {
                AttachError::ForeignXdp { interface: device.name.clone(), program: device.xdp.map_or(0, |xdp| xdp.id) }
            }
            _ => self.refused(device, hook, cause),
        })?;
        sys::pin_replace(link.as_fd(), &pin).map_err(|cause| self.failed("pinning a link to", &pin, cause))
    }

    /// The kernel takes a link whose pin was unlinked apart a moment later, and until then our own program is in the
    /// way: EEXIST at tcx (the same program twice), EBUSY or EEXIST at XDP.
    fn create(&self, device: &Link, target: Target, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        const PATIENCE: Duration = Duration::from_secs(3);
        let begun = Instant::now();
        loop {
            match target.attach(program, device.ifindex) {
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
                        && (device.xdp.is_some() || matches!(target, Target::Tcx { .. }))
                        && begun.elapsed() < PATIENCE =>
                {
                    thread::sleep(Duration::from_millis(5));
                }
                done => return done,
            }
        }
    }

    fn id(&self, device: &Link, hook: Hook, program: BorrowedFd<'_>) -> Result<u32, AttachError> {
        sys::prog_info(program).map(|info| info.id).map_err(|cause| self.refused(device, hook, cause))
    }

    /// Swaps a link's program, unless it is this one already.
    fn update(&self, live: &LiveLink, device: &Link, hook: Hook, program: BorrowedFd<'_>) -> Result<(), AttachError> {
        if live.program == self.id(device, hook, program)? {
            return Ok(());
        }
        sys::link_update(live.link.as_fd(), program).map_err(|cause| self.refused(device, hook, cause))
    }

    fn attach_clsact(
        &self,
        netlink: &mut Netlink,
        device: &Link,
        hook: Hook,
        program: BorrowedFd<'_>,
    ) -> Result<(), AttachError> {
        if netlink.add_clsact(device.ifindex)? {
            let marker = self.marker(device.ifindex);
            fs::create_dir_all(&marker).map_err(|cause| self.failed("creating", &marker, cause))?;
        }
        let id = self.id(device, hook, program)?;
        let there = netlink.filters(device.ifindex, half(hook))?;
        if !there.iter().any(|filter| is_ours(filter) && filter.program == id) {
            netlink.set_filter(device.ifindex, half(hook), PRIORITY, HANDLE, hook.program(), program)?;
        }
        Ok(())
    }

    /// Detaches ours; what is not attached is fine. `ifindex` is the device's, if it is there.
    pub fn detach(
        &self,
        netlink: &mut Netlink,
        interface: &str,
        ifindex: Option<u32>,
        hook: Hook,
    ) -> Result<(), AttachError> {
        self.drop_link(interface, hook)?;
        match ifindex {
            Some(ifindex) if hook != Hook::XdpIngress && !hook.is_of_sockets() => {
                self.drop_filter(netlink, ifindex, hook)
            }
            _ => Ok(()),
        }
    }

    /// A link is gone once its pin is unlinked *and* its last descriptor closed, in that order; we hold none.
    fn drop_link(&self, interface: &str, hook: Hook) -> Result<(), AttachError> {
        let pin = self.pin(interface, hook);
        remove(&pin).map_err(|cause| self.failed("unlinking", &pin, cause))?;
        if hook == Hook::XdpIngress {
            let note = self.note(interface);
            remove(&note).map_err(|cause| self.failed("removing", &note, cause))?;
        }
        Ok(())
    }

    fn drop_filter(&self, netlink: &mut Netlink, ifindex: u32, hook: Hook) -> Result<(), AttachError> {
        if netlink.filters(ifindex, half(hook))?.iter().any(is_ours) {
            netlink.delete_filter(ifindex, half(hook), PRIORITY, HANDLE)?;
        }
        let marker = self.marker(ifindex);
        if marker.exists() {
            let mut empty = true;
            for half in Half::BOTH {
                empty &= netlink.filters(ifindex, half)?.is_empty();
            }
            if empty {
                netlink.delete_clsact(ifindex)?;
                fs::remove_dir(&marker).map_err(|cause| self.failed("removing", &marker, cause))?;
            }
        }
        Ok(())
    }

    /// Everything that is attached and ours, on `devices`.
    pub fn attached(&self, netlink: &mut Netlink, devices: &[Link]) -> Result<Vec<Attached>, AttachError> {
        let mut found = self.at_the_cgroup()?;
        for (interface, hook, pin) in self.pins()?.into_iter().filter(|(_, hook, _)| !hook.is_of_sockets()) {
            let Some(live) = self.live_link(&pin)? else { continue };
            let Some(device) = devices.iter().find(|device| device.ifindex == live.ifindex) else { continue };
            // A device that was renamed keeps its link; the pin is under the old name, and is replaced.
            if device.name != interface {
                continue;
            }
            let way = match (live.xdp, device.xdp) {
                (false, _) => Way::Tcx,
                (true, Some(xdp)) if xdp.native => Way::XdpNative,
                (true, _) => Way::XdpGeneric,
            };
            found.push(Attached { interface, ifindex: live.ifindex, hook, way, program: live.program });
        }
        let clsact = netlink.clsact_devices()?;
        for device in devices.iter().filter(|device| clsact.contains(&device.ifindex)) {
            for half_of_device in Half::BOTH {
                for filter in netlink.filters(device.ifindex, half_of_device)? {
                    let hook = Hook::of_packets().find(|hook| {
                        *hook != Hook::XdpIngress && half(*hook) == half_of_device && hook.program() == filter.name
                    });
                    if let Some(hook) = hook
                        && is_ours(&filter)
                    {
                        found.push(Attached {
                            interface: device.name.clone(),
                            ifindex: device.ifindex,
                            hook,
                            way: Way::Clsact,
                            program: filter.program,
                        });
                    }
                }
            }
        }
        Ok(found)
    }

    /// Takes over links whose device has another name now, and forgets those whose device is gone.
    pub fn adopt(&self, devices: &[Link]) -> Result<(), AttachError> {
        for (interface, hook, pin) in self.pins()?.into_iter().filter(|(_, hook, _)| !hook.is_of_sockets()) {
            let live = self.live_link(&pin)?;
            let device = live.and_then(|live| devices.iter().find(|device| device.ifindex == live.ifindex));
            match device {
                Some(device) if device.name == interface => {}
                Some(device) => {
                    let renamed = self.pin(&device.name, hook);
                    fs::rename(&pin, &renamed).map_err(|cause| self.failed("renaming", &pin, cause))?;
                    if hook == Hook::XdpIngress && self.note(&interface).is_symlink() {
                        let (from, to) = (self.note(&interface), self.note(&device.name));
                        fs::rename(&from, to).map_err(|cause| self.failed("renaming", &from, cause))?;
                    }
                }
                None => self.drop_link(&interface, hook)?,
            }
        }
        Ok(())
    }

    /// Detaches all of ours and removes every note of it.
    pub fn clear(&self, netlink: &mut Netlink, devices: &[Link]) -> Result<(), AttachError> {
        for (interface, hook, _) in self.pins()? {
            self.drop_link(&interface, hook)?;
        }
        for attached in self.attached(netlink, devices)?.iter().filter(|attached| attached.way != Way::Cgroup) {
            self.drop_filter(netlink, attached.ifindex, attached.hook)?;
        }
        let markers = match fs::read_dir(&self.links) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => return Err(self.failed("listing", &self.links, cause)),
        };
        for marker in markers {
            let marker = marker.map_err(|cause| self.failed("listing", &self.links, cause))?.path();
            // Of devices that are gone, and what a killed process had not renamed yet.
            let directory = fs::symlink_metadata(&marker).is_ok_and(|metadata| metadata.is_dir());
            let removed = if directory { fs::remove_dir(&marker) } else { fs::remove_file(&marker) };
            removed.map_err(|cause| self.failed("removing", &marker, cause))?;
        }
        fs::remove_dir(&self.links).map_err(|cause| self.failed("removing", &self.links, cause))
    }

    fn pins(&self) -> Result<Vec<(String, Hook, PathBuf)>, AttachError> {
        let entries = match fs::read_dir(&self.links) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(self.failed("listing", &self.links, cause)),
        };
        let mut pins = Vec::new();
        for entry in entries {
            let path = entry.map_err(|cause| self.failed("listing", &self.links, cause))?.path();
            let parts = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('='));
            let hook = parts.and_then(|(_, program)| Hook::ALL.into_iter().find(|hook| hook.program() == program));
            if let (Some((interface, _)), Some(hook)) = (parts, hook) {
                pins.push((unescape(interface), hook, path));
            }
        }
        pins.sort();
        Ok(pins)
    }

    /// The link behind a pin, unless there is none or its device is gone.
    fn live_link(&self, pin: &Path) -> Result<Option<LiveLink>, AttachError> {
        let link = match sys::pin_get(pin) {
            Ok(link) => link,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(self.failed("opening the link", pin, cause)),
        };
        let info = sys::link_info(link.as_fd()).map_err(|cause| self.failed("asking after the link", pin, cause))?;
        let (ifindex, xdp) = match info.kind {
            LinkKind::Xdp { ifindex } => (ifindex, true),
            LinkKind::TcxIngress { ifindex } | LinkKind::TcxEgress { ifindex } => (ifindex, false),
            LinkKind::Cgroup { .. } | LinkKind::Other => (0, false),
        };
        Ok((ifindex != 0).then_some(LiveLink { link, ifindex, program: info.program, xdp }))
    }

    fn failed(&self, doing: &'static str, path: &Path, cause: io::Error) -> AttachError {
        AttachError::Pin { doing, path: path.to_owned(), cause }
    }

    fn refused(&self, device: &Link, hook: Hook, cause: io::Error) -> AttachError {
        AttachError::Attach { program: hook.program(), interface: device.name.clone(), cause }
    }
}

fn is_ours(filter: &Filter) -> bool {
    filter.priority == PRIORITY && filter.handle == HANDLE
}

/// Removing what is not there is fine.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_tells_its_device() {
        for name in ["eth0", "eth0.100", "a=b", "50%", "%2e"] {
            assert_eq!(unescape(&escape(name)), name);
            assert!(!escape(name).contains(['.', '=']));
        }
    }
}
