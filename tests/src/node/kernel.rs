//! The kernel's objects as somebody else sees them: by bpftool, by tc, by ip. Nothing here uses Weir's own code, so
//! that a mistake of it cannot hide itself.
use std::{
    ffi::CString,
    fs,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type};
use serde_json::Value;
use weir_abi::Side;

use super::{Node, Ran, tool};

/// Runs bpftool, which must succeed, and reads its JSON.
pub fn bpftool(words: &str) -> Value {
    let ran = tool("bpftool", &format!("-j {words}"));
    assert!(ran.status.success(), "{ran}");
    if ran.stdout.trim().is_empty() { Value::Null } else { ran.json() }
}

/// As [`bpftool`], for what may fail.
pub fn try_bpftool(words: &str) -> Ran {
    tool("bpftool", words)
}

/// Where a table's outer map is pinned: the ABI's hash stands between.
pub fn table_pin(node: &Node, table: &str) -> PathBuf {
    let directories = fs::read_dir(node.pins()).expect("the pin directory");
    let found = directories.map(|entry| entry.expect("an entry").path().join(table)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no pin of {table} below {}", node.pins().display()))
}

/// The id of the map that holds one side of a table.
pub fn side_map(node: &Node, table: &str, side: Side) -> u32 {
    let outer = RawMap::pinned(&table_pin(node, table));
    let id = outer.lookup(&side.index().to_ne_bytes()).unwrap_or_else(|| panic!("no inner map of {table}"));
    u32::from_ne_bytes(id.try_into().expect("an id has four bytes"))
}

/// A map, by plain `bpf(2)`: what anybody with the capability can do to it.
#[derive(Debug)]
pub struct RawMap {
    fd: OwnedFd,
    pub key_size: usize,
    pub value_size: usize,
    pub max_entries: u32,
}

impl RawMap {
    pub fn by_id(id: u32) -> Self {
        // SAFETY: a union of plain integers, for which zero is a value.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        attr.__bindgen_anon_6.__bindgen_anon_1.map_id = id;
        Self::of(bpf(bpf_cmd::BPF_MAP_GET_FD_BY_ID, &mut attr))
    }

    pub fn pinned(path: &Path) -> Self {
        let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path");
        // SAFETY: as in `by_id`.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
        Self::of(bpf(bpf_cmd::BPF_OBJ_GET, &mut attr))
    }

    /// One side of a table.
    pub fn side(node: &Node, table: &str, side: Side) -> Self {
        Self::by_id(side_map(node, table, side))
    }

    /// As the value of a map of maps.
    pub fn fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    fn of(fd: OwnedFd) -> Self {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).expect("our own descriptor");
        let number = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{name} of a map"))
        };
        let (key_size, value_size, max_entries): (u32, u32, u32) =
            (number("key_size"), number("value_size"), number("max_entries"));
        Self { fd, key_size: key_size as usize, value_size: value_size as usize, max_entries }
    }

    fn element(&self, command: bpf_cmd, key: *const u8, value: *mut u8) -> bool {
        // SAFETY: as in `by_id`.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        attr.__bindgen_anon_2.map_fd = self.fd.as_raw_fd() as u32;
        attr.__bindgen_anon_2.key = key as u64;
        attr.__bindgen_anon_2.__bindgen_anon_1.value = value as u64;
        // SAFETY: the callers pass a key and a value of the map's sizes.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut attr, size_of::<bpf_attr>()) };
        if result < 0 {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{command:?}: {error}");
        }
        result >= 0
    }

    pub fn lookup(&self, key: &[u8]) -> Option<Vec<u8>> {
        assert_eq!(key.len(), self.key_size);
        let mut value = vec![0; self.value_size.next_multiple_of(8)];
        let found = self.element(bpf_cmd::BPF_MAP_LOOKUP_ELEM, key.as_ptr(), value.as_mut_ptr());
        value.truncate(self.value_size);
        found.then_some(value)
    }

    pub fn update(&self, key: &[u8], value: &[u8]) {
        assert_eq!((key.len(), value.len()), (self.key_size, self.value_size));
        let mut value = value.to_vec();
        assert!(self.element(bpf_cmd::BPF_MAP_UPDATE_ELEM, key.as_ptr(), value.as_mut_ptr()));
    }

    pub fn delete(&self, key: &[u8]) {
        assert_eq!(key.len(), self.key_size);
        assert!(self.element(bpf_cmd::BPF_MAP_DELETE_ELEM, key.as_ptr(), std::ptr::null_mut()), "it was there");
    }

    pub fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.key_size];
            let last = keys.last().map_or(std::ptr::null(), |key| key.as_ptr());
            if !self.element(bpf_cmd::BPF_MAP_GET_NEXT_KEY, last, next.as_mut_ptr()) {
                return keys;
            }
            keys.push(next);
        }
    }
}

/// What is left of Weir: pins, programs on devices, clsact qdiscs, devices beyond `devices`.
pub fn residue(node: &Node, devices: &[&str]) -> Vec<String> {
    let mut residue = Vec::new();
    if node.pins().exists() {
        walk(&node.pins(), &mut residue);
    }
    let links = tool("ip", "-brief link");
    for name in links.stdout.lines().filter_map(|line| line.split([' ', '@']).next()) {
        if !devices.contains(&name) {
            residue.push(format!("device {name}"));
        }
    }
    let attached = tool("bpftool", "-j net list").stdout;
    if attached.contains("\"id\":") || attached.contains("\"prog_id\":") {
        residue.push(format!("attached programs {attached}"));
    }
    let qdiscs = tool("tc", "qdisc show").stdout;
    residue.extend(qdiscs.lines().filter(|line| line.contains("clsact")).map(|line| format!("qdisc {line}")));
    residue
}

fn walk(directory: &Path, residue: &mut Vec<String>) {
    residue.push(format!("pin {}", directory.display()));
    for entry in fs::read_dir(directory).expect("the pin directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, residue);
        } else {
            residue.push(format!("pin {}", path.display()));
        }
    }
}

/// A program that is not Weir's: it lets everything pass.
#[derive(Debug)]
pub struct ForeignProgram {
    fd: OwnedFd,
    id: u32,
}

impl ForeignProgram {
    pub fn xdp() -> Self {
        // XDP_PASS.
        Self::load(bpf_prog_type::BPF_PROG_TYPE_XDP, 2)
    }

    pub fn tc() -> Self {
        // TCX_NEXT: whoever comes next decides.
        Self::load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, -1)
    }

    fn load(kind: bpf_prog_type, answer: i32) -> Self {
        // r0 = answer; exit
        let [a, b, c, d] = answer.to_le_bytes();
        let program: [u8; 16] = [0xb7, 0, 0, 0, a, b, c, d, 0x95, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: a union of plain integers, for which zero is a value.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        // SAFETY: all of the union is initialised.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = kind as u32;
        load.insns = program.as_ptr() as u64;
        load.insn_cnt = 2;
        load.license = c"GPL".as_ptr() as u64;
        for (to, from) in load.prog_name.iter_mut().zip(b"foreign") {
            *to = *from as std::ffi::c_char;
        }
        let fd = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr);
        let id = bpftool_id(&fd);
        Self { fd, id }
    }

    pub const fn id(&self) -> u32 {
        self.id
    }

    /// For tools that take a program by its pin.
    pub fn pin(&self, path: &str) {
        bpftool(&format!("prog pin id {} {path}", self.id));
    }

    pub fn attach_xdp(&self, device: &str) {
        bpftool(&format!("net attach xdp id {} dev {device}", self.id));
    }

    /// Attached as long as the link is held.
    pub fn attach_tcx_ingress(&self, device: &str) -> OwnedFd {
        let ifindex = nix::net::if_::if_nametoindex(device).expect("a device of ours");
        // SAFETY: as in `load`.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        // SAFETY: as in `load`.
        let create = unsafe { &mut attr.link_create };
        create.__bindgen_anon_1.prog_fd = self.fd.as_raw_fd() as u32;
        create.__bindgen_anon_2.target_ifindex = ifindex;
        create.attach_type = bpf_attach_type::BPF_TCX_INGRESS as u32;
        bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)
    }
}

/// Commands that return a descriptor.
fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> OwnedFd {
    loop {
        // SAFETY: the kernel reads `size` bytes at `attr`, and what its pointers lead to lives in the caller.
        let fd =
            unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<bpf_attr>()) };
        if fd >= 0 {
            // SAFETY: a new descriptor that nobody else owns.
            return unsafe { OwnedFd::from_raw_fd(fd as i32) };
        }
        let error = std::io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN), "{command:?}: {error}");
    }
}

fn bpftool_id(program: &OwnedFd) -> u32 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).expect("our own descriptor");
    let id = info.lines().find_map(|line| line.strip_prefix("prog_id:")).expect("a program");
    id.trim().parse().expect("a number")
}

/// Programs on a device, as bpftool lists them.
fn attached(device: &str, section: &str, kind: &str) -> Vec<u32> {
    let list = bpftool("net list");
    let entries = list.as_array().into_iter().flatten().flat_map(|list| list[section].as_array().into_iter().flatten());
    entries
        .filter(|entry| entry["devname"] == device && (kind.is_empty() || entry["kind"].as_str() == Some(kind)))
        .filter_map(|entry| entry["id"].as_u64().or_else(|| entry["prog_id"].as_u64()))
        .filter_map(|id| u32::try_from(id).ok())
        .collect()
}

pub fn xdp_on(device: &str) -> Option<u32> {
    attached(device, "xdp", "").first().copied()
}

/// In their order. By a query of its own: older bpftool does not know tcx.
pub fn tcx_ingress_on(device: &str) -> Vec<u32> {
    let ifindex = nix::net::if_::if_nametoindex(device).expect("a device of ours");
    let mut ids = [0u32; 64];
    // SAFETY: as in `load`.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: as in `load`.
    let query = unsafe { &mut attr.query };
    query.__bindgen_anon_1.target_ifindex = ifindex;
    query.attach_type = bpf_attach_type::BPF_TCX_INGRESS as u32;
    query.prog_ids = ids.as_mut_ptr() as u64;
    query.__bindgen_anon_2.prog_cnt = ids.len() as u32;
    // SAFETY: the kernel writes at most `prog_cnt` numbers into `ids`, and the count into `attr`.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_PROG_QUERY as libc::c_long, &raw mut attr, size_of::<bpf_attr>())
    };
    if result < 0 {
        return Vec::new();
    }
    // SAFETY: the kernel has filled in this member.
    let count = unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize;
    ids[..count.min(ids.len())].to_vec()
}

pub fn clsact_on(device: &str) -> bool {
    tool("tc", &format!("qdisc show dev {device}")).stdout.contains("clsact")
}
