//! A TCP connection whose two ends a test holds in its hands.
use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    time::Duration,
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

    /// Segments that either end sent more than once: what was lost on the way.
    pub fn retransmitted(&self) -> u32 {
        [&self.client, &self.server].iter().map(|end| total_retransmissions(end)).sum()
    }

    pub const fn messages(&self) -> u64 {
        self.messages
    }
}

fn total_retransmissions(end: &TcpStream) -> u32 {
    // SAFETY: a struct of plain integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`.
    let result = unsafe {
        libc::getsockopt(end.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    assert_eq!(result, 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    info.tcpi_total_retrans
}
