//! Random flows, most of them at a border of some rule.
use std::net::IpAddr;

use weir_oracle::{Flow, FlowProtocol};

use super::{generate::Generated, peers::is_ordinary, ports, random::Random};

/// `count` flows that begin or end on this node.
pub fn flows(set: &Generated, random: &mut Random, count: usize) -> Vec<Flow> {
    std::iter::repeat_with(|| flow(set, random)).flatten().take(count).collect()
}

fn flow(set: &Generated, random: &mut Random) -> Option<Flow> {
    let hint = (!set.hints.is_empty() && random.chance(80)).then(|| random.pick(&set.hints));
    let topology = &set.topology;
    let subjects: Vec<IpAddr> = if random.chance(15) {
        topology.host.clone()
    } else {
        topology.endpoints.iter().filter(|e| e.interface.is_some()).flat_map(|e| e.addresses.clone()).collect()
    };
    let subject = *random.pick(&subjects);
    let known: Vec<IpAddr> = match random.within(0..=9) {
        0..=4 => topology.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect(),
        5 => topology.host.clone(),
        6 => topology.remote_nodes.clone(),
        _ => set.hints.iter().flat_map(|hint| hint.peers.clone()).chain(super::topology::addresses(&WORLD)).collect(),
    };
    let peers = match hint {
        Some(hint) if !hint.peers.is_empty() && random.chance(70) => hint.peers.clone(),
        _ => known,
    };
    let peers: Vec<IpAddr> = peers
        .into_iter()
        .filter(|peer| peer.is_ipv4() == subject.is_ipv4() && *peer != subject && is_ordinary(*peer))
        // The host with itself is on the loopback device, outside policy.
        .filter(|peer| !(topology.is_host(subject) && topology.is_host(*peer)))
        .collect();
    if peers.is_empty() {
        return None;
    }
    let peer = *random.pick(&peers);
    let protocol = match hint {
        Some(hint) if !hint.protocols.is_empty() && random.chance(80) => *random.pick(&hint.protocols),
        _ => any_protocol(random),
    };
    let protocol = fitting(random, protocol, subject.is_ipv4())?;
    let (source, destination) = if random.chance(50) { (subject, peer) } else { (peer, subject) };
    Some(Flow { source, destination, protocol })
}

const WORLD: [&str; 4] = ["198.51.100.7", "203.0.113.9", "2001:db8:f00::7", "2a00::1"];

fn any_protocol(random: &mut Random) -> FlowProtocol {
    let destination = *random.pick(&ports::PORTS);
    match random.within(0..=9) {
        0..=4 => FlowProtocol::Tcp { source: 40000, destination },
        5..=6 => FlowProtocol::Udp { source: 40000, destination },
        7 => FlowProtocol::Sctp { source: 40000, destination },
        _ => FlowProtocol::Icmp { kind: *random.pick(&ports::ICMP_TYPES) },
    }
}

/// ICMP of the packet's own family (seldom of the other, which nothing may match), and a source port that is now and
/// then one that rules speak of.
fn fitting(random: &mut Random, protocol: FlowProtocol, ipv4: bool) -> Option<FlowProtocol> {
    let source = if random.chance(20) { *random.pick(&ports::PORTS) } else { 1024 + (random.bits() % 64000) as u16 };
    Some(match protocol {
        FlowProtocol::Tcp { destination, .. } => FlowProtocol::Tcp { source, destination },
        FlowProtocol::Udp { destination, .. } => FlowProtocol::Udp { source, destination },
        FlowProtocol::Sctp { destination, .. } => FlowProtocol::Sctp { source, destination },
        FlowProtocol::Icmp { kind } | FlowProtocol::Icmpv6 { kind } if ipv4 => FlowProtocol::Icmp { kind },
        FlowProtocol::Icmp { kind } | FlowProtocol::Icmpv6 { kind } => {
            // Neighbour discovery is not judged.
            FlowProtocol::Icmpv6 { kind: Some(kind).filter(|kind| !(130..=143).contains(kind))? }
        }
        FlowProtocol::Other(number) => FlowProtocol::Other(number),
    })
}
