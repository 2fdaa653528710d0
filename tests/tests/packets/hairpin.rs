//! An endpoint that its own service sends back to itself (scenario 19): every packet goes back by the device that it
//! came from, and both ends see a flow of their own.
use std::net::SocketAddr;

use weir_abi::{LOOPBACK_V4, LOOPBACK_V6, Reason, backend_flags, service_flags};
use weir_plan::{Service, ip_of};
use weir_tests::{
    both_families,
    packet::{
        frame::{self, ACK, FIN, Network, SYN, TCP, UDP},
        lab::{Hook, Lab},
        world::{Family, WEB, Way, World, at, backend},
    },
};

fn client(family: Family) -> SocketAddr {
    at(family.web(), 40_000)
}

fn vip(family: Family) -> SocketAddr {
    at(family.vip(), 80)
}

/// The same endpoint, on the port that serves.
fn server(family: Family) -> SocketAddr {
    at(family.web(), 8080)
}

fn loopback(family: Family) -> SocketAddr {
    at(ip_of(if family == Family::V4 { &LOOPBACK_V4 } else { &LOOPBACK_V6 }), 40_000)
}

fn world(family: Family) -> World {
    let mut world = World::new();
    let service =
        Service { flags: service_flags::REJECT, slots: [1].into(), local_slots: [1].into(), ..Service::default() };
    world.service(1, service, &[(1, backend(server(family), 1, backend_flags::LOCAL))]);
    for protocol in [TCP, UDP] {
        world.frontend(vip(family), protocol, 1, 0);
    }
    world
}

/// As it comes back: the hardware addresses change places.
fn back(frame: &[u8]) -> Vec<u8> {
    [&frame[6..12], &frame[..6], &frame[12..]].concat()
}

#[track_caller]
fn goes_back(lab: &Lab, sent: &[u8], wanted: &[u8]) {
    let (outcome, out) = lab.send_through(Hook::FromWeb, sent);
    assert!(outcome.passed() && outcome.redirected, "{outcome:?}");
    assert_eq!(out, back(wanted));
}

both_families! {
    fn scenario_19_an_endpoint_reaches_its_own_service(family) {
        let lab = Lab::new(&world(family));
        let (client, vip, server, loopback) = (client(family), vip(family), server(family), loopback(family));
        for (there, answer) in [(SYN, SYN | ACK), (ACK, ACK), (FIN | ACK, FIN | ACK)] {
            goes_back(&lab, &frame::tcp(client, vip, there), &frame::tcp(loopback, server, there));
            goes_back(&lab, &frame::tcp(server, loopback, answer), &frame::tcp(vip, client, answer));
        }
        goes_back(&lab, &frame::udp(client, vip), &frame::udp(loopback, server));
        goes_back(&lab, &frame::udp(server, loopback), &frame::udp(vip, client));
    }

    fn scenario_19_the_flow_outlives_commits_and_needs_no_policy(family) {
        let mut world = world(family);
        let lab = Lab::new(&world);
        let (client, vip, server, loopback) = (client(family), vip(family), server(family), loopback(family));
        goes_back(&lab, &frame::tcp(client, vip, SYN), &frame::tcp(loopback, server, SYN));
        world.enforce(WEB, Way::Egress);
        world.enforce(WEB, Way::Ingress);
        lab.commit(&world);
        goes_back(&lab, &frame::tcp(server, loopback, SYN | ACK), &frame::tcp(vip, client, SYN | ACK));
        goes_back(&lab, &frame::tcp(client, vip, ACK), &frame::tcp(loopback, server, ACK));
        // Longer than an unanswered connection lives, and with packets of one direction only.
        for _ in 0..10 {
            lab.sleep(1000);
            goes_back(&lab, &frame::tcp(client, vip, ACK), &frame::tcp(loopback, server, ACK));
        }
        goes_back(&lab, &frame::tcp(server, loopback, ACK), &frame::tcp(vip, client, ACK));
    }

    fn scenario_19_nobody_else_is_reached_by_the_loopback_address(family) {
        let lab = Lab::new(&world(family));
        let (client, vip, server, loopback) = (client(family), vip(family), server(family), loopback(family));
        lab.drops(Hook::FromWeb, &frame::udp(server, loopback), Reason::NoService);
        goes_back(&lab, &frame::udp(client, vip), &frame::udp(loopback, server));
        lab.drops(Hook::FromWeb, &frame::udp(server, at(loopback.ip(), 7)), Reason::NoService);
        lab.drops(Hook::FromDb, &frame::udp(at(family.db(), 8080), loopback), Reason::NoService);
        lab.drops(Hook::FromWeb, &frame::echo(server.ip(), loopback.ip(), 9, true), Reason::NoService);
    }

    fn scenario_19_errors_find_both_ends(family) {
        let lab = Lab::new(&world(family));
        let (client, vip, server, loopback) = (client(family), vip(family), server(family), loopback(family));
        for build in [frame::udp, |from, to| frame::tcp(from, to, SYN)] {
            goes_back(&lab, &build(client, vip), &build(loopback, server));
            // The server's stack: nobody listens.
            let error = frame::unreachable(server.ip(), loopback.ip(), &build(loopback, server));
            let wanted = frame::unreachable(vip.ip(), client.ip(), &build(client, vip));
            goes_back(&lab, &error, &wanted);
        }
        // The client's stack, about an answer.
        goes_back(&lab, &frame::udp(server, loopback), &frame::udp(vip, client));
        let error = frame::unreachable(client.ip(), vip.ip(), &frame::udp(vip, client));
        let wanted = frame::unreachable(loopback.ip(), server.ip(), &frame::udp(server, loopback));
        goes_back(&lab, &error, &wanted);
    }

    fn scenario_19_fragments_go_back_too(family) {
        let lab = Lab::new(&world(family));
        let (client, vip, server, loopback) = (client(family), vip(family), server(family), loopback(family));
        let data = [7; 64];
        let pieces = |from: SocketAddr, to: SocketAddr| {
            // The checksum in the first piece covers all of the datagram.
            let payload = frame::udp_datagram(&Network::new(from.ip(), to.ip()), (from.port(), to.port()), &data);
            let network = Network::new(from.ip(), to.ip());
            let piece = |at: usize, end: usize| network.fragment(5, at as u16, end < payload.len()).frame(UDP, &payload[at..end]);
            [piece(0, 40), piece(40, payload.len())]
        };
        for (sent, wanted) in pieces(client, vip).iter().zip(&pieces(loopback, server)) {
            goes_back(&lab, sent, wanted);
        }
        for (sent, wanted) in pieces(server, loopback).iter().zip(&pieces(vip, client)) {
            goes_back(&lab, sent, wanted);
        }
    }
}
