use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{BPF_F_BEFORE, bpf_attach_type, bpf_cmd, bpf_link_info, bpf_link_type};

use super::{attr, bpf, bpf_fd, counted, info};

/// What a link holds on to. The interface index is 0 once the device is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    Xdp {
        ifindex: u32,
    },
    TcxIngress {
        ifindex: u32,
    },
    TcxEgress {
        ifindex: u32,
    },
    /// By its number, 0 once it is gone.
    Cgroup {
        cgroup: u64,
    },
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    pub id: u32,
    pub program: u32,
    pub kind: LinkKind,
}

pub fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: a struct and unions of plain integers, for which zero is a value.
    let mut raw: bpf_link_info = unsafe { std::mem::zeroed() };
    info(fd, &mut raw)?;
    let kind = if raw.type_ == bpf_link_type::BPF_LINK_TYPE_XDP as u32 {
        // SAFETY: the kernel fills in this member for this type.
        LinkKind::Xdp { ifindex: unsafe { raw.__bindgen_anon_1.xdp.ifindex } }
    } else if raw.type_ == bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
        // SAFETY: the kernel fills in this member for this type.
        let tcx = unsafe { raw.__bindgen_anon_1.tcx };
        if tcx.attach_type == bpf_attach_type::BPF_TCX_INGRESS as u32 {
            LinkKind::TcxIngress { ifindex: tcx.ifindex }
        } else {
            LinkKind::TcxEgress { ifindex: tcx.ifindex }
        }
    } else if raw.type_ == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 {
        // SAFETY: the kernel fills in this member for this type.
        LinkKind::Cgroup { cgroup: unsafe { raw.__bindgen_anon_1.cgroup.cgroup_id } }
    } else {
        LinkKind::Other
    };
    Ok(LinkInfo { id: raw.id, program: raw.prog_id, kind })
}

/// Attaches at XDP in exactly the mode that `flags` (`XDP_FLAGS_*_MODE`) names.
pub fn link_attach_xdp(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = bpf_attach_type::BPF_XDP as u32;
    attr.link_create.flags = flags;
    counted();
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Attaches at the head of a device's tcx chain: whoever stands behind sees what we let through, and nobody before us
/// can let a packet through that we would have dropped.
pub fn link_attach_tcx(program: BorrowedFd<'_>, ifindex: u32, egress: bool) -> io::Result<OwnedFd> {
    let mut attr = attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = tcx(egress) as u32;
    attr.link_create.flags = BPF_F_BEFORE;
    counted();
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Attaches to a cgroup, beside whatever else is attached there and below.
pub fn link_attach_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_fd = cgroup.as_raw_fd() as u32;
    attr.link_create.attach_type = attach_type as u32;
    counted();
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

const fn tcx(egress: bool) -> bpf_attach_type {
    if egress { bpf_attach_type::BPF_TCX_EGRESS } else { bpf_attach_type::BPF_TCX_INGRESS }
}

/// Swaps a link's program in place: no packet sees neither or both.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = attr();
    attr.link_update.link_fd = link.as_raw_fd() as u32;
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
    counted();
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// The ids of the programs in a device's tcx chain, in order. Linux 6.6.
pub fn tcx_programs(ifindex: u32, egress: bool) -> io::Result<Vec<u32>> {
    let mut programs = vec![0u32; 64];
    let mut attr = attr();
    attr.query.__bindgen_anon_1.target_ifindex = ifindex;
    attr.query.attach_type = tcx(egress) as u32;
    attr.query.prog_ids = programs.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = programs.len() as u32;
    match bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) {
        Ok(_) => {}
        // Nothing was ever attached here.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    // SAFETY: this member was set above and updated by the kernel.
    programs.truncate(unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize);
    Ok(programs)
}
