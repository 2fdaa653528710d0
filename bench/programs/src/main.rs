//! Prologues and floors.
//!
//! A prologue writes the next flow of `FLOWS` into the packet and tail-calls the program under test; every program, the
//! shipped ones and the floors, runs behind the same prologue, so that their difference is their own. A floor is the
//! least program that does the named operation.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod balance;
mod flow;
mod redirect;
mod service;
/// Of the shipped programs, for accesses that are as wide as theirs.
#[allow(dead_code, reason = "not every width is needed here")]
#[path = "../../../ebpf/programs/src/parse/window.rs"]
mod window;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, TC_ACT_OK, TC_ACT_SHOT, xdp_action},
    btf_maps::{Array, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, lpm_trie::Key},
    helpers::bpf_redirect,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use flow::{Control, FLOWS, Flow, SLOTS};
use weir_abi::{Address, ConntrackEntry, ConntrackKey, Counter};

#[btf_map]
static FLOW_LIST: Array<Flow, FLOWS, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
static CONTROL: Array<Control, 1, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
static XDP_SLOTS: ProgramArray<SLOTS> = ProgramArray::new();
#[btf_map]
static TC_SLOTS: ProgramArray<SLOTS> = ProgramArray::new();
#[btf_map]
static COUNTERS: PerCpuArray<Counter, 4> = PerCpuArray::new();
/// The conntrack's key and value sizes; user space sets the size.
#[btf_map]
static LRU: LruHashMap<ConntrackKey, ConntrackEntry, 1048576> = LruHashMap::new();
#[btf_map]
static LPM4: LpmTrie<[u8; 4], u32, 1048576> = LpmTrie::new();
#[btf_map]
static LPM6: LpmTrie<[u8; 16], u32, 1048576> = LpmTrie::new();

const ETHERNET: usize = 14;
const IPV4: u16 = 0x0800;
/// Of no packet in particular: whoever rewrites one only corrects its checksums.
const CHECKSUM: [u8; 2] = [0x12, 0x34];

/// What the control word says of the next packet.
struct Next {
    flow: &'static Flow,
    port_be: u16,
    slot: u32,
}

#[inline(always)]
fn next() -> Option<Next> {
    let control = CONTROL.get_ptr_mut(0)?;
    // SAFETY: points at the map's value; the benchmark runs on one CPU at a time.
    let control = unsafe { &mut *control };
    let counter = control.counter;
    control.counter = counter + 1;
    let flow = FLOW_LIST.get((control.base + (counter as u32 & control.mask)) & (FLOWS as u32 - 1))?;
    let port_be = if control.fresh != 0 {
        // How often the list was walked through: another port each time.
        ((counter >> control.mask.trailing_ones()) as u16).wrapping_add(flow.source_port_be)
    } else {
        flow.source_port_be
    };
    Some(Next { flow, port_be, slot: control.slot })
}

/// Addresses and ports of the next flow, written over what the packet holds. `None` when the packet is too short.
#[inline(always)]
fn vary(data: usize, end: usize) -> Option<u32> {
    let Next { flow, port_be, slot } = next()?;
    if data + ETHERNET + 40 + 4 > end {
        return None;
    }
    // SAFETY: every access below is inside ETHERNET + 44 bytes, just checked, or inside what is checked right before it.
    unsafe {
        let kind = u16::from_be_bytes(*((data + 12) as *const [u8; 2]));
        let ports = if kind == IPV4 {
            *((data + ETHERNET + 12) as *mut [u8; 4]) = last_four(&flow.source);
            *((data + ETHERNET + 16) as *mut [u8; 4]) = last_four(&flow.destination);
            // What a program under test rewrote is as it was: the checksums, too.
            *((data + ETHERNET + 10) as *mut [u8; 2]) = CHECKSUM;
            *((data + ETHERNET + 36) as *mut [u8; 2]) = CHECKSUM;
            data + ETHERNET + 20
        } else {
            *((data + ETHERNET + 8) as *mut [u8; 16]) = flow.source.0;
            *((data + ETHERNET + 24) as *mut [u8; 16]) = flow.destination.0;
            if data + ETHERNET + 58 <= end {
                *((data + ETHERNET + 56) as *mut [u8; 2]) = CHECKSUM;
            }
            data + ETHERNET + 40
        };
        *(ports as *mut [u8; 2]) = port_be.to_ne_bytes();
        *((ports + 2) as *mut [u8; 2]) = flow.destination_port_be.to_ne_bytes();
    }
    Some(slot)
}

#[inline(always)]
fn last_four(address: &Address) -> [u8; 4] {
    [address.0[12], address.0[13], address.0[14], address.0[15]]
}

#[xdp(frags)]
pub fn prologue_xdp(ctx: XdpContext) -> u32 {
    if let Some(slot) = vary(ctx.data(), ctx.data_end()) {
        // SAFETY: the slot holds an XDP program or nothing.
        unsafe { XDP_SLOTS.tail_call(&ctx, slot) };
    }
    xdp_action::XDP_ABORTED
}

#[classifier]
pub fn prologue_tc(ctx: TcContext) -> i32 {
    if let Some(slot) = vary(ctx.data(), ctx.data_end()) {
        // SAFETY: the slot holds a tc program or nothing.
        unsafe { TC_SLOTS.tail_call(&ctx, slot) };
    }
    // No program under test answers this.
    99
}

/// Sends the packet out of the device that `slot` names: a generator for live frames.
#[xdp(frags)]
pub fn generator_xdp(ctx: XdpContext) -> u32 {
    match vary(ctx.data(), ctx.data_end()).filter(|_| sign(ctx.data(), ctx.data_end()).is_some()) {
        // SAFETY: a helper without pointers.
        Some(device) => unsafe { bpf_redirect(device, 0) as u32 },
        None => xdp_action::XDP_ABORTED,
    }
}

/// Makes an IPv4 header's checksum right: the stack looks at no packet whose is not.
#[inline(always)]
fn sign(data: usize, end: usize) -> Option<()> {
    if data + ETHERNET + 20 > end {
        return None;
    }
    // SAFETY: every access is inside what was just checked.
    unsafe {
        *((data + ETHERNET + 10) as *mut [u8; 2]) = [0; 2];
        let mut sum = 0u32;
        for word in 0..10 {
            sum += u16::from_ne_bytes(*((data + ETHERNET + word * 2) as *const [u8; 2])) as u32;
        }
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        *((data + ETHERNET + 10) as *mut [u8; 2]) = (!sum as u16).to_ne_bytes();
    }
    Some(())
}

/// What a floor knows of a packet.
struct Parsed {
    v4: bool,
    key: ConntrackKey,
}

/// Ethernet, IPv4 or IPv6 without options or extension headers, ports.
#[inline(always)]
fn parse(data: usize, end: usize) -> Option<Parsed> {
    if data + ETHERNET + 20 + 4 > end {
        return None;
    }
    // SAFETY: inside what was checked right above, or right before each access.
    unsafe {
        let kind = u16::from_be_bytes(*((data + 12) as *const [u8; 2]));
        let mut key = ConntrackKey::default();
        let (v4, ports) = if kind == IPV4 {
            if *((data + ETHERNET) as *const u8) != 0x45 {
                return None;
            }
            key.low = Address::from_v4(*((data + ETHERNET + 12) as *const [u8; 4]));
            key.high = Address::from_v4(*((data + ETHERNET + 16) as *const [u8; 4]));
            key.protocol = *((data + ETHERNET + 9) as *const u8);
            (true, data + ETHERNET + 20)
        } else {
            if data + ETHERNET + 44 > end {
                return None;
            }
            key.low = Address(*((data + ETHERNET + 8) as *const [u8; 16]));
            key.high = Address(*((data + ETHERNET + 24) as *const [u8; 16]));
            key.protocol = *((data + ETHERNET + 6) as *const u8);
            (false, data + ETHERNET + 40)
        };
        key.low_port_be = u16::from_ne_bytes(*(ports as *const [u8; 2]));
        key.high_port_be = u16::from_ne_bytes(*((ports + 2) as *const [u8; 2]));
        Some(Parsed { v4, key })
    }
}

#[inline(always)]
fn count(slot: u32, bytes: usize) {
    if let Some(counter) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: points at this CPU's value.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes as u64;
        }
    }
}

#[xdp(frags)]
pub fn floor_drop_xdp(_: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

#[xdp(frags)]
pub fn floor_parse_xdp(ctx: XdpContext) -> u32 {
    match parse(ctx.data(), ctx.data_end()) {
        // What was parsed must be used, or the compiler parses nothing.
        Some(parsed) if parsed.key.low.halves().1 ^ parsed.key.high.halves().1 ^ parsed.key.protocol as u64 == 1 => {
            xdp_action::XDP_DROP
        }
        Some(_) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_ABORTED,
    }
}

#[xdp(frags)]
pub fn floor_lpm_xdp(ctx: XdpContext) -> u32 {
    let Some(parsed) = parse(ctx.data(), ctx.data_end()) else { return xdp_action::XDP_ABORTED };
    let hit = if parsed.v4 {
        LPM4.get(&Key::new(32, last_four(&parsed.key.low))).is_some()
    } else {
        LPM6.get(&Key::new(128, parsed.key.low.0)).is_some()
    };
    if hit {
        count(0, ctx.data_end() - ctx.data());
        return xdp_action::XDP_DROP;
    }
    xdp_action::XDP_PASS
}

#[classifier]
pub fn floor_parse_tc(ctx: TcContext) -> i32 {
    match parse(ctx.data(), ctx.data_end()) {
        Some(parsed) if parsed.key.low.halves().1 ^ parsed.key.high.halves().1 ^ parsed.key.protocol as u64 == 1 => {
            TC_ACT_SHOT
        }
        Some(_) => TC_ACT_OK,
        None => 98,
    }
}

/// Parse, one LRU lookup, count.
#[classifier]
pub fn floor_lru_hit_tc(ctx: TcContext) -> i32 {
    let Some(parsed) = parse(ctx.data(), ctx.data_end()) else { return 98 };
    // SAFETY: read only, within this run.
    let Some(entry) = (unsafe { LRU.get(parsed.key) }) else { return 97 };
    count(1, ctx.len() as usize);
    if entry.flags == u32::MAX { TC_ACT_SHOT } else { TC_ACT_OK }
}

/// Parse, one LRU insert, count.
#[classifier]
pub fn floor_lru_insert_tc(ctx: TcContext) -> i32 {
    let Some(parsed) = parse(ctx.data(), ctx.data_end()) else { return 98 };
    let entry = ConntrackEntry { expires: 1, ..ConntrackEntry::default() };
    if LRU.insert(parsed.key, entry, 0).is_err() {
        return 97;
    }
    count(1, ctx.len() as usize);
    TC_ACT_OK
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
