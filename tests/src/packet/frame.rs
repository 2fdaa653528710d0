//! Ethernet frames, byte by byte: right ones, and ones that a test then damages.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

pub const ETHERNET: usize = 14;

/// One's complement sum, folded and inverted.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// What a frame's network layer says beside addresses and payload.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub hop_limit: u8,
    pub identification: u16,
    /// Bytes, and whether more fragments follow.
    pub fragment: Option<(u16, bool)>,
}

impl Network {
    pub fn new(source: IpAddr, destination: IpAddr) -> Self {
        Self { source, destination, hop_limit: 64, identification: 7, fragment: None }
    }

    pub fn hop_limit(self, hop_limit: u8) -> Self {
        Self { hop_limit, ..self }
    }

    pub fn fragment(self, identification: u16, offset: u16, more: bool) -> Self {
        Self { identification, fragment: Some((offset, more)), ..self }
    }

    /// The frame with `payload` as what follows the network header.
    pub fn frame(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ethernet(0x0800, &self.v4(source, destination, protocol, payload, &[]))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => match self.fragment {
                None => ethernet(0x86dd, &v6(source, destination, self.hop_limit, protocol, payload)),
                Some((offset, more)) => {
                    let mut with = vec![protocol, 0];
                    with.extend((offset | u16::from(more)).to_be_bytes());
                    with.extend(u32::from(self.identification).to_be_bytes());
                    with.extend(payload);
                    ethernet(0x86dd, &v6(source, destination, self.hop_limit, 44, &with))
                }
            },
            _ => panic!("{} and {} are of two families", self.source, self.destination),
        }
    }

    /// IPv4 with options; their length must be a multiple of 4.
    pub fn frame_with_options(&self, protocol: u8, payload: &[u8], options: &[u8]) -> Vec<u8> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (self.source, self.destination) else {
            panic!("only IPv4 has options")
        };
        ethernet(0x0800, &self.v4(source, destination, protocol, payload, options))
    }

    /// IPv6 with extension headers, each `(number, body from the third byte on)`; padded to 8 bytes.
    pub fn frame_with_extensions(&self, extensions: &[(u8, &[u8])], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (self.source, self.destination) else {
            panic!("only IPv6 has extension headers")
        };
        let mut bytes = Vec::new();
        for (at, (number, body)) in extensions.iter().enumerate() {
            let next = extensions.get(at + 1).map_or(protocol, |next| next.0);
            let mut header = vec![next, 0];
            header.extend(*body);
            header.resize(header.len().next_multiple_of(8), 0);
            match number {
                // An authentication header counts in units of 4, less 2; a fragment header has no length.
                51 => header[1] = (header.len() / 4 - 2) as u8,
                44 => {}
                _ => header[1] = (header.len() / 8 - 1) as u8,
            }
            bytes.extend(header);
        }
        bytes.extend(payload);
        let first = extensions.first().map_or(protocol, |first| first.0);
        ethernet(0x86dd, &v6(source, destination, self.hop_limit, first, &bytes))
    }

    fn v4(&self, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8], options: &[u8]) -> Vec<u8> {
        let length = 20 + options.len();
        let (offset, more) = self.fragment.unwrap_or((0, false));
        let mut header = vec![0x40 | (length / 4) as u8, 0];
        header.extend(((length + payload.len()) as u16).to_be_bytes());
        header.extend(self.identification.to_be_bytes());
        header.extend(((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
        header.extend([self.hop_limit, protocol, 0, 0]);
        header.extend(source.octets());
        header.extend(destination.octets());
        header.extend(options);
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum);
        header.extend(payload);
        header
    }

    /// What a transport checksum covers beside the transport header and its payload.
    fn pseudo(&self, protocol: u8, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for address in [self.source, self.destination] {
            match address {
                IpAddr::V4(v4) => bytes.extend(v4.octets()),
                IpAddr::V6(v6) => bytes.extend(v6.octets()),
            }
        }
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend(u32::from(protocol).to_be_bytes());
        bytes
    }
}

fn v6(source: Ipv6Addr, destination: Ipv6Addr, hop_limit: u8, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend([next, hop_limit]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(payload);
    bytes
}

pub fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The same frame with VLAN tags, outermost first.
pub fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let mut result = frame[..12].to_vec();
    for (at, tag) in tags.iter().enumerate() {
        result.extend(tag.to_be_bytes());
        result.extend([0, 100 + at as u8]);
    }
    result.extend(&frame[12..]);
    result
}

pub fn tcp_segment(network: &Network, ports: (u16, u16), flags: u8, data: &[u8]) -> Vec<u8> {
    tcp_segment_at(network, ports, (1, 1), flags, 0xffff, data)
}

/// With sequence and acknowledgement numbers, and the window.
pub fn tcp_segment_at(
    network: &Network,
    ports: (u16, u16),
    numbers: (u32, u32),
    flags: u8,
    window: u16,
    data: &[u8],
) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(ports.0.to_be_bytes());
    segment.extend(ports.1.to_be_bytes());
    segment.extend(numbers.0.to_be_bytes());
    segment.extend(numbers.1.to_be_bytes());
    segment.extend([0x50, flags]);
    segment.extend(window.to_be_bytes());
    segment.extend([0, 0, 0, 0]);
    segment.extend(data);
    let sum = checksum(&[&network.pseudo(TCP, segment.len()), &segment]);
    segment[16..18].copy_from_slice(&sum);
    segment
}

pub fn udp_datagram(network: &Network, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(ports.0.to_be_bytes());
    datagram.extend(ports.1.to_be_bytes());
    datagram.extend(((8 + data.len()) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(data);
    let sum = checksum(&[&network.pseudo(UDP, datagram.len()), &datagram]);
    datagram[6..8].copy_from_slice(&sum);
    datagram
}

pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Vec<u8> {
    let network = Network::new(source.ip(), destination.ip());
    network.frame(TCP, &tcp_segment(&network, (source.port(), destination.port()), flags, b"payload"))
}

pub fn udp(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let network = Network::new(source.ip(), destination.ip());
    network.frame(UDP, &udp_datagram(&network, (source.port(), destination.port()), b"payload"))
}

pub fn sctp(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut bytes = source.port().to_be_bytes().to_vec();
    bytes.extend(destination.port().to_be_bytes());
    bytes.extend([0; 8]);
    Network::new(source.ip(), destination.ip()).frame(SCTP, &bytes)
}

/// A frame of TCP (a SYN), UDP or SCTP.
pub fn transport(protocol: u8, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    match protocol {
        TCP => tcp(source, destination, SYN),
        UDP => udp(source, destination),
        SCTP => sctp(source, destination),
        other => panic!("no ports in protocol {other}"),
    }
}

pub const fn icmp_protocol(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 1,
        IpAddr::V6(_) => 58,
    }
}

pub fn icmp_message(network: &Network, kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(data);
    let sum = if network.source.is_ipv4() {
        checksum(&[&message])
    } else {
        checksum(&[&network.pseudo(58, message.len()), &message])
    };
    message[2..4].copy_from_slice(&sum);
    message
}

pub fn icmp(network: &Network, kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    network.frame(icmp_protocol(network.source), &icmp_message(network, kind, code, rest, data))
}

pub fn echo(source: IpAddr, destination: IpAddr, identifier: u16, request: bool) -> Vec<u8> {
    let kind = match (source.is_ipv4(), request) {
        (true, true) => 8,
        (true, false) => 0,
        (false, true) => 128,
        (false, false) => 129,
    };
    let [high, low] = identifier.to_be_bytes();
    icmp(&Network::new(source, destination), kind, 0, [high, low, 0, 1], b"ping")
}

/// A packet as the node itself makes one: another's, with Ethernet's addresses the other way and, of IPv4, without
/// identification and not to be fragmented.
pub fn answered(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let (to, from) = frame.split_at_mut(6);
    to.swap_with_slice(&mut from[..6]);
    if frame[12..14] == [8, 0] {
        frame[18..22].copy_from_slice(&[0, 0, 0x40, 0]);
        frame[24..26].copy_from_slice(&[0, 0]);
        let sum = checksum(&[&frame[ETHERNET..ETHERNET + 20]]);
        frame[24..26].copy_from_slice(&sum);
    }
    frame
}

/// A packet as a router sends it on, from its own address to the next hop's.
pub fn routed(frame: &[u8], own: [u8; 6], next: [u8; 6]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..6].copy_from_slice(&next);
    frame[6..12].copy_from_slice(&own);
    if frame[12..14] == [8, 0] {
        frame[22] -= 1;
        frame[24..26].copy_from_slice(&[0, 0]);
        let sum = checksum(&[&frame[ETHERNET..ETHERNET + 20]]);
        frame[24..26].copy_from_slice(&sum);
    } else {
        frame[21] -= 1;
    }
    frame
}

/// "Port unreachable" about `frame`, of which it carries the network header and 64 bytes more.
pub fn unreachable(source: IpAddr, destination: IpAddr, about: &[u8]) -> Vec<u8> {
    let (kind, code) = if source.is_ipv4() { (3, 3) } else { (1, 4) };
    let inner = &about[ETHERNET..about.len().min(ETHERNET + 104)];
    icmp(&Network::new(source, destination), kind, code, [0; 4], inner)
}

pub fn arp_request(source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1];
    body.extend(source.octets());
    body.extend([0; 6]);
    body.extend(target.octets());
    ethernet(0x0806, &body)
}

/// ICMPv6 133 to 137 as a neighbour sends it.
pub fn neighbour(source: Ipv6Addr, target: Ipv6Addr, kind: u8) -> Vec<u8> {
    let network = Network::new(source.into(), target.into()).hop_limit(255);
    icmp(&network, kind, 0, [0; 4], &target.octets())
}
