//! IPv6 extension headers.
use aya_ebpf::bindings::__sk_buff;
use weir_abi::Reason;

use super::{Fragment, Packet, Part, ip::check_fragment};
use crate::{case::Case, skb};

pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const AUTHENTICATION: u8 = 51;
pub const DESTINATION: u8 = 60;

/// Extension headers of one packet that are followed.
pub const EXTENSIONS: usize = 8;
/// Bytes from the start of the frame within which the last of them must begin.
const LAST: u32 = 512;

#[inline(always)]
pub fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

/// Follows the extension headers, to the transport layer or to what a later fragment begins with.
///
/// Hop-by-hop options come first or not at all, nothing comes twice but destination options, and a routing header of
/// type 0 is refused (RFC 8200, section 4.1; RFC 5095). What follows a fragment header must be the transport layer:
/// a later fragment could not be told otherwise.
#[inline(always)]
pub fn follow(skb: *mut __sk_buff, case: &mut Case) -> Result<(), Reason> {
    if !is_extension(case.packet.flow.protocol()) {
        return Ok(());
    }
    match weir_follow_extensions(skb, case) {
        0 => Ok(()),
        code => Err(Reason::from_code(code as u8).unwrap_or(Reason::Internal)),
    }
}

/// 0, or a [`Reason`]'s code.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weir_follow_extensions(skb: *mut __sk_buff, case: *mut Case) -> u32 {
    // SAFETY: the caller's reference; the verifier asks for the comparison with null.
    let Some(mut case) = (unsafe { case.as_mut() }) else { return Reason::Internal as u32 };
    case.extensions_seen = 0;
    for at in 0..EXTENSIONS {
        // What one header changed is read back, so that to the verifier all ways to here are the same.
        case = case.settled();
        if !is_extension(case.packet.flow.protocol()) {
            return 0;
        }
        if let Err(reason) = one(skb, case, at == 0) {
            return reason as u32;
        }
    }
    case = case.settled();
    if is_extension(case.packet.flow.protocol()) { Reason::ExtensionHeader as u32 } else { 0 }
}

#[inline(always)]
fn one(skb: *mut __sk_buff, case: &mut Case, first: bool) -> Result<(), Reason> {
    let packet = &mut case.packet;
    let protocol = packet.flow.protocol();
    if packet.fragment.of != Part::Whole || packet.transport > LAST {
        return Err(Reason::ExtensionHeader);
    }
    if packet.payload < 8 {
        return Err(Reason::Truncated);
    }
    let header = skb::window(skb).at(packet.transport, 8)?;
    let units = header.u8::<1>() as u32;
    let (bit, length) = match protocol {
        HOP_BY_HOP if !first => return Err(Reason::ExtensionHeader),
        ROUTING if header.u8::<2>() == 0 => return Err(Reason::ExtensionHeader),
        FRAGMENT => (1 << 0, 8),
        AUTHENTICATION => (1 << 1, (units + 2) * 4),
        ROUTING => (1 << 2, (units + 1) * 8),
        HOP_BY_HOP => (1 << 3, (units + 1) * 8),
        _ if case.extensions_seen & (1 << 4) == 0 => (1 << 4, (units + 1) * 8),
        _ => (1 << 5, (units + 1) * 8),
    };
    if case.extensions_seen & bit != 0 {
        return Err(Reason::ExtensionHeader);
    }
    case.extensions_seen |= bit;
    if packet.payload < length {
        return Err(Reason::Truncated);
    }
    packet.transport += length;
    packet.payload -= length;
    packet.flow.key.protocol = header.u8::<0>();
    if protocol == FRAGMENT { fragment(packet, header.u16::<2>(), u32::from_be(header.u32_be::<4>())) } else { Ok(()) }
}

#[inline(always)]
fn fragment(packet: &mut Packet, offset_flags: u16, identification: u32) -> Result<(), Reason> {
    // Neither an offset nor a successor: an atomic fragment, which is whole.
    if offset_flags & 0xfff9 == 0 {
        return Ok(());
    }
    packet.fragment = Fragment {
        of: if offset_flags & 0xfff8 == 0 { Part::First } else { Part::Later },
        protocol: packet.flow.protocol(),
        offset: offset_flags & 0xfff8,
        identification,
    };
    check_fragment(packet, offset_flags & 1 != 0)
}
