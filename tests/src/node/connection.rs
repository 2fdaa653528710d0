//! A TCP connection whose two ends a test holds in its hands.
use std::{
    io::{BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    Node, eventually,
    traffic::{Way, any},
};

#[derive(Debug)]
pub struct Connection {
    client: TcpStream,
    server: TcpStream,
    messages: u64,
}

/// Long: a lost segment is to be seen as a retransmission, not as a timeout.
const PATIENCE: Duration = Duration::from_secs(30);

impl Connection {
    pub fn open(node: &Node, way: Way<'_>) -> Self {
        let peer = (way.address.to_owned(), way.port);
        let own = any(peer.0.parse().expect("an address"), way.port);
        let listen = node.inside(way.to, move || TcpListener::bind(own).expect("a socket to listen on"));
        let listener = listen.join().expect("the listener does not panic");
        // Neighbours are being resolved.
        let client = eventually("a connection is made", || {
            let peer = peer.clone();
            let dial = node.inside(way.from, move || TcpStream::connect(peer).ok());
            dial.join().expect("the client does not panic")
        });
        let (server, _) = listener.accept().expect("the connection that was made");
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            end.set_nodelay(true).expect("an option of every TCP socket");
        }
        Self { client, server, messages: 0 }
    }

    /// A message from the server and one from the client: after a pause, the first packet is a reply's direction.
    pub fn exchange(&mut self) {
        for from_server in [true, false] {
            let (from, to) =
                if from_server { (&mut self.server, &mut self.client) } else { (&mut self.client, &mut self.server) };
            self.messages += 1;
            from.write_all(&self.messages.to_be_bytes()).expect("the connection stands");
            let mut bytes = [0; 8];
            to.read_exact(&mut bytes).unwrap_or_else(|error| panic!("message {}: {error}", self.messages));
            assert_eq!(u64::from_be_bytes(bytes), self.messages);
        }
    }

    /// Both ends send all the time, a kilobyte a millisecond, until [`Pump::finish`].
    pub fn pump(self) -> Pump {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, server) = (copy(&self.client), copy(&self.server));
        let ends = [(copy(&self.client), server), (copy(&self.server), client)].map(|(from, to)| {
            let stop = stop.clone();
            (thread::spawn(move || write_words(from, &stop)), thread::spawn(move || read_words(to)))
        });
        Pump { connection: self, stop, ends }
    }

    /// Segments of either end that were lost on the way: sent more than once, and not told by the other end to have come
    /// twice. A busy machine answers so late that a timer sends again what has arrived.
    pub fn lost(&self) -> u32 {
        let start = Instant::now();
        loop {
            let lost = [&self.client, &self.server].into_iter().map(lost).sum();
            // Its word that it came twice may be on the way.
            if lost == 0 || start.elapsed() > Duration::from_secs(2) {
                return lost;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub const fn messages(&self) -> u64 {
        self.messages
    }
}

/// A connection whose two ends send numbered words.
#[derive(Debug)]
pub struct Pump {
    connection: Connection,
    stop: Arc<AtomicBool>,
    /// Words written and words read, each way.
    ends: [(JoinHandle<u64>, JoinHandle<u64>); 2],
}

impl Pump {
    /// Waits until each end has read all that the other wrote, and says how many words that were.
    pub fn finish(self) -> (Connection, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let words = self.ends.map(|(writer, reader)| {
            let written = writer.join().expect("the writer does not panic");
            assert_eq!(reader.join().expect("the reader does not panic"), written);
            written
        });
        (self.connection, words.iter().sum())
    }
}

/// Not a number: what the writer ends with.
const END: u64 = u64::MAX;

fn write_words(mut from: TcpStream, stop: &AtomicBool) -> u64 {
    let mut next = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let words: Vec<u8> = (next..next + 128).flat_map(u64::to_be_bytes).collect();
        from.write_all(&words).expect("the connection stands");
        next += 128;
        thread::sleep(Duration::from_millis(1));
    }
    from.write_all(&END.to_be_bytes()).expect("the connection stands");
    next
}

fn read_words(to: TcpStream) -> u64 {
    let mut to = BufReader::new(to);
    let mut next = 0;
    loop {
        let mut word = [0; 8];
        to.read_exact(&mut word).unwrap_or_else(|error| panic!("word {next}: {error}"));
        match u64::from_be_bytes(word) {
            END => return next,
            word => assert_eq!(word, next),
        }
        next += 1;
    }
}

fn copy(end: &TcpStream) -> TcpStream {
    end.try_clone().expect("a descriptor")
}

fn lost(end: &TcpStream) -> u32 {
    // `struct tcp_info` of <linux/tcp.h>, which only ever grows, in words: libc's has no DSACKs.
    const TOTAL_RETRANS: usize = 100 / 4;
    const DSACK_DUPS: usize = 216 / 4;
    let mut info = [0u32; 64];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`.
    let result = unsafe {
        libc::getsockopt(end.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    assert_eq!(result, 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    assert!(length as usize > DSACK_DUPS * 4, "a kernel since 4.19 tells of DSACKs");
    info[TOTAL_RETRANS].saturating_sub(info[DSACK_DUPS])
}
