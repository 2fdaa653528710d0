//! The load balancer's fast path, at XDP: between clients outside and backends elsewhere.
//!
//! Nothing is decided here. A flow that tc has served, in this epoch, is sent on as tc and the stack would; whatever is
//! new, ends, or is in any way out of the ordinary is passed on to them: connections that begin and end, other epochs,
//! fragments, options, extension headers and tags, the last hop, what is too long, what would leave by another device,
//! and next hops that are not known.
//!
//! It is nobody's policy that is asked for here: after the rewrite neither end is the host. The prefilter has had its
//! say before.
use aya_ebpf::bindings::xdp_md;
use weir_abi::{ConntrackKey, NatKey, Settings, ct_flags, identity, settings_flags};

use crate::{
    account,
    case::Case,
    conntrack,
    flow::{Ends, Flow, TCP, UDP},
    hop::{self, Hop},
    nat,
    parse::{Part, Shape, TCP_FIN, TCP_RST, TCP_SYN, Window, link},
    run::Run,
    service, tables,
    translate::fold,
    words,
};

/// Where the transport layer begins, without tags, options and extension headers.
const TRANSPORT_V4: u32 = 34;
const TRANSPORT_V6: u32 = 54;

#[inline(always)]
pub fn is_on(run: Run) -> bool {
    tables::settings(run.side()).is_some_and(|settings| settings.flags & settings_flags::XDP_BALANCER != 0)
}

// What is known of a packet at first.
const FOR_TC: u32 = 0;
const KNOWN: u32 = 1;
const TO_BE_VOUCHED: u32 = 2;

/// Makes the packet one that is to leave by the device that it came by. `false`: it is as it was, and for tc.
#[inline(always)]
pub fn balance(context: *mut xdp_md, case: &mut Case) -> bool {
    // Beside each other, not inside: the stack is short.
    match recognize(context, case).unwrap_or(FOR_TC) {
        FOR_TC => return false,
        TO_BE_VOUCHED if weir_vouch(case) == 0 => return false,
        _ => {}
    }
    send_on(context, case.settled()).is_some()
}

/// Finds out what becomes of the packet's two ends.
#[inline(always)]
fn recognize(context: *mut xdp_md, case: &mut Case) -> Option<u32> {
    let settings = tables::settings(case.run.side())?;
    if settings.flags & settings_flags::XDP_BALANCER == 0 {
        return None;
    }
    transport(&window(context), case)?;
    let case = case.settled();
    let now = case.run.now();
    match nat::borrower(case, settings) {
        Some((client, port_be)) => {
            case.aim(client, port_be);
            answer(case, now, settings)
        }
        None => serve(case, now, settings),
    }
}

#[inline(always)]
fn send_on(context: *mut xdp_md, case: &mut Case) -> Option<()> {
    let hop = hop::find(context, case)?;
    if case.packet.ip_length() > hop.mtu as u32 {
        return None;
    }
    rewrite(&window(context), case, hop)?;
    account::balanced(case);
    Some(())
}

/// What can be read and written directly.
#[inline(always)]
fn window(context: *mut xdp_md) -> Window {
    // SAFETY: the context is valid for the whole run.
    let (data, end) = unsafe { ((*context).data as usize, (*context).data_end as usize) };
    Window { data, end, length: (end - data) as u32 }
}

/// Takes ports and flags of what has nothing unusual about it.
#[inline(always)]
fn transport(window: &Window, case: &mut Case) -> Option<()> {
    let packet = &mut case.packet;
    if packet.fragment.of != Part::Whole || packet.hop_limit <= 1 {
        return None;
    }
    let network = window.at(0, 16).ok()?;
    let header = match (network.u16::<12>(), packet.transport) {
        (link::IPV4, TRANSPORT_V4) => {
            case.traffic_class = network.u8::<15>();
            window.at(TRANSPORT_V4, 8).ok()?
        }
        (link::IPV6, TRANSPORT_V6) => {
            let mapped = words::is_v4(words::of_address(packet.flow.source()))
                || words::is_v4(words::of_address(packet.flow.destination()));
            if mapped {
                return None;
            }
            case.traffic_class = (network.u16::<14>() >> 4) as u8;
            window.at(TRANSPORT_V6, 8).ok()?
        }
        _ => return None,
    };
    packet.shape = Shape::Ports;
    packet.flow.set_ports(header.u16_be::<0>(), header.u16_be::<2>());
    match packet.flow.protocol() {
        TCP => {
            let header = window.at(packet.transport, 20).ok()?;
            packet.tcp_flags = header.u8::<13>();
            let length = (header.u8::<12>() >> 4) as u32 * 4;
            let is_plain = packet.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) == 0;
            (is_plain && length >= 20 && length <= packet.payload).then_some(())
        }
        UDP => {
            let length = header.u16::<4>() as u32;
            (length >= 8 && length <= packet.payload).then_some(())
        }
        _ => None,
    }
}

/// A client's packet: what it becomes is what tc made of the former ones.
#[inline(always)]
fn serve(case: &mut Case, now: u64, settings: &Settings) -> Option<u32> {
    let entry = conntrack::find(&case.packet.flow.key, now)?;
    let is_ours = entry.is_service()
        && !entry.is_reply(case.packet.flow.source_is_high)
        && entry.word(true).0.epoch() == case.run.epoch()
        && entry.flags() & (ct_flags::FIN_ORIGINAL | ct_flags::RST) == 0;
    if !is_ours {
        return None;
    }
    let interface = tables::interface(case.run, case.ifindex)?;
    case.from = nat::own_address(interface, words::is_v4(words::of_address(case.packet.flow.source())))?;
    let (backend, port_be) = entry.service();
    case.aim(backend, port_be);
    let renewed = entry.touch(case, false, now, settings);
    let lent_be = entry.nat_port_be();
    case.from_port_be = lent_be;
    // At least once a second for as long as packets come: both entries live, or neither.
    Some(if renewed || lent_be == 0 { TO_BE_VOUCHED } else { KNOWN })
}

/// Looks after the flow to the backend, and notes the port that it was lent where the next packet finds it. 0: it was
/// lent none, or has none any more.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_vouch(case: *mut Case) -> u32 {
    let Some(case) = Case::in_map(case) else { return 0 };
    let port_be = vouch(case).unwrap_or(0);
    let case = case.settled();
    case.from_port_be = port_be;
    if let Some(entry) = conntrack::find(&case.packet.flow.key, case.run.now()) {
        entry.set_nat_port(port_be);
    }
    port_be as u32
}

#[inline(always)]
fn vouch(case: &mut Case) -> Option<u16> {
    let to = service::to_backend(case);
    let entry = conntrack::find(&to.key, case.run.now())?;
    let is_ours = !entry.is_service()
        && !entry.is_reply(to.source_is_high)
        && !entry.is_closing()
        && entry.flags() & ct_flags::MUST_RETURN != 0;
    let port_be = entry.nat_port_be();
    if !is_ours || port_be == 0 {
        return None;
    }
    // Read again, not kept: the stack of this call is counted on top of its caller's.
    let case = case.settled();
    let flow = &case.packet.flow;
    let lent = NatKey {
        node: *words::as_address(&case.from),
        remote: *words::as_address(&case.to),
        node_port_be: port_be,
        remote_port_be: case.to_port_be,
        protocol: flow.protocol(),
        reserved: [0; 3],
    };
    let (client, client_port_be) = nat::owner(&lent)?;
    if client != *words::of_address(flow.source()) || client_port_be != flow.source_port_be() {
        return None;
    }
    // Who sends under the host's address is for the host's policy to judge.
    let settings = tables::settings(case.run.side())?;
    if settings.flags & settings_flags::HOST_POLICY != 0
        && tables::identity_of(case.run.side(), flow.source()) == identity::HOST
    {
        return None;
    }
    entry.touch(case, false, case.run.now(), settings);
    Some(port_be)
}

/// A backend's answer to `case.to`: it comes from the frontend.
#[inline(always)]
fn answer(case: &mut Case, now: u64, settings: &Settings) -> Option<u32> {
    let flow = &case.packet.flow;
    let mut back = Flow { key: ConntrackKey::default(), source_is_high: false, same_addresses: false };
    back.set_addresses(Ends { source: *words::of_address(flow.source()), destination: case.to });
    back.set_ports(flow.source_port_be(), case.to_port_be);
    back.key.protocol = flow.protocol();
    let entry = conntrack::find(&back.key, now)?;
    let is_ours = !entry.is_service()
        && entry.is_reply(back.source_is_high)
        && !entry.is_closing()
        && entry.flags() & ct_flags::MUST_RETURN != 0
        && entry.nat_port_be() == flow.destination_port_be();
    let (frontend, port_be) = entry.service();
    if !is_ours || port_be == 0 {
        return None;
    }
    if settings.flags & settings_flags::HOST_POLICY != 0
        && tables::identity_of(case.run.side(), flow.source()) == identity::HOST
    {
        return None;
    }
    case.from = frontend;
    case.from_port_be = port_be;
    entry.touch(case, true, now, settings);
    Some(KNOWN)
}

/// Both ends, the hop limit, every checksum that covers them, and Ethernet's addresses. A frame that was not for this
/// device is left alone.
#[inline(always)]
fn rewrite(window: &Window, case: &Case, hop: &Hop) -> Option<()> {
    let flow = &case.packet.flow;
    let (source, destination) = (*words::of_address(flow.source()), *words::of_address(flow.destination()));
    let ports =
        change16(flow.source_port_be(), case.from_port_be) + change16(flow.destination_port_be(), case.to_port_be);
    let new_ports = case.from_port_be as u32 | (case.to_port_be as u32) << 16;
    let is_udp = flow.protocol() == UDP;
    let in_header = if is_udp { 6 } else { 16 };
    // Nothing is written before all of it is known to be there.
    if words::is_v4(&case.to) {
        let checksum = window.at(TRANSPORT_V4 + in_header, 2).ok()?;
        let frame = window.at(0, TRANSPORT_V4 + 8).ok()?;
        if frame.u64_be::<0>() & MAC != hop.own_mac {
            return None;
        }
        let (from, to) = ((case.from[1] >> 32) as u32, (case.to[1] >> 32) as u32);
        let addresses = change32((source[1] >> 32) as u32, from) + change32((destination[1] >> 32) as u32, to);
        // The hop limit is the first byte of its word.
        let limit = frame.u16_be::<22>();
        frame.set_u16_be::<22>(limit - 1);
        frame.set_u16_be::<24>(corrected(frame.u16_be::<24>(), addresses + change16(limit, limit - 1)));
        frame.set_u32_be::<26>(from);
        frame.set_u32_be::<30>(to);
        frame.set_u32_be::<34>(new_ports);
        checksum.set_u16_be::<0>(covering(checksum.u16_be::<0>(), addresses + ports, is_udp));
        hop.address(frame);
    } else {
        let checksum = window.at(TRANSPORT_V6 + in_header, 2).ok()?;
        let frame = window.at(0, TRANSPORT_V6 + 8).ok()?;
        if frame.u64_be::<0>() & MAC != hop.own_mac {
            return None;
        }
        let addresses = change128(&source, &case.from) + change128(&destination, &case.to);
        frame.set_u8::<21>(frame.u8::<21>() - 1);
        frame.set_u64_be::<22>(case.from[0]);
        frame.set_u64_be::<30>(case.from[1]);
        frame.set_u64_be::<38>(case.to[0]);
        frame.set_u64_be::<46>(case.to[1]);
        frame.set_u32_be::<54>(new_ports);
        checksum.set_u16_be::<0>(covering(checksum.u16_be::<0>(), addresses + ports, is_udp));
        hop.address(frame);
    }
    Some(())
}

const MAC: u64 = (1 << 48) - 1;

// By how much a sum of 16-bit words grows when what it covers changes, carries not yet added (RFC 1624).

#[inline(always)]
fn change16(from: u16, to: u16) -> u64 {
    !from as u64 + to as u64
}

#[inline(always)]
fn change32(from: u32, to: u32) -> u64 {
    !from as u64 + to as u64
}

#[inline(always)]
fn change128(from: &[u64; 2], to: &[u64; 2]) -> u64 {
    let change =
        |from: u64, to: u64| change32(from as u32, to as u32) + change32((from >> 32) as u32, (to >> 32) as u32);
    change(from[0], to[0]) + change(from[1], to[1])
}

#[inline(always)]
fn corrected(checksum: u16, change: u64) -> u16 {
    !fold(!checksum as u64 + change)
}

/// Of the transport layer. A UDP checksum of 0 says that there is none, and must not become one, or be made.
#[inline(always)]
fn covering(checksum: u16, change: u64, is_udp: bool) -> u16 {
    let new = corrected(checksum, change);
    match (is_udp, checksum, new) {
        (true, 0, _) => 0,
        (true, _, 0) => 0xffff,
        _ => new,
    }
}
