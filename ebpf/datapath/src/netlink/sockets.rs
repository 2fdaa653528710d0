//! Sockets of this network namespace, by sock_diag.
//!
//! Shapes, constants and byte order are those of `linux/inet_diag.h` and `linux/sock_diag.h`. The crate that has them
//! needs another version of the netlink crates than everything else here, for two structures.
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use netlink_sys::{Socket, SocketAddr as Address, protocols::NETLINK_SOCK_DIAG};

/// The states that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketState {
    Established,
    Listening,
}

impl SocketState {
    /// By the kernel's number.
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Established),
            10 => Some(Self::Listening),
            _ => None,
        }
    }
}

/// The older request: both families by one walk through the kernel's tables, which is what it costs.
const TCPDIAG_GETSOCK: u16 = 18;
/// `1 << state`.
const STATES: u32 = 1 << 1 | 1 << 10;
const HEADER: usize = 16;
/// Family, lengths of addresses, extensions; the identity of a socket; states; a number that is echoed.
const REQUEST: usize = HEADER + 4 + 48 + 4 + 4;
const BUFFER: usize = 64 * 1024;

/// State, local and remote address of every TCP socket of this network namespace that is established or listens.
pub fn sockets() -> io::Result<Vec<(SocketState, SocketAddr, SocketAddr)>> {
    let mut request = [0; REQUEST - HEADER];
    // An identity that is empty is any, and the family only chooses the module.
    request[0] = libc::AF_INET as u8;
    request[REQUEST - HEADER - 8..REQUEST - HEADER - 4].copy_from_slice(&STATES.to_ne_bytes());
    let mut sockets = Vec::new();
    exchange(TCPDIAG_GETSOCK, libc::NLM_F_DUMP, &request, |body| sockets.extend(socket_of(body)))?;
    Ok(sockets)
}

/// The newer requests: one family and one protocol each.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// Ports, addresses, device and cookie.
const IDENTITY: usize = 48;

/// A socket that is connected to somebody, or on its way there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    pub cookie: u64,
    pub remote: SocketAddr,
    family: u8,
    protocol: u8,
    identity: [u8; IDENTITY],
}

impl Connected {
    fn of(body: &[u8], protocol: u8) -> Option<Self> {
        let identity = *body.get(4..)?.first_chunk::<IDENTITY>()?;
        Some(Self {
            cookie: u64::from_ne_bytes(*identity.last_chunk()?),
            remote: end(body, 24, 6)?,
            family: *body.first()?,
            protocol,
            identity,
        })
    }

    fn request(&self) -> [u8; 8 + IDENTITY] {
        let mut request = any(self.family, self.protocol);
        request[8..].copy_from_slice(&self.identity);
        request
    }
}

/// Every socket of a family and protocol, in every state.
fn any(family: u8, protocol: u8) -> [u8; 8 + IDENTITY] {
    let mut request = [0; 8 + IDENTITY];
    (request[0], request[1]) = (family, protocol);
    request[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    request
}

/// Every socket of TCP or UDP that has somebody at its other end.
pub fn connected(protocol: u8) -> io::Result<Vec<Connected>> {
    let mut sockets = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        exchange(SOCK_DIAG_BY_FAMILY, libc::NLM_F_DUMP, &any(family, protocol), |body| {
            sockets.extend(Connected::of(body, protocol).filter(|socket| socket.remote.port() != 0));
        })?;
    }
    Ok(sockets)
}

/// Ends a socket: whoever has it finds `ECONNABORTED`.
pub fn destroy(socket: &Connected) -> io::Result<()> {
    exchange(SOCK_DESTROY, libc::NLM_F_ACK, &socket.request(), |_| {})
}

/// Sends one request, and calls `each` with every message of the answer.
fn exchange(kind: u16, flags: i32, body: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&Address::new(0, 0))?;
    let mut request = vec![0; HEADER];
    request.extend(body);
    let length = request.len() as u32;
    request[0..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
    socket.send(&request, 0)?;

    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut rest = &buffer[..];
        while let Some(header) = rest.first_chunk::<HEADER>() {
            let [a, b, c, d, low, high, ..] = *header;
            let (length, kind) = (u32::from_ne_bytes([a, b, c, d]) as usize, u16::from_ne_bytes([low, high]));
            let body = rest.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => {
                    return match body.first_chunk().map_or(libc::EIO, |code| -i32::from_ne_bytes(*code)) {
                        0 => Ok(()),
                        code => Err(io::Error::from_raw_os_error(code)),
                    };
                }
                _ => each(body),
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

/// Family, state, timer, retransmissions, then ports and addresses, all in network byte order.
fn socket_of(body: &[u8]) -> Option<(SocketState, SocketAddr, SocketAddr)> {
    let [_, state, ..] = *body else { return None };
    Some((SocketState::of(state)?, end(body, 8, 4)?, end(body, 24, 6)?))
}

/// The address and port that stand at two places of a message.
fn end(body: &[u8], address: usize, port: usize) -> Option<SocketAddr> {
    let bytes = body.get(address..)?;
    let ip: IpAddr = match i32::from(*body.first()?) {
        libc::AF_INET => Ipv4Addr::from(*bytes.first_chunk::<4>()?).into(),
        // IPv4 on a socket of IPv6 is IPv4.
        _ => Ipv6Addr::from(*bytes.first_chunk::<16>()?).to_canonical(),
    };
    Some((ip, u16::from_be_bytes(*body.get(port..)?.first_chunk()?)).into())
}
