//! One map, and what it must look like.
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use aya_obj::generated::bpf_map_type;
use weir_abi::{KernelTable, TableKind};

use crate::sys::{self, MapInfo, MapSpec};

/// A map that is held open, with what the kernel says of it.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    info: MapInfo,
}

impl Map {
    pub fn create(name: &str, spec: &MapSpec, inner: Option<&Self>) -> io::Result<Self> {
        let fd = sys::map_create(&kernel_name(name), spec, inner.map(Self::as_fd))?;
        Self::from_fd(fd)
    }

    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        if !sys::is_map(fd.as_fd())? {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a map"));
        }
        let info = sys::map_info(fd.as_fd())?;
        Ok(Self { fd, info })
    }

    pub fn by_id(id: u32) -> io::Result<Self> {
        Self::from_fd(sys::map_by_id(id)?)
    }

    /// `None` where nothing, or no map, is pinned.
    pub fn pinned(path: &Path) -> io::Result<Option<Self>> {
        match sys::pin_get(path).and_then(Self::from_fd) {
            Ok(map) => Ok(Some(map)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Another descriptor of the same map.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, info: self.info.clone() })
    }

    pub const fn id(&self) -> u32 {
        self.info.id
    }

    pub fn name(&self) -> &str {
        &self.info.name
    }

    pub const fn spec(&self) -> &MapSpec {
        &self.info.spec
    }

    pub const fn entries(&self) -> u32 {
        self.info.spec.max_entries
    }

    /// Whether it is of this shape, whatever its size.
    pub fn fits(&self, spec: &MapSpec) -> bool {
        MapSpec { max_entries: 0, ..*self.spec() } == MapSpec { max_entries: 0, ..*spec }
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A table's name as the kernel shows it.
pub fn kernel_name(table: &str) -> String {
    let mut name = format!("wr_{}", table.to_ascii_lowercase());
    name.truncate(15);
    name
}

/// The shape of a table's map (of each inner map, for a table with two sides).
pub fn spec(table: &KernelTable, entries: u32) -> MapSpec {
    let max_entries = if table.max_entries == 0 { entries } else { table.max_entries };
    let plain =
        |map_type| MapSpec { map_type, key_size: table.key_size, value_size: table.value_size, max_entries, flags: 0 };
    match table.kind {
        TableKind::Hash => MapSpec::hash(table.key_size, table.value_size, max_entries),
        TableKind::MappedArray => MapSpec::mapped_array(table.value_size, max_entries),
        TableKind::LruHash => plain(bpf_map_type::BPF_MAP_TYPE_LRU_HASH),
        TableKind::PerCpuArray => plain(bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY),
        TableKind::RingBuffer => plain(bpf_map_type::BPF_MAP_TYPE_RINGBUF),
    }
}
