//! Traffic that can be accounted for: every datagram has a number.
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::{Node, eventually};

/// Not a number: asks whether the way is open.
pub(super) const HELLO: u64 = u64::MAX;

/// Numbered datagrams from one namespace to another, until [`Stream::finish`].
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Vec<u64>>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
}

/// What became of the numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub sent: u64,
    pub received: u64,
    /// Sent, and never seen.
    pub lost: Vec<u64>,
    /// Seen more than once.
    pub doubled: u64,
}

/// From where to where.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    pub from: &'a str,
    pub to: &'a str,
    pub address: &'a str,
    pub port: u16,
}

impl Stream {
    /// Begins to send, one datagram every `pause`. With `open`, only once a first one has arrived: neighbours must be
    /// resolved before anything counts.
    pub fn start(node: &Node, way: Way<'_>, pause: Duration, open: bool) -> Self {
        let peer = SocketAddr::new(way.address.parse().expect("an address"), way.port);
        let stop = Arc::new(AtomicBool::new(false));
        let ready = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let received = Arc::new(AtomicU64::new(0));

        let bound = Arc::new(AtomicBool::new(false));
        let receiver = node.inside(way.to, {
            let (stop, ready, received, bound) = (stop.clone(), ready.clone(), received.clone(), bound.clone());
            move || receive(peer, &stop, &ready, &received, &bound)
        });
        wait_for(&bound, &receiver);
        let sender = node.inside(way.from, {
            let (stop, ready, sent) = (stop.clone(), ready.clone(), sent.clone());
            move || send(any(peer.ip(), 0), peer, pause, open, &stop, &ready, &sent)
        });
        if open {
            wait_for(&ready, &sender);
        }
        Self { stop, sender, receiver, sent, received }
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Stops sending, waits for what is under way, and accounts.
    pub fn finish(self) -> Account {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender does not panic");
        Account::of(sent, self.receiver.join().expect("the receiver does not panic"))
    }
}

impl Account {
    /// Of the numbers below `sent`, those that came.
    pub(super) fn of(sent: u64, mut numbers: Vec<u64>) -> Self {
        let received = numbers.len() as u64;
        numbers.sort_unstable();
        numbers.dedup();
        let doubled = received - numbers.len() as u64;
        let mut seen = numbers.into_iter().peekable();
        let lost = (0..sent).filter(|number| seen.next_if_eq(number).is_none()).collect();
        Self { sent, received, lost, doubled }
    }
}

/// Every address of the same family.
pub(super) fn any(like: IpAddr, port: u16) -> SocketAddr {
    let any: IpAddr = if like.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    SocketAddr::new(any, port)
}

fn wait_for<T>(flag: &AtomicBool, thread: &JoinHandle<T>) {
    let start = Instant::now();
    while !flag.load(Ordering::Acquire) {
        assert!(!thread.is_finished(), "the traffic ended before it began");
        assert!(start.elapsed() < Duration::from_secs(60), "no datagram arrived within a minute");
        thread::sleep(Duration::from_millis(1));
    }
}

fn send(
    own: SocketAddr,
    peer: SocketAddr,
    pause: Duration,
    open: bool,
    stop: &AtomicBool,
    ready: &AtomicBool,
    sent: &AtomicU64,
) -> u64 {
    let socket = bind(own);
    while open && !ready.load(Ordering::Acquire) && !stop.load(Ordering::Relaxed) {
        // Refused or queued: asked again.
        let _ = socket.send_to(&HELLO.to_be_bytes(), peer);
        thread::sleep(Duration::from_millis(20));
    }
    let start = Instant::now();
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        // Where a program drops on the way out, the kernel may say so; the receiver is who counts.
        let _ = socket.send_to(&number.to_be_bytes(), peer);
        number += 1;
        sent.store(number, Ordering::Relaxed);
        // On time again after being kept waiting, but never in a burst that would overflow a queue.
        let due = pause.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
        thread::sleep(due.saturating_sub(start.elapsed()).max(pause / 4));
    }
    number
}

fn receive(
    own: SocketAddr,
    stop: &AtomicBool,
    ready: &AtomicBool,
    received: &AtomicU64,
    bound: &AtomicBool,
) -> Vec<u64> {
    let socket = bind(own);
    setsockopt(&socket, RcvBufForce, &(32 << 20)).expect("root may have a large buffer");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    bound.store(true, Ordering::Release);
    let mut numbers = Vec::new();
    let mut buffer = [0; 64];
    loop {
        match socket.recv(&mut buffer) {
            Ok(8) => match u64::from_be_bytes(buffer[..8].try_into().expect("eight bytes")) {
                HELLO => ready.store(true, Ordering::Release),
                number => {
                    numbers.push(number);
                    received.store(numbers.len() as u64, Ordering::Relaxed);
                }
            },
            Ok(_) => {}
            Err(_) if stop.load(Ordering::Relaxed) => return numbers,
            Err(_) => {}
        }
    }
}

/// A server's socket. A program that another test starts at this moment holds a copy of each of our descriptors until it
/// has begun, and with it the port that was ours a moment ago.
pub(super) fn bind(own: SocketAddr) -> UdpSocket {
    eventually("the port is free", || match UdpSocket::bind(own) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => None,
        // A service's address, of which only its backends are told by the node.
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
            UdpSocket::bind(any(own.ip(), own.port())).ok()
        }
        outcome => Some(outcome.expect("a socket")),
    })
}

/// Whether a datagram to `way` is answered by an echo there, within some tries. The server lives for this question only.
pub fn reaches(node: &Node, way: Way<'_>) -> bool {
    let peer = SocketAddr::new(way.address.parse().expect("an address"), way.port);
    let stop = Arc::new(AtomicBool::new(false));
    let server = node.inside(way.to, {
        let (stop, own) = (stop.clone(), any(peer.ip(), peer.port()));
        move || {
            let socket = bind(own);
            socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        }
    });
    let client = node.inside(way.from, move || {
        let socket = UdpSocket::bind(any(peer.ip(), 0)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(250))).expect("a timeout");
        (0..8).any(|_| {
            let _ = socket.send_to(b"hello", peer);
            socket.recv(&mut [0; 64]).is_ok()
        })
    });
    let answered = client.join().expect("the client does not panic");
    stop.store(true, Ordering::Relaxed);
    server.join().expect("the server does not panic");
    answered
}
