//! From bytes to a packet: Ethernet and VLAN tags, IP with its options and extension headers, transport.
//!
//! A header that contradicts itself, or that the frame does not hold, is refused with a reason wherever a packet is
//! looked at, whether or not anything enforces there.
pub mod extension;
mod inner;
pub mod ip;
pub mod link;
mod window;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_hdr_start_off::BPF_HDR_START_NET},
    helpers::generated::bpf_skb_load_bytes_relative,
};
use weir_abi::Reason;

pub use inner::{inner_flow, load};
pub use window::{Header, Window};

use self::link::Link;
use crate::{
    case::Case,
    flow::{Ends, Flow, ICMP, ICMPV6, SCTP, TCP, UDP},
    words,
};

pub const TCP_FIN: u8 = 1 << 0;
pub const TCP_SYN: u8 = 1 << 1;
pub const TCP_RST: u8 = 1 << 2;
pub const TCP_ACK: u8 = 1 << 4;

/// How a packet is judged and tracked.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Shape {
    /// No ports: tracked by addresses and protocol.
    NoPorts,
    /// TCP, UDP, SCTP: tracked by addresses and ports.
    Ports,
    /// A request, tracked by addresses and identifier.
    EchoRequest,
    /// Finds its request's entry and never makes one.
    EchoReply,
    /// About another packet of a flow, which decides when it is known.
    IcmpError,
    /// Every other ICMP message: judged each by itself.
    IcmpOther,
    /// Not the first fragment: the ports are to be found.
    LaterFragment,
}

/// Which part of a packet this is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    Whole,
    First,
    Later,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Fragment {
    pub of: Part,
    /// As it stands before the fragmentable part.
    pub protocol: u8,
    /// In bytes.
    pub offset: u16,
    pub identification: u32,
}

/// What the programs know of a packet. After [`ip::ipv4`] or [`ip::ipv6`] the network layer is there, after [`parse`]
/// all of it.
#[repr(C)]
pub struct Packet {
    /// The protocol is never an extension header's once those were followed.
    pub flow: Flow,
    /// Offset of the network layer from the start of the frame.
    pub network: u32,
    /// Offset of the transport layer from the start of the frame.
    pub transport: u32,
    /// Bytes of the IP packet from there on.
    pub payload: u32,
    /// Of the frame, in bytes.
    pub length: u32,
    pub fragment: Fragment,
    pub shape: Shape,
    pub hop_limit: u8,
    pub tcp_flags: u8,
    pub icmp_type: u8,
}

impl Packet {
    #[inline(always)]
    pub fn reset(&mut self) {
        // SAFETY: zero is a value of every field; of the enums it is the first.
        unsafe { words::zero(self) };
    }

    /// Of the IP packet, in bytes; where the frame has no tags.
    #[inline(always)]
    pub fn ip_length(&self) -> u32 {
        self.transport - link::HEADER + self.payload
    }
}

/// What a frame turned out to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    Packet,
    /// ARP or neighbour discovery: always let through.
    Neighbour,
    /// Neither that nor IP.
    UnknownEthertype,
}

/// The network layer, where the data begins with it. After generic XDP has copied a frame, the kernel has forgotten how
/// long its Ethernet header is, and shows tc what is behind it (Linux 6.18, on a veth).
#[inline(always)]
fn skipped(skb: *mut __sk_buff, window: &Window, found: &Link) -> Option<Link> {
    // SAFETY: the context is valid for the whole run.
    let ethertype = u16::from_be(unsafe { (*skb).protocol } as u16);
    let version = match ethertype {
        link::IPV4 => 4,
        link::IPV6 => 6,
        _ => return None,
    };
    let start = window.at(0, 8).ok()?;
    if found.ethertype == ethertype && start.u8::<0>() >> 4 != version {
        return None;
    }
    let mut network = [0u8; 8];
    // SAFETY: the helper writes that many bytes.
    let code = unsafe { bpf_skb_load_bytes_relative(skb.cast(), 0, network.as_mut_ptr().cast(), 8, BPF_HDR_START_NET) };
    (code == 0 && u64::from_ne_bytes(network) == start.u64_be::<0>()).then_some(Link { ethertype, offset: 0 })
}

/// Fills the case's packet when it answers [`Parsed::Packet`], and as far as it came when it fails.
#[inline(always)]
pub fn parse(skb: *mut __sk_buff, window: &Window, case: &mut Case) -> Result<Parsed, Reason> {
    let packet = &mut case.packet;
    packet.length = window.length;
    let link = link::link(window)?;
    let Link { ethertype, offset } = skipped(skb, window, &link).unwrap_or(link);
    packet.network = offset;
    let mut ends = Ends::NONE;
    let v4 = match ethertype {
        link::IPV4 => {
            let outcome = ip::ipv4(window, offset, packet, &mut ends);
            packet.flow.set_addresses(ends);
            outcome?;
            true
        }
        link::IPV6 => {
            let outcome = ip::ipv6(window, offset, packet, &mut ends);
            packet.flow.set_addresses(ends);
            outcome?;
            extension::follow(skb, case)?;
            false
        }
        link::ARP => return Ok(Parsed::Neighbour),
        _ => return Ok(Parsed::UnknownEthertype),
    };
    let packet = &mut case.settled().packet;
    let protocol = packet.flow.protocol();
    if packet.fragment.of == Part::Later {
        // RFC 3128: a second part that would overwrite the flags of a TCP header.
        if protocol == TCP && packet.fragment.offset < 20 {
            return Err(Reason::Malformed);
        }
        packet.shape = Shape::LaterFragment;
        return Ok(Parsed::Packet);
    }
    match protocol {
        TCP => tcp(window, packet)?,
        UDP => udp(window, packet)?,
        SCTP => {
            let header = transport(window, packet, 12)?;
            ports(packet, header);
        }
        ICMP if v4 => icmp(window, packet, 8, 0, |kind| matches!(kind, 3..=5 | 11 | 12))?,
        ICMPV6 if !v4 => {
            icmp(window, packet, 128, 129, |kind| matches!(kind, 1..=4))?;
            if is_neighbour_discovery(packet, packet.icmp_type) && packet.fragment.of == Part::Whole {
                return Ok(Parsed::Neighbour);
            }
        }
        ICMP | ICMPV6 => return Err(Reason::Malformed),
        _ => packet.shape = Shape::NoPorts,
    }
    Ok(Parsed::Packet)
}

/// Whether an ICMPv6 message is one that only a neighbour can have sent.
#[inline(always)]
pub fn is_neighbour_discovery(packet: &Packet, icmp_type: u8) -> bool {
    packet.hop_limit == 255 && matches!(icmp_type, 133..=137)
}

#[inline(always)]
fn transport(window: &Window, packet: &Packet, size: u32) -> Result<window::Header, Reason> {
    if packet.payload < size {
        return Err(Reason::Truncated);
    }
    window.at(packet.transport, size)
}

#[inline(always)]
fn ports(packet: &mut Packet, header: window::Header) {
    packet.shape = Shape::Ports;
    packet.flow.set_ports(header.u16_be::<0>(), header.u16_be::<2>());
}

#[inline(always)]
fn tcp(window: &Window, packet: &mut Packet) -> Result<(), Reason> {
    let header = transport(window, packet, 20)?;
    ports(packet, header);
    packet.tcp_flags = header.u8::<13>();
    let length = (header.u8::<12>() >> 4) as u32 * 4;
    if length < 20 {
        return Err(Reason::Malformed);
    }
    if length > packet.payload { Err(Reason::Truncated) } else { Ok(()) }
}

#[inline(always)]
fn udp(window: &Window, packet: &mut Packet) -> Result<(), Reason> {
    let header = transport(window, packet, 8)?;
    ports(packet, header);
    let length = header.u16::<4>() as u32;
    // A jumbo datagram has a length of 0.
    if length < 8 && !(length == 0 && packet.payload > 0xffff) {
        return Err(Reason::Malformed);
    }
    if packet.fragment.of == Part::Whole && length > packet.payload { Err(Reason::Truncated) } else { Ok(()) }
}

#[inline(always)]
fn icmp(
    window: &Window,
    packet: &mut Packet,
    request: u8,
    reply: u8,
    is_error: impl Fn(u8) -> bool,
) -> Result<(), Reason> {
    let header = transport(window, packet, 8)?;
    let kind = header.u8::<0>();
    packet.icmp_type = kind;
    packet.shape = if kind == request || kind == reply {
        packet.flow.set_ports(header.u16_be::<4>(), header.u16_be::<4>());
        if kind == request { Shape::EchoRequest } else { Shape::EchoReply }
    } else if is_error(kind) {
        Shape::IcmpError
    } else {
        Shape::IcmpOther
    };
    Ok(())
}
