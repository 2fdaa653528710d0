//! The node lends its address: to what endpoints send to the world, and to clients whose backend is elsewhere and must
//! answer to here.
//!
//! The flow's own entry in conntrack, between who really speaks, keeps the port that it was lent. The table of lent
//! ports finds the way back; what it says counts for as long as conntrack knows the flow.
use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    helpers::generated::bpf_get_prandom_u32,
};
use weir_abi::{ConntrackKey, InterfaceInfo, NatEntry, NatKey, Reason, Settings, ct_flags, identity, settings_flags};

use crate::{
    admit::is_tracked,
    case::Case,
    conntrack,
    flow::{Ends, Flow, ICMP},
    maps::NAT,
    parse::{Shape, inner_flow},
    service::in_prefixes,
    tables, translate, words,
};

/// Ports that are tried for a new flow.
const ATTEMPTS: u32 = 32;

// What the global functions answer, beside a reason's code.
const AS_IT_IS: u32 = 0;
const TRANSLATED: u32 = 1;

/// What leaves by a network device, after services had their say: its source becomes the node's, where it must.
///
/// # Errors
///
/// Why it must be dropped.
#[inline(always)]
pub fn lend(skb: *mut __sk_buff, case: &mut Case) -> Result<(), Reason> {
    if case.packet.shape == Shape::IcmpError {
        if weir_about_lent(skb, case, 1) != 0 {
            translate::error_to_client(skb, case.settled())?;
        }
        return Ok(());
    }
    match weir_lend(case) {
        AS_IT_IS => Ok(()),
        TRANSLATED => translate::source(skb, case.settled()),
        code => Err(Reason::from_code(code as u8).unwrap_or(Reason::Internal)),
    }
}

/// What comes in by a network device: the answer to who was lent the address goes to them. Whether it was one.
///
/// # Errors
///
/// As [`lend`].
#[inline(always)]
pub fn give_back(skb: *mut __sk_buff, case: &mut Case) -> Result<bool, Reason> {
    if case.packet.shape == Shape::IcmpError {
        if weir_about_lent(skb, case, 0) == 0 {
            return Ok(false);
        }
        translate::error_to_backend(skb, case.settled())?;
        return Ok(true);
    }
    if weir_give_back(case) == AS_IT_IS {
        return Ok(false);
    }
    translate::destination(skb, case.settled())?;
    Ok(true)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_lend(case: *mut Case) -> u32 {
    let Some(case) = Case::in_map(case) else { return Reason::Internal as u32 };
    match borrow(case) {
        Ok(true) => TRANSLATED,
        Ok(false) => AS_IT_IS,
        Err(reason) => reason as u32,
    }
}

/// The node's address on the device, as the packet's family has it.
#[inline(always)]
pub fn own_address(interface: &InterfaceInfo, v4: bool) -> Option<[u64; 2]> {
    let address = *words::of_address(if v4 { &interface.masquerade_v4 } else { &interface.masquerade_v6 });
    (address != [0, 0]).then_some(address)
}

#[inline(always)]
fn borrow(case: &mut Case) -> Result<bool, Reason> {
    if !is_tracked(case) || case.packet.shape == Shape::EchoReply {
        return Ok(false);
    }
    let side = case.run.side();
    let Some(settings) = tables::settings(side) else { return Ok(false) };
    let now = case.run.now();
    let flow = &case.packet.flow;
    let entry = conntrack::find(&flow.key, now);
    if entry.is_some_and(|entry| entry.is_service() || entry.is_reply(flow.source_is_high)) {
        return Ok(false);
    }
    let must_return = entry.is_some_and(|entry| entry.flags() & ct_flags::MUST_RETURN != 0);
    let Some(interface) = tables::interface(case.run, case.ifindex) else { return Ok(false) };
    let own = own_address(interface, words::is_v4(words::of_address(flow.source())));
    let lent = entry.map_or(0, |entry| entry.nat_port_be());
    if lent != 0 {
        let Some(own) = own else { return Err(Reason::NatExhausted) };
        case.aim(own, lent);
        return Ok(true);
    }
    if !must_return && !is_masqueraded(case, settings) {
        return Ok(false);
    }
    let Some(own) = own else {
        // Nobody could answer to it; what is only masqueraded goes as it is where the node has no such address.
        return if must_return { Err(Reason::NatExhausted) } else { Ok(false) };
    };
    case.aim(own, 0);
    let port_be = take_port(case, settings)?;
    case.to_port_be = port_be;
    // Without an entry the next packet takes another port: it is stored before the packet goes.
    match entry {
        Some(entry) => entry.set_nat_port(port_be),
        None => {
            if let Some(entry) = conntrack::fresh(case, settings) {
                entry.nat_port_be = port_be;
                conntrack::store(case.packet.flow.key, entry);
            }
        }
    }
    Ok(true)
}

/// An endpoint of this node speaks to nobody of the cluster, and to no network that is exempt: what user space says is
/// both.
#[inline(always)]
fn is_masqueraded(case: &Case, settings: &Settings) -> bool {
    if settings.flags & settings_flags::MASQUERADE == 0 {
        return false;
    }
    let flow = &case.packet.flow;
    let side = case.run.side();
    // The host may be an endpoint by name.
    let from_endpoint =
        tables::endpoint(side, flow.source()).is_some_and(|info| info.endpoint != 0 && info.identity != identity::HOST);
    if !from_endpoint {
        return false;
    }
    !in_prefixes(side, 0, settings.exempt_v4, &settings.exempt_v6, flow.destination())
}

/// A port of `case.to` that no other flow to that destination has.
#[inline(always)]
fn take_port(case: &Case, settings: &Settings) -> Result<u16, Reason> {
    let flow = &case.packet.flow;
    let mut key = NatKey {
        remote: *flow.destination(),
        remote_port_be: flow.destination_port_be(),
        protocol: flow.protocol(),
        ..NatKey::default()
    };
    words::set(&mut key.node, case.to);
    let owner = NatEntry { source: *flow.source(), source_port_be: flow.source_port_be(), reserved: [0; 3] };
    let (first, last) = (settings.nat_first_port as u32, settings.nat_last_port as u32);
    let ports = if last >= first { last - first + 1 } else { 1 };
    // SAFETY: the helper has no arguments.
    let start = unsafe { bpf_get_prandom_u32() };
    for attempt in 0..ATTEMPTS {
        let port = match case.packet.shape {
            // One flow for each two ends.
            Shape::NoPorts => 0,
            _ => first + start.wrapping_add(attempt) % ports,
        };
        key.node_port_be = (port as u16).to_be();
        if case.packet.shape == Shape::EchoRequest {
            key.remote_port_be = key.node_port_be;
        }
        if NAT.insert(&key, &owner, BPF_NOEXIST as u64).is_ok() {
            return Ok(key.node_port_be);
        }
        // Who has it may be gone.
        if is_free(case, &key, &owner) && NAT.insert(&key, &owner, 0).is_ok() {
            return Ok(key.node_port_be);
        }
        if port == 0 {
            break;
        }
    }
    Err(Reason::NatExhausted)
}

/// Whether the flow that has a port is this one, or one that has ended.
#[inline(always)]
fn is_free(case: &Case, key: &NatKey, owner: &NatEntry) -> bool {
    let Some(holder) = NAT.get_ptr(key) else { return true };
    // SAFETY: a successful lookup; what is read is plain data.
    let (source, port_be) = unsafe { ((*holder).source, (*holder).source_port_be) };
    if source == owner.source && port_be == owner.source_port_be {
        return true;
    }
    let mut flow = Flow { key: ConntrackKey::default(), source_is_high: false, same_addresses: false };
    flow.set_addresses(Ends { source: *words::of_address(&source), destination: *words::of_address(&key.remote) });
    let remote_port_be = if case.packet.shape == Shape::EchoRequest { port_be } else { key.remote_port_be };
    flow.set_ports(port_be, remote_port_be);
    flow.key.protocol = key.protocol;
    conntrack::find(&flow.key, case.run.now()).is_none_or(|entry| entry.is_closing())
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_give_back(case: *mut Case) -> u32 {
    let Some(case) = Case::in_map(case) else { return AS_IT_IS };
    let Some(settings) = tables::settings(case.run.side()) else { return AS_IT_IS };
    match borrower(case, settings) {
        Some((source, port_be)) => {
            case.aim(source, port_be);
            TRANSLATED
        }
        None => AS_IT_IS,
    }
}

/// Whom a packet from outside is for, if it is addressed to what was lent.
#[inline(always)]
pub fn borrower(case: &Case, settings: &Settings) -> Option<([u64; 2], u16)> {
    let flow = &case.packet.flow;
    let port = u16::from_be(flow.destination_port_be());
    match case.packet.shape {
        Shape::Ports | Shape::EchoReply if (settings.nat_first_port..=settings.nat_last_port).contains(&port) => {}
        Shape::NoPorts => {}
        _ => return None,
    }
    owner(&NatKey {
        node: *flow.destination(),
        remote: *flow.source(),
        node_port_be: flow.destination_port_be(),
        remote_port_be: flow.source_port_be(),
        protocol: flow.protocol(),
        reserved: [0; 3],
    })
}

/// Who was lent an address and port.
#[inline(always)]
pub fn owner(key: &NatKey) -> Option<([u64; 2], u16)> {
    let holder = NAT.get_ptr(key)?;
    // SAFETY: a successful lookup; what is read is plain data.
    unsafe { Some((*words::of_address(&(*holder).source), (*holder).source_port_be)) }
}

/// Whom an ICMP error is about, in place of whom it names. `leaving`: one of an endpoint's, about what the outside sent
/// to it; else one from outside, about what left under the node's address. 1: `case.to` says who.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_about_lent(skb: *mut __sk_buff, case: *mut Case, leaving: u32) -> u32 {
    let Some(case) = Case::in_map(case) else { return 0 };
    let mut inner = MaybeUninit::<Flow>::uninit();
    // SAFETY: zero is a value of every field.
    let inner = unsafe {
        words::zero(inner.as_mut_ptr());
        inner.assume_init_mut()
    };
    let v4 = case.packet.flow.protocol() == ICMP;
    case.inner = inner_flow(skb, case.packet.transport + 8, v4, inner);
    case.inner_protocol = inner.protocol();
    if case.inner == 0 || inner.source() != case.packet.flow.destination() {
        return 0;
    }
    if leaving == 0 {
        let key = NatKey {
            node: *inner.source(),
            remote: *inner.destination(),
            node_port_be: inner.source_port_be(),
            remote_port_be: inner.destination_port_be(),
            protocol: inner.protocol(),
            reserved: [0; 3],
        };
        let Some((source, port_be)) = owner(&key) else { return 0 };
        case.aim(source, port_be);
        return 1;
    }
    let Some(entry) = conntrack::find(&inner.key, case.run.now()) else { return 0 };
    let port_be = entry.nat_port_be();
    if entry.is_service() || !entry.is_reply(inner.source_is_high) || port_be == 0 {
        return 0;
    }
    let Some(interface) = tables::interface(case.run, case.ifindex) else { return 0 };
    let Some(own) = own_address(interface, v4) else { return 0 };
    case.aim(own, port_be);
    1
}
