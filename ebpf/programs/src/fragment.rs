//! Fragments: the first tells its ports to those that follow.
use weir_abi::{FragmentKey, FragmentPorts, Reason};

use crate::{
    admit::may_be_denied,
    case::Case,
    flow::{ICMP, ICMPV6, SCTP, TCP, UDP},
    maps::FRAGMENTS,
    parse::{Part, Shape, TCP_ACK},
};

/// Gives a later fragment the shape of its first.
///
/// # Errors
///
/// [`Reason::FragmentNotFound`] when that was not seen and something could deny it. Where nothing could, it is left a
/// [`Shape::LaterFragment`] and passes.
#[inline(always)]
pub fn resolve(case: &mut Case) -> Result<(), Reason> {
    if case.packet.fragment.of == Part::Whole || weir_resolve_fragment(case) != 0 {
        Ok(())
    } else {
        Err(Reason::FragmentNotFound)
    }
}

/// 1: the shape is known, or does not matter.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_resolve_fragment(case: *mut Case) -> u32 {
    // SAFETY: the caller's reference; the verifier asks for the comparison with null.
    let Some(case) = (unsafe { case.as_mut() }) else { return 0 };
    resolve_fragment(case) as u32
}

#[inline(always)]
fn resolve_fragment(case: &mut Case) -> bool {
    let packet = &mut case.packet;
    let fragment = packet.fragment;
    let protocol = packet.flow.protocol();
    let is_icmp = matches!(protocol, ICMP | ICMPV6);
    if !is_icmp && !matches!(protocol, TCP | UDP | SCTP) {
        packet.shape = Shape::NoPorts;
        return true;
    }
    let key = FragmentKey {
        source: *packet.flow.source(),
        destination: *packet.flow.destination(),
        identification: fragment.identification,
        protocol: fragment.protocol,
        reserved: [0; 3],
    };
    if fragment.of == Part::First {
        let destination_be =
            if is_icmp { (packet.icmp_type as u16).to_be() } else { packet.flow.destination_port_be() };
        let _ = FRAGMENTS.insert(&key, &FragmentPorts { source_be: packet.flow.source_port_be(), destination_be }, 0);
        return true;
    }
    let Some(first) = FRAGMENTS.get_ptr(&key) else { return !may_be_denied(case) };
    // SAFETY: a successful lookup; each port is read by one instruction.
    let (source_be, destination_be) = unsafe {
        ((&raw const (*first).source_be).read_volatile(), (&raw const (*first).destination_be).read_volatile())
    };
    if is_icmp {
        packet.icmp_type = u16::from_be(destination_be) as u8;
        packet.flow.set_ports(source_be, source_be);
        packet.shape = match packet.icmp_type {
            8 if protocol == ICMP => Shape::EchoRequest,
            0 if protocol == ICMP => Shape::EchoReply,
            128 if protocol == ICMPV6 => Shape::EchoRequest,
            129 if protocol == ICMPV6 => Shape::EchoReply,
            _ => Shape::IcmpOther,
        };
    } else {
        packet.flow.set_ports(source_be, destination_be);
        packet.shape = Shape::Ports;
        // The middle of a segment opens and closes nothing.
        packet.tcp_flags = TCP_ACK;
    }
    true
}
