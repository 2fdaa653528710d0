//! Traffic over TCP: a server that swallows and one that answers, and the three things that a client does with them.
use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::measure::{BenchError, Doing, last_error};

/// Ports of the server.
pub(crate) const SINK: u16 = 5001;
pub(crate) const ECHO: u16 = 5002;

/// Of a write of a stream; and of a request and of its answer.
const WRITE: usize = 64 << 10;
const REQUEST: usize = 64;
/// Nothing that works takes as long.
static PATIENCE: libc::timeval = libc::timeval { tv_sec: 5, tv_usec: 0 };

/// Two threads, one connection after the other each; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    listeners: [Arc<TcpListener>; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// In the network namespace, and on the CPU, of the calling thread.
    pub(crate) fn start() -> Result<Self, BenchError> {
        let listen = |port| {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).doing("listening")?;
            // What is accepted inherits it.
            patient(listener.as_raw_fd()).doing("preparing a listener")?;
            Ok(Arc::new(listener))
        };
        let listeners = [listen(SINK)?, listen(ECHO)?];
        let mut threads = Vec::new();
        for (listener, serve) in listeners.iter().zip([swallow, answer]) {
            let listener = listener.clone();
            threads.push(thread::spawn(move || accept(&listener, serve)));
        }
        Ok(Self { listeners, threads })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for listener in &self.listeners {
            // SAFETY: takes a descriptor, which is held. Whoever waits for a connection wakes up.
            unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, serve: fn(TcpStream) -> io::Result<()>) {
    loop {
        match listener.accept() {
            // What is wrong with a connection is its client's affair.
            Ok((stream, _)) => drop(serve(stream)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
    }
}

/// Reads to the end, and says how much that was.
fn swallow(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 4 * WRITE];
    let mut total = 0u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(&total.to_ne_bytes()),
            read => total += read as u64,
        }
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; REQUEST];
    loop {
        match stream.read_exact(&mut buffer) {
            Ok(()) => stream.write_all(&buffer)?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Whatever waits on the socket waits for so long and no longer.
fn patient(socket: i32) -> io::Result<()> {
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        let (value, length) = ((&raw const PATIENCE).cast(), size_of::<libc::timeval>() as u32);
        // SAFETY: the kernel reads a timeval within its length.
        if unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, option, value, length) } != 0 {
            return Err(last_error());
        }
    }
    Ok(())
}

fn address(of: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: of.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(of.ip().octets()) },
        sin_zero: [0; 8],
    }
}

/// A connection from an address and port that the caller chooses.
fn connect(from: SocketAddrV4, to: SocketAddrV4) -> io::Result<TcpStream> {
    // SAFETY: takes no pointers; the descriptor is new, and nobody else's.
    let socket = unsafe {
        match libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) {
            -1 => return Err(last_error()),
            fd => OwnedFd::from_raw_fd(fd),
        }
    };
    patient(socket.as_raw_fd())?;
    let (from, to) = (address(from), address(to));
    let length = size_of::<libc::sockaddr_in>() as u32;
    // SAFETY: the kernel reads an address within its length.
    let done = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const from).cast(), length) == 0
            && libc::connect(socket.as_raw_fd(), (&raw const to).cast(), length) == 0
    };
    if done { Ok(TcpStream::from(socket)) } else { Err(last_error()) }
}

/// Ports of a client, one after the other: none comes again before everybody has forgotten it.
#[derive(Debug)]
pub(crate) struct Ports {
    addresses: Vec<Ipv4Addr>,
    next: usize,
}

impl Ports {
    const FIRST: usize = 2000;
    const EACH: usize = 60_000;

    pub(crate) const fn new(addresses: Vec<Ipv4Addr>) -> Self {
        Self { addresses, next: 0 }
    }

    fn take(&mut self) -> SocketAddrV4 {
        let at = self.next;
        self.next += 1;
        let address = self.addresses[at / Self::EACH % self.addresses.len()];
        SocketAddrV4::new(address, (Self::FIRST + at % Self::EACH) as u16)
    }
}

/// Gbit/s in writes of 64 KiB.
pub(crate) fn stream(ports: &mut Ports, to: SocketAddrV4, time: Duration) -> Result<f64, BenchError> {
    let run = |ports: &mut Ports| {
        let buffer = vec![0x5a; WRITE];
        let mut stream = connect(ports.take(), to)?;
        let begin = Instant::now();
        while begin.elapsed() < time {
            stream.write_all(&buffer)?;
        }
        stream.shutdown(Shutdown::Write)?;
        let mut total = [0; 8];
        stream.read_exact(&mut total)?;
        Ok::<_, io::Error>(u64::from_ne_bytes(total) as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e9)
    };
    run(ports).doing(format!("a stream to {to}"))
}

/// Requests that were answered a second, one after the other on one connection.
pub(crate) fn requests(ports: &mut Ports, to: SocketAddrV4, time: Duration) -> Result<f64, BenchError> {
    let run = |ports: &mut Ports| {
        let mut buffer = [0x5a; REQUEST];
        let mut stream = connect(ports.take(), to)?;
        let (begin, mut count) = (Instant::now(), 0u32);
        while begin.elapsed() < time {
            stream.write_all(&buffer)?;
            stream.read_exact(&mut buffer)?;
            count += 1;
        }
        Ok::<_, io::Error>(f64::from(count) / begin.elapsed().as_secs_f64())
    };
    run(ports).doing(format!("requests to {to}"))
}

/// Connections a second: each is made, has one request answered, and is closed by the client.
pub(crate) fn connections(
    ports: &mut Ports,
    mut to: impl FnMut() -> SocketAddrV4,
    time: Duration,
) -> Result<f64, BenchError> {
    let mut buffer = [0x5a; REQUEST];
    let (begin, mut count) = (Instant::now(), 0u32);
    while begin.elapsed() < time {
        let to = to();
        let mut run = || {
            let mut stream = connect(ports.take(), to)?;
            stream.write_all(&buffer)?;
            stream.read_exact(&mut buffer)
        };
        run().doing(format!("connection {count} to {to}"))?;
        count += 1;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}
