//! Numbered datagrams, each of which is answered with its number.
use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::{
    Node, eventually,
    traffic::{Account, HELLO, Way, any, bind},
};

/// 10,000 datagrams a second and as many answers, until [`Dialogue::finish`].
#[derive(Debug)]
pub struct Dialogue {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    client: JoinHandle<u64>,
    server: JoinHandle<Vec<u64>>,
    answers: JoinHandle<Vec<u64>>,
}

/// So many are sent in every millisecond.
const A_MILLISECOND: u64 = 10;
/// Nothing has come for so long: nothing is under way any more.
const SILENCE: Duration = Duration::from_secs(1);

impl Dialogue {
    /// Begins to count once a first datagram was answered.
    pub fn start(node: &Node, way: Way<'_>) -> Self {
        let peer = SocketAddr::new(way.address.parse().expect("an address"), way.port);
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let socket = |netns: &str, port| {
            let socket = node.inside(netns, move || bind(any(peer.ip(), port))).join().expect("a socket");
            setsockopt(&socket, RcvBufForce, &(32 << 20)).expect("root may have a large buffer");
            socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
            socket
        };
        let (server, client) = (socket(way.to, way.port), socket(way.from, 0));
        client.connect(peer).expect("a route");
        let answers = client.try_clone().expect("a descriptor");
        let server = {
            let stop = stop.clone();
            thread::spawn(move || numbers(&server, &stop, true))
        };
        eventually("a datagram is answered", || {
            // Refused: asked again.
            let _ = client.send(&HELLO.to_be_bytes());
            client.recv(&mut [0; 8]).is_ok().then_some(())
        });
        let answers = {
            let stop = stop.clone();
            thread::spawn(move || numbers(&answers, &stop, false))
        };
        let client = {
            let (stop, sent) = (stop.clone(), sent.clone());
            thread::spawn(move || send(&client, &stop, &sent))
        };
        Self { stop, sent, client, server, answers }
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops, waits for what is under way, and accounts for the way there and the way back.
    pub fn finish(self) -> [Account; 2] {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.client.join().expect("the sender does not panic");
        [self.server, self.answers].map(|end| Account::of(sent, end.join().expect("the receiver does not panic")))
    }
}

/// On time again after being kept waiting, but never so many at once that a queue of the kernel's could overflow.
fn send(socket: &UdpSocket, stop: &AtomicBool, sent: &AtomicU64) -> u64 {
    let start = Instant::now();
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let due = start.elapsed().as_millis() as u64 * A_MILLISECOND;
        for _ in 0..(due - due.min(number)).min(2 * A_MILLISECOND) {
            socket.send(&number.to_be_bytes()).unwrap_or_else(|error| panic!("datagram {number}: {error}"));
            number += 1;
        }
        sent.store(number, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(1));
    }
    number
}

fn numbers(socket: &UdpSocket, stop: &AtomicBool, answer: bool) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut last = Instant::now();
    let mut buffer = [0; 8];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((8, from)) => {
                if answer {
                    // What the node refuses is counted where it does not arrive.
                    let _ = socket.send_to(&buffer, from);
                }
                let number = u64::from_be_bytes(buffer);
                if number != HELLO {
                    numbers.push(number);
                }
                last = Instant::now();
            }
            Ok(_) => {}
            Err(_) if stop.load(Ordering::Relaxed) && last.elapsed() > SILENCE => return numbers,
            Err(_) => {}
        }
    }
}
