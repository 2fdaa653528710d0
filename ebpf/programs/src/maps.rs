//! The maps, as the programs name them: the list of `weir_abi::sided_tables` and `weir_abi::runtime_tables`.
//!
//! **User space makes every map.** Before it loads the object it creates the inner maps of both sides in the sizes that
//! it wants, the outer `ARRAY_OF_MAPS[2]` of each sided table with side A's inner map as template, and the runtime
//! tables, and pins the outer maps and the runtime tables. It then names each pin to the loader
//! (`EbpfLoader::map_pin_path(name, path)`), and aya takes the pinned map instead of making one: for a map of maps it
//! does not even make the template. The sizes below are therefore never used; they are the least that the types take.
//! aya compares neither type nor size of what it finds at a pin, so user space checks that itself.
//!
//! What the verifier knows of an inner map it takes from the *real* outer map's template, so a lookup stays inlined
//! whatever the size, and inner arrays must agree with the template in type, sizes, flags and `max_entries` (inner
//! hashes in all but `max_entries`).
//!
//! The instance for test runs has its own runtime tables at other pins, and the same outer maps.
use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use weir_abi::{
    Address, AffinityEntry, AffinityKey, BackendInfo, ConntrackEntry, ConntrackKey, Counter, EVENT_RING_BYTES,
    EndpointInfo, FragmentKey, FragmentPorts, FrontendInfo, FrontendKey, InterfaceInfo, METRIC_SLOTS, NatEntry, NatKey,
    PacketEvent, PolicyEntry, PolicyKey, PrefilterClass, Runtime, ServiceInfo, Settings, SocketEntry, SocketKey,
    SourceRangeKey, SubjectInfo, TraceCell, tree::Line,
};

use crate::{
    case::Case,
    deliver::{NEXT_HOP_SLOTS, NextHop},
    hop::{HOP_SLOTS, Hop},
    tables::{KNOWN_INTERFACE_SLOTS, KnownInterface},
};

type Sided<M> = ArrayOfMaps<M, 2>;
pub type Mapped<V> = Array<V, 1, { BPF_F_MMAPABLE as usize }>;
pub type Hash<K, V> = HashMap<K, V, 1, { BPF_F_NO_PREALLOC as usize }>;
pub type Lru<K, V> = LruHashMap<K, V, 1>;

#[btf_map]
pub static SETTINGS: Sided<Mapped<Settings>> = Sided::new();
#[btf_map]
pub static INTERFACES: Sided<Hash<u32, InterfaceInfo>> = Sided::new();
#[btf_map]
pub static ENDPOINTS: Sided<Hash<Address, EndpointInfo>> = Sided::new();
#[btf_map]
pub static IPCACHE: Sided<Mapped<Line>> = Sided::new();
#[btf_map]
pub static SUBJECTS: Sided<Hash<u32, SubjectInfo>> = Sided::new();
#[btf_map]
pub static POLICY: Sided<Hash<PolicyKey, PolicyEntry>> = Sided::new();
#[btf_map]
pub static PREFILTER: Sided<Mapped<Line>> = Sided::new();
#[btf_map]
pub static PREFILTER_CLASSES: Sided<Mapped<PrefilterClass>> = Sided::new();
#[btf_map]
pub static FRONTENDS: Sided<Hash<FrontendKey, FrontendInfo>> = Sided::new();
#[btf_map]
pub static SERVICES: Sided<Mapped<ServiceInfo>> = Sided::new();
#[btf_map]
pub static SLOTS: Sided<Mapped<Line>> = Sided::new();
#[btf_map]
pub static BACKENDS: Sided<Mapped<BackendInfo>> = Sided::new();
#[btf_map]
pub static SOURCE_RANGES: Sided<Hash<SourceRangeKey, u32>> = Sided::new();

#[btf_map]
pub static RUNTIME: Mapped<Runtime> = Mapped::new();
#[btf_map]
pub static CONNTRACK_TCP: Lru<ConntrackKey, ConntrackEntry> = Lru::new();
#[btf_map]
pub static CONNTRACK_OTHER: Lru<ConntrackKey, ConntrackEntry> = Lru::new();
/// Conntrack as it was before it was given another size, or an entry another size by another version of Weir, while
/// [`FORMER`] is not 0; else the same tables once more.
#[btf_map]
pub static FORMER_TCP: Lru<ConntrackKey, ConntrackEntry> = Lru::new();
#[btf_map]
pub static FORMER_OTHER: Lru<ConntrackKey, ConntrackEntry> = Lru::new();
#[btf_map]
pub static FRAGMENTS: Lru<FragmentKey, FragmentPorts> = Lru::new();
#[btf_map]
pub static AFFINITY: Lru<AffinityKey, AffinityEntry> = Lru::new();
#[btf_map]
pub static NAT: Lru<NatKey, NatEntry> = Lru::new();
#[btf_map]
pub static SOCKETS: Lru<SocketKey, SocketEntry> = Lru::new();
#[btf_map]
pub static METRICS: PerCpuArray<Counter, { METRIC_SLOTS as usize }> = PerCpuArray::new();
#[btf_map]
pub static RULE_COUNTERS: Mapped<Counter> = Mapped::new();
#[btf_map]
pub static TRACE: PerCpuArray<TraceCell, 1> = PerCpuArray::new();
#[btf_map]
pub static EVENTS: RingBuf<PacketEvent, { EVENT_RING_BYTES as usize }> = RingBuf::new();

// Not in the list: no tables of user space's, and not pinned, so that each loaded instance has its own.

/// One run's case.
#[btf_map]
pub static SCRATCH: PerCpuArray<Case, 1> = PerCpuArray::new();
/// The next hops that this CPU asked for last.
#[btf_map]
pub static NEXT_HOPS: PerCpuArray<NextHop, { NEXT_HOP_SLOTS as usize }> = PerCpuArray::new();
/// Flows on their way into conntrack: the stack of a call that is this deep has no room for them.
#[btf_map]
pub static ENTRIES: PerCpuArray<ConntrackEntry, 2> = PerCpuArray::new();
/// Of [`ENTRIES`]: from the former tables.
pub const TAKEN_OVER: u32 = 0;
/// Of [`ENTRIES`]: a new flow's.
pub const FRESH: u32 = 1;
/// The devices that this CPU asked for last.
#[btf_map]
pub static KNOWN_INTERFACES: PerCpuArray<KnownInterface, KNOWN_INTERFACE_SLOTS> = PerCpuArray::new();
/// Where this CPU's last packets went on to.
#[btf_map]
pub static HOPS: PerCpuArray<Hop, HOP_SLOTS> = PerCpuArray::new();

// The loader sets all four. What they are here never equals another constant of the programs: the compiler would keep
// the two in one place, and what the loader writes would change both.

/// Rules that `RULE_COUNTERS` has room for on each CPU: its `max_entries` divided by the number of possible CPUs.
#[unsafe(no_mangle)]
pub static RULES: Global<u32> = Global::new(0x5745_0001);
/// Jiffies a second, measured by the loader.
#[unsafe(no_mangle)]
pub static HZ: Global<u32> = Global::new(0x5745_0002);
/// 1 in the instance for test runs: every run writes the per-CPU `TRACE` cell. With 0 the verifier removes that code.
#[unsafe(no_mangle)]
pub static TRACING: Global<u32> = Global::new(0x5745_0003);
/// While conntrack moves to other tables, the bytes of an entry in the former ones, where what is not in the new ones is
/// looked for; else 0.
#[unsafe(no_mangle)]
pub static FORMER: Global<u32> = Global::new(0x5745_0004);
