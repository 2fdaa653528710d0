//! Who may reach whom: packets against policy (scenarios 1 to 9).
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_abi::{Reason, identity};
use weir_tests::{
    both_families,
    packet::{
        frame::{self, SCTP, SYN, TCP, UDP},
        lab::{Hook, Lab},
        world::{DB, DB_DEVICE, Family, Match, OFFICE, WEB, Way, World, at},
    },
};

both_families! {
    fn scenario_01_nothing_selects_everything_passes(family) {
        let lab = Lab::new(&World::new());
        for (hook, source, destination) in [
            (Hook::FromWeb, family.web(), family.stranger()),
            (Hook::ToWeb, family.stranger(), family.web()),
            (Hook::FromWeb, family.web(), family.db()),
            (Hook::ToDb, family.web(), family.db()),
        ] {
            for (port, protocol) in [TCP, UDP, SCTP].into_iter().enumerate() {
                let packet = frame::transport(protocol, at(source, 1000 + port as u16), at(destination, 80));
                assert_eq!(lab.passes(hook, &packet).reason, Reason::Forwarded);
            }
            lab.passes(hook, &frame::echo(source, destination, hook as u16, true));
        }
    }

    fn scenario_01_one_direction_denies_by_default_the_other_does_not(family) {
        let mut world = World::new();
        world.enforce(WEB, Way::Ingress);
        let lab = Lab::new(&world);
        let inward = frame::udp(at(family.stranger(), 9), at(family.web(), 80));
        lab.drops(Hook::ToWeb, &inward, Reason::PolicyDefaultDeny);
        lab.passes(Hook::FromWeb, &frame::udp(at(family.web(), 1), at(family.stranger(), 53)));
        // The other endpoint has other labels.
        lab.passes(Hook::ToDb, &frame::udp(at(family.stranger(), 9), at(family.db(), 80)));

        let mut world = World::new();
        world.enforce(WEB, Way::Egress);
        lab.commit(&world);
        let outward = frame::udp(at(family.web(), 2), at(family.stranger(), 53));
        lab.drops(Hook::FromWeb, &outward, Reason::PolicyDefaultDeny);
        lab.passes(Hook::ToWeb, &inward);
    }

    fn scenario_02_one_identity_one_port(family) {
        let mut world = World::new();
        world.enforce(DB, Way::Ingress);
        let rule = world.allow(DB, Way::Ingress, Match::peer(WEB).port(UDP, 80));
        let lab = Lab::new(&world);
        let packet = |protocol, source: IpAddr, port| frame::transport(protocol, at(source, 5000), at(family.db(), port));
        let sent = packet(UDP, family.web(), 80);
        let outcome = lab.passes(Hook::ToDb, &sent);
        assert_eq!((outcome.rule, outcome.trace.subject, outcome.trace.peer), (rule, DB, WEB));
        assert_eq!((lab.rule(rule).packets, lab.rule(rule).bytes), (1, sent.len() as u64));
        for (protocol, source, port) in [
            (UDP, family.web(), 81),
            (TCP, family.web(), 80),
            (SCTP, family.web(), 80),
            (UDP, family.stranger(), 80),
            (UDP, family.host(), 80),
        ] {
            lab.drops(Hook::ToDb, &packet(protocol, source, port), Reason::PolicyDefaultDeny);
        }
        assert_eq!(lab.rule(rule).packets, 1, "what it does not allow is not counted on it");
    }

    fn scenario_03_a_port_range_from_80_to_83(family) {
        let mut world = World::new();
        world.enforce(WEB, Way::Ingress);
        world.allow(WEB, Way::Ingress, Match::ANY.port_prefix(TCP, 80, 14));
        let lab = Lab::new(&world);
        for port in 78..=86 {
            let packet = frame::tcp(at(family.stranger(), 1024), at(family.web(), port), SYN);
            assert_eq!(lab.send(Hook::ToWeb, &packet).passed(), (80..=83).contains(&port), "port {port}");
        }
        lab.drops(Hook::ToWeb, &frame::udp(at(family.stranger(), 1), at(family.web(), 81)), Reason::PolicyDefaultDeny);
    }

    /// 1–65534 as prefixes: an odd border below and above.
    fn scenario_03_ranges_at_the_ends_of_the_port_space(family) {
        let mut world = World::new();
        world.enforce(WEB, Way::Egress);
        for bits in 1..=15 {
            let first = 1u16 << (15 - bits);
            world.allow(WEB, Way::Egress, Match::ANY.port_prefix(UDP, first << 1, bits));
        }
        world.allow(WEB, Way::Egress, Match::ANY.port(UDP, 1));
        world.deny(WEB, Way::Egress, Match::ANY.port(UDP, 65535));
        let lab = Lab::new(&world);
        for port in [0, 1, 2, 3, 4, 255, 256, 32767, 32768, 65533, 65534, 65535] {
            let packet = frame::udp(at(family.web(), 7), at(family.stranger(), port));
            assert_eq!(lab.send(Hook::FromWeb, &packet).passed(), port != 0 && port != 65535, "port {port}");
        }
    }

    /// Identity only, port only, both and neither, as allow and as deny: every set of the six beside "allow all".
    fn scenario_04_the_most_specific_entry_and_the_deny_win(family) {
        let shapes = [
            Match::peer(WEB).port(TCP, 80),
            Match::ANY.port(TCP, 80),
            Match::peer(WEB),
        ];
        let lab = Lab::new(&World::new());
        let packets = [
            (family.web(), 80, [0, 1, 2].as_slice()),
            (family.web(), 81, &[2]),
            (family.stranger(), 80, &[1]),
            (family.stranger(), 81, &[]),
        ];
        for set in 0..64u32 {
            let mut world = World::new();
            world.enforce(DB, Way::Ingress);
            let mut rules = [0; 6];
            for (at, shape) in shapes.iter().enumerate() {
                // A deny and an allow of one key are one entry: the compiler keeps the deny.
                if set & (1 << at) != 0 && set & (1 << (at + 3)) == 0 {
                    rules[at] = world.allow(DB, Way::Ingress, *shape);
                }
                if set & (1 << (at + 3)) != 0 {
                    rules[at + 3] = world.deny(DB, Way::Ingress, *shape);
                }
            }
            lab.commit(&world);
            for (source, port, matching) in packets {
                let outcome = lab.send(Hook::ToDb, &frame::tcp(at(source, 6000), at(family.db(), port), SYN));
                let denied = matching.iter().find(|at| rules[**at + 3] != 0);
                let allowed = matching.iter().find(|at| rules[**at] != 0);
                let expected = match (denied, allowed) {
                    (Some(at), _) => (Reason::PolicyDeny, rules[at + 3]),
                    (None, Some(at)) => (Reason::Forwarded, rules[*at]),
                    (None, None) => (Reason::PolicyDefaultDeny, 0),
                };
                assert_eq!((outcome.reason, outcome.rule), expected, "set {set:06b}, {source}:{port}");
            }
        }
    }

    fn scenario_05_deny_beats_allow_however_specific(family) {
        let mut world = World::new();
        world.allow(WEB, Way::Ingress, Match::peer(OFFICE));
        world.allow(WEB, Way::Ingress, Match::peer(OFFICE).port(TCP, 443));
        let everybody = world.deny(WEB, Way::Ingress, Match::ANY);
        let lab = Lab::new(&world);
        let packet = frame::tcp(at(family.colleague(), 1), at(family.web(), 443), SYN);
        assert_eq!(lab.drops(Hook::ToWeb, &packet, Reason::PolicyDeny).rule, everybody);
        assert_eq!(lab.rule(everybody).packets, 1);

        let mut world = World::new();
        world.allow(WEB, Way::Ingress, Match::peer(OFFICE));
        let port = world.deny(WEB, Way::Ingress, Match::ANY.port(TCP, 22));
        lab.commit(&world);
        lab.passes(Hook::ToWeb, &frame::tcp(at(family.colleague(), 2), at(family.web(), 443), SYN));
        let outcome = lab.drops(
            Hook::ToWeb,
            &frame::tcp(at(family.colleague(), 3), at(family.web(), 22), SYN),
            Reason::PolicyDeny,
        );
        assert_eq!(outcome.rule, port);
    }

    /// Deny rules hold where nothing else enforces.
    fn scenario_05_deny_without_default_deny(family) {
        let mut world = World::new();
        world.deny(WEB, Way::Egress, Match::peer(DB));
        let lab = Lab::new(&world);
        lab.drops(Hook::FromWeb, &frame::udp(at(family.web(), 1), at(family.db(), 1)), Reason::PolicyDeny);
        lab.passes(Hook::FromWeb, &frame::udp(at(family.web(), 1), at(family.stranger(), 1)));
    }

    /// The longest prefix names the peer: an exception in a CIDR, and another CIDR inside the exception.
    fn scenario_06_cidr_with_an_exception_with_a_cidr_in_it(family) {
        const INSIDE: u32 = 301;
        let mut world = World::new();
        world.enforce(WEB, Way::Ingress);
        world.allow(WEB, Way::Ingress, Match::peer(OFFICE));
        world.allow(WEB, Way::Ingress, Match::peer(INSIDE));
        // The exception is a prefix that no rule's identity has; the one inside it is.
        let (exception, inside, hole): (ipnet::IpNet, ipnet::IpNet, IpAddr) = match family {
            Family::V4 => {
                ("192.0.2.128/25".parse().unwrap(), "192.0.2.192/28".parse().unwrap(), Ipv4Addr::new(192, 0, 2, 150).into())
            }
            Family::V6 => (
                "2001:db8:1:8000::/49".parse().unwrap(),
                "2001:db8:1:8888::/64".parse().unwrap(),
                "2001:db8:1:8000::1".parse::<Ipv6Addr>().unwrap().into(),
            ),
        };
        for (net, number) in [(exception, 302), (inside, INSIDE)] {
            match net {
                ipnet::IpNet::V4(net) => world.tables.ipcache4.insert(net.into(), number),
                ipnet::IpNet::V6(net) => world.tables.ipcache6.insert(net.into(), number),
            };
        }
        let lab = Lab::new(&world);
        let from = |source| frame::udp(at(source, 1), at(family.web(), 80));
        lab.passes(Hook::ToWeb, &from(family.colleague()));
        lab.passes(Hook::ToWeb, &from(inside.addr()));
        lab.drops(Hook::ToWeb, &from(hole), Reason::PolicyDefaultDeny);
        lab.drops(Hook::ToWeb, &from(family.stranger()), Reason::PolicyDefaultDeny);
        // An endpoint inside the range is known by its labels, not by the CIDR.
        let insider = match family {
            Family::V4 => "192.0.2.34".parse().unwrap(),
            Family::V6 => "2001:db8:1::34".parse().unwrap(),
        };
        lab.passes(Hook::ToWeb, &from(insider));
        world.identify(insider, DB);
        lab.commit(&world);
        lab.drops(Hook::ToWeb, &from(insider), Reason::PolicyDefaultDeny);
    }

    fn scenario_06_entities_are_identities(family) {
        let elsewhere = match family {
            Family::V4 => "10.9.9.9".parse().unwrap(),
            Family::V6 => "fd00:9::9".parse().unwrap(),
        };
        let peers = [
            (identity::WORLD, family.stranger()),
            (identity::HOST, family.host()),
            (identity::REMOTE_NODE, elsewhere),
            (DB, family.db()),
        ];
        let lab = Lab::new(&World::new());
        for (allowed, _) in peers {
            let mut world = World::new();
            world.identify(elsewhere, identity::REMOTE_NODE);
            world.enforce(WEB, Way::Ingress);
            world.allow(WEB, Way::Ingress, Match::peer(allowed));
            lab.commit(&world);
            for (peer, address) in peers {
                let outcome = lab.send(Hook::ToWeb, &frame::udp(at(address, 4), at(family.web(), 80)));
                assert_eq!(outcome.passed(), peer == allowed, "{peer} where {allowed} is allowed");
                assert_eq!(outcome.trace.peer, peer);
            }
        }
    }

    fn scenario_07_revoked_mid_flow_and_granted_again(family) {
        let mut allowed = World::new();
        allowed.enforce(DB, Way::Ingress);
        allowed.allow(DB, Way::Ingress, Match::peer(WEB).port(UDP, 53));
        let mut revoked = World::new();
        revoked.enforce(DB, Way::Ingress);
        let lab = Lab::new(&allowed);
        let (client, server) = (at(family.web(), 4000), at(family.db(), 53));
        let (query, answer) = (frame::udp(client, server), frame::udp(server, client));
        lab.passes(Hook::FromWeb, &query);
        lab.passes(Hook::ToDb, &query);
        lab.passes(Hook::FromDb, &answer);
        lab.passes(Hook::ToWeb, &answer);

        lab.commit(&revoked);
        // The very next packet, of either direction, at the hooks of the end that may not be reached.
        lab.drops(Hook::FromDb, &answer, Reason::PolicyDefaultDeny);
        lab.drops(Hook::ToDb, &query, Reason::PolicyDefaultDeny);
        // The other end's own permission holds.
        lab.passes(Hook::FromWeb, &query);
        assert_eq!(lab.conntrack(false).len(), 1, "a denial leaves the entry");

        lab.commit(&allowed);
        lab.passes(Hook::FromDb, &answer);
        lab.passes(Hook::ToDb, &query);
    }

    /// A commit that does not concern a flow costs it nothing, and is noticed: the word is judged afresh, once.
    fn scenario_07_a_flow_outlives_commits(family) {
        let mut world = World::new();
        world.enforce(WEB, Way::Egress);
        let rule = world.allow(WEB, Way::Egress, Match::peer(OFFICE).port(TCP, 443));
        let lab = Lab::new(&world);
        let (client, server) = (at(family.web(), 4001), at(family.colleague(), 443));
        lab.passes(Hook::FromWeb, &frame::tcp(client, server, SYN));
        for round in 0..20 {
            let first = lab.passes(Hook::ToWeb, &frame::tcp(server, client, frame::ACK));
            assert_eq!(first.trace.from_conntrack, u8::from(round == 0), "round {round}");
            let second = lab.passes(Hook::FromWeb, &frame::tcp(client, server, frame::ACK));
            assert_eq!((second.trace.from_conntrack, second.rule), (1, rule));
            world.allow(DB, Way::Ingress, Match::ANY.port(TCP, 1000 + round));
            lab.commit(&world);
        }
    }

    fn scenario_07_a_reply_needs_no_rule(family) {
        let mut world = World::new();
        world.enforce(WEB, Way::Ingress);
        world.enforce(WEB, Way::Egress);
        let rule = world.allow(WEB, Way::Egress, Match::ANY.port(UDP, 53));
        let lab = Lab::new(&world);
        let (client, server) = (at(family.web(), 4000), at(family.stranger(), 53));
        lab.drops(Hook::ToWeb, &frame::udp(server, client), Reason::PolicyDefaultDeny);
        lab.passes(Hook::FromWeb, &frame::udp(client, server));
        let reply = lab.passes(Hook::ToWeb, &frame::udp(server, client));
        assert_eq!((reply.rule, reply.trace.from_conntrack), (rule, 1));
        assert_eq!(lab.rule(rule).packets, 2, "a reply counts for the rule that let the flow in");
        // Another port of the same server is another flow.
        lab.drops(Hook::ToWeb, &frame::udp(at(family.stranger(), 54), client), Reason::PolicyDefaultDeny);
    }

    fn scenario_08_echo_and_its_reply(family) {
        let (request, _) = family.echo_types();
        let mut world = World::new();
        world.enforce(WEB, Way::Ingress);
        world.enforce(WEB, Way::Egress);
        world.allow(WEB, Way::Egress, Match::peer(OFFICE).port(family.icmp(), u16::from(request)));
        let lab = Lab::new(&world);
        let (web, colleague) = (family.web(), family.colleague());
        lab.drops(Hook::ToWeb, &frame::echo(colleague, web, 77, false), Reason::PolicyDefaultDeny);
        lab.passes(Hook::FromWeb, &frame::echo(web, colleague, 77, true));
        lab.passes(Hook::ToWeb, &frame::echo(colleague, web, 77, false));
        // Not another identifier, not a request the other way, not to somebody else.
        lab.drops(Hook::ToWeb, &frame::echo(colleague, web, 78, false), Reason::PolicyDefaultDeny);
        lab.drops(Hook::ToWeb, &frame::echo(colleague, web, 77, true), Reason::PolicyDefaultDeny);
        lab.drops(Hook::FromWeb, &frame::echo(web, family.stranger(), 79, true), Reason::PolicyDefaultDeny);
        // The reply is judged as the request was: by the request's type.
        lab.commit(&world);
        lab.passes(Hook::ToWeb, &frame::echo(colleague, web, 77, false));
        assert_eq!(lab.conntrack(false).len(), 1);
    }

    fn scenario_08_pings_in_both_directions_with_one_identifier(family) {
        let (request, _) = family.echo_types();
        let mut world = World::new();
        world.enforce(WEB, Way::Ingress);
        world.allow(WEB, Way::Ingress, Match::ANY.port(family.icmp(), u16::from(request)));
        let lab = Lab::new(&world);
        let (web, other) = (family.web(), family.stranger());
        lab.passes(Hook::FromWeb, &frame::echo(web, other, 5, true));
        lab.passes(Hook::ToWeb, &frame::echo(other, web, 5, true));
        lab.passes(Hook::ToWeb, &frame::echo(other, web, 5, false));
        lab.passes(Hook::FromWeb, &frame::echo(web, other, 5, false));
    }

    fn scenario_08_errors_of_a_known_flow_pass_of_an_unknown_do_not(family) {
        let mut world = World::new();
        world.enforce(WEB, Way::Ingress);
        let lab = Lab::new(&world);
        let (web, router) = (family.web(), family.colleague());
        for protocol in [TCP, UDP, SCTP] {
            let sent = frame::transport(protocol, at(web, 3000), at(family.stranger(), 33434));
            let error = frame::unreachable(router, web, &sent);
            lab.drops(Hook::ToWeb, &error, Reason::PolicyDefaultDeny);
            lab.passes(Hook::FromWeb, &sent);
            let before = lab.conntrack(protocol == TCP);
            let outcome = lab.passes(Hook::ToWeb, &error);
            assert_eq!(outcome.trace.from_conntrack, 1);
            assert_eq!(lab.conntrack(protocol == TCP), before, "an error changes neither state nor lifetime");
            // About the same flow, but to somebody who did not send it.
            let other = frame::unreachable(router, family.db(), &sent);
            lab.passes(Hook::ToDb, &other);
            let mut enforcing = world.clone();
            enforcing.enforce(DB, Way::Ingress);
            lab.commit(&enforcing);
            lab.drops(Hook::ToDb, &other, Reason::PolicyDefaultDeny);
            // Judged afresh in a new epoch, in the flow's original direction.
            lab.commit(&world);
            lab.passes(Hook::ToWeb, &error);
        }
        let ping = frame::echo(web, family.stranger(), 9, true);
        lab.passes(Hook::FromWeb, &ping);
        lab.passes(Hook::ToWeb, &frame::unreachable(router, web, &ping));
        // The flow's permission is what counts.
        world.enforce(WEB, Way::Egress);
        lab.commit(&world);
        lab.drops(Hook::ToWeb, &frame::unreachable(router, web, &ping), Reason::PolicyDefaultDeny);
    }

    /// An error that the endpoint itself sends, about a packet that it received.
    fn scenario_08_errors_from_the_endpoint(family) {
        let mut world = World::new();
        world.enforce(WEB, Way::Egress);
        let lab = Lab::new(&world);
        let received = frame::udp(at(family.stranger(), 3000), at(family.web(), 9));
        let error = frame::unreachable(family.web(), family.stranger(), &received);
        lab.drops(Hook::FromWeb, &error, Reason::PolicyDefaultDeny);
        lab.passes(Hook::ToWeb, &received);
        lab.passes(Hook::FromWeb, &error);
    }

    fn scenario_09_policy_and_addresses_change_in_one_commit(family) {
        const MOVED: u32 = 258;
        let mut before = World::new();
        before.enforce(WEB, Way::Ingress);
        before.allow(WEB, Way::Ingress, Match::peer(DB));
        // The address gets another identity, and policy allows that one instead.
        let mut after = World::new();
        after.identify(family.db(), MOVED);
        after.enforce(WEB, Way::Ingress);
        after.allow(WEB, Way::Ingress, Match::peer(MOVED));
        let lab = Lab::new(&before);
        for round in 0..50u16 {
            let world = if round % 2 == 0 { &after } else { &before };
            lab.stage(world);
            lab.passes(Hook::ToWeb, &frame::udp(at(family.db(), 1000 + round), at(family.web(), 80)));
            lab.flip();
            lab.passes(Hook::ToWeb, &frame::udp(at(family.db(), 2000 + round), at(family.web(), 80)));
        }
    }

    /// Weir owns both ends: what does not come from the endpoint's own address is not its own.
    fn an_endpoint_cannot_borrow_an_address(family) {
        let mut world = World::new();
        world.interface(DB_DEVICE, |info| info.flags |= weir_abi::interface_flags::CHECK_SOURCE);
        let lab = Lab::new(&world);
        let from = |source| frame::udp(at(source, 1), at(family.stranger(), 80));
        lab.passes(Hook::FromDb, &from(family.db()));
        for source in [family.web(), family.host(), family.stranger()] {
            lab.drops(Hook::FromDb, &from(source), Reason::InvalidSource);
        }
        // Nor by way of a flow that is known.
        lab.passes(Hook::FromWeb, &from(family.web()));
        lab.drops(Hook::FromDb, &from(family.web()), Reason::InvalidSource);
    }
}

#[test]
fn scenario_08_neighbour_discovery_and_arp_always_work() {
    let mut world = World::new();
    for subject in [WEB, DB, identity::HOST] {
        for way in [Way::Ingress, Way::Egress] {
            world.enforce(subject, way);
        }
    }
    world.host_policy();
    world.interface(DB_DEVICE, |info| info.flags |= weir_abi::interface_flags::CHECK_SOURCE);
    let lab = Lab::new(&world);
    let (IpAddr::V6(web), IpAddr::V6(link_local)) = (Family::V6.web(), "fe80::1".parse().unwrap()) else { panic!() };
    for hook in [Hook::FromWeb, Hook::ToWeb, Hook::FromDb, Hook::ToDb, Hook::FromNetwork, Hook::ToNetwork] {
        for kind in 133..=137 {
            assert_eq!(lab.passes(hook, &frame::neighbour(link_local, web, kind)).reason, Reason::ForwardedLink);
        }
        let arp = frame::arp_request(Ipv4Addr::new(10, 0, 1, 1), Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(lab.passes(hook, &arp).reason, Reason::ForwardedLink);
    }
    // From further away than a neighbour it is a message like any other.
    let mut far = frame::neighbour(link_local, web, 135);
    far[frame::ETHERNET + 7] = 254;
    lab.drops(Hook::ToWeb, &far, Reason::PolicyDefaultDeny);
}
