//! The load balancer's fast path: what XDP sends on is what tc and the stack would, and everything else it leaves to them
//! (scenario 13).
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use weir_abi::{
    ACTION_DROP, ConntrackEntry, Direction, Reason, SIDE_SOURCE, ct_flags, frontend_flags, identity, interface_flags,
    metric_slot, service_flags, settings_flags, xdp_action,
};
use weir_plan::Service;
use weir_tests::{
    both_families,
    packet::{
        frame::{self, ACK, FIN, Network, RST, SYN, TCP, UDP},
        instance::ip,
        lab::{Hook, Lab},
        world::{Family, NETWORK_DEVICE, Way, World, at, backend},
    },
};

const PORTS: std::ops::RangeInclusive<u16> = 61_000..=61_099;
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NEXT: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

type Build = fn(SocketAddr, SocketAddr, u8) -> Vec<u8>;

const BUILDS: [Build; 3] = [frame::tcp, |from, to, _| frame::udp(from, to), |from, to, _| unsummed(from, to)];

/// UDP without a checksum.
fn unsummed(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut frame = frame::udp(from, to);
    let at = if from.is_ipv4() { 40 } else { 60 };
    frame[at..at + 2].copy_from_slice(&[0, 0]);
    frame
}

fn client(family: Family) -> SocketAddr {
    at(family.stranger(), 5000)
}

fn vip(family: Family) -> SocketAddr {
    at(family.vip(), 80)
}

fn far(family: Family) -> SocketAddr {
    at(family.elsewhere(), 8080)
}

/// A service with one backend, elsewhere, for clients outside.
fn balancing(family: Family) -> World {
    with_backend(family, Service { slots: [1].into(), ..Service::default() }, 1)
}

fn with_backend(family: Family, service: Service, incarnation: u32) -> World {
    let mut world = World::new();
    world.lends(PORTS);
    world.settings(|settings| settings.flags |= settings_flags::XDP_BALANCER);
    world.service(1, service, &[(1, backend(far(family), incarnation, 0))]);
    for protocol in [TCP, UDP] {
        world.frontend(vip(family), protocol, 1, frontend_flags::EXTERNAL);
    }
    world
}

/// A lab whose network device has one router beyond it, to everywhere.
fn lab(world: &World) -> Lab {
    let lab = Lab::new(world);
    // What is known of a next hop is known to one CPU.
    let mut one = CpuSet::new();
    one.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
    for setting in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        std::fs::write(std::path::Path::new("/proc/sys").join(setting), "1").unwrap();
    }
    let all = |lines: &str| lines.lines().for_each(|line| ip(&line.split_whitespace().collect::<Vec<_>>()));
    all(&format!(
        "link set {NETWORK_DEVICE} address 02:00:00:00:00:02 mtu 1500 up
         link set peer2 mtu 1500 up
         address replace 10.0.0.1/24 dev {NETWORK_DEVICE}
         -6 address replace fd00::1/64 dev {NETWORK_DEVICE} nodad"
    ));
    way(true);
    lab
}

/// Whether the router is known.
fn way(known: bool) {
    for (router, to) in
        [("10.0.0.254", ["10.0.2.0/24", "198.51.100.0/24"]), ("fd00::fe", ["fd00:0:0:2::/64", "2001:db8:bad::/48"])]
    {
        if known {
            ip(&[
                "neighbour",
                "replace",
                router,
                "lladdr",
                "02:00:00:00:00:fe",
                "dev",
                NETWORK_DEVICE,
                "nud",
                "permanent",
            ]);
        } else {
            ip(&["neighbour", "del", router, "dev", NETWORK_DEVICE]);
        }
        for to in to {
            ip(&["route", "replace", to, "via", router, "dev", NETWORK_DEVICE]);
        }
    }
}

/// What tc makes of a packet that comes in and goes out again.
#[track_caller]
fn by_tc(lab: &Lab, frame: &[u8]) -> Vec<u8> {
    let inside = lab.through(Hook::FromNetwork, frame);
    lab.through(Hook::ToNetwork, &inside)
}

/// To XDP. Once in ten seconds it leaves one packet to the stack.
fn send(lab: &Lab, frame: &[u8]) -> Option<Vec<u8>> {
    lab.balance(frame).or_else(|| lab.balance(frame))
}

/// XDP sends the packet as tc and a router would.
#[track_caller]
fn is_fast(lab: &Lab, frame: &[u8]) -> Vec<u8> {
    let Some(sent) = send(lab, frame) else { panic!("XDP passes it up") };
    assert_eq!(sent, frame::routed(&by_tc(lab, frame), OWN, NEXT));
    sent
}

#[track_caller]
fn is_slow(lab: &Lab, frame: &[u8]) {
    assert_eq!(send(lab, frame), None);
}

/// Begins the client's flow at tc: the node's end of it.
#[track_caller]
fn begin(lab: &Lab, family: Family, build: Build, client: SocketAddr) -> SocketAddr {
    let first = build(client, vip(family), SYN);
    is_slow(lab, &first);
    let sent = by_tc(lab, &first);
    let ports = if family == Family::V4 { 34 } else { 54 };
    let node = at(family.host(), u16::from_be_bytes([sent[ports], sent[ports + 1]]));
    assert_eq!(sent, build(node, far(family), SYN));
    let answer = build(far(family), node, SYN | ACK);
    assert_eq!(by_tc(lab, &answer), build(vip(family), client, SYN | ACK));
    node
}

/// The client's packets to the service, and the flow to the backend.
#[track_caller]
fn entries(lab: &Lab, tcp: bool) -> [ConntrackEntry; 2] {
    let is_service = |entry: &ConntrackEntry| entry.flags & ct_flags::SERVICE != 0;
    let all: Vec<_> = lab.conntrack(tcp).into_iter().map(|(_, entry)| entry).collect();
    let find = |service: bool| {
        let found: Vec<_> = all.iter().filter(|entry| is_service(entry) == service).collect();
        let [entry] = found[..] else { panic!("{} entries", found.len()) };
        *entry
    };
    [find(true), find(false)]
}

both_families! {
    fn an_established_flow_is_sent_as_tc_would(family) {
        for (at_port, build) in BUILDS.into_iter().enumerate() {
            let lab = lab(&balancing(family));
            let client = at(family.stranger(), 5000 + at_port as u16);
            let node = begin(&lab, family, build, client);
            for _ in 0..3 {
                let sent = is_fast(&lab, &build(client, vip(family), ACK));
                assert_eq!(sent, frame::routed(&build(node, far(family), ACK), OWN, NEXT));
                let back = is_fast(&lab, &build(far(family), node, ACK));
                assert_eq!(back, frame::routed(&build(vip(family), client, ACK), OWN, NEXT));
            }
        }
    }

    /// One's complement sums have two zeros: every value of a checksum is met.
    fn checksums_are_right_whatever_they_are(family) {
        let lab = lab(&balancing(family));
        let client = client(family);
        for protocol in [TCP, UDP] {
            let build: Build = if protocol == TCP { frame::tcp } else { |from, to, _| frame::udp(from, to) };
            let node = begin(&lab, family, build, client);
            let made = |from: SocketAddr, to: SocketAddr, word: u16| {
                let network = Network::new(from.ip(), to.ip());
                let ports = (from.port(), to.port());
                let data = word.to_be_bytes();
                let segment = if protocol == TCP {
                    frame::tcp_segment(&network, ports, ACK, &data)
                } else {
                    let mut datagram = frame::udp_datagram(&network, ports, &data);
                    // RFC 768: a sum of zero is sent as all ones.
                    if datagram[6..8] == [0, 0] {
                        datagram[6..8].copy_from_slice(&[0xff, 0xff]);
                    }
                    datagram
                };
                network.frame(protocol, &segment)
            };
            let mut slow = 0;
            for word in 0..=u16::MAX {
                // Around both zeros of what comes out, and some everywhere.
                if word % 61 != 0 && !near_zero(&made(node, far(family), word), family, protocol) {
                    continue;
                }
                let run = lab.run(Hook::Xdp, &made(client, vip(family), word), 1);
                if run.retval == xdp_action::PASS {
                    // The stack's turn, once in ten seconds.
                    slow += 1;
                    continue;
                }
                assert_eq!(run.data, frame::routed(&made(node, far(family), word), OWN, NEXT), "{word:#06x}");
            }
            lab.forget_traces();
            assert!(slow < 100, "{slow} went up");
        }
    }

    fn what_begins_or_ends_a_connection_is_tcs(family) {
        let lab = lab(&balancing(family));
        let (client, vip, far) = (client(family), vip(family), far(family));
        let node = begin(&lab, family, frame::tcp, client);
        for flags in [SYN, SYN | ACK, FIN | ACK, RST, RST | ACK] {
            is_slow(&lab, &frame::tcp(client, vip, flags));
            is_slow(&lab, &frame::tcp(far, node, flags));
        }
        is_fast(&lab, &frame::tcp(client, vip, ACK));
        // The backend ends first, and the client's last word is tc's: so is all that follows.
        by_tc(&lab, &frame::tcp(far, node, FIN | ACK));
        is_fast(&lab, &frame::tcp(client, vip, ACK));
        by_tc(&lab, &frame::tcp(client, vip, FIN | ACK));
        is_slow(&lab, &frame::tcp(client, vip, ACK));
        is_slow(&lab, &frame::tcp(far, node, ACK));
    }

    fn a_backends_reset_ends_the_flow_within_a_second(family) {
        let lab = lab(&balancing(family));
        let (client, vip, far) = (client(family), vip(family), far(family));
        let node = begin(&lab, family, frame::tcp, client);
        is_fast(&lab, &frame::tcp(client, vip, ACK));
        by_tc(&lab, &frame::tcp(far, node, RST));
        is_slow(&lab, &frame::tcp(far, node, ACK));
        lab.sleep(2);
        is_slow(&lab, &frame::tcp(client, vip, ACK));
        is_slow(&lab, &frame::tcp(client, vip, ACK));
    }

    fn what_is_not_plain_is_tcs(family) {
        let lab = lab(&balancing(family));
        let (client, vip, far) = (client(family), vip(family), far(family));
        let node = begin(&lab, family, |from, to, _| frame::udp(from, to), client);
        begin(&lab, family, frame::tcp, client);
        is_fast(&lab, &frame::udp(client, vip));
        is_fast(&lab, &frame::tcp(client, vip, ACK));
        let network = Network::new(client.ip(), vip.ip());
        let ports = (client.port(), vip.port());
        let datagram = frame::udp_datagram(&network, ports, &[7; 56]);
        let segment = frame::tcp_segment(&network, ports, ACK, b"payload");
        let mut others = vec![
            network.hop_limit(1).frame(UDP, &datagram),
            network.hop_limit(0).frame(UDP, &datagram),
            network.fragment(9, 0, true).frame(UDP, &datagram[..32]),
            network.fragment(9, 32, false).frame(UDP, &datagram[32..]),
            frame::tagged(&frame::udp(client, vip), &[0x8100]),
            frame::tagged(&frame::udp(client, vip), &[0x88a8, 0x8100]),
            frame::echo(client.ip(), vip.ip(), 7, true),
            frame::unreachable(client.ip(), vip.ip(), &frame::udp(vip, client)),
            frame::sctp(client, vip),
            // Of nobody's flow.
            frame::udp(at(client.ip(), 1), vip),
            frame::udp(client, at(vip.ip(), 81)),
            frame::tcp(vip, client, ACK),
            // Not what was lent, or not to them.
            frame::udp(far, at(node.ip(), 60_999)),
            frame::udp(at(far.ip(), 8081), node),
            frame::udp(at(family.colleague(), far.port()), node),
            frame::tcp(far, at(node.ip(), node.port() + 1), ACK),
        ];
        match family {
            Family::V4 => others.push(network.frame_with_options(UDP, &datagram, &[1, 1, 1, 0])),
            Family::V6 => others.push(network.frame_with_extensions(&[(60, &[1, 4, 0, 0, 0, 0])], UDP, &datagram)),
        }
        // Headers that contradict themselves.
        for (length, claimed) in [(7u16, &datagram), (65, &datagram)] {
            let mut broken = claimed.clone();
            broken[4..6].copy_from_slice(&length.to_be_bytes());
            others.push(network.frame(UDP, &broken));
        }
        for offset in [0x40, 0xf0] {
            let mut broken = segment.clone();
            broken[12] = offset;
            others.push(network.frame(TCP, &broken));
        }
        let cut = frame::udp(client, vip);
        others.push(cut[..cut.len() - 8].to_vec());
        // Not for this machine.
        let mut foreign = frame::udp(client, vip);
        foreign[5] = 9;
        others.push(foreign);
        for (index, other) in others.iter().enumerate() {
            assert_eq!(send(&lab, other), None, "packet {index}");
        }
        is_fast(&lab, &frame::udp(client, vip));
    }

    fn what_is_too_long_for_the_way_is_tcs(family) {
        let lab = lab(&balancing(family));
        let (client, vip) = (client(family), vip(family));
        let node = begin(&lab, family, |from, to, _| frame::udp(from, to), client);
        let headers = if family == Family::V4 { 28 } else { 48 };
        let long = |from: SocketAddr, to: SocketAddr, bytes: usize| {
            let network = Network::new(from.ip(), to.ip());
            network.frame(UDP, &frame::udp_datagram(&network, (from.port(), to.port()), &vec![1; bytes - headers]))
        };
        is_fast(&lab, &long(client, vip, 1500));
        is_fast(&lab, &long(far(family), node, 1500));
        ip(&["link", "set", NETWORK_DEVICE, "mtu", "1300"]);
        lab.sleep(2);
        // Known as too long before anything is known, and after.
        is_slow(&lab, &long(client, vip, 1301));
        is_fast(&lab, &long(client, vip, 1300));
        is_slow(&lab, &long(client, vip, 1301));
    }

    fn without_a_way_out_of_the_same_device_it_is_tcs(family) {
        let lab = lab(&balancing(family));
        let (client, vip) = (client(family), vip(family));
        let node = begin(&lab, family, frame::tcp, client);
        let packet = frame::tcp(client, vip, ACK);
        let answer = frame::tcp(far(family), node, ACK);
        is_fast(&lab, &packet);
        is_fast(&lab, &answer);
        way(false);
        lab.sleep(2);
        is_slow(&lab, &packet);
        is_slow(&lab, &answer);
        way(true);
        lab.sleep(2);
        is_fast(&lab, &packet);
        is_fast(&lab, &answer);
        // To a machine that is behind another device now.
        let route = if family == Family::V4 { ["10.0.2.0/24", "198.51.100.0/24"] } else { ["fd00:0:0:2::/64", "2001:db8:bad::/48"] };
        for to in route {
            ip(&["link", "set", "lxc_web", "up"]);
            ip(&["route", "replace", to, "dev", "lxc_web"]);
        }
        lab.sleep(2);
        is_slow(&lab, &packet);
        is_slow(&lab, &answer);
        for to in route {
            ip(&["route", "replace", "unreachable", to]);
        }
        lab.sleep(2);
        is_slow(&lab, &packet);
        for to in route {
            ip(&["route", "del", "unreachable", to]);
        }
        way(true);
        lab.sleep(2);
        is_fast(&lab, &packet);
        // A node that does not forward.
        let setting = if family == Family::V4 { "net/ipv4/ip_forward" } else { "net/ipv6/conf/all/forwarding" };
        let setting = std::path::Path::new("/proc/sys").join(setting);
        std::fs::write(&setting, "0").unwrap();
        lab.sleep(2);
        is_slow(&lab, &packet);
        std::fs::write(&setting, "1").unwrap();
    }

    fn the_stack_looks_after_the_neighbour(family) {
        let lab = lab(&balancing(family));
        begin(&lab, family, frame::tcp, client(family));
        let packet = frame::tcp(client(family), vip(family), ACK);
        is_fast(&lab, &packet);
        for _ in 0..3 {
            lab.sleep(11);
            assert_eq!(lab.balance(&packet), None);
            assert!(lab.balance(&packet).is_some());
            assert!(lab.balance(&packet).is_some());
        }
    }

    /// The machines of one subnet differ in the last byte only.
    fn neighbours_do_not_drive_each_other_out(family) {
        let lab = lab(&balancing(family));
        let neighbour = |last: u8| match family.stranger() {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() & !0xff | u32::from(last))),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() & !0xff | u128::from(last))),
        };
        let answer = |last| {
            let node = begin(&lab, family, frame::tcp, at(neighbour(last), 5000));
            frame::tcp(far(family), node, ACK)
        };
        let answers: Vec<_> = (8..24).map(answer).collect();
        for answer in &answers {
            is_fast(&lab, answer);
        }
        // Who is driven out is asked for as if for the first time, and never left to the stack.
        let mut slow = vec![0; answers.len()];
        for _ in 0..12 {
            lab.sleep(1);
            for (slow, answer) in slow.iter_mut().zip(&answers) {
                *slow += u32::from(lab.balance(answer).is_none());
            }
        }
        assert_eq!(slow, vec![1; answers.len()]);
    }

    fn an_epoch_asks_once_and_goes_on(family) {
        let world = balancing(family);
        let lab = lab(&world);
        let (client, vip) = (client(family), vip(family));
        let node = begin(&lab, family, frame::tcp, client);
        let packet = frame::tcp(client, vip, ACK);
        is_fast(&lab, &packet);
        for _ in 0..3 {
            lab.commit(&world);
            is_slow(&lab, &packet);
            // Answers ask for nothing.
            is_fast(&lab, &frame::tcp(far(family), node, ACK));
            by_tc(&lab, &packet);
            is_fast(&lab, &packet);
        }
    }

    fn a_backend_that_came_back_is_another(family) {
        let lab = lab(&balancing(family));
        let client = client(family);
        for build in [BUILDS[0], BUILDS[1]] {
            begin(&lab, family, build, client);
            is_fast(&lab, &build(client, vip(family), ACK));
        }
        let service = Service { slots: [1].into(), ..Service::default() };
        lab.commit(&with_backend(family, service, 2));
        for build in [BUILDS[0], BUILDS[1]] {
            is_slow(&lab, &build(client, vip(family), ACK));
            is_slow(&lab, &build(client, vip(family), ACK));
            by_tc(&lab, &build(client, vip(family), ACK));
            is_fast(&lab, &build(client, vip(family), ACK));
        }
        // None is left: tc says no, and XDP does not say yes.
        let mut world = balancing(family);
        world.tables.services.insert(1, Service::default());
        world.tables.backends.remove(&1);
        lab.commit(&world);
        is_slow(&lab, &frame::tcp(client, vip(family), ACK));
        lab.drops(Hook::FromNetwork, &frame::tcp(client, vip(family), ACK), Reason::NoBackend);
        is_slow(&lab, &frame::tcp(client, vip(family), ACK));
    }

    fn an_expired_flow_begins_anew(family) {
        let lab = lab(&balancing(family));
        let (client, vip) = (client(family), vip(family));
        let node = begin(&lab, family, BUILDS[1], client);
        is_fast(&lab, &frame::udp(client, vip));
        lab.sleep(3600);
        is_slow(&lab, &frame::udp(client, vip));
        is_slow(&lab, &frame::udp(far(family), node));
        begin(&lab, family, BUILDS[1], client);
        is_fast(&lab, &frame::udp(client, vip));
    }

    fn a_maglev_service_is_served_alike(family) {
        let service = Service { slots: [1; 251].into(), flags: service_flags::MAGLEV, ..Service::default() };
        let lab = lab(&with_backend(family, service, 1));
        for port in 5000..5032 {
            let client = at(family.stranger(), port);
            let node = begin(&lab, family, frame::tcp, client);
            is_fast(&lab, &frame::tcp(client, vip(family), ACK));
            is_fast(&lab, &frame::tcp(far(family), node, ACK));
        }
    }

    fn both_entries_live_for_as_long_as_packets_come(family) {
        let lab = lab(&balancing(family));
        let (client, vip) = (client(family), vip(family));
        let first = frame::udp(client, vip);
        is_slow(&lab, &first);
        let sent = by_tc(&lab, &first);
        let ports = if family == Family::V4 { 34 } else { 54 };
        let node = at(family.host(), u16::from_be_bytes([sent[ports], sent[ports + 1]]));
        let alive = |lab: &Lab, tcp: bool, seconds: u64| entries(lab, tcp).iter().for_each(|entry| lab.lives(entry, seconds));
        for _ in 0..4 {
            lab.sleep(5);
            assert!(send(&lab, &first).is_some());
            alive(&lab, false, 60);
        }
        // Nobody has answered yet; who does first, does so by XDP.
        assert_eq!(entries(&lab, false)[1].flags & ct_flags::SEEN_REPLY, 0);
        lab.sleep(2);
        assert!(send(&lab, &frame::udp(far(family), node)).is_some());
        let [_, flow] = entries(&lab, false);
        assert_ne!(flow.flags & ct_flags::SEEN_REPLY, 0);
        lab.lives(&flow, 60);

        // A handshake's last packet makes a connection of it, in both.
        by_tc(&lab, &frame::tcp(client, vip, SYN));
        alive(&lab, true, 60);
        lab.sleep(5);
        assert!(send(&lab, &frame::tcp(client, vip, ACK)).is_some());
        alive(&lab, true, 8000);
    }

    fn the_prefilter_is_asked_first_and_counts(family) {
        let mut world = balancing(family);
        let prefix = if family == Family::V4 { "198.51.100.0/25" } else { "2001:db8:bad::/64" };
        world.filter("203.0.113.0/24", 2, 0, SIDE_SOURCE, ACTION_DROP);
        world.interface(NETWORK_DEVICE, |info| info.flags |= interface_flags::PREFILTER_SOURCE);
        let lab = lab(&world);
        let packet = frame::tcp(client(family), vip(family), ACK);
        let first = frame::tcp(client(family), vip(family), SYN);
        assert_eq!(lab.passes(Hook::Xdp, &first).reason, Reason::PrefilterPass);
        by_tc(&lab, &first);
        // Whatever the stack's turn is, it is over.
        lab.run(Hook::Xdp, &packet, 1);
        let before = lab.metrics();
        let run = lab.run(Hook::Xdp, &packet, 1);
        assert_eq!(run.retval, xdp_action::TX);
        lab.forget_traces();
        let after = lab.metrics();
        let moved: Vec<_> = after.keys().filter(|slot| after[slot].packets != before[slot].packets).copied().collect();
        let mut expected = [
            metric_slot(Reason::PrefilterPass, Direction::Ingress),
            metric_slot(Reason::Forwarded, Direction::Ingress),
            metric_slot(Reason::Forwarded, Direction::Egress),
        ];
        expected.sort_unstable();
        assert_eq!(moved, expected);
        assert!(moved.iter().all(|slot| after[slot].packets == before[slot].packets + 1));
        world.filter(prefix, 1, 0, SIDE_SOURCE, ACTION_DROP);
        lab.commit(&world);
        lab.drops(Hook::Xdp, &packet, Reason::Prefilter);
    }

    fn the_hosts_own_packets_are_for_its_policy(family) {
        let mut world = balancing(family);
        world.settings(|settings| settings.flags |= settings_flags::HOST_POLICY);
        for way in [Way::Ingress, Way::Egress] {
            world.enforce(identity::HOST, way);
        }
        let lab = lab(&world);
        let (client, vip) = (client(family), vip(family));
        let node = begin(&lab, family, frame::tcp, client);
        let packet = frame::tcp(client, vip, ACK);
        is_fast(&lab, &packet);
        is_fast(&lab, &frame::tcp(far(family), node, ACK));
        // To the host itself, from the same client.
        is_slow(&lab, &frame::tcp(client, at(family.host(), 80), ACK));
        lab.drops(Hook::FromNetwork, &frame::tcp(client, at(family.host(), 80), SYN), Reason::PolicyDefaultDeny);
        // Who would leave under the host's address would be judged as the host.
        world.identify(client.ip(), identity::HOST);
        lab.commit(&world);
        lab.through(Hook::FromNetwork, &packet);
        is_slow(&lab, &packet);
        lab.drops(Hook::ToNetwork, &frame::tcp(client, far(family), ACK), Reason::PolicyDefaultDeny);
        is_slow(&lab, &packet);
    }

    fn a_port_that_another_flow_has_is_not_ours(family) {
        let mut world = balancing(family);
        world.lends(61_000..=61_000);
        let lab = lab(&world);
        let vip = vip(family);
        let (one, other) = (at(family.stranger(), 5000), at(family.stranger(), 5001));
        let node = begin(&lab, family, frame::tcp, one);
        is_fast(&lab, &frame::tcp(one, vip, ACK));
        by_tc(&lab, &frame::tcp(far(family), node, RST));
        assert_eq!(begin(&lab, family, frame::tcp, other), node, "the only port there is");
        lab.sleep(2);
        is_slow(&lab, &frame::tcp(one, vip, ACK));
        is_fast(&lab, &frame::tcp(other, vip, ACK));
        let answer = is_fast(&lab, &frame::tcp(far(family), node, ACK));
        assert_eq!(answer, frame::routed(&frame::tcp(vip, other, ACK), OWN, NEXT));
    }

    fn what_is_not_a_clients_is_tcs(family) {
        let mut world = balancing(family);
        world.settings(|settings| settings.flags |= settings_flags::MASQUERADE);
        let lab = lab(&world);
        // An endpoint's flow to the outside.
        let (web, server) = (at(family.web(), 1234), far(family));
        lab.passes(Hook::FromWeb, &frame::udp(web, server));
        let sent = lab.through(Hook::ToNetwork, &frame::udp(web, server));
        let ports = if family == Family::V4 { 34 } else { 54 };
        let node = at(family.host(), u16::from_be_bytes([sent[ports], sent[ports + 1]]));
        is_slow(&lab, &frame::udp(server, node));
        assert_eq!(lab.through(Hook::FromNetwork, &frame::udp(server, node)), frame::udp(server, web));
        // A client whose backend is on this node.
        let here = backend(at(family.db(), 8080), 7, weir_abi::backend_flags::LOCAL);
        world.service(1, Service { slots: [1].into(), ..Service::default() }, &[(1, here)]);
        lab.commit(&world);
        let packet = frame::udp(client(family), vip(family));
        for _ in 0..2 {
            is_slow(&lab, &packet);
            assert_eq!(lab.through(Hook::FromNetwork, &packet), frame::udp(client(family), at(family.db(), 8080)));
        }
    }

    fn it_is_off_unless_asked_for(family) {
        let mut world = balancing(family);
        let lab = lab(&world);
        begin(&lab, family, frame::tcp, client(family));
        let packet = frame::tcp(client(family), vip(family), ACK);
        is_fast(&lab, &packet);
        world.settings(|settings| settings.flags &= !settings_flags::XDP_BALANCER);
        lab.commit(&world);
        by_tc(&lab, &packet);
        is_slow(&lab, &packet);
        // Another device, which no client comes by.
        world.settings(|settings| settings.flags |= settings_flags::XDP_BALANCER);
        world.interface(NETWORK_DEVICE, |info| info.flags &= !interface_flags::NETWORK);
        lab.commit(&world);
        is_slow(&lab, &packet);
    }
}

/// Whether the transport checksum is close to one of its zeros.
fn near_zero(frame: &[u8], family: Family, protocol: u8) -> bool {
    let at = if family == Family::V4 { 34 } else { 54 } + if protocol == TCP { 16 } else { 6 };
    let sum = u16::from_be_bytes([frame[at], frame[at + 1]]);
    sum.wrapping_add(2) < 4
}
