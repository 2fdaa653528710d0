//! Rewriting one end of a packet: address, port and every checksum that covers them.
use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes},
};
use weir_abi::Reason;

use crate::{
    case::Case,
    flow::{Ends, ICMP, ICMPV6, SCTP, TCP, UDP},
    parse::{Part, Shape, ip::mapped, load},
    words,
};

/// The packet goes to `case.to`; its flow is the one with that end from here on.
///
/// # Errors
///
/// [`Reason::Translation`]: the kernel did not let us write.
#[inline(always)]
pub fn destination(skb: *mut __sk_buff, case: &mut Case) -> Result<(), Reason> {
    done(weir_translate(skb, case, 0))
}

/// The packet comes from `case.to`, for whoever gets it.
///
/// # Errors
///
/// As [`destination`].
#[inline(always)]
pub fn source(skb: *mut __sk_buff, case: &mut Case) -> Result<(), Reason> {
    done(weir_translate(skb, case, 1))
}

/// An ICMP error goes to `case.to`, and is about what that sent.
///
/// # Errors
///
/// As [`destination`].
#[inline(always)]
pub fn error_to_backend(skb: *mut __sk_buff, case: &mut Case) -> Result<(), Reason> {
    done(weir_translate_error(skb, case, 0))
}

/// An ICMP error is about what was sent to `case.to`; if it comes from the backend itself, it comes from there.
///
/// # Errors
///
/// As [`destination`].
#[inline(always)]
pub fn error_to_client(skb: *mut __sk_buff, case: &mut Case) -> Result<(), Reason> {
    done(weir_translate_error(skb, case, 1))
}

/// What a backend answered, or an error about what was sent to it, is the frontend's: `case.to`.
///
/// # Errors
///
/// As [`destination`].
#[inline(always)]
pub fn look_back(skb: *mut __sk_buff, case: &mut Case) -> Result<(), Reason> {
    if case.packet.shape == Shape::IcmpError { error_to_client(skb, case) } else { source(skb, case) }
}

#[inline(always)]
fn done(code: u32) -> Result<(), Reason> {
    if code == 0 { Ok(()) } else { Err(Reason::Translation) }
}

/// 0: it is rewritten. Nothing else ever fails but for want of memory.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_translate(skb: *mut __sk_buff, case: *mut Case, is_source: u32) -> u32 {
    // SAFETY: the caller's reference; the verifier asks for the comparison with null.
    let Some(case) = (unsafe { case.as_mut() }) else { return 1 };
    translate(skb, case, is_source != 0).is_none() as u32
}

/// Writes bytes of the packet.
#[inline(always)]
fn store<T>(skb: *mut __sk_buff, offset: u32, value: &T) -> Option<()> {
    // SAFETY: the helper reads the value's bytes, all of which are initialised.
    let code = unsafe { bpf_skb_store_bytes(skb, offset, core::ptr::from_ref(value).cast(), size_of::<T>() as u32, 0) };
    (code == 0).then_some(())
}

/// Writes an address of the outer IPv6 header, which has no checksum. Where a device summed the packet up, the kernel
/// takes the transport's checksum to have changed by itself, so the address must be noted, too.
#[inline(always)]
fn store_v6(skb: *mut __sk_buff, offset: u32, address: &[u64; 2]) -> Option<()> {
    // SAFETY: as in `store`.
    let code = unsafe {
        bpf_skb_store_bytes(skb, offset, core::ptr::from_ref(address).cast(), 16, BPF_F_RECOMPUTE_CSUM as u64)
    };
    (code == 0).then_some(())
}

/// What a checksum must be corrected by.
#[inline(always)]
fn difference(from: &mut [u64; 2], to: &mut [u64; 2]) -> u64 {
    // SAFETY: the helper reads 16 bytes of each.
    let sum = unsafe { bpf_csum_diff(from.as_mut_ptr().cast(), 16, to.as_mut_ptr().cast(), 16, 0) };
    sum as u32 as u64
}

#[inline(always)]
fn translate(skb: *mut __sk_buff, case: &mut Case, is_source: bool) -> Option<()> {
    let packet = &case.packet;
    let flow = &packet.flow;
    let mut from = *words::of_address(if is_source { flow.source() } else { flow.destination() });
    let mut to = case.to;
    let (from_port, to_port) =
        (if is_source { flow.source_port_be() } else { flow.destination_port_be() }, case.to_port_be);
    let (network, transport, protocol) = (packet.network, packet.transport, flow.protocol());
    // Ports and their checksum are in the first fragment only.
    let checksum = match (packet.fragment.of, protocol) {
        (Part::Later, _) => 0,
        (_, TCP) => transport + 16,
        (_, UDP) => transport + 6,
        (_, ICMPV6) => transport + 2,
        _ => 0,
    };
    // A UDP checksum of 0 says that there is none, and must not become one, or be made.
    let udp = if protocol == UDP { BPF_F_MARK_MANGLED_0 as u64 } else { 0 };
    if checksum != 0 {
        let sum = difference(&mut from, &mut to);
        // SAFETY: the context is valid.
        if unsafe { bpf_l4_csum_replace(skb, checksum, 0, sum, BPF_F_PSEUDO_HDR as u64 | udp) } != 0 {
            return None;
        }
    }
    // In the data of both families, the words are as they are in the packet.
    if words::is_v4(&from) {
        let (old, new) = ((from[1] >> 32) as u32, (to[1] >> 32) as u32);
        // SAFETY: as above.
        if unsafe { bpf_l3_csum_replace(skb, network + 10, old as u64, new as u64, 4) } != 0 {
            return None;
        }
        store(skb, network + if is_source { 12 } else { 16 }, &new)?;
    } else {
        store_v6(skb, network + if is_source { 8 } else { 24 }, &to)?;
    }
    let has_ports = packet.shape == Shape::Ports && packet.fragment.of != Part::Later && protocol != SCTP;
    if has_ports && from_port != to_port {
        // SAFETY: as above.
        if unsafe { bpf_l4_csum_replace(skb, checksum, from_port as u64, to_port as u64, 2 | udp) } != 0 {
            return None;
        }
        store(skb, transport + if is_source { 0 } else { 2 }, &to_port)?;
    }
    let is_echo = matches!(packet.shape, Shape::EchoRequest | Shape::EchoReply) && packet.fragment.of != Part::Later;
    if is_echo && from_port != to_port {
        // SAFETY: as above.
        if unsafe { bpf_l4_csum_replace(skb, transport + 2, from_port as u64, to_port as u64, 2) } != 0 {
            return None;
        }
        store(skb, transport + 4, &to_port)?;
    }
    let is_echo = matches!(packet.shape, Shape::EchoRequest | Shape::EchoReply);
    let flow = &mut case.packet.flow;
    let (source_port, destination_port) =
        if is_echo { (to_port, to_port) } else { (flow.source_port_be(), flow.destination_port_be()) };
    if is_source {
        let destination = *words::of_address(flow.destination());
        flow.set_addresses(Ends { source: to, destination });
        flow.set_ports(to_port, destination_port);
    } else {
        let source = *words::of_address(flow.source());
        flow.set_addresses(Ends { source, destination: to });
        flow.set_ports(source_port, to_port);
    }
    Some(())
}

/// As [`weir_translate`]: the outer packet's one end, and the inner one's other.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_translate_error(skb: *mut __sk_buff, case: *mut Case, to_client: u32) -> u32 {
    // SAFETY: the caller's reference; the verifier asks for the comparison with null.
    let Some(case) = (unsafe { case.as_mut() }) else { return 1 };
    translate_error(skb, case, to_client != 0).is_none() as u32
}

/// The checksum of an ICMP message covers all of the inner packet, which has checksums itself. Each of those changes by
/// as much as what it covers does, the other way.
#[inline(always)]
fn translate_error(skb: *mut __sk_buff, case: &mut Case, to_client: bool) -> Option<()> {
    let packet = &case.packet;
    let (network, icmp, transport) = (packet.network, packet.transport, case.inner);
    let inner = icmp + 8;
    let v4 = packet.flow.protocol() == ICMP;
    let mut to = case.to;
    let mut from = if v4 {
        mapped(u32::from_ne_bytes(load::<4>(skb, inner + if to_client { 16 } else { 12 })?))
    } else {
        let bytes = load::<16>(skb, inner + if to_client { 24 } else { 8 })?;
        let half = |at: usize| {
            u64::from_ne_bytes([
                bytes[at],
                bytes[at + 1],
                bytes[at + 2],
                bytes[at + 3],
                bytes[at + 4],
                bytes[at + 5],
                bytes[at + 6],
                bytes[at + 7],
            ])
        };
        [half(0), half(8)]
    };
    let addresses = difference(&mut from, &mut to);
    // The inner addresses and, with IPv4, their header's checksum.
    let mut change = if v4 {
        let (old, new) = ((from[1] >> 32) as u32, (to[1] >> 32) as u32);
        // SAFETY: the context is valid.
        if unsafe { bpf_l3_csum_replace(skb, inner + 10, old as u64, new as u64, 4) } != 0 {
            return None;
        }
        store(skb, inner + if to_client { 16 } else { 12 }, &new)?;
        0
    } else {
        store(skb, inner + if to_client { 24 } else { 8 }, &to)?;
        addresses
    };
    // The inner port, and the checksum that covers it and the addresses, as far as they are there.
    let mut covered = addresses;
    if matches!(case.inner_protocol, TCP | UDP) {
        let at = transport + if to_client { 2 } else { 0 };
        let old = u16::from_ne_bytes(load::<2>(skb, at)?);
        store(skb, at, &case.to_port_be)?;
        let port = (!old) as u64 + case.to_port_be as u64;
        change += port;
        covered += port;
    }
    let checksum = transport + if case.inner_protocol == TCP { 16 } else { 6 };
    if matches!(case.inner_protocol, TCP | UDP)
        && let Some(old) = load::<2>(skb, checksum)
    {
        let old = u16::from_ne_bytes(old);
        if case.inner_protocol == TCP || old != 0 {
            let new = !fold((!old) as u64 + covered);
            store(skb, checksum, &new)?;
            change += (!old) as u64 + new as u64;
        }
    }
    // SAFETY: as above.
    if unsafe { bpf_l4_csum_replace(skb, icmp + 2, 0, fold(change) as u64, 0) } != 0 {
        return None;
    }
    // The outer packet.
    let flow = &case.packet.flow;
    let mut outer = *words::of_address(if to_client { flow.source() } else { flow.destination() });
    if to_client && outer != from {
        return Some(());
    }
    if v4 {
        let (old, new) = ((outer[1] >> 32) as u32, (to[1] >> 32) as u32);
        // SAFETY: as above.
        if unsafe { bpf_l3_csum_replace(skb, network + 10, old as u64, new as u64, 4) } != 0 {
            return None;
        }
        store(skb, network + if to_client { 12 } else { 16 }, &new)?;
    } else {
        let sum = difference(&mut outer, &mut to);
        // SAFETY: as above.
        if unsafe { bpf_l4_csum_replace(skb, icmp + 2, 0, sum, BPF_F_PSEUDO_HDR as u64) } != 0 {
            return None;
        }
        store_v6(skb, network + if to_client { 8 } else { 24 }, &to)?;
    }
    let flow = &mut case.packet.flow;
    let ends = if to_client {
        Ends { source: to, destination: *words::of_address(flow.destination()) }
    } else {
        Ends { source: *words::of_address(flow.source()), destination: to }
    };
    flow.set_addresses(ends);
    Some(())
}

/// A sum of 16-bit words with its carries added.
#[inline(always)]
pub fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
