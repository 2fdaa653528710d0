//! Real traffic: small servers and clients, run by re-executing this program inside a network namespace.

use std::{
    fmt,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    str::FromStr,
    thread,
    time::Duration,
};

use crate::failure::Failure;

/// How long silence lasts before it counts as "no".
const PATIENCE: Duration = Duration::from_secs(2);
const HELLO: &[u8] = b"hello";

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Tcp(u16),
    Udp(u16),
    Ping,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "tcp/{port}"),
            Self::Udp(port) => write!(f, "udp/{port}"),
            Self::Ping => f.write_str("ping"),
        }
    }
}

impl FromStr for Service {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let port = |port: &str| port.parse().map_err(|_| Failure::Usage(format!("`{text}` is no service")));
        match text.split_once('/') {
            Some(("tcp", number)) => Ok(Self::Tcp(port(number)?)),
            Some(("udp", number)) => Ok(Self::Udp(port(number)?)),
            _ if text == "ping" => Ok(Self::Ping),
            _ => Err(Failure::Usage(format!("`{text}` is no service"))),
        }
    }
}

/// Answers on `services` until its standard input ends: when the demo goes, however it goes, its servers go.
pub fn serve(services: &[&str]) -> Result<(), Failure> {
    for service in services {
        let bound = |cause| Failure::Machine(format!("cannot listen on {service}: {cause}"));
        match service.parse()? {
            Service::Tcp(port) => {
                let listener = TcpListener::bind(("::", port)).map_err(bound)?;
                thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        thread::spawn(move || echo(stream));
                    }
                });
            }
            Service::Udp(port) => {
                let socket = UdpSocket::bind(("::", port)).map_err(bound)?;
                thread::spawn(move || {
                    let mut buffer = [0; 2048];
                    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                        // An answer that is refused is the prober's "no".
                        let _ = socket.send_to(&buffer[..length], peer);
                    }
                });
            }
            Service::Ping => {}
        }
    }
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
    Ok(())
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 2048];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Tries each of `targets` (`ADDRESS,SERVICE`), all at once, and prints `yes` or `no` for each, in order.
pub fn probe(targets: &[&str]) -> Result<(), Failure> {
    let mut clients = Vec::new();
    for target in targets {
        let usage = || Failure::Usage(format!("`{target}` is no ADDRESS,SERVICE"));
        let (address, service) = target.split_once(',').ok_or_else(usage)?;
        let address: IpAddr = address.parse().map_err(|_| usage())?;
        let service: Service = service.parse()?;
        clients.push(thread::spawn(move || reaches(address, service)));
    }
    for client in clients {
        println!("{}", if client.join().unwrap_or(false) { "yes" } else { "no" });
    }
    Ok(())
}

/// Whether bytes went there and came back.
fn reaches(address: IpAddr, service: Service) -> bool {
    match service {
        Service::Tcp(port) => tcp(SocketAddr::new(address, port)).unwrap_or(false),
        Service::Udp(port) => udp(SocketAddr::new(address, port)).unwrap_or(false),
        Service::Ping => Command::new("ping")
            .args(["-n", "-q", "-c", "1", "-W"])
            .arg(PATIENCE.as_secs().to_string())
            .arg(address.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success()),
    }
}

fn tcp(peer: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&peer, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(HELLO)?;
    let mut answer = [0; HELLO.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer == HELLO)
}

/// Asks three times: the first datagram may meet a neighbour that is not resolved yet.
fn udp(peer: SocketAddr) -> std::io::Result<bool> {
    let any: IpAddr = if peer.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    socket.set_read_timeout(Some(PATIENCE / 3))?;
    let mut answer = [0; HELLO.len()];
    for _ in 0..3 {
        socket.send(HELLO)?;
        if socket.recv(&mut answer).is_ok_and(|length| answer[..length] == *HELLO) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_reads_as_it_prints() {
        for service in [Service::Tcp(80), Service::Udp(53), Service::Ping] {
            assert_eq!(service.to_string().parse::<Service>().ok(), Some(service));
        }
        for text in ["", "tcp", "tcp/", "tcp/70000", "sctp/1", "ping/1"] {
            assert!(text.parse::<Service>().is_err(), "{text}");
        }
    }
}
