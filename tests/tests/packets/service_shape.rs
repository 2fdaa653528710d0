//! Packets of every shape to a service, from an endpoint and from outside (scenarios 22 and 23): what is wrong is given to
//! no backend, and what is right but unusual comes out whole.
use std::net::IpAddr;

use weir_abi::{Reason, backend_flags, frontend_flags, service_flags};
use weir_plan::Service;
use weir_tests::{
    both_families,
    packet::{
        frame::{self, ETHERNET, Network, SCTP, SYN, TCP, UDP},
        lab::{Hook, Lab},
        world::{Family, World, at, backend},
    },
};

const HOOKS: [Hook; 2] = [Hook::FromWeb, Hook::FromNetwork];
/// Of the client and the frontend, and of the client and the backend.
const TO_FRONTEND: (u16, u16) = (40_000, 80);
const TO_BACKEND: (u16, u16) = (40_000, 8080);

/// TCP and UDP of the service are db's, also for clients outside.
fn serving(family: Family) -> Lab {
    let mut world = World::new();
    let slots: &[u32] = &[1];
    let service =
        Service { flags: service_flags::REJECT, slots: slots.into(), local_slots: slots.into(), ..Service::default() };
    world.service(1, service, &[(1, backend(at(family.db(), TO_BACKEND.1), 1, backend_flags::LOCAL))]);
    for protocol in [TCP, UDP] {
        world.frontend(at(family.vip(), TO_FRONTEND.1), protocol, 1, frontend_flags::EXTERNAL);
    }
    Lab::new(&world)
}

fn client(family: Family, hook: Hook) -> IpAddr {
    if hook == Hook::FromWeb { family.web() } else { family.stranger() }
}

/// From a client at this hook to the frontend, and the same packet to the backend.
fn networks(family: Family, hook: Hook) -> [Network; 2] {
    [family.vip(), family.db()].map(|to| Network::new(client(family, hook), to))
}

/// A datagram and a segment, as the one protocol and the other carry them.
fn transports(network: &Network, ports: (u16, u16)) -> [(u8, Vec<u8>); 2] {
    [(UDP, frame::udp_datagram(network, ports, b"data")), (TCP, frame::tcp_segment(network, ports, SYN, b"data"))]
}

/// What `build` makes of a packet to the frontend comes out as what it makes of one to the backend.
#[track_caller]
fn comes_out_whole(lab: &Lab, family: Family, build: impl Fn(&Network, u8, &[u8]) -> Vec<u8>) {
    for hook in HOOKS {
        let [before, after] = networks(family, hook);
        for ((protocol, sent), (_, wanted)) in
            transports(&before, TO_FRONTEND).iter().zip(transports(&after, TO_BACKEND))
        {
            assert_eq!(
                lab.through(hook, &build(&before, *protocol, sent)),
                build(&after, *protocol, &wanted),
                "{hook:?}"
            );
        }
    }
}

both_families! {
    fn scenario_23_a_service_is_given_nothing_malformed(family) {
        let lab = serving(family);
        for hook in HOOKS {
            let [network, _] = networks(family, hook);
            let [datagram, segment] = transports(&network, TO_FRONTEND).map(|(protocol, bytes)| network.frame(protocol, &bytes));
            let spoiled = |frame: &[u8], at: usize, byte: u8| {
                let mut frame = frame.to_vec();
                frame[at] = byte;
                frame
            };
            let header = if family == Family::V4 { 20 } else { 40 };
            let transport = ETHERNET + header;
            lab.drops(hook, &spoiled(&datagram, ETHERNET, 0x55), Reason::Malformed);
            if family == Family::V4 {
                lab.drops(hook, &spoiled(&datagram, ETHERNET, 0x44), Reason::Malformed);
                lab.drops(hook, &spoiled(&datagram, ETHERNET, 0x4f), Reason::Malformed);
                lab.drops(hook, &spoiled(&datagram, ETHERNET + 3, 19), Reason::Malformed);
                lab.drops(hook, &spoiled(&datagram, ETHERNET + 2, 0xff), Reason::Truncated);
            } else {
                lab.drops(hook, &spoiled(&datagram, ETHERNET + 4, 0xff), Reason::Truncated);
            }
            lab.drops(hook, &spoiled(&datagram, transport + 5, 7), Reason::Malformed);
            lab.drops(hook, &spoiled(&datagram, transport + 5, 200), Reason::Truncated);
            lab.drops(hook, &spoiled(&segment, transport + 12, 0x40), Reason::Malformed);
            lab.drops(hook, &spoiled(&segment, transport + 12, 0xf0), Reason::Truncated);
            let wrong = if family == Family::V4 { 58 } else { 1 };
            lab.drops(hook, &network.frame(wrong, &[8; 24]), Reason::Malformed);
        }
        assert!(lab.conntrack(true).is_empty() && lab.conntrack(false).is_empty());
    }

    /// The packet ends inside its transport header; the frame goes on.
    fn scenario_23_a_transport_header_for_a_service_that_does_not_fit(family) {
        let lab = serving(family);
        for hook in HOOKS {
            let [network, _] = networks(family, hook);
            for (protocol, whole) in transports(&network, TO_FRONTEND) {
                for length in 0..if protocol == UDP { 8 } else { 20 } {
                    let mut frame = network.frame(protocol, &whole[..length]);
                    frame.resize(frame.len() + 60, 0);
                    lab.drops(hook, &frame, Reason::Truncated);
                }
            }
        }
        assert!(lab.conntrack(true).is_empty() && lab.conntrack(false).is_empty());
    }

    fn scenario_23_what_else_is_sent_to_a_services_address(family) {
        let lab = serving(family);
        for hook in HOOKS {
            let [network, _] = networks(family, hook);
            // GRE, ESP, IP in IP, 6in4, OSPF, no next header, 253.
            for protocol in [47, 50, 4, 41, 89, 59, 253] {
                lab.drops(hook, &network.frame(protocol, &[0; 24]), Reason::NoService);
            }
            lab.drops(hook, &network.frame(SCTP, &[0; 24]), Reason::NoService);
        }
        assert!(lab.conntrack(true).is_empty() && lab.conntrack(false).is_empty());
    }

    /// The hop limit is the stack's affair: nothing is forwarded by the program itself.
    fn scenario_23_a_clients_hop_limit_is_kept(family) {
        let lab = serving(family);
        for hops in [0, 1, 2, 255] {
            comes_out_whole(&lab, family, |network, protocol, bytes| network.hop_limit(hops).frame(protocol, bytes));
        }
    }

    /// At tc a second tag is in the data.
    fn scenario_23_tags_around_a_clients_packet(family) {
        let lab = serving(family);
        for tags in [[0x8100].as_slice(), &[0x88a8], &[0x88a8, 0x8100], &[0x8100, 0x8100]] {
            comes_out_whole(&lab, family, |network, protocol, bytes| frame::tagged(&network.frame(protocol, bytes), tags));
        }
        for hook in HOOKS {
            let [network, _] = networks(family, hook);
            let datagram = network.frame(UDP, &frame::udp_datagram(&network, TO_FRONTEND, b"data"));
            let three = frame::tagged(&datagram, &[0x8100, 0x8100, 0x8100]);
            // Where nothing enforces, what is no IP is left alone.
            let outcome = lab.send(hook, &three);
            assert!(matches!(outcome.reason, Reason::Forwarded | Reason::UnknownEthertype), "{outcome:?}");
        }
    }

    fn scenario_22_tiny_and_overlapping_fragments_for_a_service(family) {
        let lab = serving(family);
        for hook in HOOKS {
            let [network, _] = networks(family, hook);
            let segment = frame::tcp_segment(&network, TO_FRONTEND, SYN, &[0; 40]);
            let part = |offset: usize, length: usize, more| {
                let mut frame = network.fragment(3, offset as u16, more).frame(TCP, &segment[offset..offset + length]);
                frame.resize(frame.len() + 40, 0);
                frame
            };
            lab.drops(hook, &part(0, 8, true), Reason::Truncated);
            lab.drops(hook, &part(0, 16, true), Reason::Truncated);
            lab.drops(hook, &part(8, 16, true), Reason::Malformed);
            lab.drops(hook, &part(24, 16, false), Reason::FragmentNotFound);
        }
        assert!(lab.conntrack(true).is_empty());
    }
}

#[test]
fn scenario_23_options_of_a_clients_packet_are_kept_v4() {
    let lab = serving(Family::V4);
    for length in (4..=40).step_by(4) {
        comes_out_whole(&lab, Family::V4, |network, protocol, bytes| {
            network.frame_with_options(protocol, bytes, &vec![1; length])
        });
    }
}

#[test]
fn scenario_23_extension_headers_of_a_clients_packet_are_kept_v6() {
    const HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const OPTIONS: u8 = 60;
    let lab = serving(Family::V6);
    let pad: &[u8] = &[1, 4, 0, 0, 0, 0];
    let routing: &[u8] = &[2, 0, 0, 0, 0, 0];
    let good: [&[(u8, &[u8])]; 3] =
        [&[(HOP, pad)], &[(OPTIONS, &[1; 62])], &[(HOP, pad), (OPTIONS, pad), (ROUTING, routing)]];
    for chain in good {
        comes_out_whole(&lab, Family::V6, |network, protocol, bytes| {
            network.frame_with_extensions(chain, protocol, bytes)
        });
    }
    for hook in HOOKS {
        let [network, _] = networks(Family::V6, hook);
        let datagram = frame::udp_datagram(&network, TO_FRONTEND, b"data");
        let twice = network.frame_with_extensions(&[(HOP, pad), (HOP, pad)], UDP, &datagram);
        lab.drops(hook, &twice, Reason::ExtensionHeader);
    }
}
