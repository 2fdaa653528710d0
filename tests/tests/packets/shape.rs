//! Packets of every shape, right and wrong (scenarios 22 and 23).
use weir_abi::{Reason, identity};
use weir_tests::{
    both_families,
    packet::{
        frame::{self, ETHERNET, Network, SYN, TCP, UDP},
        lab::{Hook, Lab},
        world::{Family, Match, WEB, Way, World},
    },
};

const TC: [Hook; 2] = [Hook::FromWeb, Hook::ToWeb];

/// A frame from web for its own hook, to web for the other.
fn network(family: Family, hook: Hook) -> Network {
    match hook {
        Hook::FromWeb => Network::new(family.web(), family.stranger()),
        _ => Network::new(family.stranger(), family.web()),
    }
}

fn udp_frame(family: Family, hook: Hook) -> Vec<u8> {
    let network = network(family, hook);
    network.frame(UDP, &frame::udp_datagram(&network, (7, 80), b"data"))
}

fn tcp_frame(family: Family, hook: Hook) -> Vec<u8> {
    let network = network(family, hook);
    network.frame(TCP, &frame::tcp_segment(&network, (7, 80), SYN, b"data"))
}

/// Web may be reached at udp/80 and may reach it.
fn guarded() -> World {
    let mut world = World::new();
    for way in [Way::Ingress, Way::Egress] {
        world.enforce(WEB, way);
        world.allow(WEB, way, Match::ANY.port(UDP, 80));
    }
    world
}

const fn network_header(family: Family) -> usize {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

both_families! {
    fn scenario_23_wrong_lengths_and_versions_are_dropped_even_where_nothing_enforces(family) {
        let lab = Lab::new(&World::new());
        for hook in TC {
            let good = udp_frame(family, hook);
            lab.passes(hook, &good);
            let spoiled = |at: usize, byte: u8| {
                let mut frame = good.clone();
                frame[at] = byte;
                frame
            };
            lab.drops(hook, &spoiled(ETHERNET, 0x55), Reason::Malformed);
            match family {
                Family::V4 => {
                    lab.drops(hook, &spoiled(ETHERNET, 0x44), Reason::Malformed);
                    // Options that the packet has no room for.
                    lab.drops(hook, &spoiled(ETHERNET, 0x4f), Reason::Malformed);
                    // A total length below the header's, and one beyond the frame.
                    lab.drops(hook, &spoiled(ETHERNET + 3, 19), Reason::Malformed);
                    lab.drops(hook, &spoiled(ETHERNET + 3, good.len() as u8), Reason::Truncated);
                    lab.drops(hook, &spoiled(ETHERNET + 2, 0xff), Reason::Truncated);
                }
                Family::V6 => {
                    lab.drops(hook, &spoiled(ETHERNET + 5, good.len() as u8), Reason::Truncated);
                    lab.drops(hook, &spoiled(ETHERNET + 4, 0xff), Reason::Truncated);
                }
            }
            let transport = ETHERNET + network_header(family);
            // A UDP length below its header's, and one beyond the packet.
            lab.drops(hook, &spoiled(transport + 5, 7), Reason::Malformed);
            lab.drops(hook, &spoiled(transport + 5, 200), Reason::Truncated);
            // A TCP data offset below the header's, and one beyond the packet.
            let good = tcp_frame(family, hook);
            let mut short = good.clone();
            short[transport + 12] = 0x40;
            lab.drops(hook, &short, Reason::Malformed);
            let mut long = good.clone();
            long[transport + 12] = 0xf0;
            lab.drops(hook, &long, Reason::Truncated);
        }
    }

    /// The IP packet ends inside its transport header; the frame goes on.
    fn scenario_23_headers_that_do_not_fit_are_dropped(family) {
        let lab = Lab::new(&World::new());
        for (protocol, least) in [(TCP, 20), (UDP, 8), (frame::SCTP, 12), (family.icmp(), 8)] {
            for length in 0..least {
                let mut payload = vec![0u8; length];
                if let Some(offset) = payload.get_mut(12) {
                    *offset = 0x50;
                }
                let network = network(family, Hook::ToWeb);
                let mut frame = network.frame(protocol, &payload);
                // Padding, as a switch leaves it: test runs need 40 bytes of packet.
                frame.resize(frame.len() + 60, 0);
                lab.drops(Hook::ToWeb, &frame, Reason::Truncated);
            }
        }
    }

    fn scenario_23_padding_after_the_packet_is_fine(family) {
        let lab = Lab::new(&guarded());
        for hook in TC {
            let mut padded = udp_frame(family, hook);
            padded.extend([0; 30]);
            lab.passes(hook, &padded);
        }
    }

    fn scenario_23_unknown_next_headers(family) {
        let lab = Lab::new(&World::new());
        // GRE, ESP, IP in IP, 6in4, OSPF, no next header, 253: nothing enforces.
        let protocols = [47, 50, 4, 41, 89, 59, 253];
        for protocol in protocols {
            lab.passes(Hook::ToWeb, &network(family, Hook::ToWeb).frame(protocol, &[0; 24]));
        }
        lab.commit(&guarded());
        for protocol in protocols {
            let frame = network(family, Hook::ToWeb).frame(protocol, &[1; 24]);
            lab.drops(Hook::ToWeb, &frame, Reason::UnknownProtocol);
        }
        // A rule for any protocol lets them in, and their answers out.
        let mut world = World::new();
        world.enforce(WEB, Way::Ingress);
        world.enforce(WEB, Way::Egress);
        let rule = world.allow(WEB, Way::Ingress, Match::peer(identity::WORLD));
        lab.commit(&world);
        for protocol in protocols {
            let outcome = lab.passes(Hook::ToWeb, &network(family, Hook::ToWeb).frame(protocol, &[0; 24]));
            assert_eq!(outcome.rule, rule);
            lab.passes(Hook::FromWeb, &network(family, Hook::FromWeb).frame(protocol, &[0; 24]));
        }
    }

    /// ICMP of the other family is no message that anybody could mean.
    fn scenario_23_icmp_of_the_other_family(family) {
        let lab = Lab::new(&World::new());
        let wrong = if family == Family::V4 { 58 } else { 1 };
        lab.drops(Hook::ToWeb, &network(family, Hook::ToWeb).frame(wrong, &[8; 24]), Reason::Malformed);
    }

    fn scenario_23_other_icmp_messages_are_judged_by_their_type(family) {
        let (allowed, refused) = if family == Family::V4 { (13, 17) } else { (144, 145) };
        let mut world = World::new();
        world.enforce(WEB, Way::Ingress);
        world.allow(WEB, Way::Ingress, Match::ANY.port(family.icmp(), allowed));
        let lab = Lab::new(&world);
        let message = |kind: u16| frame::icmp(&network(family, Hook::ToWeb), kind as u8, 0, [0; 4], &[0; 12]);
        lab.passes(Hook::ToWeb, &message(allowed));
        lab.drops(Hook::ToWeb, &message(refused), Reason::PolicyDefaultDeny);
        assert!(lab.conntrack(false).is_empty());
    }

    fn scenario_22_later_fragments_find_the_ports_of_the_first(family) {
        let lab = Lab::new(&guarded());
        for (round, hook) in TC.into_iter().enumerate() {
            let network = network(family, hook);
            let id = 100 + round as u16;
            let datagram = frame::udp_datagram(&network, (7, 80), &[9; 64]);
            let part = |offset: usize, length: usize, more| {
                network.fragment(id, offset as u16, more).frame(UDP, &datagram[offset..offset + length])
            };
            lab.drops(hook, &part(24, 24, true), Reason::FragmentNotFound);
            lab.passes(hook, &part(0, 24, true));
            // In order and out of order.
            lab.passes(hook, &part(48, 24, false));
            lab.passes(hook, &part(24, 24, true));
            // Another packet's.
            let other = network.fragment(id + 50, 24, true).frame(UDP, &datagram[24..48]);
            lab.drops(hook, &other, Reason::FragmentNotFound);
        }
    }

    fn scenario_22_fragments_of_what_is_refused_are_refused(family) {
        let lab = Lab::new(&guarded());
        let network = network(family, Hook::ToWeb);
        let datagram = frame::udp_datagram(&network, (7, 81), &[9; 40]);
        let part = |offset: usize, more| {
            network.fragment(5, offset as u16, more).frame(UDP, &datagram[offset..offset + 24])
        };
        lab.drops(Hook::ToWeb, &part(0, true), Reason::PolicyDefaultDeny);
        lab.drops(Hook::ToWeb, &part(24, false), Reason::PolicyDefaultDeny);
    }

    fn scenario_22_a_fragment_without_its_first_passes_where_nothing_could_deny_it(family) {
        let lab = Lab::new(&World::new());
        let frame = network(family, Hook::ToWeb).fragment(5, 24, true).frame(UDP, &[0; 24]);
        lab.passes(Hook::ToWeb, &frame);
        assert!(lab.conntrack(false).is_empty());
    }

    fn scenario_22_a_large_ping(family) {
        let (request, _) = family.echo_types();
        let mut world = World::new();
        world.enforce(WEB, Way::Ingress);
        world.enforce(WEB, Way::Egress);
        world.allow(WEB, Way::Egress, Match::ANY.port(family.icmp(), u16::from(request)));
        let lab = Lab::new(&world);
        let out = network(family, Hook::FromWeb);
        let message = frame::icmp_message(&out, request, 0, [0, 42, 0, 1], &[7; 64]);
        lab.passes(Hook::FromWeb, &out.fragment(9, 0, true).frame(family.icmp(), &message[..32]));
        lab.passes(Hook::FromWeb, &out.fragment(9, 32, false).frame(family.icmp(), &message[32..]));
        let back = network(family, Hook::ToWeb);
        let (_, reply) = family.echo_types();
        let message = frame::icmp_message(&back, reply, 0, [0, 42, 0, 1], &[7; 64]);
        lab.passes(Hook::ToWeb, &back.fragment(9, 0, true).frame(family.icmp(), &message[..32]));
        lab.passes(Hook::ToWeb, &back.fragment(9, 32, false).frame(family.icmp(), &message[32..]));
    }

    fn scenario_22_tiny_and_overlapping_fragments(family) {
        let lab = Lab::new(&World::new());
        let network = network(family, Hook::ToWeb);
        let segment = frame::tcp_segment(&network, (7, 80), SYN, &[0; 40]);
        let part = |offset: usize, length: usize, more| {
            let mut frame = network.fragment(3, offset as u16, more).frame(TCP, &segment[offset..offset + length]);
            frame.resize(frame.len() + 40, 0);
            frame
        };
        // The first does not hold the TCP header, the second would write over its flags.
        lab.drops(Hook::ToWeb, &part(0, 8, true), Reason::Truncated);
        lab.drops(Hook::ToWeb, &part(0, 16, true), Reason::Truncated);
        lab.drops(Hook::ToWeb, &part(8, 16, true), Reason::Malformed);
        lab.drops(Hook::ToWeb, &part(16, 16, true), Reason::Malformed);
        lab.passes(Hook::ToWeb, &part(0, 24, true));
        lab.passes(Hook::ToWeb, &part(24, 16, false));
        // Not the last, and no multiple of 8; beyond the largest packet.
        lab.drops(Hook::ToWeb, &part(24, 12, true), Reason::Malformed);
        let end = network.fragment(3, 65528, false).frame(UDP, &[0; 16]);
        let mut end = end;
        end.resize(end.len() + 40, 0);
        lab.drops(Hook::ToWeb, &end, Reason::Malformed);
    }

    /// VLAN tags in the data: at tc a second tag, at XDP both.
    fn scenario_23_tags_in_the_data(family) {
        let lab = Lab::new(&guarded());
        for hook in TC {
            for tags in [[0x8100].as_slice(), &[0x88a8], &[0x88a8, 0x8100], &[0x8100, 0x8100]] {
                lab.passes(hook, &frame::tagged(&udp_frame(family, hook), tags));
                lab.drops(hook, &frame::tagged(&tcp_frame(family, hook), tags), Reason::PolicyDefaultDeny);
            }
            let three = frame::tagged(&udp_frame(family, hook), &[0x8100, 0x8100, 0x8100]);
            lab.drops(hook, &three, Reason::UnknownEthertype);
        }
    }
}

#[test]
fn scenario_23_options_are_skipped_v4() {
    let lab = Lab::new(&guarded());
    for length in (4..=40).step_by(4) {
        let network = network(Family::V4, Hook::ToWeb);
        let options = vec![1; length];
        let datagram = frame::udp_datagram(&network, (7, 80), b"data");
        lab.passes(Hook::ToWeb, &network.frame_with_options(UDP, &datagram, &options));
        let other = frame::udp_datagram(&network, (7, 81), b"data");
        lab.drops(Hook::ToWeb, &network.frame_with_options(UDP, &other, &options), Reason::PolicyDefaultDeny);
    }
}

#[test]
fn scenario_23_extension_headers_are_followed_v6() {
    const HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const OPTIONS: u8 = 60;
    let lab = Lab::new(&guarded());
    let network = network(Family::V6, Hook::ToWeb);
    let pad: &[u8] = &[1, 4, 0, 0, 0, 0];
    let long: &[u8] = &[1; 62];
    // Type 2, no segment left; the next of type 0.
    let routing: &[u8] = &[2, 0, 0, 0, 0, 0];
    let routing0: &[u8] = &[0, 0, 0, 0, 0, 0];
    let atomic: &[u8] = &[0, 0, 0, 0, 0, 5];
    let good: [&[(u8, &[u8])]; 8] = [
        &[(HOP, pad)],
        &[(OPTIONS, pad)],
        &[(HOP, pad), (OPTIONS, pad), (ROUTING, routing), (AUTHENTICATION, &[0; 22]), (OPTIONS, pad)],
        &[(FRAGMENT, atomic)],
        &[(HOP, long), (OPTIONS, long), (FRAGMENT, atomic)],
        &[(AUTHENTICATION, &[0; 10])],
        &[(AUTHENTICATION, &[0; 14])],
        &[(OPTIONS, long), (ROUTING, routing), (OPTIONS, long)],
    ];
    for chain in good {
        for port in [80, 81] {
            let datagram = frame::udp_datagram(&network, (7, port), b"data");
            let outcome = lab.send(Hook::ToWeb, &network.frame_with_extensions(chain, UDP, &datagram));
            let expected = if port == 80 { Reason::Forwarded } else { Reason::PolicyDefaultDeny };
            assert_eq!(outcome.reason, expected, "{chain:?}, port {port}");
        }
    }
    let nothing = World::new();
    lab.commit(&nothing);
    let bad: [&[(u8, &[u8])]; 8] = [
        &[(HOP, pad), (HOP, pad)],
        &[(OPTIONS, pad), (HOP, pad)],
        &[(ROUTING, routing), (ROUTING, routing)],
        &[(ROUTING, routing0)],
        &[(OPTIONS, pad), (OPTIONS, pad), (OPTIONS, pad)],
        &[(AUTHENTICATION, &[0; 10]), (AUTHENTICATION, &[0; 10])],
        &[(FRAGMENT, atomic), (FRAGMENT, atomic)],
        // More than is followed.
        &[(HOP, long), (OPTIONS, &[1; 254]), (ROUTING, &[2; 254]), (OPTIONS, pad)],
    ];
    for chain in bad {
        let datagram = frame::udp_datagram(&network, (7, 80), b"data");
        let frame = network.frame_with_extensions(chain, UDP, &datagram);
        let outcome = lab.send(Hook::ToWeb, &frame);
        assert_eq!(outcome.reason, Reason::ExtensionHeader, "{chain:?}");
    }
    // A header that says that it is longer than the packet.
    let mut frame = network.frame_with_extensions(&[(OPTIONS, pad)], UDP, &[0; 8]);
    frame[ETHERNET + 41] = 9;
    lab.drops(Hook::ToWeb, &frame, Reason::Truncated);
}

#[test]
fn scenario_23_unknown_ethertypes() {
    let lab = Lab::new(&World::new());
    // LLDP, PPPoE, MPLS, and a length (spanning tree).
    let types = [0x88cc, 0x8863, 0x8847, 0x0026];
    for ethertype in types {
        lab.passes(Hook::FromWeb, &frame::ethernet(ethertype, &[0; 50]));
    }
    lab.commit(&guarded());
    for ethertype in types {
        for hook in TC {
            lab.drops(hook, &frame::ethernet(ethertype, &[0; 50]), Reason::UnknownEthertype);
        }
    }
}

/// Damage at random: whatever comes, there is one decision with one reason, and nothing that is not udp/80 passes.
#[test]
fn random_damage_has_one_reason_each() {
    let lab = Lab::new(&guarded());
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut reasons = std::collections::BTreeMap::new();
    for round in 0..1500 {
        let family = if round % 2 == 0 { Family::V4 } else { Family::V6 };
        let mut frame = tcp_frame(family, Hook::ToWeb);
        frame.resize(frame.len() + random(40), 0xaa);
        for _ in 0..=random(4) {
            let at = 12 + random(frame.len() - 12);
            frame[at] = random(256) as u8;
        }
        let outcome = lab.send(Hook::ToWeb, &frame);
        *reasons.entry(outcome.reason).or_insert(0) += 1;
        if outcome.reason == Reason::Forwarded {
            let protocol = if frame[13] == 0xdd { frame[ETHERNET + 6] } else { frame[ETHERNET + 9] };
            assert_eq!(protocol, UDP, "round {round} passed: {frame:02x?}");
        }
    }
    println!("{reasons:?}");
    assert!(reasons.len() >= 6, "{reasons:?}");
}
