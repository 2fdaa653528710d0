//! The shim over `bpf(2)`: what aya does not speak (batches, maps of a size of our own, mappings, links by id), and
//! nothing that needs to know what Weir is.
//!
//! One file per kind of object. Every call that changes something in the kernel goes through [`counted`], so that "an
//! apply that has nothing to do writes nothing" can be proven.

mod digest;
mod link;
mod map;
mod mapping;
mod netns;
mod plain;
mod prog;

pub use digest::{DigestProgram, EntriesDigest, digest_entries};
pub use link::{
    LinkInfo, LinkKind, link_attach_cgroup, link_attach_tcx, link_attach_xdp, link_info, link_update, tcx_programs,
};
pub use map::{Batch, MapInfo, MapSpec, map_by_id, map_create, map_info};
pub(crate) use map::{delete, lookup, lookup_bytes, next_key, update};
pub use mapping::Mapping;
pub use netns::netns_cookie;
pub use plain::{Plain, bytes_of, value_of, zeroed};
pub use prog::{ProgInfo, TestRun, jiffies_program, prog_by_id, prog_info, test_run};

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use aya_obj::generated::{bpf_attr, bpf_cmd};

static WRITES: AtomicU64 = AtomicU64::new(0);

/// Calls of this process that changed something: map elements, maps, links, pins; and rtnetlink requests.
pub fn write_syscalls() -> u64 {
    WRITES.load(Ordering::Relaxed)
}

/// Notes a call that writes.
pub(crate) fn counted() {
    WRITES.fetch_add(1, Ordering::Relaxed);
}

/// An attribute with every byte zero, as the kernel wants what is not used.
fn attr() -> bpf_attr {
    // SAFETY: `bpf_attr` is a union of plain integers, for which all-zero bytes are a value.
    unsafe { std::mem::zeroed() }
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    loop {
        // SAFETY: the kernel reads and writes at most `size` bytes at `attr`, which is exclusively borrowed; pointers
        // in it were put there by the callers in this module, from borrows that outlive the call.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<bpf_attr>()) };
        if result >= 0 {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        // EAGAIN: program load and test run are interrupted by signals.
        if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
            return Err(error);
        }
    }
}

/// As [`bpf`], for commands that return a file descriptor.
fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: these commands return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn path_of(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// The object that is pinned at `path`.
pub fn pin_get(path: &Path) -> io::Result<OwnedFd> {
    let path = path_of(path)?;
    let mut attr = attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// Pins at `path`, replacing what is there in one step: a temporary name beside it, then `rename(2)`.
pub fn pin_replace(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = std::ffi::OsString::from("new-");
    temporary.push(name);
    let temporary = path.with_file_name(temporary);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let target = path_of(&temporary)?;
    let mut attr = attr();
    attr.__bindgen_anon_4.pathname = target.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = fd.as_raw_fd() as u32;
    counted();
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr)?;
    std::fs::rename(&temporary, path)
}

/// `BPF_OBJ_GET_INFO_BY_FD`.
fn info<T>(fd: BorrowedFd<'_>, into: &mut T) -> io::Result<()> {
    let mut attr = attr();
    attr.info.bpf_fd = fd.as_raw_fd() as u32;
    attr.info.info_len = size_of::<T>() as u32;
    attr.info.info = std::ptr::from_mut(into) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// Names as the kernel takes them: at most 15 bytes of letters, digits, `_` and `.`.
fn object_name(name: &str) -> [std::ffi::c_char; 16] {
    let mut result = [0; 16];
    for (to, from) in result.iter_mut().take(15).zip(name.bytes()) {
        *to = if from.is_ascii_alphanumeric() || from == b'.' { from } else { b'_' } as std::ffi::c_char;
    }
    result
}

fn name_of(name: &[std::ffi::c_char; 16]) -> String {
    name.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte as u8)).collect()
}

/// All ids of one kind that are loaded now.
pub fn ids(kind: IdKind) -> io::Result<Vec<u32>> {
    let command = match kind {
        IdKind::Map => bpf_cmd::BPF_MAP_GET_NEXT_ID,
        IdKind::Prog => bpf_cmd::BPF_PROG_GET_NEXT_ID,
        IdKind::Link => bpf_cmd::BPF_LINK_GET_NEXT_ID,
    };
    let mut ids = Vec::new();
    loop {
        let mut attr = attr();
        attr.__bindgen_anon_6.__bindgen_anon_1.start_id = ids.last().copied().unwrap_or(0);
        match bpf(command, &mut attr) {
            // SAFETY: the kernel has filled in this member.
            Ok(_) => ids.push(unsafe { attr.__bindgen_anon_6.next_id }),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(ids),
            Err(error) => return Err(error),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    Map,
    Prog,
    Link,
}

fn by_id(command: bpf_cmd, id: u32) -> io::Result<OwnedFd> {
    let mut attr = attr();
    attr.__bindgen_anon_6.__bindgen_anon_1.map_id = id;
    bpf_fd(command, &mut attr)
}

/// Whether a descriptor is a map's: information about another kind of object would be read as nonsense.
pub fn is_map(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok(target.as_os_str() == "anon_inode:bpf-map")
}

/// Whether a descriptor is a program's.
pub fn is_prog(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok(target.as_os_str() == "anon_inode:bpf-prog")
}
