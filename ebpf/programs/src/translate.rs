//! Rewriting one end of a packet: address, port and every checksum that covers them.
use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated::{bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes},
};
use weir_abi::Reason;

use crate::{
    case::Case,
    flow::{Ends, ICMPV6, SCTP, TCP, UDP},
    parse::{Part, Shape},
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
    if is_v4(&from) {
        let (old, new) = ((from[1] >> 32) as u32, (to[1] >> 32) as u32);
        // SAFETY: as above.
        if unsafe { bpf_l3_csum_replace(skb, network + 10, old as u64, new as u64, 4) } != 0 {
            return None;
        }
        store(skb, network + if is_source { 12 } else { 16 }, &new)?;
    } else {
        store(skb, network + if is_source { 8 } else { 24 }, &to)?;
    }
    let has_ports = packet.shape == Shape::Ports && packet.fragment.of != Part::Later && protocol != SCTP;
    if has_ports && from_port != to_port {
        // SAFETY: as above.
        if unsafe { bpf_l4_csum_replace(skb, checksum, from_port as u64, to_port as u64, 2 | udp) } != 0 {
            return None;
        }
        store(skb, transport + if is_source { 0 } else { 2 }, &to_port)?;
    }
    let flow = &mut case.packet.flow;
    let (source_port, destination_port) = (flow.source_port_be(), flow.destination_port_be());
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

#[inline(always)]
fn is_v4(words: &[u64; 2]) -> bool {
    words[0] == 0 && words[1] as u32 == 0xffff_0000
}
