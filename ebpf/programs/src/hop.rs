//! Where a packet goes on to from XDP: what the kernel's routes and neighbours say, kept for a second at most.
//!
//! Routes are asked for by destination, traffic class and device alone: a rule that looks at the source, at ports or at
//! marks is for the stack.
use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as Parameters, xdp_md},
    helpers::generated::bpf_fib_lookup,
};

use crate::{case::Case, maps::HOPS, parse::Header, run::jiffies, words};

pub const HOP_SLOTS: usize = 1024;

/// Seconds after which the stack gets a packet to that destination. Only it asks a neighbour whether it still is there.
const STACK_EVERY: u32 = 10;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// What one CPU knows of one destination.
#[repr(C)]
pub struct Hop {
    generation: u64,
    to: [u64; 2],
    /// In jiffies, offset included.
    expires: u64,
    stack_at: u64,
    /// Six bytes each, as they are in memory.
    pub own_mac: u64,
    next_mac: u64,
    ifindex: u32,
    /// Of an IP packet, in bytes; 0: it does not leave by the device that it came by, or nobody is known there.
    pub mtu: u16,
    traffic_class: u8,
    reserved: u8,
}

/// `struct bpf_fib_lookup`, without its unions.
#[repr(C, align(8))]
struct Route {
    family: u8,
    protocol: u8,
    source_port_be: u16,
    destination_port_be: u16,
    /// Of the packet; then the MTU.
    length: u16,
    ifindex: u32,
    /// IPv4: in the first byte. IPv6: in the flow information, in network order.
    traffic_class: u32,
    source: [u64; 2],
    destination: [u64; 2],
    vlan: u32,
    own_mac: [u16; 3],
    next_mac: [u16; 3],
}
const _: () = assert!(size_of::<Route>() == 64 && size_of::<Parameters>() == 64);

impl Hop {
    /// From this device to whoever is next; at the start of the frame.
    #[inline(always)]
    pub fn address(&self, frame: Header) {
        frame.set_u64_be::<0>(self.next_mac | self.own_mac << 48);
        frame.set_u32_be::<8>((self.own_mac >> 16) as u32);
    }
}

/// Where a packet to `case.to` goes; `None`: the stack must see to it.
#[inline(always)]
pub fn find(context: *mut xdp_md, case: &Case) -> Option<&'static Hop> {
    let hop = slot(case)?;
    let is_known = hop.generation == case.run.word
        && hop.to == case.to
        && hop.ifindex == case.ifindex
        && hop.traffic_class == case.traffic_class
        && case.run.now() < hop.expires;
    if !is_known && weir_route(context, core::ptr::from_ref(case).cast_mut()) == 0 {
        return None;
    }
    let hop = slot(case)?;
    (hop.mtu != 0).then_some(hop)
}

#[inline(always)]
fn slot(case: &Case) -> Option<&'static mut Hop> {
    // The machines of one subnet differ in the highest byte, and of a product only the bits from there on follow it: in
    // the bits that are taken here it must lie lower. (Measured: 64 backends that shared 4 slots cost 166 ns a packet.)
    let both = case.to[0] ^ case.to[1];
    let mixed = (both ^ both >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let slot = HOPS.get_ptr_mut((mixed >> 48) as u32 % HOP_SLOTS as u32)?;
    // SAFETY: this CPU's own slot, and programs of one CPU do not interrupt each other here.
    Some(unsafe { &mut *slot })
}

/// Asks the kernel. 0: this packet is the stack's, whatever is known.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_route(context: *mut xdp_md, case: *mut Case) -> u32 {
    let Some(case) = Case::in_map(case) else { return 0 };
    let Some(hop) = slot(case) else { return 0 };
    let now = case.run.now();
    if hop.to != case.to || hop.ifindex != case.ifindex {
        hop.stack_at = now + jiffies(STACK_EVERY);
    }
    hop.generation = case.run.word;
    hop.to = case.to;
    hop.ifindex = case.ifindex;
    hop.traffic_class = case.traffic_class;
    hop.mtu = 0;
    hop.expires = now;
    if now >= hop.stack_at {
        hop.stack_at = now + jiffies(STACK_EVERY);
        return 0;
    }
    let v4 = words::is_v4(&case.to);
    let mut route = Route {
        family: if v4 { AF_INET } else { AF_INET6 },
        protocol: 0,
        source_port_be: 0,
        destination_port_be: 0,
        length: case.packet.ip_length() as u16,
        ifindex: case.ifindex,
        traffic_class: if v4 { case.traffic_class as u32 } else { ((case.traffic_class as u32) << 20).to_be() },
        source: [0; 2],
        destination: if v4 { [case.to[1] >> 32, 0] } else { case.to },
        vlan: 0,
        own_mac: [0; 3],
        next_mac: [0; 3],
    };
    let parameters = (&raw mut route).cast::<Parameters>();
    // SAFETY: the context is valid for the whole run, and the helper is told how long the parameters are.
    let code = unsafe { bpf_fib_lookup(context.cast(), parameters, size_of::<Route>() as i32, 0) };
    if code == BPF_FIB_LKUP_RET_FRAG_NEEDED as i64 {
        return 0;
    }
    // What cannot go by here is not asked for again at once, either.
    hop.expires = now + jiffies(1);
    if code == BPF_FIB_LKUP_RET_SUCCESS as i64 && route.ifindex == case.ifindex {
        hop.own_mac = mac(route.own_mac);
        hop.next_mac = mac(route.next_mac);
        hop.mtu = route.length;
    }
    1
}

#[inline(always)]
fn mac(words: [u16; 3]) -> u64 {
    words[0] as u64 | (words[1] as u64) << 16 | (words[2] as u64) << 32
}
