//! The TCP sessions that somebody holds to this host.
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use weir_plan::Session;

use crate::netlink::{self, SocketState};

/// As the kernel lists them by sock_diag; where it has no such module, from `/proc/net`, which takes twenty times as
/// long. What neither gives is as if it were empty: a kernel without IPv6 has no second file.
pub fn sessions() -> Vec<Session> {
    select(&netlink::sockets().unwrap_or_else(|error| {
        tracing::debug!(%error, "sock_diag lists no sockets");
        let text = |name| std::fs::read_to_string(name).unwrap_or_default();
        let texts = [text("/proc/net/tcp"), text("/proc/net/tcp6")];
        texts.iter().flat_map(|text| text.lines()).filter_map(socket).collect()
    }))
}

/// Established, and to a port that this host listens on.
fn select(sockets: &[(SocketState, SocketAddr, SocketAddr)]) -> Vec<Session> {
    let listening: BTreeSet<u16> = sockets
        .iter()
        .filter(|(state, ..)| *state == SocketState::Listening)
        .map(|(_, local, _)| local.port())
        .collect();
    let mut sessions: Vec<_> = sockets
        .iter()
        .filter(|(state, local, remote)| {
            *state == SocketState::Established
                && listening.contains(&local.port())
                && !local.ip().is_loopback()
                && local.ip() != remote.ip()
        })
        .map(|(_, local, remote)| Session { local: *local, remote: *remote })
        .collect();
    sessions.sort_unstable();
    sessions.dedup();
    sessions
}

/// A line of `/proc/net/tcp`: `sl local_address rem_address st …`
fn socket(line: &str) -> Option<(SocketState, SocketAddr, SocketAddr)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (address(words.next()?)?, address(words.next()?)?);
    let state = SocketState::of(u8::from_str_radix(words.next()?, 16).ok()?)?;
    Some((state, local, remote))
}

/// Words of 32 bits in the machine's byte order, then the port as a plain number.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| -> Option<[u8; 4]> {
        Some(u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes())
    };
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut octets = [0; 16];
            for (at, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?).into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 010200C0:0016 076433C6:C350 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 010200C0:9C40 076433C6:01BB 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 20 4 30 10 -1
   3: 0100007F:0016 0100007F:C351 01 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1
   4: 010200C0:0016 086433C6:C352 06 00000000:00000000 00:00000000 00000000     0        0 5 1 0 20 4 30 10 -1
   5: garbage
";
    const TCP6: &str = "\
   0: B80D0120000000000000000001000000:0016 B80D0120000000000000000002000000:C353 01 0:0 00:0 0 0 0 6
   1: 0000000000000000FFFF0000010200C0:0016 0000000000000000FFFF0000096433C6:C354 01 0:0 00:0 0 0 0 7
";

    #[test]
    fn sessions_to_listening_ports_of_both_families() {
        let sockets: Vec<_> = TCP.lines().chain(TCP6.lines()).filter_map(socket).collect();
        let texts: Vec<String> = select(&sockets).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "198.51.100.7:50000 -> 192.0.2.1:22",
                "198.51.100.9:50004 -> 192.0.2.1:22",
                "[2001:db8::2]:50003 -> [2001:db8::1]:22",
            ]
        );
        assert!(select(&[]).is_empty());
    }

    /// The two ways tell the same of sockets of both families, and of IPv4 on a socket of IPv6. A session over the
    /// loopback is listed, and is none of ours.
    #[test]
    fn sock_diag_and_proc_agree() {
        let listeners = ["127.0.0.1:0", "[::1]:0", "[::]:0"].map(|address| TcpListener::bind(address).unwrap());
        let ports = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
        let addresses: [SocketAddr; 3] = [
            (Ipv4Addr::LOCALHOST, ports[0]).into(),
            (Ipv6Addr::LOCALHOST, ports[1]).into(),
            (Ipv4Addr::LOCALHOST, ports[2]).into(),
        ];
        let streams = addresses.map(|address| TcpStream::connect(address).unwrap());
        let ours = |list: Vec<(SocketState, SocketAddr, SocketAddr)>| {
            let ours = |(_, local, remote): &(_, SocketAddr, SocketAddr)| {
                ports.contains(&local.port()) || ports.contains(&remote.port())
            };
            list.into_iter().filter(ours).collect::<BTreeSet<_>>()
        };
        let texts = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap());
        let listed = ours(netlink::sockets().unwrap());
        assert_eq!(listed, ours(texts.iter().flat_map(|text| text.lines()).filter_map(socket).collect()));
        for stream in &streams {
            let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            assert!(listed.contains(&(SocketState::Established, remote, local)), "{listed:?}");
        }
        assert!(sessions().iter().all(|session| !ports.contains(&session.local.port())));
    }
}
