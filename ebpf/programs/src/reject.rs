//! What a client is told whose service has no backend: a reset for TCP, "port unreachable" for everything else. The
//! packet itself is turned into the answer and goes back by the device that it came from.
use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_adj_room_mode},
    helpers::generated::{bpf_csum_diff, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_store_bytes},
};
use weir_abi::{ANSWER_MARK, tc_action};

use crate::{
    case::Case,
    flow::TCP,
    parse::{Part, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, load},
    words,
};

const ETHERNET: u32 = 14;
const HOP_LIMIT: u8 = 64;

/// The action for a packet that was refused: it is dropped, or comes back as an answer.
#[inline(always)]
pub fn answer(skb: *mut __sk_buff, case: &mut Case) -> i32 {
    if case.reject { weir_reject(skb, case) as i32 } else { tc_action::DROP }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_reject(skb: *mut __sk_buff, case: *mut Case) -> u32 {
    // SAFETY: the caller's reference; the verifier asks for the comparison with null.
    let Some(case) = (unsafe { case.as_mut() }) else { return tc_action::DROP as u32 };
    // Nobody is told of a fragment, a reset, or what stands behind VLAN tags or options.
    let packet = &case.packet;
    let v4 = words::is_v4(words::of_address(packet.flow.source()));
    let plain = ETHERNET + if v4 { 20 } else { 40 };
    if packet.network != ETHERNET || packet.transport != plain || packet.fragment.of != Part::Whole {
        return tc_action::DROP as u32;
    }
    let tcp = packet.flow.protocol() == TCP;
    if tcp && packet.tcp_flags & TCP_RST != 0 {
        return tc_action::DROP as u32;
    }
    let made = if tcp { weir_reset(skb, case) } else { weir_unreachable(skb, case) };
    if made == 0 {
        return tc_action::DROP as u32;
    }
    // SAFETY: the context is valid; nobody but us judges what carries this mark.
    unsafe {
        (*skb).mark = ANSWER_MARK;
        bpf_redirect(case.ifindex, 0) as u32
    }
}

#[inline(always)]
fn store<T>(skb: *mut __sk_buff, offset: u32, value: &T) -> bool {
    // SAFETY: the helper reads the value's bytes, all of which are initialised.
    unsafe { bpf_skb_store_bytes(skb, offset, core::ptr::from_ref(value).cast(), size_of::<T>() as u32, 0) == 0 }
}

/// Back to whoever sent it.
#[inline(always)]
fn turn_around(skb: *mut __sk_buff) -> bool {
    let Some(m) = load::<12>(skb, 0) else { return false };
    store(skb, 0, &[m[6], m[7], m[8], m[9], m[10], m[11], m[0], m[1], m[2], m[3], m[4], m[5]])
}

/// One's complement sum of words.
#[inline(always)]
fn sum<T>(value: &mut T, seed: u32) -> u32 {
    let size = size_of::<T>() as u32;
    // SAFETY: the helper reads that many bytes.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, core::ptr::from_mut(value).cast(), size, seed) as u32 }
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A network header from the frontend to the client.
#[repr(C)]
struct V4 {
    version_length: u8,
    service: u8,
    total_be: u16,
    identification: u16,
    fragment_be: u16,
    hop_limit: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

#[repr(C)]
struct V6 {
    version: u32,
    payload_be: u16,
    next: u8,
    hop_limit: u8,
    source: [u64; 2],
    destination: [u64; 2],
}

/// What a transport checksum covers beside its own header and payload; the same for both families, whose addresses add
/// up to the same as what they are mapped to less a constant.
#[inline(always)]
fn pseudo(case: &Case, protocol: u8, length: u32) -> u32 {
    let flow = &case.packet.flow;
    let (source, destination) = (*words::of_address(flow.source()), *words::of_address(flow.destination()));
    let v4 = words::is_v4(&source);
    let strip = |words: [u64; 2]| if v4 { [0, words[1] & 0xffff_ffff_0000_0000] } else { words };
    let (a, b) = (strip(source), strip(destination));
    let mut all = [a[0], a[1], b[0], b[1], ((protocol as u64) << 56) | length.to_be() as u64];
    sum(&mut all, 0)
}

/// The network header of the answer, with so many bytes behind it.
#[inline(always)]
fn network_header(skb: *mut __sk_buff, case: &Case, protocol: u8, payload: u32) -> bool {
    let flow = &case.packet.flow;
    let (client, frontend) = (*words::of_address(flow.source()), *words::of_address(flow.destination()));
    if words::is_v4(&client) {
        let mut header = V4 {
            version_length: 0x45,
            service: 0,
            total_be: (20 + payload as u16).to_be(),
            identification: 0,
            fragment_be: 0x4000u16.to_be(),
            hop_limit: HOP_LIMIT,
            protocol,
            checksum: 0,
            source: (frontend[1] >> 32) as u32,
            destination: (client[1] >> 32) as u32,
        };
        header.checksum = !fold(sum(&mut header, 0));
        store(skb, ETHERNET, &header)
    } else {
        let header = V6 {
            version: 0x6000_0000u32.to_be(),
            payload_be: (payload as u16).to_be(),
            next: protocol,
            hop_limit: HOP_LIMIT,
            source: frontend,
            destination: client,
        };
        store(skb, ETHERNET, &header)
    }
}

#[repr(C)]
struct TcpHeader {
    source_be: u16,
    destination_be: u16,
    sequence: u32,
    acknowledged: u32,
    offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

/// RFC 9293, 3.10.7.1: a reset of a connection that does not exist. 1: it is made.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_reset(skb: *mut __sk_buff, case: *mut Case) -> u32 {
    // SAFETY: the caller's reference; the verifier asks for the comparison with null.
    let Some(case) = (unsafe { case.as_mut() }) else { return 0 };
    reset(skb, case) as u32
}

#[inline(always)]
fn reset(skb: *mut __sk_buff, case: &mut Case) -> bool {
    let packet = &case.packet;
    let (transport, payload, flags) = (packet.transport, packet.payload, packet.tcp_flags);
    let Some(bytes) = load::<20>(skb, transport) else { return false };
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let data = payload - (bytes[12] >> 4) as u32 * 4;
    let seen = data + (flags & TCP_SYN != 0) as u32 + (flags & TCP_FIN != 0) as u32;
    let (sequence, acknowledged, flags) = if flags & TCP_ACK != 0 {
        (word(8), 0, TCP_RST)
    } else {
        (0, u32::from_be(word(4)).wrapping_add(seen).to_be(), TCP_RST | TCP_ACK)
    };
    let mut header = TcpHeader {
        source_be: packet.flow.destination_port_be(),
        destination_be: packet.flow.source_port_be(),
        sequence,
        acknowledged,
        offset: 5 << 4,
        flags,
        window: 0,
        checksum: 0,
        urgent: 0,
    };
    // Who left the checksum to the device has only the sum of the pseudo header there, and so must we: a kernel that
    // hands a packet on within itself never makes it whole.
    let unfinished = u16::from_ne_bytes([bytes[16], bytes[17]]) == fold(pseudo(case, TCP, payload));
    let covered = pseudo(case, TCP, 20);
    header.checksum = if unfinished { fold(covered) } else { !fold(sum(&mut header, covered)) };
    // SAFETY: the context is valid.
    let cut = unsafe { bpf_skb_change_tail(skb, transport + 20, 0) == 0 };
    cut && network_header(skb, case, TCP, 20) && store(skb, transport, &header) && turn_around(skb)
}

/// "Port unreachable" (RFC 792, RFC 4443), with as much of the packet as names its flow. 1: it is made.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_unreachable(skb: *mut __sk_buff, case: *mut Case) -> u32 {
    // SAFETY: the caller's reference; the verifier asks for the comparison with null.
    let Some(case) = (unsafe { case.as_mut() }) else { return 0 };
    if words::is_v4(words::of_address(case.packet.flow.source())) {
        unreachable::<28, 36>(skb, case, 1, 3, 3, 20) as u32
    } else {
        unreachable::<48, 56>(skb, case, 58, 1, 4, 40) as u32
    }
}

/// `QUOTED` bytes of the packet behind 8 of ICMP's: `ALL`.
#[inline(always)]
fn unreachable<const QUOTED: usize, const ALL: usize>(
    skb: *mut __sk_buff,
    case: &mut Case,
    protocol: u8,
    kind: u8,
    code: u8,
    network: i32,
) -> bool {
    let mut message = MaybeUninit::<[u8; ALL]>::uninit();
    // SAFETY: the helper writes the quoted bytes, the stores the first eight.
    let message = unsafe {
        let first = message.as_mut_ptr().cast::<u64>();
        first.write_unaligned(u64::from_ne_bytes([kind, code, 0, 0, 0, 0, 0, 0]));
        let quoted = first.add(1).cast();
        if aya_ebpf::helpers::generated::bpf_skb_load_bytes(skb.cast(), ETHERNET, quoted, QUOTED as u32) != 0 {
            return false;
        }
        message.assume_init_mut()
    };
    let seed = if protocol == 58 { pseudo(case, protocol, ALL as u32) } else { 0 };
    let checksum = (!fold(sum(message, seed))).to_ne_bytes();
    (message[2], message[3]) = (checksum[0], checksum[1]);
    // SAFETY: the context is valid.
    let room = unsafe {
        bpf_skb_change_tail(skb, ETHERNET + QUOTED as u32, 0) == 0
            && bpf_skb_adjust_room(skb, network + 8, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, 0) == 0
    };
    room && network_header(skb, case, protocol, ALL as u32)
        && store(skb, ETHERNET + network as u32, message)
        && turn_around(skb)
}
