//! The TCP sessions that somebody holds to this host, as the kernel lists them.
use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// An established TCP session to a port that this host listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.remote, self.local)
    }
}

/// Reads `net/tcp` and `net/tcp6` below `proc`. What cannot be read is as if it were empty: a kernel without IPv6 has
/// no second file.
pub fn sessions(proc: &Path) -> Vec<Session> {
    let text = |name| std::fs::read_to_string(proc.join("net").join(name)).unwrap_or_default();
    parse(&text("tcp"), &text("tcp6"))
}

/// The sessions, for whoever asks for them. The kernel goes through every bucket of its tables for each reading, which
/// takes longer than compiling a change: it is done beside other work, and for what follows soon after not again.
#[derive(Debug)]
pub(crate) struct Sessions {
    proc: PathBuf,
    reading: Option<(Instant, JoinHandle<Vec<Session>>)>,
    read: Option<(Instant, Vec<Session>)>,
}

/// A session that is younger than this may be overlooked.
const FRESH: Duration = Duration::from_secs(2);

impl Sessions {
    pub const fn new(proc: PathBuf) -> Self {
        Self { proc, reading: None, read: None }
    }

    /// Begins to read, unless that was done a moment ago.
    pub fn foresee(&mut self) {
        let fresh = |at: &Instant| at.elapsed() < FRESH / 2;
        let soon = self.reading.iter().map(|(at, _)| at).chain(self.read.iter().map(|(at, _)| at)).any(fresh);
        if soon {
            return;
        }
        let path = self.proc.clone();
        let thread = thread::Builder::new().name("weir-sessions".to_owned()).spawn(move || sessions(&path));
        // Without a thread they are read when they are asked for.
        self.reading = thread.ok().map(|thread| (Instant::now(), thread));
    }

    pub fn get(&mut self) -> &[Session] {
        if let Some((at, reading)) = self.reading.take_if(|(at, reading)| {
            // What was read before is good enough while the next reading is under way.
            let known = self.read.as_ref().is_some_and(|(at, _)| at.elapsed() < FRESH);
            reading.is_finished() || !known || at.elapsed() > FRESH
        }) {
            self.read = reading.join().ok().map(|sessions| (at, sessions));
        }
        if self.read.as_ref().is_none_or(|(at, _)| at.elapsed() >= FRESH) {
            self.read = Some((Instant::now(), sessions(&self.proc)));
        }
        self.read.as_ref().map_or(&[], |(_, sessions)| sessions)
    }
}

const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";

fn parse(tcp: &str, tcp6: &str) -> Vec<Session> {
    let sockets = || tcp.lines().chain(tcp6.lines()).filter_map(socket);
    let listening: BTreeSet<u16> =
        sockets().filter(|(_, _, state)| *state == LISTEN).map(|(local, ..)| local.port()).collect();
    let mut sessions: Vec<_> = sockets()
        .filter(|(local, remote, state)| {
            *state == ESTABLISHED
                && listening.contains(&local.port())
                && !local.ip().is_loopback()
                && local.ip() != remote.ip()
        })
        .map(|(local, remote, _)| Session { local, remote })
        .collect();
    sessions.sort_unstable();
    sessions.dedup();
    sessions
}

/// `sl local_address rem_address st …`
fn socket(line: &str) -> Option<(SocketAddr, SocketAddr, &str)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    Some((address(words.next()?)?, address(words.next()?)?, words.next()?))
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
        let texts: Vec<String> = parse(TCP, TCP6).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "198.51.100.7:50000 -> 192.0.2.1:22",
                "198.51.100.9:50004 -> 192.0.2.1:22",
                "[2001:db8::2]:50003 -> [2001:db8::1]:22",
            ]
        );
        assert!(parse("", "").is_empty());
    }

    /// Against the real file: a session over the loopback is listed by the kernel, and is none of ours.
    #[test]
    fn loopback_is_outside_policy() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let text = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let ours = stream.peer_addr().unwrap();
        assert!(text.lines().filter_map(socket).any(|(local, _, state)| local == ours && state == ESTABLISHED));
        assert!(sessions(Path::new("/proc")).iter().all(|session| session.local != ours));
    }
}
