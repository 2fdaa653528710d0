//! Services: which backend a packet goes to, and what it looks like then (scenarios 13 to 19 and 22).
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use weir_abi::{BackendInfo, Reason, SourceRangeKey, backend_flags, frontend_flags, service_flags};
use weir_plan::{Service, address_of};
use weir_tests::{
    both_families,
    node::rounds,
    packet::{
        frame::{self, ACK, FIN, Network, RST, SCTP, SYN, TCP, UDP},
        lab::{Hook, Lab},
        world::{DB, Family, Match, WEB, Way, World, at, backend},
    },
};

const VIP_PORT: u16 = 80;
const CLIENT_PORT: u16 = 40_000;

type Build = fn(SocketAddr, SocketAddr, u8) -> Vec<u8>;

const BUILDS: [Build; 2] = [frame::tcp, |from, to, _| frame::udp(from, to)];

fn vip(family: Family) -> SocketAddr {
    at(family.vip(), VIP_PORT)
}

fn client(family: Family) -> SocketAddr {
    at(family.web(), CLIENT_PORT)
}

/// Of this node.
fn here(family: Family) -> SocketAddr {
    at(family.db(), 8080)
}

fn elsewhere(family: Family) -> SocketAddr {
    at(family.elsewhere(), 8080)
}

fn slots(numbers: &[u32]) -> Service {
    Service { flags: service_flags::REJECT, slots: numbers.into(), local_slots: numbers.into(), ..Service::default() }
}

/// One service on TCP and UDP with these backends, numbered from 1, each in one slot.
fn serving(family: Family, backends: &[BackendInfo]) -> World {
    let mut world = World::new();
    let numbered: Vec<(u32, BackendInfo)> = (1..).zip(backends.iter().copied()).collect();
    let fresh = |info: &BackendInfo| info.flags & backend_flags::DRAINING == 0;
    let all: Vec<u32> = numbered.iter().filter(|(_, info)| fresh(info)).map(|(number, _)| *number).collect();
    let is_local = |info: &BackendInfo| fresh(info) && info.flags & backend_flags::LOCAL != 0;
    let local: Vec<u32> = numbered.iter().filter(|(_, info)| is_local(info)).map(|(number, _)| *number).collect();
    world.service(1, Service { local_slots: local.as_slice().into(), ..slots(&all) }, &numbered);
    for protocol in [TCP, UDP] {
        world.frontend(vip(family), protocol, 1, 0);
    }
    world
}

fn local(family: Family) -> BackendInfo {
    backend(here(family), 1, backend_flags::LOCAL)
}

fn remote(family: Family) -> BackendInfo {
    backend(elsewhere(family), 2, 0)
}

fn destination_port(family: Family, frame: &[u8]) -> u16 {
    let transport = frame::ETHERNET + if family == Family::V4 { 20 } else { 40 };
    u16::from_be_bytes([frame[transport + 2], frame[transport + 3]])
}

/// Where the program sent a client's packet: it is compared whole with the packet that the client would have sent
/// there itself.
#[track_caller]
fn goes_to(lab: &Lab, source: SocketAddr, flags: u8, to: SocketAddr) {
    let vip = at(if source.is_ipv4() { Family::V4.vip() } else { Family::V6.vip() }, VIP_PORT);
    assert_eq!(lab.through(Hook::FromWeb, &frame::tcp(source, vip, flags)), frame::tcp(source, to, flags));
}

both_families! {
    fn scenario_13_a_local_backend_sees_the_client_and_answers_as_the_frontend(family) {
        let lab = Lab::new(&serving(family, &[local(family)]));
        let (client, vip, here) = (client(family), vip(family), here(family));
        for build in BUILDS {
            for (there, back) in [(SYN, SYN | ACK), (ACK, ACK)] {
                let sent = lab.through(Hook::FromWeb, &build(client, vip, there));
                assert_eq!(sent, build(client, here, there));
                lab.passes(Hook::ToDb, &sent);
                let answer = build(here, client, back);
                lab.passes(Hook::FromDb, &answer);
                assert_eq!(lab.through(Hook::ToWeb, &answer), build(vip, client, back));
            }
        }
    }

    fn scenario_13_policy_sees_the_backend_and_not_the_frontend(family) {
        let mut world = serving(family, &[local(family)]);
        world.enforce(WEB, Way::Egress);
        world.enforce(DB, Way::Ingress);
        let port = world.allow(WEB, Way::Egress, Match::peer(DB).port(TCP, 8080));
        world.allow(DB, Way::Ingress, Match::peer(WEB).port(TCP, 8080));
        let lab = Lab::new(&world);
        let (client, vip, here) = (client(family), vip(family), here(family));
        let (outcome, sent) = lab.send_through(Hook::FromWeb, &frame::tcp(client, vip, SYN));
        assert_eq!((outcome.reason, outcome.rule), (Reason::Forwarded, port));
        lab.passes(Hook::ToDb, &sent);
        let answer = frame::tcp(here, client, SYN | ACK);
        lab.passes(Hook::FromDb, &answer);
        assert_eq!(lab.through(Hook::ToWeb, &answer), frame::tcp(vip, client, SYN | ACK));
        // The next packet of the flow, and another flow, under another rule.
        goes_to(&lab, client, ACK, here);
        world.revoke(WEB, Way::Egress, Match::peer(DB).port(TCP, 8080));
        world.allow(WEB, Way::Egress, Match::ANY.port(TCP, VIP_PORT));
        lab.commit(&world);
        lab.send_through(Hook::FromWeb, &frame::tcp(client, vip, ACK));
        let (outcome, _) = lab.send_through(Hook::FromWeb, &frame::tcp(client, vip, ACK));
        assert_eq!(outcome.reason, Reason::PolicyDefaultDeny);
        assert_eq!(lab.send_through(Hook::FromWeb, &frame::udp(client, vip)).0.reason, Reason::PolicyDefaultDeny);
    }

    fn scenario_13_a_flow_stays_with_its_backend(family) {
        let lab = Lab::new(&serving(family, &[local(family), remote(family)]));
        for port in 1000..1064 {
            let client = at(family.web(), port);
            let vip = vip(family);
            let first = lab.through(Hook::FromWeb, &frame::tcp(client, vip, SYN));
            for _ in 0..4 {
                assert_eq!(lab.through(Hook::FromWeb, &frame::tcp(client, vip, SYN)), first, "sent again");
            }
            let to = if first == frame::tcp(client, here(family), SYN) { here(family) } else { elsewhere(family) };
            assert_eq!(first, frame::tcp(client, to, SYN));
            lab.through(Hook::ToWeb, &frame::tcp(to, client, SYN | ACK));
            lab.commit(&serving(family, &[local(family), remote(family)]));
            goes_to(&lab, client, ACK, to);
        }
    }

    fn scenario_14_what_is_on_no_port_of_a_service_is_dropped(family) {
        let lab = Lab::new(&serving(family, &[local(family)]));
        let (client, vip) = (client(family), vip(family));
        let others = [
            frame::tcp(client, at(vip.ip(), 81), SYN),
            frame::udp(client, at(vip.ip(), 81)),
            frame::sctp(client, vip),
            frame::echo(client.ip(), vip.ip(), 7, true),
        ];
        for other in others {
            lab.drops(Hook::FromWeb, &other, Reason::NoService);
        }
    }

    fn scenario_14_without_a_backend_a_client_is_refused(family) {
        let lab = Lab::new(&serving(family, &[]));
        let (client, vip) = (client(family), vip(family));
        let network = Network::new(vip.ip(), client.ip());
        let reset = |numbers, flags| {
            let ports = (vip.port(), client.port());
            frame::answered(&network.frame(TCP, &frame::tcp_segment_at(&network, ports, numbers, flags, 0, &[])))
        };
        for hook in [Hook::FromWeb, Hook::FromDb] {
            let answer = |frame: &[u8]| lab.answer(hook, frame, Reason::NoBackend);
            // Seven bytes and the SYN are acknowledged; who acknowledges gets what it waits for.
            assert_eq!(answer(&frame::tcp(client, vip, SYN)), reset((0, 9), RST | ACK));
            assert_eq!(answer(&frame::tcp(client, vip, ACK)), reset((1, 0), RST));
            let sent = frame::udp(client, vip);
            let quoted = &sent[frame::ETHERNET..][..if family == Family::V4 { 28 } else { 48 }];
            let (kind, code) = if family == Family::V4 { (3, 3) } else { (1, 4) };
            assert_eq!(answer(&sent), frame::answered(&frame::icmp(&network, kind, code, [0; 4], quoted)));
            // A reset has no answer.
            lab.drops(hook, &frame::tcp(client, vip, RST), Reason::NoBackend);
        }
        assert!(lab.conntrack(true).is_empty() && lab.conntrack(false).is_empty());
        let mut silent = serving(family, &[]);
        silent.tables.services.insert(1, Service::default());
        lab.commit(&silent);
        lab.drops(Hook::FromWeb, &frame::tcp(client, vip, SYN), Reason::NoBackend);
        lab.drops(Hook::FromWeb, &frame::udp(client, vip), Reason::NoBackend);
    }

    fn scenario_14_what_policy_denies_behind_a_service_is_not_answered(family) {
        let mut world = serving(family, &[local(family)]);
        world.enforce(WEB, Way::Egress);
        let lab = Lab::new(&world);
        let (outcome, sent) = lab.send_through(Hook::FromWeb, &frame::tcp(client(family), vip(family), SYN));
        assert_eq!(outcome.reason, Reason::PolicyDefaultDeny);
        assert_eq!(sent, frame::tcp(client(family), here(family), SYN), "dropped, wherever it was to go");
    }

    fn an_error_about_a_clients_packet_names_the_frontend(family) {
        let lab = Lab::new(&serving(family, &[local(family)]));
        let (client, vip, here) = (client(family), vip(family), here(family));
        let router = family.stranger();
        for build in [frame::udp, |from, to| frame::tcp(from, to, SYN)] {
            let sent = lab.through(Hook::FromWeb, &build(client, vip));
            // From a router on the way, and from the backend itself.
            for (from, as_seen) in [(router, router), (here.ip(), vip.ip())] {
                let error = frame::unreachable(from, client.ip(), &sent);
                let wanted = frame::unreachable(as_seen, client.ip(), &build(client, vip));
                assert_eq!(lab.through(Hook::ToWeb, &error), wanted);
            }
        }
    }

    fn an_error_about_a_frontends_packet_reaches_the_backend(family) {
        let lab = Lab::new(&serving(family, &[local(family)]));
        let (client, vip, here) = (client(family), vip(family), here(family));
        for build in [frame::udp, |from, to| frame::tcp(from, to, ACK)] {
            lab.through(Hook::FromWeb, &build(client, vip));
            let answer = lab.through(Hook::ToWeb, &build(here, client));
            let error = frame::unreachable(client.ip(), vip.ip(), &answer);
            let wanted = frame::unreachable(client.ip(), here.ip(), &build(here, client));
            assert_eq!(lab.through(Hook::FromWeb, &error), wanted);
            lab.passes(Hook::ToDb, &wanted);
        }
        // About nothing that was ever sent.
        let error = frame::unreachable(client.ip(), vip.ip(), &frame::udp(vip, at(client.ip(), 7)));
        lab.drops(Hook::FromWeb, &error, Reason::NoService);
    }

    fn errors_cross_the_nodes_edge_as_well(family) {
        let mut world = serving(family, &[local(family)]);
        world.frontend(vip(family), UDP, 1, frontend_flags::EXTERNAL);
        let lab = Lab::new(&world);
        let (outside, vip, here) = (at(family.stranger(), 5000), vip(family), here(family));
        let sent = lab.through(Hook::FromNetwork, &frame::udp(outside, vip));
        let unreachable = frame::unreachable(here.ip(), outside.ip(), &sent);
        let wanted = frame::unreachable(vip.ip(), outside.ip(), &frame::udp(outside, vip));
        assert_eq!(lab.through(Hook::ToNetwork, &unreachable), wanted);
        let answer = lab.through(Hook::ToNetwork, &frame::udp(here, outside));
        let router = family.colleague();
        let error = frame::unreachable(router, vip.ip(), &answer);
        let wanted = frame::unreachable(router, here.ip(), &frame::udp(here, outside));
        assert_eq!(lab.through(Hook::FromNetwork, &error), wanted);
    }

    fn scenario_15_chance_spreads_evenly_and_by_weight(family) {
        let mut world = World::new();
        let backends: Vec<(u32, BackendInfo)> =
            (1..=4).map(|number| (number, backend(at(family.elsewhere(), number as u16), number, 0))).collect();
        // Weights 1, 2, 3 and 2.
        world.service(1, slots(&[1, 2, 2, 3, 3, 3, 4, 4]), &backends);
        world.frontend(vip(family), UDP, 1, 0);
        let lab = Lab::new(&world);
        let mut counts = BTreeMap::<u32, u32>::new();
        let flows = rounds(40_000, 100_000, 100_000);
        for flow in 0..flows {
            let address = if flow < flows / 2 { family.web() } else { family.colleague() };
            let client = at(address, 1 + (flow % (flows / 2)) as u16);
            let sent = lab.run(Hook::FromWeb, &frame::udp(client, vip(family)), 1).data;
            *counts.entry(u32::from(destination_port(family, &sent))).or_default() += 1;
        }
        let shares: Vec<u32> = counts.values().copied().collect();
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
        for (share, weight) in shares.iter().zip([1, 2, 3, 2]) {
            let expected = flows * weight / 8;
            assert!(share.abs_diff(expected) * 20 < expected, "{shares:?} of {flows}");
        }
    }

    fn scenario_15_maglev_picks_by_the_flow_alone(family) {
        let mut world = World::new();
        let backends: Vec<(u32, BackendInfo)> =
            (1..=16).map(|number| (number, backend(at(family.elsewhere(), number as u16), number, 0))).collect();
        let numbers: Vec<u32> = (1..=16).collect();
        world.service(1, Service { flags: service_flags::MAGLEV, ..slots(&numbers) }, &backends);
        world.frontend(vip(family), UDP, 1, 0);
        let lab = Lab::new(&world);
        let send = |port| lab.through(Hook::FromWeb, &frame::udp(at(family.web(), port), vip(family)));
        let first: Vec<Vec<u8>> = (1000..1100).map(send).collect();
        // Long enough for every entry to be forgotten.
        lab.sleep(3600);
        assert_eq!((1000..1100).map(send).collect::<Vec<_>>(), first);
        let picked: BTreeSet<u16> = first.iter().map(|sent| destination_port(family, sent)).collect();
        assert!(picked.len() > 10, "{picked:?} of sixteen");
    }

    fn scenario_16_a_client_keeps_its_backend_for_a_time(family) {
        let world = |backends: &[BackendInfo]| {
            let mut world = serving(family, backends);
            let service = world.tables.services.get(&1).expect("the service").clone();
            world.tables.services.insert(1, Service { affinity: 60, ..service });
            world
        };
        let both = [local(family), remote(family)];
        let lab = Lab::new(&world(&both));
        let send = |port| {
            let client = at(family.web(), port);
            let sent = lab.through(Hook::FromWeb, &frame::tcp(client, vip(family), SYN));
            if sent == frame::tcp(client, here(family), SYN) { here(family) } else { elsewhere(family) }
        };
        let kept = send(1000);
        for port in 1001..1040 {
            lab.sleep(30);
            assert_eq!(send(port), kept, "each new flow renews it");
        }
        // Forgotten: after a while the client gets the other one, too.
        let mut port = 2000;
        while send(port) == kept {
            lab.sleep(61);
            port += 1;
            assert!(port < 2100, "a hundred times the same of two");
        }
        // It does not outlive its backend.
        let now = send(port);
        let (gone, left) = if now == here(family) { (0u32, elsewhere(family)) } else { (1, here(family)) };
        let mut rest = world(&both);
        let number = 2 - gone;
        rest.tables.backends.remove(&(gone + 1));
        rest.tables.services.insert(1, Service { affinity: 60, ..slots(&[number]) });
        lab.commit(&rest);
        assert_eq!(send(3000), left);
    }

    fn scenario_17_a_draining_backend_keeps_its_flows(family) {
        let lab = Lab::new(&serving(family, &[local(family)]));
        goes_to(&lab, client(family), SYN, here(family));
        let draining = BackendInfo { flags: local(family).flags | backend_flags::DRAINING, ..local(family) };
        lab.commit(&serving(family, &[draining, remote(family)]));
        goes_to(&lab, client(family), ACK, here(family));
        for port in 1000..1032 {
            goes_to(&lab, at(family.web(), port), SYN, elsewhere(family));
        }
    }

    fn scenario_17_a_draining_backend_keeps_a_clients_flows_from_outside(family) {
        let world = |backends: &[BackendInfo]| {
            let mut world = serving(family, backends);
            world.frontend(vip(family), TCP, 1, frontend_flags::EXTERNAL);
            world
        };
        let lab = Lab::new(&world(&[local(family)]));
        let (outside, vip, here) = (at(family.stranger(), 5000), vip(family), here(family));
        let goes_on = |flags| {
            let sent = lab.through(Hook::FromNetwork, &frame::tcp(outside, vip, flags));
            assert_eq!(sent, frame::tcp(outside, here, flags));
            lab.passes(Hook::ToDb, &sent);
            lab.passes(Hook::FromDb, &frame::tcp(here, outside, ACK));
            lab.through(Hook::ToNetwork, &frame::tcp(here, outside, ACK));
        };
        goes_on(SYN);
        goes_on(ACK);
        let draining = BackendInfo { flags: local(family).flags | backend_flags::DRAINING, ..local(family) };
        lab.commit(&world(&[draining, remote(family)]));
        goes_on(ACK);
    }

    fn scenario_17_a_vanished_backend_loses_its_flows_at_once(family) {
        let lab = Lab::new(&serving(family, &[local(family)]));
        goes_to(&lab, client(family), SYN, here(family));
        let mut gone = serving(family, &[local(family), remote(family)]);
        gone.tables.backends.remove(&1);
        gone.tables.services.insert(1, slots(&[2]));
        lab.commit(&gone);
        goes_to(&lab, client(family), ACK, elsewhere(family));
    }

    fn scenario_17_a_backend_that_comes_back_is_another(family) {
        let lab = Lab::new(&serving(family, &[local(family)]));
        let other = backend(at(family.elsewhere(), 9), 3, 0);
        goes_to(&lab, client(family), SYN, here(family));
        // Back under its number and address while no packet came by, and not alone.
        let again = BackendInfo { incarnation: 9, ..local(family) };
        let mut world = serving(family, &[again, other]);
        world.tables.services.insert(1, slots(&[2]));
        lab.commit(&world);
        goes_to(&lab, client(family), ACK, at(family.elsewhere(), 9));
    }

    fn scenario_18_only_source_ranges_may_come_from_outside(family) {
        let mut world = serving(family, &[local(family)]);
        let office = address_of(if family == Family::V4 { [192, 0, 2, 0].into() } else { "2001:db8:1::".parse().unwrap() });
        let (length, ranges_v4, ranges_v6) =
            if family == Family::V4 { (96 + 24, 1 << 24, [0; 3]) } else { (48, 0, [1 << 48, 0, 0]) };
        let service = world.tables.services.get(&1).expect("the service").clone();
        world.tables.services.insert(1, Service { ranges_v4, ranges_v6, ..service });
        world.tables.source_ranges.insert(SourceRangeKey { service: 1, length, address: office }, 1);
        world.frontend(vip(family), TCP, 1, frontend_flags::EXTERNAL | frontend_flags::SOURCE_RANGES);
        let lab = Lab::new(&world);
        let (inside, outside) = (at(family.colleague(), 5000), at(family.stranger(), 5000));
        let vip = vip(family);
        let sent = lab.through(Hook::FromNetwork, &frame::tcp(inside, vip, SYN));
        assert_eq!(sent, frame::tcp(inside, here(family), SYN));
        lab.drops(Hook::FromNetwork, &frame::tcp(outside, vip, SYN), Reason::SourceRange);
        // Who is on the node is not outside.
        goes_to(&lab, client(family), SYN, here(family));
    }

    fn scenario_18_local_traffic_policy_drops_without_a_local_backend(family) {
        let mut world = serving(family, &[remote(family)]);
        world.frontend(vip(family), TCP, 1, frontend_flags::INTERNAL_LOCAL);
        let lab = Lab::new(&world);
        lab.answer(Hook::FromWeb, &frame::tcp(client(family), vip(family), SYN), Reason::NoBackend);
        let mut world = serving(family, &[remote(family), local(family)]);
        world.frontend(vip(family), TCP, 1, frontend_flags::INTERNAL_LOCAL);
        lab.commit(&world);
        for port in 1000..1032 {
            goes_to(&lab, at(family.web(), port), SYN, here(family));
        }
    }

    fn scenario_20_a_client_outside_reaches_a_local_backend_by_node_port_and_external_address(family) {
        let mut world = serving(family, &[local(family), remote(family)]);
        let node_port = at(family.host(), 30_080);
        world.frontend(node_port, TCP, 1, frontend_flags::NODE_PORT | frontend_flags::EXTERNAL_LOCAL);
        world.frontend(vip(family), TCP, 1, frontend_flags::EXTERNAL | frontend_flags::EXTERNAL_LOCAL);
        let lab = Lab::new(&world);
        for (port, frontend) in (5000..).zip([node_port, vip(family)]) {
            let outside = at(family.stranger(), port);
            let sent = lab.through(Hook::FromNetwork, &frame::tcp(outside, frontend, SYN));
            assert_eq!(sent, frame::tcp(outside, here(family), SYN), "the client's own address");
            lab.passes(Hook::ToDb, &sent);
            let answer = frame::tcp(here(family), outside, SYN | ACK);
            lab.passes(Hook::FromDb, &answer);
            assert_eq!(lab.through(Hook::ToNetwork, &answer), frame::tcp(frontend, outside, SYN | ACK));
        }
        // What is not a service's passes by.
        lab.passes(Hook::FromNetwork, &frame::tcp(at(family.stranger(), 5), at(family.host(), 22), SYN));
        lab.passes(Hook::ToNetwork, &frame::tcp(at(family.host(), 22), at(family.stranger(), 5), SYN | ACK));
    }

    fn a_cluster_address_is_not_for_clients_outside(family) {
        let lab = Lab::new(&serving(family, &[local(family)]));
        let outside = at(family.stranger(), 5000);
        lab.drops(Hook::FromNetwork, &frame::tcp(outside, vip(family), SYN), Reason::NoService);
    }

    fn sctp_keeps_its_ports(family) {
        let mut world = World::new();
        let to = at(family.db(), VIP_PORT);
        world.service(1, slots(&[1]), &[(1, backend(to, 1, backend_flags::LOCAL))]);
        world.frontend(vip(family), SCTP, 1, 0);
        let lab = Lab::new(&world);
        let sent = lab.through(Hook::FromWeb, &frame::sctp(client(family), vip(family)));
        assert_eq!(sent, frame::sctp(client(family), to));
    }

    fn scenario_22_fragments_go_where_their_first_one_goes(family) {
        let lab = Lab::new(&serving(family, &[local(family)]));
        let (client, vip, here) = (client(family), vip(family), here(family));
        let parts = |from: SocketAddr, to: SocketAddr| {
            let network = Network::new(from.ip(), to.ip());
            let datagram = frame::udp_datagram(&network, (from.port(), to.port()), &[7; 56]);
            [
                network.fragment(99, 0, true).frame(UDP, &datagram[..32]),
                network.fragment(99, 32, true).frame(UDP, &datagram[32..48]),
                network.fragment(99, 48, false).frame(UDP, &datagram[48..]),
            ]
        };
        let (sent, wanted) = (parts(client, vip), parts(client, here));
        lab.drops(Hook::FromWeb, &sent[2], Reason::FragmentNotFound);
        for at in [0, 2, 1] {
            assert_eq!(lab.through(Hook::FromWeb, &sent[at]), wanted[at], "fragment {at}");
            lab.passes(Hook::ToDb, &wanted[at]);
        }
        let (answer, wanted) = (parts(here, client), parts(vip, client));
        for at in [0, 2, 1] {
            lab.passes(Hook::FromDb, &answer[at]);
            assert_eq!(lab.through(Hook::ToWeb, &answer[at]), wanted[at], "fragment {at} of the answer");
        }
    }

    fn a_connection_that_ended_may_go_elsewhere_next(family) {
        let lab = Lab::new(&serving(family, &[local(family)]));
        let (client, vip, here) = (client(family), vip(family), here(family));
        goes_to(&lab, client, SYN, here);
        lab.through(Hook::ToWeb, &frame::tcp(here, client, SYN | ACK));
        goes_to(&lab, client, FIN | ACK, here);
        assert_eq!(lab.through(Hook::ToWeb, &frame::tcp(here, client, FIN | ACK)), frame::tcp(vip, client, FIN | ACK));
        let draining = BackendInfo { flags: local(family).flags | backend_flags::DRAINING, ..local(family) };
        lab.commit(&serving(family, &[draining, remote(family)]));
        goes_to(&lab, client, SYN, elsewhere(family));
    }
}
