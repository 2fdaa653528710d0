//! The load balancer at XDP: a packet that is sent on is the client's again for the next run, and the floor of sending it
//! on.
use aya_ebpf::{
    bindings::xdp_action,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use weir_abi::{Address, ConntrackKey};

use crate::{
    CONTROL, IPV4, LRU, Next, TC_SLOTS, XDP_SLOTS, count, next, parse, vary,
    window::{Header, Window},
};

// Ethernet's addresses and type, and the first two bytes behind, as they are in memory.
const STATIONS: u64 = u64::from_ne_bytes([2, 0, 0, 0, 0, 1, 2, 0]);
const FRAME_V4: u64 = u64::from_ne_bytes([0, 0, 0, 2, 0x08, 0x00, 0x45, 0]);
const FRAME_V6: u64 = u64::from_ne_bytes([0, 0, 0, 2, 0x86, 0xdd, 0x60, 0]);
/// Hop limit and protocol, as IPv4 has them and as IPv6 has.
const LIMIT_V4: u16 = u16::from_ne_bytes([64, 6]);
const LIMIT_V6: u16 = u16::from_ne_bytes([6, 64]);
/// See [`crate::CHECKSUM`].
const CHECKSUM: u16 = u16::from_ne_bytes(crate::CHECKSUM);

/// As large as a packet here must be.
const FRAME: u32 = 64;

#[inline(always)]
fn frame(ctx: &XdpContext) -> Option<Header> {
    let (data, end) = (ctx.data(), ctx.data_end());
    Window { data, end, length: (end - data) as u32 }.at(0, FRAME).ok()
}

#[inline(always)]
fn is_v4(frame: Header) -> bool {
    frame.u16::<12>() == IPV4
}

/// Everything that whoever sends a packet on rewrites is a client's again: written as wide as it is read, for what was
/// just written in pieces is slow to read, and a packet that a device wrote is not.
#[inline(always)]
fn restore(ctx: &XdpContext) -> Option<u32> {
    let frame = frame(ctx)?;
    let Next { flow, port_be, slot } = next()?;
    let words = |address: &Address| {
        let (high, low) = address.halves();
        [high.to_be(), low.to_be()]
    };
    let (source, destination) = (words(&flow.source), words(&flow.destination));
    let ports = port_be as u32 | (flow.destination_port_be as u32) << 16;
    frame.set_u64_be::<0>(STATIONS);
    if is_v4(frame) {
        frame.set_u64_be::<8>(FRAME_V4);
        frame.set_u16_be::<22>(LIMIT_V4);
        frame.set_u16_be::<24>(CHECKSUM);
        frame.set_u32_be::<26>((source[1] >> 32) as u32);
        frame.set_u32_be::<30>((destination[1] >> 32) as u32);
        frame.set_u16_be::<34>(ports as u16);
        frame.set_u16_be::<36>((ports >> 16) as u16);
        frame.set_u16_be::<50>(CHECKSUM);
    } else {
        frame.set_u64_be::<8>(FRAME_V6);
        frame.set_u16_be::<20>(LIMIT_V6);
        frame.set_u64_be::<22>(source[0]);
        frame.set_u64_be::<30>(source[1]);
        frame.set_u64_be::<38>(destination[0]);
        frame.set_u64_be::<46>(destination[1]);
        frame.set_u16_be::<54>(ports as u16);
        frame.set_u16_be::<56>((ports >> 16) as u16);
        let (data, end) = (ctx.data(), ctx.data_end());
        Window { data, end, length: 0 }.at(70, 2).ok()?.set_u16_be::<0>(CHECKSUM);
    }
    Some(slot)
}

/// The prologue of who sends packets on.
#[xdp(frags)]
pub fn prologue_restoring_xdp(ctx: XdpContext) -> u32 {
    if let Some(slot) = restore(&ctx) {
        // SAFETY: the slot holds an XDP program or nothing.
        unsafe { XDP_SLOTS.tail_call(&ctx, slot) };
    }
    xdp_action::XDP_ABORTED
}

/// Every second run is another program's, in the next slot, which gets the packet as the first one left it.
#[classifier]
pub fn prologue_through_tc(ctx: TcContext) -> i32 {
    if let Some(control) = CONTROL.get_ptr_mut(0) {
        // SAFETY: points at the map's value; the benchmark runs on one CPU at a time.
        let control = unsafe { &mut *control };
        control.half ^= 1;
        let slot = if control.half == 0 { Some(control.slot + 1) } else { vary(ctx.data(), ctx.data_end()) };
        if let Some(slot) = slot {
            // SAFETY: the slot holds a tc program or nothing.
            unsafe { TC_SLOTS.tail_call(&ctx, slot) };
        }
    }
    // No program under test answers this.
    99
}

/// Parse, both entries of the flow, both ends and every checksum rewritten, count, out of the device that it came by.
#[xdp(frags)]
pub fn floor_balance_xdp(ctx: XdpContext) -> u32 {
    balance(&ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn balance(ctx: &XdpContext) -> Option<u32> {
    let (data, end) = (ctx.data(), ctx.data_end());
    let parsed = parse(data, end)?;
    // SAFETY: read only, within this run.
    let entry = unsafe { LRU.get(parsed.key) }?;
    let (backend, port_be) = (entry.service, entry.service_port_be);
    let key = ConntrackKey { high: backend, high_port_be: port_be, ..parsed.key };
    // SAFETY: as above.
    let flow = unsafe { LRU.get(key) }?;
    // Under the node's address and port, which here are the client's, turned around.
    let (node, node_port_be) = (parsed.key.high, parsed.key.low_port_be ^ flow.flags as u16 ^ 1);
    let ports = change(parsed.key.low_port_be, node_port_be) + change(parsed.key.high_port_be, port_be);
    let new_ports = node_port_be as u32 | (port_be as u32) << 16;
    let window = Window { data, end, length: 0 };
    let frame = frame(ctx)?;
    if parsed.v4 {
        let word = |address: &Address| (address.halves().1 as u32).to_be();
        let (from, to) = (word(&node), word(&backend));
        let sum = change32(word(&parsed.key.low), from) + change32(word(&parsed.key.high), to);
        let limit = frame.u16_be::<22>();
        frame.set_u16_be::<22>(limit - 1);
        frame.set_u16_be::<24>(corrected(frame.u16_be::<24>(), sum + change(limit, limit - 1)));
        frame.set_u32_be::<26>(from);
        frame.set_u32_be::<30>(to);
        frame.set_u32_be::<34>(new_ports);
        frame.set_u16_be::<50>(corrected(frame.u16_be::<50>(), sum + ports));
    } else {
        let words = |address: &Address| [address.halves().0.to_be(), address.halves().1.to_be()];
        let (from, to) = (words(&node), words(&backend));
        let sum = change128(words(&parsed.key.low), from) + change128(words(&parsed.key.high), to);
        let checksum = window.at(70, 2).ok()?;
        frame.set_u8::<21>(frame.u8::<21>() - 1);
        frame.set_u64_be::<22>(from[0]);
        frame.set_u64_be::<30>(from[1]);
        frame.set_u64_be::<38>(to[0]);
        frame.set_u64_be::<46>(to[1]);
        frame.set_u32_be::<54>(new_ports);
        checksum.set_u16_be::<0>(corrected(checksum.u16_be::<0>(), sum + ports));
    }
    frame.set_u64_be::<0>(STATIONS.swap_bytes());
    frame.set_u32_be::<8>(STATIONS as u32);
    count(2, end - data);
    Some(xdp_action::XDP_TX)
}

#[inline(always)]
fn change(from: u16, to: u16) -> u64 {
    !from as u64 + to as u64
}

#[inline(always)]
fn change32(from: u32, to: u32) -> u64 {
    !from as u64 + to as u64
}

#[inline(always)]
fn change128(from: [u64; 2], to: [u64; 2]) -> u64 {
    let half = |from: u64, to: u64| change32(from as u32, to as u32) + change32((from >> 32) as u32, (to >> 32) as u32);
    half(from[0], to[0]) + half(from[1], to[1])
}

#[inline(always)]
fn corrected(checksum: u16, change: u64) -> u16 {
    let mut sum = !checksum as u64 + change;
    for _ in 0..3 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !sum as u16
}
