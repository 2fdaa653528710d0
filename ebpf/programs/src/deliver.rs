//! Delivery to an endpoint of this node without the way through the stack.
//!
//! Both ends of the packet's flow were judged in this very epoch, each on its own device and by its own hook: what the
//! destination's hook would find in conntrack was found already. So a flow's first packet goes through the stack, and so
//! does the first one after every flip; the rest go straight on. What the stack would have done to them is done here:
//! one hop less to live, the next hop's hardware address, no frame that the device does not take.
use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM, BPF_FIB_LKUP_RET_SUCCESS, bpf_check_mtu_flags::BPF_MTU_CHK_SEGS},
    helpers::generated::{
        bpf_check_mtu, bpf_fib_lookup, bpf_jiffies64, bpf_redirect, bpf_redirect_peer, bpf_skb_store_bytes,
    },
};
use weir_abi::{Reason, flow_verdict, interface_flags};

use crate::{
    account,
    admit::{begins_anew, is_tracked},
    case::Case,
    conntrack::{self, Entry},
    maps::{HZ, NEXT_HOPS},
    parse::{Part, load},
    tables, translate, words,
};

const ETHERNET: u32 = 14;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
pub const NEXT_HOP_SLOTS: u32 = 64;

/// What the kernel's routes and neighbours said of a destination. Kept for a second: they change seldom, and asking
/// costs more than everything else here.
#[repr(C)]
pub struct NextHop {
    destination: [u64; 2],
    /// In jiffies.
    until: u64,
    ifindex: u32,
    /// 0: it cannot be reached by this device, or not yet.
    mtu: u32,
    /// Destination and source.
    macs: [u8; 12],
    reserved: u32,
}

/// Remembers for [`deliver`] where the packet goes, if everybody who has a say said yes.
#[inline(always)]
pub fn foresee(case: &mut Case, entry: Entry, original_source: bool, reply: bool) {
    if account::is_tracing() {
        // A test run follows the packet to every hook.
        return;
    }
    let (word, ifindex) = entry.word(!original_source);
    if ifindex != 0 && word.epoch() == case.run.epoch() && word.verdict() == flow_verdict::ALLOW {
        case.far = ifindex;
        case.far_rule = word.rule();
        let (frontend, port_be) = if reply { entry.service() } else { ([0; 2], 0) };
        case.aim(frontend, port_be);
    }
}

/// As [`foresee`], of a packet that came from a network device: its flow is only known to the endpoint's hook.
#[inline(always)]
pub fn look_ahead(case: &mut Case) {
    if !is_tracked(case) || case.packet.fragment.of != Part::Whole {
        return;
    }
    let now = case.run.now();
    let Some(entry) = conntrack::find(&case.packet.flow.key, now) else { return };
    let reply = entry.is_reply(case.packet.flow.source_is_high);
    if entry.is_service() || begins_anew(case, entry, reply) {
        return;
    }
    foresee(case, entry, !reply, reply);
    if case.far != 0
        && let Some(settings) = tables::settings(case.run.side())
    {
        entry.touch(case, reply, now, settings);
    }
}

/// What became of a packet that may pass: the action, where it did not have to go by the stack. `passed` counts it at
/// this hook.
///
/// # Errors
///
/// Why it must be dropped: it was half rewritten.
#[inline(always)]
pub fn deliver(skb: *mut __sk_buff, case: &mut Case) -> Result<Option<i32>, Reason> {
    if case.far == 0 {
        return Ok(None);
    }
    match weir_deliver(skb, case) {
        BY_STACK => Ok(None),
        FAILED => Err(Reason::Translation),
        action => Ok(Some(action as i32)),
    }
}

// What the global function answers, beside an action.
const BY_STACK: u32 = 0;
const FAILED: u32 = u32::MAX;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_deliver(skb: *mut __sk_buff, case: *mut Case) -> u32 {
    // SAFETY: the caller's reference; the verifier asks for the comparison with null.
    let Some(case) = (unsafe { case.as_mut() }) else { return BY_STACK };
    let Some((hop, flags)) = way(skb, case) else { return BY_STACK };
    let ifindex = case.far;
    let peer = flags & interface_flags::PEER != 0;
    if peer && case.to_port_be != 0 && translate::source(skb, case).is_err() {
        return FAILED;
    }
    if send_on(skb, case, hop).is_none() {
        return FAILED;
    }
    if !peer {
        // By the destination's own hook, which counts it and gives it the frontend's address.
        // SAFETY: the helper only notes where the packet goes.
        return unsafe { bpf_redirect(ifindex, 0) as u32 };
    }
    account::delivered(case);
    // SAFETY: as above.
    unsafe { bpf_redirect_peer(ifindex, 0) as u32 }
}

/// The next hop, unless the stack has something to say to the packet.
#[inline(always)]
fn way(skb: *mut __sk_buff, case: &Case) -> Option<(&'static NextHop, u32)> {
    let packet = &case.packet;
    let device = tables::interface(case.run, case.far)?;
    if device.flags & interface_flags::DELIVER == 0 || packet.network != ETHERNET || packet.hop_limit <= 1 {
        return None;
    }
    let hop = next_hop(skb, case)?;
    // SAFETY: the context is valid for the whole run.
    let (length, segment) = unsafe { ((*skb).len, (*skb).gso_size) };
    let fits = if segment == 0 {
        length - ETHERNET <= hop.mtu
    } else {
        let mut mtu = 0;
        // SAFETY: the helper writes to its own argument.
        unsafe { bpf_check_mtu(skb.cast(), case.far, &mut mtu, 0, BPF_MTU_CHK_SEGS as u64) == 0 }
    };
    fits.then_some((hop, device.flags))
}

#[inline(always)]
fn next_hop(skb: *mut __sk_buff, case: &Case) -> Option<&'static NextHop> {
    let destination = *words::of_address(case.packet.flow.destination());
    let slot = (case.far * 2 + !words::is_v4(&destination) as u32) % NEXT_HOP_SLOTS;
    let hop = NEXT_HOPS.get_ptr_mut(slot)?;
    // SAFETY: this CPU's own slot, and programs of one CPU do not interrupt each other here.
    let hop = unsafe { &mut *hop };
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_jiffies64() };
    if hop.ifindex != case.far || hop.destination != destination || now >= hop.until {
        ask(skb, case, &destination, hop);
        hop.destination = destination;
        hop.ifindex = case.far;
        hop.until = now + HZ.load() as u64;
    }
    (hop.mtu != 0).then_some(hop)
}

/// `struct bpf_fib_lookup`.
#[repr(C, align(8))]
struct Lookup {
    family: u8,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
    /// Nothing on the way in; the device's MTU on the way out.
    length: u16,
    ifindex: u32,
    flow: u32,
    source: [u32; 4],
    destination: [u32; 4],
    vlan: u32,
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
}
const _: () = assert!(size_of::<Lookup>() == 64);

#[inline(always)]
fn ask(skb: *mut __sk_buff, case: &Case, destination: &[u64; 2], hop: &mut NextHop) {
    let source = words::of_address(case.packet.flow.source());
    let mut lookup = MaybeUninit::<Lookup>::uninit();
    // SAFETY: zero is a value of every field.
    let lookup = unsafe {
        words::zero(lookup.as_mut_ptr());
        lookup.assume_init_mut()
    };
    lookup.ifindex = case.ifindex;
    let quarters =
        |words: &[u64; 2]| [words[0] as u32, (words[0] >> 32) as u32, words[1] as u32, (words[1] >> 32) as u32];
    if words::is_v4(destination) {
        lookup.family = AF_INET;
        lookup.source[0] = (source[1] >> 32) as u32;
        lookup.destination[0] = (destination[1] >> 32) as u32;
    } else {
        lookup.family = AF_INET6;
        lookup.source = quarters(source);
        lookup.destination = quarters(destination);
    }
    let size = size_of::<Lookup>() as i32;
    // SAFETY: the helper reads and writes that many bytes.
    let found = unsafe { bpf_fib_lookup(skb.cast(), core::ptr::from_mut(lookup).cast(), size, 0) };
    let reached = found == BPF_FIB_LKUP_RET_SUCCESS as i64 && lookup.ifindex == case.far;
    hop.mtu = if reached { lookup.length as u32 } else { 0 };
    let (to, from) = (&lookup.destination_mac, &lookup.source_mac);
    hop.macs = [to[0], to[1], to[2], to[3], to[4], to[5], from[0], from[1], from[2], from[3], from[4], from[5]];
}

/// What a router does to the headers.
#[inline(always)]
fn send_on(skb: *mut __sk_buff, case: &Case, hop: &NextHop) -> Option<()> {
    let hops = case.packet.hop_limit - 1;
    if words::is_v4(words::of_address(case.packet.flow.source())) {
        // From the hardware addresses to the header's checksum, which changes as the hops do.
        let mut head = load::<26>(skb, 0)?;
        head[..12].copy_from_slice(&hop.macs);
        head[22] = hops;
        let sum = u16::from_be_bytes([head[24], head[25]]) as u32 + 0x100;
        let sum = (sum + (sum >= 0xffff) as u32) as u16;
        [head[24], head[25]] = sum.to_be_bytes();
        store(skb, 0, &head, 0)
    } else {
        store(skb, 0, &hop.macs, 0)?;
        // Nothing in the packet makes up for this byte in a sum that a device may have made of it.
        store(skb, ETHERNET + 7, &hops, BPF_F_RECOMPUTE_CSUM as u64)
    }
}

#[inline(always)]
fn store<T>(skb: *mut __sk_buff, offset: u32, value: &T, flags: u64) -> Option<()> {
    let size = size_of::<T>() as u32;
    // SAFETY: the helper reads the value's bytes, all of which are initialised.
    let code = unsafe { bpf_skb_store_bytes(skb, offset, core::ptr::from_ref(value).cast(), size, flags) };
    (code == 0).then_some(())
}
