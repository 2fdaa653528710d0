//! The node's address, lent: masquerade, and backends elsewhere (scenarios 13, 20 to 22).
use std::net::SocketAddr;

use weir_abi::{EndpointInfo, Reason, SourceRangeKey, frontend_flags, identity, settings_flags};
use weir_plan::{Service, address_of};
use weir_tests::{
    both_families,
    packet::{
        frame::{self, ACK, FIN, Network, RST, SYN, TCP, UDP},
        lab::{Hook, Lab},
        world::{Family, World, at, backend},
    },
};

const PORTS: std::ops::RangeInclusive<u16> = 61_000..=61_099;

fn masquerading() -> World {
    let mut world = World::new();
    world.settings(|settings| settings.flags |= settings_flags::MASQUERADE);
    world.lends(PORTS);
    world
}

/// A service with one backend, elsewhere, for clients outside.
fn balancing(family: Family) -> World {
    let mut world = World::new();
    world.lends(PORTS);
    let to = backend(at(family.elsewhere(), 8080), 1, 0);
    world.service(1, Service { slots: [1].into(), ..Service::default() }, &[(1, to)]);
    for protocol in [TCP, UDP] {
        world.frontend(at(family.vip(), 80), protocol, 1, frontend_flags::EXTERNAL);
    }
    world
}

/// The port that a packet left with, whose source must be the host's.
#[track_caller]
fn left_with(family: Family, frame: &[u8]) -> u16 {
    let (address, length, ports) = if family == Family::V4 { (26, 4, 34) } else { (22, 16, 54) };
    let octets = match family.host() {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    assert_eq!(&frame[address..address + length], octets, "the source");
    let port = u16::from_be_bytes([frame[ports], frame[ports + 1]]);
    assert!(PORTS.contains(&port), "{port}");
    port
}

type Build = fn(SocketAddr, SocketAddr, u8) -> Vec<u8>;

const BUILDS: [Build; 2] = [frame::tcp, |from, to, _| frame::udp(from, to)];

both_families! {
    fn scenario_21_what_an_endpoint_sends_outside_leaves_under_the_nodes_address(family) {
        let lab = Lab::new(&masquerading());
        let (client, server) = (at(family.web(), 1234), at(family.stranger(), 443));
        for build in BUILDS {
            let mut lent = None;
            for (there, back) in [(SYN, SYN | ACK), (ACK, ACK)] {
                lab.passes(Hook::FromWeb, &build(client, server, there));
                let sent = lab.through(Hook::ToNetwork, &build(client, server, there));
                let port = left_with(family, &sent);
                assert_eq!(*lent.get_or_insert(port), port, "one flow, one port");
                let node = at(family.host(), port);
                assert_eq!(sent, build(node, server, there));
                let answer = lab.through(Hook::FromNetwork, &build(server, node, back));
                assert_eq!(answer, build(server, client, back));
                lab.passes(Hook::ToWeb, &answer);
            }
        }
    }

    fn scenario_21_not_toward_exempt_networks_and_not_for_the_host(family) {
        let mut world = masquerading();
        let (network, length) = if family == Family::V4 { ("192.0.2.0", 24) } else { ("2001:db8:1::", 48) };
        world.settings(|settings| {
            if family == Family::V4 { settings.exempt_v4 = 1 << length } else { settings.exempt_v6[0] = 1 << length }
        });
        let length = if family == Family::V4 { 96 + length } else { length };
        let key = SourceRangeKey { service: 0, length, address: address_of(network.parse().unwrap()) };
        world.tables.source_ranges.insert(key, 1);
        let lab = Lab::new(&world);
        lab.passes(Hook::ToNetwork, &frame::tcp(at(family.web(), 1), at(family.colleague(), 443), SYN));
        lab.passes(Hook::ToNetwork, &frame::tcp(at(family.host(), 1), at(family.stranger(), 443), SYN));
        left_with(family, &lab.through(Hook::ToNetwork, &frame::tcp(at(family.web(), 1), at(family.stranger(), 443), SYN)));
    }

    fn a_host_that_an_endpoint_stands_for_is_not_masqueraded(family) {
        let mut world = masquerading();
        let host = EndpointInfo { endpoint: 9, identity: identity::HOST, incarnation: 1, ..EndpointInfo::default() };
        world.tables.endpoints.insert(family.host(), host);
        let lab = Lab::new(&world);
        lab.passes(Hook::ToNetwork, &frame::tcp(at(family.host(), 1), at(family.stranger(), 443), SYN));
    }

    fn scenario_21_ports_collide_within_bounds_and_then_run_out(family) {
        let mut world = masquerading();
        world.lends(61_000..=61_003);
        let lab = Lab::new(&world);
        let server = at(family.stranger(), 443);
        let send = |port| {
            lab.passes(Hook::FromWeb, &frame::tcp(at(family.web(), port), server, SYN));
            lab.send_through(Hook::ToNetwork, &frame::tcp(at(family.web(), port), server, SYN))
        };
        let mut ports: Vec<u16> = (1..=4).map(|port| left_with(family, &send(port).1)).collect();
        ports.sort_unstable();
        assert_eq!(ports, [61_000, 61_001, 61_002, 61_003]);
        assert_eq!(send(5).0.reason, Reason::NatExhausted);
        // To somebody else there are as many again.
        let other = frame::tcp(at(family.web(), 5), at(family.colleague(), 443), SYN);
        left_with(family, &lab.through(Hook::ToNetwork, &other));
        // A flow that has ended gives its port back.
        lab.passes(Hook::ToWeb, &frame::tcp(server, at(family.web(), 2), RST));
        left_with(family, &send(6).1);
        lab.sleep(3600);
        left_with(family, &send(7).1);
    }

    fn scenario_21_a_ping_comes_back_to_whoever_sent_it(family) {
        let lab = Lab::new(&masquerading());
        let (web, server) = (family.web(), family.stranger());
        lab.passes(Hook::FromWeb, &frame::echo(web, server, 7, true));
        let sent = lab.through(Hook::ToNetwork, &frame::echo(web, server, 7, true));
        let at_identifier = if family == Family::V4 { 38 } else { 58 };
        let identifier = u16::from_be_bytes([sent[at_identifier], sent[at_identifier + 1]]);
        assert_eq!(sent, frame::echo(family.host(), server, identifier, true));
        let answer = lab.through(Hook::FromNetwork, &frame::echo(server, family.host(), identifier, false));
        assert_eq!(answer, frame::echo(server, web, 7, false));
        lab.passes(Hook::ToWeb, &answer);
    }

    fn scenario_21_errors_find_who_sent_what_they_are_about(family) {
        let lab = Lab::new(&masquerading());
        let (client, server) = (at(family.web(), 1234), at(family.stranger(), 443));
        let router = family.colleague();
        for build in BUILDS {
            lab.passes(Hook::FromWeb, &build(client, server, SYN));
            let sent = lab.through(Hook::ToNetwork, &build(client, server, SYN));
            let node = at(family.host(), left_with(family, &sent));
            let error = lab.through(Hook::FromNetwork, &frame::unreachable(router, node.ip(), &sent));
            assert_eq!(error, frame::unreachable(router, client.ip(), &build(client, server, SYN)));
            lab.passes(Hook::ToWeb, &error);
            // And the other way: the endpoint's own error about an answer.
            let answer = lab.through(Hook::FromNetwork, &build(server, node, ACK));
            let error = frame::unreachable(client.ip(), server.ip(), &answer);
            let wanted = frame::unreachable(node.ip(), server.ip(), &build(server, node, ACK));
            assert_eq!(lab.through(Hook::ToNetwork, &error), wanted);
        }
    }

    fn scenario_22_fragments_leave_under_the_nodes_address(family) {
        let lab = Lab::new(&masquerading());
        let (client, server) = (at(family.web(), 1234), at(family.stranger(), 443));
        let parts = |from: SocketAddr, to: SocketAddr| {
            let network = Network::new(from.ip(), to.ip());
            let datagram = frame::udp_datagram(&network, (from.port(), to.port()), &[7; 56]);
            [
                network.fragment(99, 0, true).frame(UDP, &datagram[..32]),
                network.fragment(99, 32, true).frame(UDP, &datagram[32..48]),
                network.fragment(99, 48, false).frame(UDP, &datagram[48..]),
            ]
        };
        let sent = parts(client, server);
        let first = lab.through(Hook::ToNetwork, &sent[0]);
        let port = u16::from_be_bytes(if family == Family::V4 { [first[34], first[35]] } else { [first[62], first[63]] });
        let node = at(family.host(), port);
        let wanted = parts(node, server);
        assert_eq!(first, wanted[0]);
        for at in [2, 1] {
            assert_eq!(lab.through(Hook::ToNetwork, &sent[at]), wanted[at], "fragment {at}");
        }
        let (answer, wanted) = (parts(server, node), parts(server, client));
        for at in [0, 2, 1] {
            assert_eq!(lab.through(Hook::FromNetwork, &answer[at]), wanted[at], "fragment {at} of the answer");
        }
    }

    fn scenario_13_a_backend_elsewhere_answers_to_the_node(family) {
        let lab = Lab::new(&balancing(family));
        let (outside, vip, backend) =
            (at(family.stranger(), 5000), at(family.vip(), 80), at(family.elsewhere(), 8080));
        for build in BUILDS {
            for (there, back) in [(SYN, SYN | ACK), (ACK, ACK), (FIN | ACK, FIN | ACK)] {
                let sent = lab.through(Hook::FromNetwork, &build(outside, vip, there));
                assert_eq!(sent, build(outside, backend, there));
                let sent = lab.through(Hook::ToNetwork, &sent);
                let node = at(family.host(), left_with(family, &sent));
                assert_eq!(sent, build(node, backend, there));
                let answer = lab.through(Hook::FromNetwork, &build(backend, node, back));
                assert_eq!(answer, build(backend, outside, back));
                assert_eq!(lab.through(Hook::ToNetwork, &answer), build(vip, outside, back));
            }
        }
    }

    fn without_an_address_to_lend_a_backend_elsewhere_is_out_of_reach(family) {
        let mut world = balancing(family);
        world.interface("eth_test", |info| {
            (info.masquerade_v4, info.masquerade_v6) = Default::default();
        });
        let lab = Lab::new(&world);
        let sent = lab.through(Hook::FromNetwork, &frame::udp(at(family.stranger(), 5000), at(family.vip(), 80)));
        lab.drops(Hook::ToNetwork, &sent, Reason::NatExhausted);
    }
}
