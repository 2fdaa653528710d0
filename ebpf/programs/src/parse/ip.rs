//! The network layer: fixed headers, and IPv4's fragments.
use weir_abi::Reason;

use super::{Fragment, Packet, Part, Window};
use crate::flow::Ends;

/// A GSO packet beyond 64 KiB has a length of 0 in its IP header.
const BIG_FRAME: u32 = 0xffff;

/// As [`weir_abi::Address`] has it in memory.
#[inline(always)]
pub fn mapped(v4_be: u32) -> [u64; 2] {
    [0, ((v4_be as u64) << 32) | 0xffff_0000]
}

/// The part before the transport layer, without following extension headers: all that a filter by address needs. The
/// addresses are there even where the rest is wrong.
#[inline(always)]
pub fn ipv4(window: &Window, offset: u32, packet: &mut Packet, ends: &mut Ends) -> Result<(), Reason> {
    let header = window.at(offset, 20)?;
    *ends = Ends { source: mapped(header.u32_be::<12>()), destination: mapped(header.u32_be::<16>()) };
    packet.flow.key.protocol = header.u8::<9>();
    packet.hop_limit = header.u8::<8>();
    let version_length = header.u8::<0>();
    let header_length = (version_length & 0xf) as u32 * 4;
    if version_length >> 4 != 4 || header_length < 20 {
        return Err(Reason::Malformed);
    }
    let there = window.length - offset;
    let mut total = header.u16::<2>() as u32;
    if total == 0 && there > BIG_FRAME {
        total = there;
    }
    if total < header_length {
        return Err(Reason::Malformed);
    }
    if total > there {
        return Err(Reason::Truncated);
    }
    packet.transport = offset + header_length;
    packet.payload = total - header_length;
    let flags_offset = header.u16::<6>();
    if flags_offset & 0x3fff != 0 {
        packet.fragment = Fragment {
            of: if flags_offset & 0x1fff == 0 { Part::First } else { Part::Later },
            protocol: packet.flow.key.protocol,
            offset: (flags_offset & 0x1fff) * 8,
            identification: header.u16::<4>() as u32,
        };
        check_fragment(packet, flags_offset & 0x2000 != 0)?;
    }
    Ok(())
}

/// As [`ipv4`]: `protocol` is the fixed header's next header, which may be an extension header's.
#[inline(always)]
pub fn ipv6(window: &Window, offset: u32, packet: &mut Packet, ends: &mut Ends) -> Result<(), Reason> {
    let header = window.at(offset, 40)?;
    *ends = Ends {
        source: [header.u64_be::<8>(), header.u64_be::<16>()],
        destination: [header.u64_be::<24>(), header.u64_be::<32>()],
    };
    packet.flow.key.protocol = header.u8::<6>();
    packet.hop_limit = header.u8::<7>();
    if header.u8::<0>() >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let there = window.length - offset - 40;
    let mut payload = header.u16::<4>() as u32;
    if payload == 0 && there > BIG_FRAME {
        payload = there;
    }
    if payload > there {
        return Err(Reason::Truncated);
    }
    packet.transport = offset + 40;
    packet.payload = payload;
    Ok(())
}

/// A part that is not the last has a multiple of 8 bytes, none is empty, and none ends beyond the largest packet.
#[inline(always)]
pub fn check_fragment(packet: &Packet, more: bool) -> Result<(), Reason> {
    let payload = packet.payload;
    if payload == 0 || (more && !payload.is_multiple_of(8)) || packet.fragment.offset as u32 + payload > 0xffff {
        return Err(Reason::Malformed);
    }
    Ok(())
}
