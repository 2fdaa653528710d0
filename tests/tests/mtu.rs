//! A packet that the next device does not take: its sender is told how large it may be, whoever it thinks it speaks to,
//! and whichever way its flow goes.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use weir_tests::node::{
    CLIENT, Node, UPLINK, WEB,
    datagram::{EXTERNAL, VIP, client, get, server, set, write_service},
    eventually, tool,
};

const MTU: i32 = 1300;
/// With any headers, between [`MTU`] and what the other devices take.
const TOO_LARGE: usize = 1350;

/// Options that the libc crate has not everywhere: `linux/in.h`, `linux/in6.h`.
const IP_MTU: i32 = 14;
const IPV6_MTU: i32 = 24;
const PMTUDISC_DO: i32 = 2;

fn never_fragment(socket: &UdpSocket) {
    match socket.peer_addr().unwrap() {
        SocketAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, PMTUDISC_DO),
        SocketAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, PMTUDISC_DO),
    }
}

fn path_mtu(socket: &UdpSocket) -> i32 {
    match socket.peer_addr().unwrap() {
        SocketAddr::V4(_) => get(socket, libc::IPPROTO_IP, IP_MTU),
        SocketAddr::V6(_) => get(socket, libc::IPPROTO_IPV6, IPV6_MTU),
    }
}

/// The device that leads to web takes less than the others; inside, it takes what they do.
fn narrow_web(node: &Node) {
    let route = tool("ip", &format!("route get {}", WEB[0])).stdout;
    let device = route.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap().to_owned();
    node.ip(&format!("link set {device} mtu {MTU}"));
}

/// From `from` to what a server in `to` answers for at `port`: what is too large does not arrive, in a flow that is
/// known and in a new one, and the socket, which knows only whom it spoke to, learns what would.
fn too_large_is_told(node: &Node, from: &str, to: &str, address: &str, port: u16) {
    let peer = SocketAddr::new(address.parse().unwrap(), port);
    let listens = if port == 80 { 8080 } else { port };
    let server = server(node, to, listens);
    let got = || server.recv_from(&mut [0; 2048]).ok();
    let exchange = |client: &UdpSocket, length: usize| {
        eventually("it fits", || {
            let _ = client.send(&vec![7; length]);
            let (arrived, who) = got()?;
            server.send_to(b"answer", who).unwrap();
            client.recv(&mut [0; 16]).ok().map(|_| assert_eq!(arrived, length))
        });
    };
    for is_known in [true, false] {
        // What was learned of the way before is forgotten.
        node.ip(&format!("-n {from} route flush cache"));
        node.ip(&format!("-n {from} -6 route flush cache"));
        let socket = client(node, from, peer);
        never_fragment(&socket);
        if is_known {
            (0..4).for_each(|_| exchange(&socket, 500));
        }
        while got().is_some() {}
        assert!(path_mtu(&socket) > MTU);
        let error = eventually("the client is told", || {
            let sent = socket.send(&[7; TOO_LARGE]);
            let told = |error: &io::Error| error.kind() != io::ErrorKind::WouldBlock;
            sent.err().or_else(|| socket.recv(&mut [0; 16]).err().filter(told))
        });
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{from} to {peer}: {error}");
        assert_eq!(path_mtu(&socket), MTU, "{from} to {peer}");
        assert_eq!(got(), None, "{from} to {peer}: it went on");
        exchange(&socket, 1200);
    }
}

fn with_little_room(test: fn(&Node, usize)) {
    for family in [0, 1] {
        Node::run(move |node| {
            write_service(node);
            node.apply();
            test(node, family);
        });
    }
}

#[test]
fn a_packet_too_large_for_an_endpoint_is_told_to_whoever_sent_it() {
    with_little_room(|node, family| {
        narrow_web(node);
        too_large_is_told(node, "db", "web", WEB[family], 7001);
        too_large_is_told(node, "client", "web", WEB[family], 7002);
    });
}

#[test]
fn a_packet_too_large_for_a_backend_is_told_by_the_frontend_s_name() {
    with_little_room(|node, family| {
        narrow_web(node);
        too_large_is_told(node, "db", "web", VIP[family], 80);
        too_large_is_told(node, "client", "web", EXTERNAL[family], 80);
    });
}

#[test]
fn a_packet_too_large_for_the_uplink_is_told_to_a_masqueraded_endpoint() {
    with_little_room(|node, family| {
        node.ip(&format!("link set {UPLINK} mtu {MTU}"));
        too_large_is_told(node, "db", "client", CLIENT[family], 7003);
    });
}

/// Where nobody forbids it, it arrives in pieces.
#[test]
fn a_packet_that_may_be_fragmented_is() {
    Node::run(|node| {
        write_service(node);
        node.apply();
        narrow_web(node);
        let server = server(node, "web", 8080);
        for (from, address) in [("db", VIP[0]), ("client", EXTERNAL[0]), ("db", VIP[0])] {
            let socket = client(node, from, SocketAddr::new(address.parse().unwrap(), 80));
            set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, 0);
            let length = eventually("it arrives", || {
                socket.send(&[7; TOO_LARGE]).unwrap();
                Some(server.recv_from(&mut [0; 2048]).ok()?.0)
            });
            assert_eq!(length, TOO_LARGE);
        }
    });
}

/// Large segments of a stream that goes by redirect: the sender finds out what fits, and everything arrives.
#[test]
fn a_stream_finds_its_way_s_size() {
    const LENGTH: usize = 2 << 20;
    Node::run(|node| {
        write_service(node);
        node.apply();
        narrow_web(node);
        for (family, from) in [(0, "db"), (1, "db"), (0, "client"), (1, "client")] {
            let peer = SocketAddr::new(WEB[family].parse().unwrap(), 7100 + family as u16);
            let listener = node.inside("web", move || TcpListener::bind(("::", peer.port())).unwrap()).join().unwrap();
            let reading = node.inside("web", move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                got
            });
            let data: Vec<u8> = (0..LENGTH as u32).map(|at| (at ^ (at >> 9)) as u8).collect();
            let sent = data.clone();
            let writing = node.inside(from, move || {
                let mut stream = TcpStream::connect_timeout(&peer, Duration::from_secs(20)).unwrap();
                stream.write_all(&sent).unwrap();
            });
            writing.join().unwrap();
            assert!(reading.join().unwrap() == data, "{from} to {peer}");
        }
    });
}
