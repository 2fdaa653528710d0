//! A packet whose last hop the node would be (scenario 23): whoever sent it is told, and nobody else gets it.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use weir_tests::node::{
    CLIENT, Node, WEB,
    datagram::{EXTERNAL, VIP, client, server, set, write_service},
    eventually,
};

fn set_hops(socket: &UdpSocket, hops: i32) {
    match socket.peer_addr().unwrap() {
        SocketAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_TTL, hops),
        SocketAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, hops),
    }
}

/// From `from` to what a server in `to` answers for at `port`: with two hops it arrives, with one it does not, in a flow
/// that is known and in a new one; and the client's socket, which knows only whom it spoke to, is told that the time was
/// exceeded.
fn one_hop_is_too_few(node: &Node, from: &str, to: &str, address: &str, port: u16) {
    let peer = SocketAddr::new(address.parse().unwrap(), port);
    let listens = if port == 80 { 8080 } else { port };
    let server = server(node, to, listens);
    let got = || {
        let mut buffer = [0; 16];
        let (length, from) = server.recv_from(&mut buffer).ok()?;
        Some((buffer[..length].to_vec(), from))
    };
    let known = client(node, from, peer);
    set_hops(&known, 2);
    for _ in 0..4 {
        eventually("two hops are enough", || {
            let _ = known.send(b"far");
            let (message, from) = got()?;
            server.send_to(&message, from).unwrap();
            known.recv(&mut [0; 16]).ok()
        });
    }
    while got().is_some() {}
    for socket in [known, client(node, from, peer)] {
        set_hops(&socket, 1);
        let error = eventually("the client is told", || {
            let sent = socket.send(b"near");
            // An error may be told by either call; an answer may have been late.
            let told = |error: &io::Error| error.kind() != io::ErrorKind::WouldBlock;
            sent.err().or_else(|| socket.recv(&mut [0; 16]).err().filter(told))
        });
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{from} to {peer}: {error}");
        assert_eq!(got(), None, "{from} to {peer}: it went on");
    }
}

fn with_last_hops(test: fn(&Node, usize)) {
    for family in [0, 1] {
        Node::run(move |node| {
            write_service(node);
            node.apply();
            test(node, family);
        });
    }
}

#[test]
fn scenario_23_a_last_hop_is_answered_directly_v4_and_v6() {
    with_last_hops(|node, family| {
        one_hop_is_too_few(node, "db", "web", WEB[family], 7001);
        one_hop_is_too_few(node, "client", "web", WEB[family], 7002);
    });
}

#[test]
fn scenario_23_a_last_hop_to_a_service_is_answered_v4_and_v6() {
    with_last_hops(|node, family| {
        one_hop_is_too_few(node, "db", "web", VIP[family], 80);
        one_hop_is_too_few(node, "client", "web", EXTERNAL[family], 80);
    });
}

#[test]
fn scenario_23_a_last_hop_toward_the_outside_is_answered_v4_and_v6() {
    with_last_hops(|node, family| one_hop_is_too_few(node, "db", "client", CLIENT[family], 7003));
}
