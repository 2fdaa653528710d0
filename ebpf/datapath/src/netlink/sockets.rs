//! TCP sockets, by sock_diag.
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
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&Address::new(0, 0))?;
    let mut request = [0; REQUEST];
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    request[0..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&TCPDIAG_GETSOCK.to_ne_bytes());
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    // An identity that is empty is any, and the family only chooses the module.
    request[HEADER] = libc::AF_INET as u8;
    request[REQUEST - 8..REQUEST - 4].copy_from_slice(&STATES.to_ne_bytes());
    socket.send(&request, 0)?;

    let mut sockets = Vec::new();
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
                libc::NLMSG_DONE => return Ok(sockets),
                libc::NLMSG_ERROR => {
                    let code = body.first_chunk().map_or(libc::EIO, |code| -i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(code));
                }
                _ => sockets.extend(socket_of(body)),
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

/// Family, state, timer, retransmissions, then ports and addresses, all in network byte order.
fn socket_of(body: &[u8]) -> Option<(SocketState, SocketAddr, SocketAddr)> {
    let [family, state, ..] = *body else { return None };
    let state = SocketState::of(state)?;
    let port = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
    let ip = |at: usize| -> Option<IpAddr> {
        let bytes = body.get(at..)?;
        Some(match i32::from(family) {
            libc::AF_INET => Ipv4Addr::from(*bytes.first_chunk::<4>()?).into(),
            // IPv4 on a socket of IPv6 is IPv4.
            _ => Ipv6Addr::from(*bytes.first_chunk::<16>()?).to_canonical(),
        })
    };
    Some((state, (ip(8)?, port(4)?).into(), (ip(24)?, port(6)?).into()))
}
