//! The eBPF programs: one file per hook, each of which reads from top to bottom as the packet's way.
#![no_std]
#![no_main]

mod maps;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

#[xdp(frags)]
fn xdp_ingress(_ctx: XdpContext) -> u32 {
    let Some(r) = maps::RUNTIME.get(0) else { return 0 };
    let side = (r.generation & 1) as u32;
    if let Some(i) = maps::PREFILTER.get(side)
        && let Some(l) = i.get(4)
    {
        return l.0[0] & 3 | 2;
    }
    if let Some(i) = maps::PREFILTER_CLASSES.get(side)
        && let Some(l) = i.get(4)
    {
        return l.cells[0].0 & 3 | 2;
    }
    2
}

#[classifier]
fn from_endpoint(_ctx: TcContext) -> i32 {
    let Some(r) = maps::RUNTIME.get(0) else { return 0 };
    let side = (r.generation & 1) as u32;
    let mut x = 0;
    if let Some(i) = maps::INTERFACES.get(side)
        && let Some(l) = unsafe { i.get(&4) }
    {
        x += l.flags;
    }
    if let Some(i) = maps::SETTINGS.get(side)
        && let Some(l) = i.get(0)
    {
        x += l.flags;
    }
    if let Some(i) = maps::ENDPOINTS.get(side)
        && let Some(l) = unsafe { i.get(&Default::default()) }
    {
        x += l.identity;
    }
    if let Some(i) = maps::IPCACHE.get(side)
        && let Some(l) = i.get(4)
    {
        x += l.0[0];
    }
    if let Some(i) = maps::SUBJECTS.get(side)
        && let Some(l) = unsafe { i.get(&4) }
    {
        x += l.default_deny[0];
    }
    if x == 100 {
        return 2;
    }
    -1
}

#[classifier]
fn to_endpoint(_ctx: TcContext) -> i32 {
    let mut x = 0;
    if let Some(i) = maps::METRICS.get_ptr_mut(0) {
        unsafe { (*i).packets += 1 };
    }
    if let Some(i) = maps::RULE_COUNTERS.get_ptr_mut(0) {
        unsafe { (*i).packets += 1 };
    }
    if let Some(i) = maps::TRACE.get_ptr_mut(0) {
        unsafe { (*i).rule += 1 };
    }
    if let Some(l) = unsafe { maps::CONNTRACK_TCP.get(&Default::default()) } {
        x += l.flags;
    }
    if let Some(l) = unsafe { maps::CONNTRACK_OTHER.get(&Default::default()) } {
        x += l.flags;
    }
    if let Some(l) = unsafe { maps::FRAGMENTS.get(&Default::default()) } {
        x += l.source_be as u32;
    }
    if x == 100 {
        return 2;
    }
    let _ = maps::EVENTS.output(weir_abi::DropEvent::default(), 0);
    -1
}

#[classifier]
fn from_network(_ctx: TcContext) -> i32 {
    if maps::RULES.load() + maps::TRACING.load() + maps::HZ.load() == 7 {
        return 2;
    }
    -1
}

#[classifier]
fn to_network(_ctx: TcContext) -> i32 {
    -1
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lets a program use GPL-only helpers only if it says so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
