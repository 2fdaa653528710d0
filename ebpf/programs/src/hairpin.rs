//! An endpoint that is the backend of the service that it asks.
//!
//! It would not answer a packet of its own address, so the client's becomes a loopback address of ours; the answer to
//! that is turned back into the frontend's. Both go straight back by the device that they came from. No policy is asked:
//! what an endpoint says to itself is nobody else's business.
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_redirect, bpf_redirect_peer, bpf_skb_store_bytes},
};
use weir_abi::{ANSWER_MARK, LOOPBACK_V4, LOOPBACK_V6, Reason, interface_flags, tc_action};

use crate::{
    admit::is_tracked,
    case::Case,
    conntrack, fragment,
    parse::{Shape, load},
    service, tables, translate, words,
};

/// The loopback address of a client's family.
#[inline(always)]
pub fn loopback(client: &[u64; 2]) -> [u64; 2] {
    *words::of_address(if words::is_v4(client) { &LOOPBACK_V4 } else { &LOOPBACK_V6 })
}

/// Whether a service gave the packet back to who sent it.
#[inline(always)]
pub fn is_own(case: &Case) -> bool {
    case.packet.flow.same_addresses
}

/// Whether the packet answers one of these.
#[inline(always)]
pub fn is_answer(case: &Case) -> bool {
    let destination = words::of_address(case.packet.flow.destination());
    *destination == loopback(destination)
}

/// A client's packet, addressed to the backend already: it comes from the loopback address.
///
/// # Errors
///
/// Why it must be dropped.
#[inline(always)]
pub fn begin(skb: *mut __sk_buff, case: &mut Case) -> Result<(), Reason> {
    done(weir_to_itself(skb, case))
}

/// A backend's answer: it comes from the frontend, and goes to the client.
///
/// # Errors
///
/// Why it must be dropped. [`Reason::NoService`]: nobody asked for it.
#[inline(always)]
pub fn answer(skb: *mut __sk_buff, case: &mut Case) -> Result<(), Reason> {
    done(weir_from_itself(skb, case))
}

#[inline(always)]
fn done(code: u32) -> Result<(), Reason> {
    if code == 0 { Ok(()) } else { Err(Reason::from_code(code as u8).unwrap_or(Reason::Internal)) }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_to_itself(skb: *mut __sk_buff, case: *mut Case) -> u32 {
    let Some(case) = Case::in_map(case) else { return Reason::Internal as u32 };
    to_itself(skb, case).map_or_else(|reason| reason as u32, |()| 0)
}

#[inline(always)]
fn to_itself(skb: *mut __sk_buff, case: &mut Case) -> Result<(), Reason> {
    let address = loopback(words::of_address(case.packet.flow.source()));
    if case.packet.shape == Shape::IcmpError {
        let port_be = inner_port(skb, case, 2)?;
        case.aim(address, port_be);
        translate::error_to_client(skb, case)?;
    } else {
        let port_be = case.packet.flow.source_port_be();
        case.aim(address, port_be);
        translate::source(skb, case)?;
        touch(case);
    }
    case.own = true;
    Ok(())
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_from_itself(skb: *mut __sk_buff, case: *mut Case) -> u32 {
    let Some(case) = Case::in_map(case) else { return Reason::Internal as u32 };
    from_itself(skb, case).map_or_else(|reason| reason as u32, |()| 0)
}

#[inline(always)]
fn from_itself(skb: *mut __sk_buff, case: &mut Case) -> Result<(), Reason> {
    fragment::resolve(case)?;
    let own = *words::of_address(case.packet.flow.source());
    if case.packet.shape == Shape::IcmpError {
        if !service::about(skb, case, false) {
            return Err(Reason::NoService);
        }
        let port_be = inner_port(skb, case, 0)?;
        translate::error_to_client(skb, case)?;
        case.aim(own, port_be);
        translate::error_to_backend(skb, case)?;
    } else {
        let (frontend, port_be) = touch(case).ok_or(Reason::NoService)?;
        case.aim(frontend, port_be);
        let client_port_be = case.packet.flow.destination_port_be();
        translate::source(skb, case)?;
        case.aim(own, client_port_be);
        translate::destination(skb, case)?;
    }
    case.own = true;
    Ok(())
}

/// Keeps the flow between the loopback address and the backend alive. Its frontend.
#[inline(always)]
fn touch(case: &Case) -> Option<([u64; 2], u16)> {
    if !is_tracked(case) {
        return None;
    }
    let now = case.run.now();
    let entry = conntrack::find(&case.packet.flow.key, now)?;
    let settings = tables::settings(case.run.side())?;
    entry.touch(case, entry.is_reply(case.packet.flow.source_is_high), now, settings);
    let (frontend, port_be) = entry.service();
    (port_be != 0).then_some((frontend, port_be))
}

/// A port of the packet that an error is about.
#[inline(always)]
fn inner_port(skb: *mut __sk_buff, case: &Case, offset: u32) -> Result<u16, Reason> {
    load::<2>(skb, case.inner + offset).map(u16::from_ne_bytes).ok_or(Reason::Truncated)
}

/// Back by the device that it came from.
#[inline(always)]
pub fn turn_around(skb: *mut __sk_buff, case: &Case) -> i32 {
    // Without an Ethernet header there is nobody to send it back to.
    let Some(m) = load::<12>(skb, 0).filter(|_| case.packet.network >= 14) else { return tc_action::DROP };
    let macs = [m[6], m[7], m[8], m[9], m[10], m[11], m[0], m[1], m[2], m[3], m[4], m[5]];
    let peer =
        tables::interface(case.run, case.ifindex).is_some_and(|device| device.flags & interface_flags::PEER != 0);
    // SAFETY: the helper reads the bytes; the others only note where the packet goes. The context is valid, and no
    // program judges what carries the mark.
    unsafe {
        if bpf_skb_store_bytes(skb, 0, macs.as_ptr().cast(), 12, 0) != 0 {
            return tc_action::DROP;
        }
        if peer {
            return bpf_redirect_peer(case.ifindex, 0) as i32;
        }
        (*skb).mark = ANSWER_MARK;
        bpf_redirect(case.ifindex, 0) as i32
    }
}
