//! The floors of services: one lookup of a frontend, conntrack's two entries a flow, the packet rewritten.
use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_NO_PREALLOC, BPF_F_PSEUDO_HDR, TC_ACT_OK},
    btf_maps::HashMap,
    helpers::generated::{bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes},
    macros::{btf_map, classifier},
    programs::TcContext,
};
use weir_abi::{Address, ConntrackEntry, ConntrackKey, FrontendInfo, FrontendKey};

use crate::{ETHERNET, LRU, Parsed, count, last_four, parse};

/// `service` is the backend's port, and `flags` the last four bytes of its address: nothing else is looked up.
#[btf_map]
static FRONTENDS: HashMap<FrontendKey, FrontendInfo, 131072, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Answers of floors that did not do their work.
const NOT_PARSED: i32 = 98;
const NOT_FOUND: i32 = 97;
const NOT_WRITTEN: i32 = 96;

#[inline(always)]
fn frontend(parsed: &Parsed) -> Option<FrontendInfo> {
    let ConntrackKey { high, high_port_be, protocol, .. } = parsed.key;
    let key = FrontendKey::new(high, protocol, u16::from_be(high_port_be));
    // SAFETY: nobody writes while programs run.
    unsafe { FRONTENDS.get(key) }.copied()
}

/// The flow between client and backend.
#[inline(always)]
fn to_backend(parsed: &Parsed, backend: Address, port_be: u16) -> ConntrackKey {
    ConntrackKey { high: backend, high_port_be: port_be, ..parsed.key }
}

/// Address, port and checksums, by the helpers that rewrite packets.
#[inline(always)]
fn rewrite(skb: *mut __sk_buff, parsed: &Parsed, backend: &Address, port_be: u16) -> Option<()> {
    let network = ETHERNET as u32;
    let (transport, address) = if parsed.v4 { (network + 20, network + 16) } else { (network + 40, network + 24) };
    let checksum = transport + 16;
    let from = parsed.key.high;
    let pseudo = BPF_F_PSEUDO_HDR as u64;
    // SAFETY: the context is valid, and what is read is as long as is said.
    let failed = unsafe {
        if parsed.v4 {
            let (old, new) = (u32::from_ne_bytes(last_four(&from)), u32::from_ne_bytes(last_four(backend)));
            bpf_l4_csum_replace(skb, checksum, old as u64, new as u64, pseudo | 4)
                | bpf_l3_csum_replace(skb, network + 10, old as u64, new as u64, 4)
                | bpf_skb_store_bytes(skb, address, (&raw const new).cast(), 4, 0)
        } else {
            let (mut old, mut new) = (from, *backend);
            let sum = bpf_csum_diff((&raw mut old).cast(), 16, (&raw mut new).cast(), 16, 0);
            bpf_l4_csum_replace(skb, checksum, 0, sum as u32 as u64, pseudo)
                | bpf_skb_store_bytes(skb, address, (&raw const new).cast(), 16, 0)
        }
    };
    // SAFETY: as above.
    let port_failed = unsafe {
        bpf_l4_csum_replace(skb, checksum, parsed.key.high_port_be as u64, port_be as u64, 2)
            | bpf_skb_store_bytes(skb, transport + 2, (&raw const port_be).cast(), 2, 0)
    };
    (failed == 0 && port_failed == 0).then_some(())
}

/// Parse, one frontend, both entries of the flow, rewrite, count.
#[classifier]
pub fn floor_service_hit_tc(ctx: TcContext) -> i32 {
    let Some(parsed) = parse(ctx.data(), ctx.data_end()) else { return NOT_PARSED };
    if frontend(&parsed).is_none() {
        return NOT_FOUND;
    }
    // SAFETY: read only, within this run.
    let Some(entry) = (unsafe { LRU.get(parsed.key) }) else { return NOT_FOUND };
    let (backend, port_be) = (entry.service, entry.service_port_be);
    // SAFETY: as above.
    if unsafe { LRU.get(to_backend(&parsed, backend, port_be)) }.is_none() {
        return NOT_FOUND;
    }
    finish(&ctx, &parsed, &backend, port_be)
}

/// The same of a flow that has no entries: both are looked for, and made.
#[classifier]
pub fn floor_service_insert_tc(ctx: TcContext) -> i32 {
    let Some(parsed) = parse(ctx.data(), ctx.data_end()) else { return NOT_PARSED };
    let Some(info) = frontend(&parsed) else { return NOT_FOUND };
    let port_be = (info.service as u16).to_be();
    let mut backend = parsed.key.high;
    backend.0[12..].copy_from_slice(&info.flags.to_ne_bytes());
    let mut entry = ConntrackEntry { expires: 1, service: backend, service_port_be: port_be, ..Default::default() };
    // SAFETY: read only, within this run.
    if let Some(known) = unsafe { LRU.get(parsed.key) } {
        entry.flags = known.flags;
    }
    if LRU.insert(parsed.key, entry, 0).is_err() {
        return NOT_WRITTEN;
    }
    let key = to_backend(&parsed, backend, port_be);
    // SAFETY: as above.
    if let Some(known) = unsafe { LRU.get(key) } {
        entry.flags = known.flags;
    }
    if LRU.insert(key, entry, 0).is_err() {
        return NOT_WRITTEN;
    }
    finish(&ctx, &parsed, &backend, port_be)
}

#[inline(always)]
fn finish(ctx: &TcContext, parsed: &Parsed, backend: &Address, port_be: u16) -> i32 {
    count(1, ctx.len() as usize);
    match rewrite(ctx.skb.skb, parsed, backend, port_be) {
        Some(()) => TC_ACT_OK,
        None => NOT_WRITTEN,
    }
}
