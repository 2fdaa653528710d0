//! Random flows to services, most of them to a frontend.
use std::net::IpAddr;

use weir_oracle::{Flow, FlowProtocol};

use super::PORTS;
use crate::property::{generate::Generated, random::Random, topology::addresses};

/// Inside and outside of the ranges that services have.
pub(super) const WORLD: [&str; 6] =
    ["198.51.100.7", "198.51.100.8", "198.51.101.7", "203.0.113.9", "2001:db8:f00::7", "2a00::1"];

pub fn flows(set: &Generated, random: &mut Random, count: usize) -> Vec<Flow> {
    if set.frontends.is_empty() {
        return Vec::new();
    }
    std::iter::repeat_with(|| flow(set, random)).take(count * 4).flatten().take(count).collect()
}

fn flow(set: &Generated, random: &mut Random) -> Option<Flow> {
    let topology = &set.topology;
    let sources: Vec<IpAddr> = match random.within(0..=9) {
        0 => topology.host.clone(),
        1 => topology.remote_nodes.clone(),
        2..=4 => addresses(&WORLD),
        _ => topology.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect(),
    };
    let place = *random.pick(&set.frontends);
    let destinations = match place.address {
        Some(address) => vec![address],
        None if random.chance(90) => topology.host.clone(),
        None => topology.remote_nodes.clone(),
    };
    let destination = *random.pick(&destinations);
    let sources: Vec<IpAddr> = sources
        .into_iter()
        .filter(|source| source.is_ipv4() == destination.is_ipv4() && *source != destination)
        // The host with itself is on the loopback device, outside policy.
        .filter(|source| !(topology.is_host(*source) && topology.is_host(destination)))
        .collect();
    if sources.is_empty() {
        return None;
    }
    let source = *random.pick(&sources);
    let to = if random.chance(85) { place.port } else { *random.pick(&PORTS) };
    let own = 1024 + (random.bits() % 64000) as u16;
    let name = if random.chance(85) { place.protocol } else { *random.pick(&["TCP", "UDP", "SCTP", "ICMP", "GRE"]) };
    let protocol = match name {
        "TCP" => FlowProtocol::Tcp { source: own, destination: to },
        "UDP" => FlowProtocol::Udp { source: own, destination: to },
        "SCTP" => FlowProtocol::Sctp { source: own, destination: to },
        "ICMP" if destination.is_ipv4() => FlowProtocol::Icmp { kind: 8 },
        "ICMP" => FlowProtocol::Icmpv6 { kind: *random.pick(&[128, 135]) },
        _ => FlowProtocol::Other(47),
    };
    Some(Flow { source, destination, protocol })
}
