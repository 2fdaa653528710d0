//! The prefilter at XDP.
use weir_abi::{
    ACTION_DROP, ACTION_ENDPOINT_RANGE, ACTION_NONE, Reason, SIDE_DESTINATION, SIDE_SOURCE, interface_flags,
};
use weir_tests::{
    both_families,
    packet::{
        frame::{self, ETHERNET, Network, SYN, TCP, UDP},
        lab::{Hook, Lab},
        world::{Family, NETWORK_DEVICE, World, at},
    },
};

const BOTH: u32 = interface_flags::PREFILTER_SOURCE | interface_flags::PREFILTER_DESTINATION;

fn watching(flags: u32, group: u32) -> World {
    let mut world = World::new();
    world.interface(NETWORK_DEVICE, |info| {
        info.flags |= flags;
        info.prefilter_group = group;
    });
    world
}

/// A network of the stranger's, a part of it, and an address in that part.
const fn nets(family: Family) -> [&'static str; 3] {
    match family {
        Family::V4 => ["198.51.100.0/24", "198.51.100.4/30", "198.51.100.7/32"],
        Family::V6 => ["2001:db8:bad::/48", "2001:db8:bad::/64", "2001:db8:bad::7/128"],
    }
}

both_families! {
    fn a_source_on_the_list_is_dropped_with_its_rule(family) {
        let mut world = watching(interface_flags::PREFILTER_SOURCE, 0);
        let rule = world.filter(nets(family)[0], 1, 0, SIDE_SOURCE, ACTION_DROP);
        let lab = Lab::new(&world);
        let bad = frame::tcp(at(family.stranger(), 1), at(family.host(), 22), SYN);
        let outcome = lab.drops(Hook::Xdp, &bad, Reason::Prefilter);
        assert_eq!(outcome.rule, rule);
        assert_eq!((lab.rule(rule).packets, lab.rule(rule).bytes), (1, bad.len() as u64));
        let good = frame::tcp(at(family.colleague(), 1), at(family.host(), 22), SYN);
        assert_eq!(lab.passes(Hook::Xdp, &good).reason, Reason::PrefilterPass);
        // As a destination it is not asked about here.
        lab.passes(Hook::Xdp, &frame::tcp(at(family.host(), 22), at(family.stranger(), 1), SYN));
        assert_eq!(lab.rule(rule).packets, 1);
    }

    fn the_longest_prefix_decides(family) {
        let [wide, narrow, one] = nets(family);
        let mut world = watching(interface_flags::PREFILTER_SOURCE, 3);
        let all = world.filter(wide, 1, 3, SIDE_SOURCE, ACTION_DROP);
        world.filter(narrow, 2, 3, SIDE_SOURCE, ACTION_NONE);
        let lab = Lab::new(&world);
        let from = |source| frame::udp(at(source, 1), at(family.host(), 53));
        let outside: std::net::IpAddr = match family {
            Family::V4 => "198.51.100.8".parse().unwrap(),
            Family::V6 => "2001:db8:bad:1::7".parse().unwrap(),
        };
        assert_eq!(lab.drops(Hook::Xdp, &from(outside), Reason::Prefilter).rule, all);
        lab.passes(Hook::Xdp, &from(family.stranger()));
        let single = world.filter(one, 3, 3, SIDE_SOURCE, ACTION_DROP);
        lab.commit(&world);
        assert_eq!(lab.drops(Hook::Xdp, &from(family.stranger()), Reason::Prefilter).rule, single);
    }

    fn groups_and_sides_are_columns_of_a_class(family) {
        let lab = Lab::new(&World::new());
        for group in 0..8 {
            for side in [SIDE_SOURCE, SIDE_DESTINATION] {
                let mut world = watching(BOTH, group as u32);
                let rule = world.filter(nets(family)[0], 5, group, side, ACTION_DROP);
                let other = world.filter(nets(family)[0], 5, (group + 1) % 8, 1 - side, ACTION_DROP);
                lab.commit(&world);
                let inward = frame::udp(at(family.stranger(), 1), at(family.host(), 1));
                let outward = frame::udp(at(family.host(), 1), at(family.stranger(), 1));
                let (hit, miss) = if side == SIDE_SOURCE { (inward, outward) } else { (outward, inward) };
                assert_eq!(lab.drops(Hook::Xdp, &hit, Reason::Prefilter).rule, rule);
                lab.passes(Hook::Xdp, &miss);
                assert_eq!(lab.rule(other).packets, 0);
            }
        }
    }

    fn unknown_destinations_inside_the_endpoints_ranges(family) {
        let mut world = watching(interface_flags::PREFILTER_DESTINATION, 0);
        let range = match family {
            Family::V4 => "10.0.0.0/16",
            Family::V6 => "fd00::/48",
        };
        let rule = world.filter(range, 1, 0, SIDE_DESTINATION, ACTION_ENDPOINT_RANGE);
        let lab = Lab::new(&world);
        let to = |destination| frame::udp(at(family.stranger(), 1), at(destination, 80));
        for known in [family.web(), family.db(), family.host(), family.colleague()] {
            lab.passes(Hook::Xdp, &to(known));
        }
        let nobody = match family {
            Family::V4 => "10.0.1.77".parse().unwrap(),
            Family::V6 => "fd00:0:0:1::77".parse().unwrap(),
        };
        assert_eq!(lab.drops(Hook::Xdp, &to(nobody), Reason::UnknownDestination).rule, rule);
    }

    fn scenario_23_tags_are_looked_through(family) {
        let mut world = watching(interface_flags::PREFILTER_SOURCE, 0);
        world.filter(nets(family)[0], 1, 0, SIDE_SOURCE, ACTION_DROP);
        let lab = Lab::new(&world);
        let bad = frame::udp(at(family.stranger(), 1), at(family.host(), 53));
        let good = frame::udp(at(family.colleague(), 1), at(family.host(), 53));
        for tags in [[0x8100].as_slice(), &[0x88a8], &[0x88a8, 0x8100], &[0x8100, 0x8100]] {
            lab.drops(Hook::Xdp, &frame::tagged(&bad, tags), Reason::Prefilter);
            lab.passes(Hook::Xdp, &frame::tagged(&good, tags));
        }
        lab.drops(Hook::Xdp, &frame::tagged(&good, &[0x88a8, 0x8100, 0x8100]), Reason::UnknownEthertype);
    }

    fn scenario_22_fragments_and_odd_protocols_have_addresses_too(family) {
        let mut world = watching(interface_flags::PREFILTER_SOURCE, 0);
        world.filter(nets(family)[0], 1, 0, SIDE_SOURCE, ACTION_DROP);
        let lab = Lab::new(&world);
        let network = Network::new(family.stranger(), family.host());
        for frame in [
            network.fragment(1, 0, true).frame(UDP, &[0; 24]),
            network.fragment(1, 24, false).frame(UDP, &[0; 24]),
            network.frame(47, &[0; 24]),
            network.frame(TCP, &[0; 4]),
            network.frame(family.icmp(), &[8; 16]),
        ] {
            lab.drops(Hook::Xdp, &frame, Reason::Prefilter);
        }
    }

    fn scenario_23_malformed_packets_are_dropped(family) {
        let lab = Lab::new(&watching(interface_flags::PREFILTER_SOURCE, 0));
        let good = frame::udp(at(family.colleague(), 1), at(family.host(), 53));
        lab.passes(Hook::Xdp, &good);
        let mut version = good.clone();
        version[ETHERNET] = 0x75;
        lab.drops(Hook::Xdp, &version, Reason::Malformed);
        let mut length = good.clone();
        length[if family == Family::V4 { ETHERNET + 2 } else { ETHERNET + 4 }] = 9;
        lab.drops(Hook::Xdp, &length, Reason::Truncated);
        // XDP sees what is shorter than any IP packet.
        for length in ETHERNET..ETHERNET + 20 {
            lab.drops(Hook::Xdp, &good[..length], Reason::Truncated);
        }
    }

    /// Half a thousand prefixes of every length, as a list would have them, against a plain search.
    fn random_lists_agree_with_a_plain_search(family) {
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut world = watching(interface_flags::PREFILTER_SOURCE, 0);
        let mut nets = Vec::new();
        for class in 1..=60u32 {
            for _ in 0..8 {
                let bits = (u128::from(random()) << 64) | u128::from(random());
                let net: ipnet::IpNet = match family {
                    // Few leading bits, so that prefixes lie inside one another.
                    Family::V4 => ipnet::Ipv4Net::new_assert(
                        (0xc633_0000 | (bits as u32 & 0xffff)).into(),
                        (8 + random() % 25) as u8,
                    ).trunc().into(),
                    Family::V6 => ipnet::Ipv6Net::new_assert(
                        ((0x2001_0db8u128 << 96) | (bits & 0xff00_ff00_ff00_ff00_ff00_ff00)).into(),
                        (20 + random() % 109) as u8,
                    ).trunc().into(),
                };
                nets.push((net, class));
                let action = if class % 2 == 0 { ACTION_DROP } else { ACTION_NONE };
                let mut value = world.tables.classes.get(&class).copied().unwrap_or_default();
                value.cells[SIDE_SOURCE] = weir_abi::ClassCell::new(class, action);
                world.tables.classes.insert(class, value);
                match net {
                    ipnet::IpNet::V4(net) => world.tables.prefilter4.insert(net.into(), class),
                    ipnet::IpNet::V6(net) => world.tables.prefilter6.insert(net.into(), class),
                };
            }
        }
        let lab = Lab::new(&world);
        let mut dropped = 0;
        for at_net in 0..600usize {
            let (net, _) = nets[at_net % nets.len()];
            let source: std::net::IpAddr = match net.addr() {
                std::net::IpAddr::V4(v4) => std::net::Ipv4Addr::from_bits(v4.to_bits() ^ (random() as u32 & 0x3)).into(),
                std::net::IpAddr::V6(v6) => std::net::Ipv6Addr::from_bits(v6.to_bits() ^ u128::from(random() & 0x3)).into(),
            };
            // The last of two equal prefixes is the one in the table.
            let best = nets.iter().rev().filter(|(net, _)| net.contains(&source)).max_by_key(|(net, _)| net.prefix_len());
            let class = best.map(|(net, _)| nets.iter().rev().find(|(other, _)| other == net).unwrap().1);
            let expected = class.is_some_and(|class| class % 2 == 0);
            let outcome = lab.send(Hook::Xdp, &frame::udp(at(source, 1), at(family.host(), 1)));
            assert_eq!(!outcome.passed(), expected, "{source} in {best:?}");
            dropped += u32::from(expected);
        }
        assert!((60..540).contains(&dropped), "{dropped} of 600 dropped");
    }
}

#[test]
fn scenario_08_arp_and_neighbour_discovery_pass_whatever_the_list_says() {
    let mut world = watching(BOTH, 0);
    for net in ["0.0.0.0/0", "::/0"] {
        world.filter(net, 1, 0, SIDE_SOURCE, ACTION_DROP);
        world.filter(net, 1, 0, SIDE_DESTINATION, ACTION_DROP);
    }
    let lab = Lab::new(&world);
    let arp = frame::arp_request("10.0.0.9".parse().unwrap(), "10.0.0.1".parse().unwrap());
    assert_eq!(lab.passes(Hook::Xdp, &arp).reason, Reason::ForwardedLink);
    let solicitation = frame::neighbour("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap(), 135);
    assert_eq!(lab.passes(Hook::Xdp, &solicitation).reason, Reason::ForwardedLink);
    for family in [Family::V4, Family::V6] {
        lab.drops(Hook::Xdp, &frame::echo(family.stranger(), family.host(), 1, true), Reason::Prefilter);
    }
    // Other link layer protocols are none of its business.
    lab.passes(Hook::Xdp, &frame::ethernet(0x88cc, &[0; 50]));
}

#[test]
fn a_device_that_no_filter_watches_is_left_alone() {
    let mut world = World::new();
    world.filter("0.0.0.0/0", 1, 0, SIDE_SOURCE, ACTION_DROP);
    let lab = Lab::new(&world);
    let before = lab.metrics();
    let packet = frame::udp(at(Family::V4.stranger(), 1), at(Family::V4.host(), 1));
    assert_eq!(lab.run(Hook::Xdp, &packet, 1).retval, weir_abi::xdp_action::PASS);
    assert_eq!(lab.metrics(), before);
}
