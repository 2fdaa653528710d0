use std::{
    io,
    ops::ControlFlow,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_F_RDONLY_PROG, bpf_cmd, bpf_map_info, bpf_map_type};

use super::{Plain, attr, bpf, bpf_fd, by_id, counted, info, name_of, object_name, plain::zeroed};

/// What a map is made as, and checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    pub map_type: bpf_map_type,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

impl MapSpec {
    /// A hash that programs only read.
    pub const fn hash(key_size: u32, value_size: u32, max_entries: u32) -> Self {
        let flags = BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG;
        Self { map_type: bpf_map_type::BPF_MAP_TYPE_HASH, key_size, value_size, max_entries, flags }
    }

    pub const fn mapped_array(value_size: u32, max_entries: u32) -> Self {
        let flags = BPF_F_MMAPABLE;
        Self { map_type: bpf_map_type::BPF_MAP_TYPE_ARRAY, key_size: 4, value_size, max_entries, flags }
    }

    pub const fn outer(entries: u32) -> Self {
        Self {
            map_type: bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS,
            key_size: 4,
            value_size: 4,
            max_entries: entries,
            flags: 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    pub id: u32,
    pub name: String,
    pub spec: MapSpec,
}

pub fn map_create(name: &str, spec: &MapSpec, inner: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let mut attr = attr();
    // SAFETY: the attribute is zeroed, so every member of the union is initialised.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = spec.map_type as u32;
    create.key_size = spec.key_size;
    create.value_size = spec.value_size;
    create.max_entries = spec.max_entries;
    create.map_flags = spec.flags;
    create.map_name = object_name(name);
    create.inner_map_fd = inner.map_or(0, |fd| fd.as_raw_fd() as u32);
    counted();
    bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr)
}

pub fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    by_id(bpf_cmd::BPF_MAP_GET_FD_BY_ID, id)
}

pub fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    // SAFETY: plain integers, for which zero is a value.
    let mut raw: bpf_map_info = unsafe { std::mem::zeroed() };
    info(fd, &mut raw)?;
    let map_type =
        bpf_map_type::try_from(raw.type_).map_err(|_| io::Error::other(format!("map type {}", raw.type_)))?;
    Ok(MapInfo {
        id: raw.id,
        name: name_of(&raw.name),
        spec: MapSpec {
            map_type,
            key_size: raw.key_size,
            value_size: raw.value_size,
            max_entries: raw.max_entries,
            flags: raw.map_flags,
        },
    })
}

fn element(command: bpf_cmd, map: BorrowedFd<'_>, key: *const u8, value: *mut u8, flags: u64) -> io::Result<()> {
    let mut attr = attr();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    attr.__bindgen_anon_2.key = key as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value as u64;
    attr.__bindgen_anon_2.flags = flags;
    bpf(command, &mut attr).map(drop)
}

fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The caller answers for `K` and `V` being the map's key and value: [`crate::maps::Map`] checks it once.
pub(crate) fn lookup<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value: V = zeroed();
    let result = element(
        bpf_cmd::BPF_MAP_LOOKUP_ELEM,
        map,
        std::ptr::from_ref(key).cast(),
        std::ptr::from_mut(&mut value).cast(),
        0,
    );
    found(result.map(|()| value))
}

/// For values whose size depends on the machine (per-CPU maps), or on who made the map. `value` must have room for all of
/// it.
pub(crate) fn lookup_bytes<K: Plain>(map: BorrowedFd<'_>, key: &K, value: &mut [u8]) -> io::Result<bool> {
    let result = element(bpf_cmd::BPF_MAP_LOOKUP_ELEM, map, std::ptr::from_ref(key).cast(), value.as_mut_ptr(), 0);
    found(result).map(|found| found.is_some())
}

/// `value` is what the map's value is: for a map of maps a descriptor, for a per-CPU map one value per possible CPU.
pub(crate) fn update<K: Plain>(map: BorrowedFd<'_>, key: &K, value: &[u8]) -> io::Result<()> {
    counted();
    element(bpf_cmd::BPF_MAP_UPDATE_ELEM, map, std::ptr::from_ref(key).cast(), value.as_ptr().cast_mut(), 0)
}

/// Whether it was there.
pub(crate) fn delete<K: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    counted();
    let result = element(bpf_cmd::BPF_MAP_DELETE_ELEM, map, std::ptr::from_ref(key).cast(), std::ptr::null_mut(), 0);
    found(result).map(|found| found.is_some())
}

pub(crate) fn next_key<K: Plain>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
    let mut next: K = zeroed();
    let key = key.map_or(std::ptr::null(), |key| std::ptr::from_ref(key).cast());
    let result = element(bpf_cmd::BPF_MAP_GET_NEXT_KEY, map, key, std::ptr::from_mut(&mut next).cast(), 0);
    found(result.map(|()| next))
}

/// Batches of keys and values. Where the kernel has none for a map's type, it says so with EINVAL or ENOTSUPP.
#[derive(Debug)]
pub struct Batch<'a> {
    pub map: BorrowedFd<'a>,
}

/// `ENOTSUPP`, which no libc names.
const ENOTSUPP: i32 = 524;

impl Batch<'_> {
    pub fn of(map: &impl AsFd) -> Batch<'_> {
        Batch { map: map.as_fd() }
    }

    pub fn unsupported(error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(libc::EINVAL | ENOTSUPP | libc::EOPNOTSUPP))
    }

    /// How many were written before an error, and the error.
    pub fn update<K: Plain, V: Plain>(&self, keys: &[K], values: &[V]) -> (usize, io::Result<()>) {
        let count = keys.len().min(values.len());
        counted();
        self.run(bpf_cmd::BPF_MAP_UPDATE_BATCH, keys.as_ptr().cast(), values.as_ptr().cast(), count)
    }

    /// How many were deleted before an error. A key that is not there is an error (ENOENT).
    pub fn delete<K: Plain>(&self, keys: &[K]) -> (usize, io::Result<()>) {
        counted();
        self.run(bpf_cmd::BPF_MAP_DELETE_BATCH, keys.as_ptr().cast(), std::ptr::null(), keys.len())
    }

    fn run(&self, command: bpf_cmd, keys: *const u8, values: *const u8, count: usize) -> (usize, io::Result<()>) {
        let mut attr = attr();
        attr.batch.map_fd = self.map.as_raw_fd() as u32;
        attr.batch.keys = keys as u64;
        attr.batch.values = values as u64;
        attr.batch.count = count as u32;
        let result = bpf(command, &mut attr).map(drop);
        // On EFAULT and before the first element the kernel leaves the count as it was.
        // SAFETY: this member was set above.
        let done = unsafe { attr.batch.count } as usize;
        let done = if result.is_ok() || done != count { done } else { 0 };
        (done, result)
    }

    /// Everything in a hash. Elements that change meanwhile may be missed or be stale.
    pub fn dump<K: Plain, V: Plain>(&self) -> io::Result<Vec<(K, V)>> {
        let mut entries = Vec::new();
        self.walk(|keys: &[K], values: &[V], _| {
            entries.extend(keys.iter().copied().zip(values.iter().copied()));
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    /// Gives a hash some thousand elements at a time, whole buckets each, with the number of the bucket that comes next,
    /// `None` at the end.
    pub fn walk<K: Plain, V: Plain>(
        &self,
        mut each: impl FnMut(&[K], &[V], Option<u32>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut chunk = 4096usize;
        let mut cursor = [0u8; 64];
        let mut begun = false;
        let (mut keys, mut values): (Vec<K>, Vec<V>) = (vec![zeroed(); chunk], vec![zeroed(); chunk]);
        loop {
            let mut attr = attr();
            attr.batch.map_fd = self.map.as_raw_fd() as u32;
            attr.batch.in_batch = if begun { cursor.as_ptr() as u64 } else { 0 };
            let mut out = [0u8; 64];
            attr.batch.out_batch = out.as_mut_ptr() as u64;
            attr.batch.keys = keys.as_mut_ptr() as u64;
            attr.batch.values = values.as_mut_ptr() as u64;
            attr.batch.count = chunk as u32;
            let result = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
            // SAFETY: this member was set above.
            let count = (unsafe { attr.batch.count } as usize).min(chunk);
            let last = match result {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    // One bucket is longer than the chunk.
                    chunk *= 2;
                    keys.resize(chunk, zeroed());
                    values.resize(chunk, zeroed());
                    continue;
                }
                Err(error) => return Err(error),
            };
            // What the kernel calls a batch is a bucket's number.
            let next = u32::from_ne_bytes([out[0], out[1], out[2], out[3]]);
            if each(&keys[..count], &values[..count], (!last).then_some(next)).is_break() || last {
                return Ok(());
            }
            (cursor, begun) = (out, true);
        }
    }
}
