//! The list of tables: what user space creates and checks, what drift tests are generated from, what the ABI hash is
//! computed over.
use crate::{
    Address, AffinityEntry, AffinityKey, BackendInfo, ClassCell, ConntrackEntry, ConntrackKey, Counter,
    EVENT_RING_BYTES, EndpointInfo, FragmentKey, FragmentPorts, FrontendInfo, FrontendKey, InterfaceInfo, METRIC_SLOTS,
    NatEntry, NatKey, PolicyEntry, PolicyKey, PrefilterClass, Runtime, ServiceInfo, Settings, SocketEntry, SocketKey,
    SourceRangeKey, SubjectInfo, TraceCell, tree::Line,
};

/// Raised by hand when the meaning of something changes, other than of a table that traffic fills, and its size does not.
pub const ABI_VERSION: u32 = 4;

/// Name of the table of rule counters: one mappable array of [`Counter`], index `cpu * rules + rule`.
pub const RULE_COUNTERS: &str = "RULE_COUNTERS";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// `BPF_MAP_TYPE_HASH`, `BPF_F_NO_PREALLOC`.
    Hash,
    /// `BPF_MAP_TYPE_ARRAY`, `BPF_F_MMAPABLE`.
    MappedArray,
    /// `BPF_MAP_TYPE_LRU_HASH`, preallocated.
    LruHash,
    PerCpuArray,
    RingBuffer,
}

/// One table as the programs name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelTable {
    /// The map's name in the object file, and of its pin.
    pub name: &'static str,
    pub kind: TableKind,
    pub key_size: u32,
    pub value_size: u32,
    /// 0: sized when it is created, from `NodeConfig` or from what the set needs.
    pub max_entries: u32,
    /// Raised by hand when the meaning of a field changes. A table that traffic fills goes over from one version of
    /// Weir to another where this is the same in both: as it is, if its sizes are the same as well; else conntrack's
    /// entries are copied, so a [`ConntrackEntry`] may only grow at its end, and what is zero there was not known.
    pub layout: u32,
}

const fn table<K, V>(name: &'static str, kind: TableKind, max_entries: u32) -> KernelTable {
    let (key_size, value_size) = (size_of::<K>() as u32, size_of::<V>() as u32);
    KernelTable { name, kind, key_size, value_size, max_entries, layout: 1 }
}

/// Tables that manifests fill: each is an `ARRAY_OF_MAPS` of two inner maps of this shape.
pub const fn sided_tables() -> &'static [KernelTable] {
    const TABLES: &[KernelTable] = &[
        table::<u32, Settings>("SETTINGS", TableKind::MappedArray, 1),
        table::<u32, InterfaceInfo>("INTERFACES", TableKind::Hash, 0),
        table::<Address, EndpointInfo>("ENDPOINTS", TableKind::Hash, 0),
        table::<u32, Line>("IPCACHE", TableKind::MappedArray, 0),
        table::<u32, SubjectInfo>("SUBJECTS", TableKind::Hash, 0),
        table::<PolicyKey, PolicyEntry>("POLICY", TableKind::Hash, 0),
        table::<u32, Line>("PREFILTER", TableKind::MappedArray, 0),
        table::<u32, PrefilterClass>("PREFILTER_CLASSES", TableKind::MappedArray, 0),
        table::<FrontendKey, FrontendInfo>("FRONTENDS", TableKind::Hash, 0),
        table::<u32, ServiceInfo>("SERVICES", TableKind::MappedArray, 0),
        table::<u32, Line>("SLOTS", TableKind::MappedArray, 0),
        table::<u32, BackendInfo>("BACKENDS", TableKind::MappedArray, 0),
        table::<SourceRangeKey, u32>("SOURCE_RANGES", TableKind::Hash, 0),
    ];
    TABLES
}

/// Tables that traffic, or the flip itself, fills: they exist once.
pub const fn runtime_tables() -> &'static [KernelTable] {
    const TABLES: &[KernelTable] = &[
        table::<u32, Runtime>("RUNTIME", TableKind::MappedArray, 1),
        table::<ConntrackKey, ConntrackEntry>("CONNTRACK_TCP", TableKind::LruHash, 0),
        table::<ConntrackKey, ConntrackEntry>("CONNTRACK_OTHER", TableKind::LruHash, 0),
        table::<FragmentKey, FragmentPorts>("FRAGMENTS", TableKind::LruHash, 0),
        table::<AffinityKey, AffinityEntry>("AFFINITY", TableKind::LruHash, 0),
        table::<NatKey, NatEntry>("NAT", TableKind::LruHash, 0),
        table::<SocketKey, SocketEntry>("SOCKETS", TableKind::LruHash, 0),
        table::<u32, Counter>("METRICS", TableKind::PerCpuArray, METRIC_SLOTS),
        table::<u32, Counter>(RULE_COUNTERS, TableKind::MappedArray, 0),
        table::<u32, TraceCell>("TRACE", TableKind::PerCpuArray, 1),
        KernelTable {
            name: "EVENTS",
            kind: TableKind::RingBuffer,
            key_size: 0,
            value_size: 0,
            max_entries: EVENT_RING_BYTES,
            layout: 1,
        },
    ];
    TABLES
}

const _: () = assert!(size_of::<ClassCell>() == 4);
