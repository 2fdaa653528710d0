//! The packet inside an ICMP error: as much of it as names its flow.
use core::mem::MaybeUninit;

use super::{
    extension::{AUTHENTICATION, EXTENSIONS, FRAGMENT, is_extension},
    ip::mapped,
};
use crate::flow::{Ends, Flow, ICMP, ICMPV6, SCTP, TCP, UDP};
use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};

#[inline(always)]
pub fn load<const N: usize>(skb: *mut __sk_buff, offset: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the helper writes all `N` bytes, to zero if it fails.
    unsafe {
        let code = bpf_skb_load_bytes(skb.cast(), offset, bytes.as_mut_ptr().cast(), N as u32);
        (code == 0).then_some(bytes.assume_init())
    }
}

/// Writes the flow of the packet that begins at `offset` from the start of the frame, in that packet's own direction, and
/// says where its transport layer begins: 0 when it does not show which flow it is of.
///
/// Reads by helper: it is rare, and the inner packet may lie beyond what can be read directly.
#[inline(never)]
pub fn inner_flow(skb: *mut __sk_buff, offset: u32, v4: bool, flow: &mut Flow) -> u32 {
    let (protocol, transport) = if v4 {
        let Some(header) = load::<20>(skb, offset) else { return 0 };
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        if header[0] >> 4 != 4 || header[0] & 0xf < 5 || fragment & 0x1fff != 0 {
            return 0;
        }
        flow.set_addresses(Ends {
            source: mapped(u32::from_ne_bytes([header[12], header[13], header[14], header[15]])),
            destination: mapped(u32::from_ne_bytes([header[16], header[17], header[18], header[19]])),
        });
        (header[9], offset + (header[0] & 0xf) as u32 * 4)
    } else {
        let Some(header) = load::<8>(skb, offset) else { return 0 };
        // Both addresses at once, as two words each.
        let Some(addresses) = load::<32>(skb, offset + 8) else { return 0 };
        if header[0] >> 4 != 6 {
            return 0;
        }
        let word = |at: usize| {
            u64::from_ne_bytes([
                addresses[at],
                addresses[at + 1],
                addresses[at + 2],
                addresses[at + 3],
                addresses[at + 4],
                addresses[at + 5],
                addresses[at + 6],
                addresses[at + 7],
            ])
        };
        flow.set_addresses(Ends { source: [word(0), word(8)], destination: [word(16), word(24)] });
        let Some(found) = skip_extensions(skb, header[6], offset + 40) else { return 0 };
        found
    };
    flow.key.protocol = protocol;
    let Some(bytes) = load::<8>(skb, transport) else { return 0 };
    let (source_be, destination_be) = match protocol {
        TCP | UDP | SCTP => (u16::from_ne_bytes([bytes[0], bytes[1]]), u16::from_ne_bytes([bytes[2], bytes[3]])),
        ICMP | ICMPV6 => {
            let identifier = u16::from_ne_bytes([bytes[4], bytes[5]]);
            match (v4, protocol, bytes[0]) {
                (true, ICMP, 0 | 8) | (false, ICMPV6, 128 | 129) => (identifier, identifier),
                _ => return 0,
            }
        }
        _ => (0, 0),
    };
    flow.set_ports(source_be, destination_be);
    transport
}

/// The protocol after the extension headers, and where it begins.
#[inline(always)]
fn skip_extensions(skb: *mut __sk_buff, first: u8, from: u32) -> Option<(u8, u32)> {
    let (mut protocol, mut offset) = (first, from);
    for _ in 0..EXTENSIONS {
        if !is_extension(protocol) {
            return Some((protocol, offset));
        }
        let header = load::<8>(skb, offset)?;
        offset += match protocol {
            FRAGMENT if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 => return None,
            FRAGMENT => 8,
            AUTHENTICATION => (header[1] as u32 + 2) * 4,
            _ => (header[1] as u32 + 1) * 8,
        };
        protocol = header[0];
    }
    None
}
