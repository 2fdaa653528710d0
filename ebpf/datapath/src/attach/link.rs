//! BPF links: an attachment that lives as long as a pin or a descriptor of it does.
use std::{
    ffi::CString,
    fs, io, mem,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::{BPF_F_BEFORE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type};

/// Where a link puts its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `XDP_FLAGS_DRV_MODE` or `XDP_FLAGS_SKB_MODE`.
    Xdp { native: bool },
    /// Before every other program of the hook: what we drop, nobody after us sees.
    Tcx { egress: bool },
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    pub program: u32,
    /// 0 once the device is gone: the link is dead, and only its pin is left.
    pub ifindex: u32,
    pub xdp: bool,
}

#[derive(Debug)]
pub struct BpfLink(OwnedFd);

const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

impl BpfLink {
    pub fn create(program: BorrowedFd<'_>, ifindex: u32, target: Target) -> io::Result<Self> {
        let mut attr = zeroed();
        let (kind, flags) = match target {
            Target::Xdp { native } => {
                (bpf_attach_type::BPF_XDP, if native { XDP_FLAGS_DRV_MODE } else { XDP_FLAGS_SKB_MODE })
            }
            Target::Tcx { egress: false } => (bpf_attach_type::BPF_TCX_INGRESS, BPF_F_BEFORE),
            Target::Tcx { egress: true } => (bpf_attach_type::BPF_TCX_EGRESS, BPF_F_BEFORE),
        };
        attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
        attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
        attr.link_create.attach_type = kind as u32;
        attr.link_create.flags = flags;
        let fd = bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
        // SAFETY: the kernel has just given us this descriptor.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The link behind a pin.
    pub fn open(pin: &Path) -> io::Result<Self> {
        let path = c_path(pin)?;
        let mut attr = zeroed();
        attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
        let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
        // SAFETY: the kernel has just given us this descriptor.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Pins under a temporary name and renames: no moment without a pin.
    pub fn pin(&self, pin: &Path) -> io::Result<()> {
        let temporary = pin.with_file_name("new");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let path = c_path(&temporary)?;
        let mut attr = zeroed();
        attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
        attr.__bindgen_anon_4.bpf_fd = self.0.as_raw_fd() as u32;
        bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr)?;
        fs::rename(&temporary, pin)
    }

    /// Puts another program in the old one's place: no packet meets neither.
    pub fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attr = zeroed();
        attr.link_update.link_fd = self.0.as_raw_fd() as u32;
        attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
        bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
    }

    pub fn state(&self) -> io::Result<LinkState> {
        // SAFETY: plain integers and unions of them; zero is a value of each.
        let mut info: bpf_link_info = unsafe { mem::zeroed() };
        let mut attr = zeroed();
        attr.info.bpf_fd = self.0.as_raw_fd() as u32;
        attr.info.info_len = size_of::<bpf_link_info>() as u32;
        attr.info.info = (&raw mut info) as u64;
        bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
        let xdp = info.type_ == bpf_link_type::BPF_LINK_TYPE_XDP as u32;
        // SAFETY: the kernel filled the member that the type names; both begin with the index, and both are integers.
        let ifindex =
            unsafe { if xdp { info.__bindgen_anon_1.xdp.ifindex } else { info.__bindgen_anon_1.tcx.ifindex } };
        Ok(LinkState { program: info.prog_id, ifindex, xdp })
    }
}

impl AsFd for BpfLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain integers; zero is a value of each member, and what the kernel wants of unused ones.
    unsafe { mem::zeroed() }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<RawFd> {
    // SAFETY: the attributes live across the call, and so does everything that they point to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as u32, &raw mut *attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}
