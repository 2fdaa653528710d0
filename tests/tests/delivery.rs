//! Packets between endpoints of the node go straight to their device; what that changes, and what it must not.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    fs,
    io::{IoSliceMut, Read as _, Write as _},
    net::{SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread::JoinHandle,
    time::Duration,
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use weir_tests::node::{DB, ENDPOINTS, Node, WEB, eventually, metrics::scrape};

const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes each way.
const LENGTH: usize = 4 << 20;

/// Answers one connection with what it sends.
fn echo(node: &Node, netns: &str, port: u16) -> JoinHandle<SocketAddr> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let serving = node.inside(netns, move || {
        let listener = TcpListener::bind(("::", port)).unwrap();
        ready.send(()).unwrap();
        let (mut connection, from) = listener.accept().unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match connection.read(&mut buffer).unwrap() {
                0 => return SocketAddr::new(from.ip().to_canonical(), from.port()),
                length => connection.write_all(&buffer[..length]).unwrap(),
            }
        }
    });
    is_ready.recv().unwrap();
    serving
}

/// Sends numbered bytes, and checks what comes back. What the client took for its own address.
fn exchange(node: &Node, netns: &str, to: SocketAddr, length: usize) -> SocketAddr {
    let asked = node.inside(netns, move || {
        let mut connection = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let own = connection.local_addr().unwrap();
        let mut writer = connection.try_clone().unwrap();
        let data: Vec<u8> = (0..length as u32).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
        let expected = data.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&data).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        connection.read_to_end(&mut got).unwrap();
        assert!(got == expected, "{} of {length} bytes", got.len());
        writing.join().unwrap();
        own
    });
    asked.join().unwrap()
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// What the host's ends of the endpoints' pairs have sent: what came to an endpoint by the stack.
fn sent_by_the_stack(node: &Node) -> u64 {
    let listing = node.inside("node", || {
        let devices = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let ours = devices.lines().filter(|line| line.trim_start().starts_with("wr"));
        ours.map(|line| line.split_whitespace().nth(10).unwrap().parse::<u64>().unwrap()).sum()
    });
    listing.join().unwrap()
}

/// Packets that passed at the hooks of who sends, and of who gets them.
fn forwarded(node: &Node) -> [f64; 2] {
    let metrics = scrape(node);
    ["ingress", "egress"].map(|way| metrics.get("weir_packets_total", &[("reason", "forwarded"), ("direction", way)]))
}

/// A datagram's hop limit, and where it came from.
fn receive(socket: &UdpSocket) -> (i32, SocketAddr) {
    let (mut buffer, mut control) = ([0; 64], nix::cmsg_space!(libc::c_int));
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty()).unwrap();
    let hops = message.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::Ipv4Ttl(hops) | ControlMessageOwned::Ipv6HopLimit(hops) => Some(hops),
        _ => None,
    });
    let from = message.address.unwrap();
    let v4 = from.as_sockaddr_in().map(|from| SocketAddr::from(SocketAddrV4::from(*from)));
    let v6 = from.as_sockaddr_in6().map(|from| SocketAddr::from(SocketAddrV6::from(*from)));
    (hops.unwrap(), v4.or(v6).unwrap())
}

fn endpoints(delivery: &str) -> String {
    ENDPOINTS.replace("spec:\n  limits:", &format!("spec:\n  localDelivery: {delivery}\n  limits:"))
}

#[test]
fn an_established_flow_between_endpoints_does_not_meet_the_stack() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        node.apply();
        for family in 0..2 {
            let server = echo(node, "db", 9000);
            let before = sent_by_the_stack(node);
            let own = exchange(node, "web", at(DB[family], 9000), LENGTH);
            assert_eq!(own.ip().to_string(), WEB[family]);
            assert_eq!(server.join().unwrap(), own);
            let by_stack = sent_by_the_stack(node) - before;
            assert!(by_stack < 50, "{by_stack} packets came by the stack");
        }
        // As it is asked for.
        node.write("endpoints.yaml", &endpoints("stack"));
        node.apply();
        for address in DB {
            let server = echo(node, "db", 9000);
            let before = sent_by_the_stack(node);
            exchange(node, "web", at(address, 9000), LENGTH);
            server.join().unwrap();
            let by_stack = sent_by_the_stack(node) - before;
            assert!(by_stack > 100, "only {by_stack} packets came by the stack");
        }
    });
}

#[test]
fn a_redirected_packet_is_counted_at_both_hooks_and_lives_one_hop_less() {
    const ROUNDS: usize = 32;
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        let agent = node.agent(&[]);
        eventually("it follows the source", || (agent.status()["commit"]["sequence"] == 1).then_some(()));
        for family in 0..2 {
            let (server, client) = (at(DB[family], 9001), at(WEB[family], 9002));
            let before = eventually("the agent listens", || Some(forwarded(node)));
            let bound = node.inside("db", move || {
                let socket = UdpSocket::bind(server).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                match server.is_ipv4() {
                    true => setsockopt(&socket, sockopt::Ipv4RecvTtl, &true).unwrap(),
                    false => setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true).unwrap(),
                }
                socket
            });
            let socket = bound.join().unwrap();
            let receiving = std::thread::spawn(move || {
                let answer = |_| {
                    let (hops, from) = receive(&socket);
                    socket.send_to(b"and back", from).unwrap();
                    hops
                };
                (0..ROUNDS).map(answer).collect::<Vec<_>>()
            });
            let sending = node.inside("web", move || {
                let socket = UdpSocket::bind(client).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut buffer = [0; 16];
                for _ in 0..ROUNDS {
                    socket.send_to(b"there", server).unwrap();
                    socket.recv(&mut buffer).unwrap();
                }
            });
            sending.join().unwrap();
            let hops = receiving.join().unwrap();
            assert!(hops.iter().all(|hops| *hops == 63), "{hops:?}");
            let after = forwarded(node);
            let both = 2.0 * ROUNDS as f64;
            for way in 0..2 {
                assert!(after[way] - before[way] >= both, "{before:?} {after:?}");
            }
        }
        agent.stop();
    });
}

/// A datagram that would not live on, or is larger than the next device takes, is the stack's to answer.
#[test]
fn scenario_23_what_must_not_be_forwarded_is_answered_by_the_stack() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        node.apply();
        for family in 0..2 {
            let (server, client) = (at(DB[family], 9003), at(WEB[family], 9004));
            let bound = node.inside("db", move || UdpSocket::bind(server).unwrap());
            let receiver = bound.join().unwrap();
            receiver.set_read_timeout(Some(PATIENCE)).unwrap();
            let sender = node.inside("web", move || {
                let socket = UdpSocket::bind(client).unwrap();
                socket.connect(server).unwrap();
                match server.is_ipv4() {
                    true => setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap(),
                    false => setsockopt(&socket, sockopt::Ipv6RecvErr, &true).unwrap(),
                }
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            });
            let sender = sender.join().unwrap();
            let mut buffer = [0; 2000];
            // The flow is known, and its packets are redirected.
            for _ in 0..3 {
                sender.send(b"there").unwrap();
                receiver.recv(&mut buffer).unwrap();
                receiver.send_to(b"back", client).unwrap();
                sender.recv(&mut buffer).unwrap();
            }
            let hops = |hops: i32| match server.is_ipv4() {
                true => setsockopt(&sender, sockopt::Ipv4Ttl, &hops).unwrap(),
                false => setsockopt(&sender, sockopt::Ipv6Ttl, &hops).unwrap(),
            };
            hops(1);
            sender.send(b"not to live on").unwrap();
            // An ICMP message says that its time was exceeded.
            let error = sender.recv(&mut buffer).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{error}");
            hops(2);
            sender.send(b"just so").unwrap();
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 7);
            hops(64);
        }
        // The way to `db` gets narrow: PMTU discovery tells the sender.
        let device = node.expect(0, &["get", "endpoints", "-o", "json"]).json();
        let devices = device["items"].as_array().unwrap();
        let of_db = devices.iter().find(|item| item["name"] == "db").unwrap();
        let interface = of_db["interface"].as_str().unwrap().to_owned();
        node.ip(&format!("link set {interface} mtu 1300"));
        for address in DB {
            let server = echo(node, "db", 9005);
            exchange(node, "web", at(address, 9005), LENGTH / 4);
            server.join().unwrap();
        }
    });
}
