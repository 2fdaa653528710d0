//! Ethernet, and the VLAN tags that are in the data.
use weir_abi::Reason;

use super::Window;

pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const IPV6: u16 = 0x86dd;
/// Bytes of the header without tags.
pub const HEADER: u32 = 14;
const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;

/// What an Ethernet frame carries, and where.
pub struct Link {
    pub ethertype: u16,
    pub offset: u32,
}

/// At most two tags are taken off. At tc the kernel has moved the outermost into the packet's metadata, so that there
/// the data may begin with the second.
///
/// A third leaves its own ethertype, and so is no IP packet.
#[inline(always)]
pub fn link(window: &Window) -> Result<Link, Reason> {
    let mut link = Link { ethertype: window.at(0, 14)?.u16::<12>(), offset: 14 };
    for _ in 0..2 {
        if link.ethertype != VLAN && link.ethertype != QINQ {
            break;
        }
        link.ethertype = window.at(link.offset, 4)?.u16::<2>();
        link.offset += 4;
    }
    Ok(link)
}

/// Whether an unknown ethertype is one tag too many.
#[inline(always)]
pub fn is_tag(ethertype: u16) -> bool {
    ethertype == VLAN || ethertype == QINQ
}
