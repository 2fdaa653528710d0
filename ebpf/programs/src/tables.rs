//! One lookup for each table that manifests fill. The side is the run's; a missing inner map reads as an empty table.
use weir_abi::{
    Address, BackendInfo, EndpointInfo, FrontendInfo, FrontendKey, InterfaceInfo, PolicyEntry, PolicyKey,
    PrefilterClass, ServiceInfo, Settings, SourceRangeKey, SubjectInfo, identity, tree,
};

use crate::{
    maps::{
        BACKENDS, ENDPOINTS, FRONTENDS, Hash, INTERFACES, IPCACHE, KNOWN_INTERFACES, Mapped, POLICY, PREFILTER,
        PREFILTER_CLASSES, SERVICES, SETTINGS, SLOTS, SOURCE_RANGES, SUBJECTS,
    },
    run::Run,
    words,
};

// SAFETY, for every reference below: the maps live as long as the program, and user space writes only the standby side,
// which no running program reads (it waits for them after a flip). So a value does not change under its reader.

#[inline(always)]
fn in_hash<K, V>(hash: &'static Hash<K, V>, key: &K) -> Option<&'static V> {
    // SAFETY: see above.
    unsafe { hash.get(key) }
}

#[inline(always)]
pub fn settings(side: u32) -> Option<&'static Settings> {
    let key = 0;
    SETTINGS.get_value(side, &key)
}

pub const KNOWN_INTERFACE_SLOTS: usize = 64;

/// What a side said of a device, for as long as its generation lasts: within one, a side does not change.
#[repr(C)]
pub struct KnownInterface {
    generation: u64,
    ifindex: u64,
    info: InterfaceInfo,
}

/// Every packet asks for its device: the answer is kept, so that a flood on one device asks the hash once.
#[inline(always)]
pub fn interface(run: Run, ifindex: u32) -> Option<&'static InterfaceInfo> {
    let known = KNOWN_INTERFACES.get_ptr_mut(ifindex % KNOWN_INTERFACE_SLOTS as u32)?;
    // SAFETY: this CPU's own slot, and programs of one CPU do not interrupt each other here.
    let known = unsafe { &mut *known };
    if known.generation != run.word || known.ifindex != ifindex as u64 {
        let info = in_hash(INTERFACES.get(run.side())?, &ifindex)?;
        words::copy(info, &mut known.info);
        known.ifindex = ifindex as u64;
        known.generation = run.word;
    }
    Some(&known.info)
}

#[inline(always)]
pub fn endpoint(side: u32, address: &Address) -> Option<&'static EndpointInfo> {
    in_hash(ENDPOINTS.get(side)?, address)
}

#[inline(always)]
pub fn frontend(side: u32, key: &FrontendKey) -> Option<&'static FrontendInfo> {
    in_hash(FRONTENDS.get(side)?, key)
}

#[inline(always)]
pub fn service(side: u32, number: u32) -> Option<&'static ServiceInfo> {
    SERVICES.get_value(side, &number)
}

/// The backend in a slot of the service whose slots begin at line `first`.
#[inline(always)]
pub fn slot(side: u32, first: u32, slot: u32) -> Option<u32> {
    let line = SLOTS.get_value(side, &(first + slot / 16))?;
    line.0.get((slot % 16) as usize).copied()
}

#[inline(always)]
pub fn backend(side: u32, number: u32) -> Option<&'static BackendInfo> {
    BACKENDS.get_value(side, &number)
}

#[inline(always)]
pub fn source_range(side: u32, key: &SourceRangeKey) -> bool {
    SOURCE_RANGES.get(side).is_some_and(|ranges| in_hash(ranges, key).is_some())
}

#[inline(always)]
pub fn subject(side: u32, identity: u32) -> Option<&'static SubjectInfo> {
    in_hash(SUBJECTS.get(side)?, &identity)
}

/// The policy table of a side, for several probes.
#[inline(always)]
pub fn policy(side: u32) -> Option<&'static Hash<PolicyKey, PolicyEntry>> {
    POLICY.get(side)
}

#[inline(always)]
pub fn policy_entry(policy: &'static Hash<PolicyKey, PolicyEntry>, key: &PolicyKey) -> Option<&'static PolicyEntry> {
    in_hash(policy, key)
}

#[inline(always)]
pub fn prefilter_class(side: u32, class: u32) -> Option<&'static PrefilterClass> {
    PREFILTER_CLASSES.get_value(side, &class)
}

/// The prefilter class of an address, as it is in memory; 0 for none.
#[inline(always)]
pub fn prefilter(side: u32, address: [u64; 2]) -> u32 {
    let Some(lines) = PREFILTER.get(side) else { return 0 };
    in_tree(lines, u64::from_be(address[0]), u64::from_be(address[1]))
}

/// As [`prefilter`], by a call: the verifier looks at a second walk once, and not after every way through the first.
#[inline(always)]
pub fn prefilter_called(side: u32, address: [u64; 2]) -> u32 {
    weir_prefilter(side, address[0], address[1])
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_prefilter(side: u32, first: u64, second: u64) -> u32 {
    prefilter(side, [first, second])
}

/// Whose address this is: what no prefix covers is the world.
#[inline(always)]
pub fn identity_of(side: u32, address: &Address) -> u32 {
    let (high, low) = address.halves();
    weir_identity_of(side, high, low)
}

/// Not inlined: it is needed only to judge, and at several places.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_identity_of(side: u32, high: u64, low: u64) -> u32 {
    identity_here(side, high, low)
}

/// As [`identity_of`], without the call: for the one place where it is felt.
#[inline(always)]
pub fn identity_here(side: u32, high: u64, low: u64) -> u32 {
    let Some(lines) = IPCACHE.get(side) else { return identity::WORLD };
    match in_tree(lines, high, low) {
        identity::UNKNOWN => identity::WORLD,
        known => known,
    }
}

#[inline(always)]
fn in_tree(lines: &'static Mapped<tree::Line>, high: u64, low: u64) -> u32 {
    let read = |line| lines.get(line);
    if high == 0 && low >> 32 == 0xffff { tree::lookup_v4(low as u32, read) } else { tree::lookup_v6(high, low, read) }
}
