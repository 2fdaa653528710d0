//! Random services, and what compiled tables make of flows to them.
pub mod check;
pub mod faults;
pub mod flows;
mod kubernetes;
pub mod model;

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::{Map, Value, json};

use super::{
    generate::Draft,
    random::Random,
    topology::{APPS, PORT_NAMES, TIERS, Topology, namespace},
};

/// Where a service is reached.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// `None`: at every address of the node.
    pub address: Option<IpAddr>,
    pub port: u16,
    /// By its name in a manifest.
    pub protocol: &'static str,
}

const PORTS: [u16; 4] = [53, 80, 443, 8080];
const RANGES: [&str; 6] =
    ["198.51.100.0/24", "198.51.100.7/32", "192.0.2.0/24", "2001:db8:f00::/48", "2001:db8::/32", "0.0.0.0/0"];
/// Backends that are no endpoints.
const MACHINES: [&str; 3] = ["198.51.100.20", "198.51.100.21", "2001:db8:f00::20"];

pub fn draw(random: &mut Random, draft: &mut Draft, topology: &Topology) {
    for number in 1..=random.within(1..=3) {
        match random.chance(60) {
            true => ours(random, draft, topology, number),
            false => kubernetes::draw(random, draft, topology, number),
        }
    }
    masquerade(random, draft);
}

/// Beside the other `NodeConfig`.
fn masquerade(random: &mut Random, draft: &mut Draft) {
    if random.chance(40) {
        return;
    }
    let mut exclude: BTreeSet<&str> = BTreeSet::new();
    for _ in 0..random.within(0..=2) {
        exclude.insert(*random.pick(&RANGES[..RANGES.len() - 1]));
    }
    draft.push(json!({
        "apiVersion": "weir/v1alpha1", "kind": "NodeConfig", "metadata": {"name": "masquerade"},
        "spec": {"masquerade": {"enabled": random.chance(90), "exclude": exclude}},
    }));
}

/// Who sends to other machines, and where to: in one family, of the cluster and not, inside and outside of [`RANGES`].
pub fn outward(topology: &Topology) -> Vec<(IpAddr, IpAddr)> {
    const NOBODY: [&str; 4] = ["10.0.2.200", "10.0.9.1", "fd00:0:0:2::200", "fd00:0:0:9::1"];
    let mut senders = machines(topology);
    senders.extend(super::topology::addresses(&NOBODY));
    let receivers = [senders.clone(), super::topology::addresses(&flows::WORLD)].concat();
    let pairs = senders.iter().flat_map(|from| receivers.iter().map(move |to| (*from, *to)));
    let is_meant =
        |(from, to): &(IpAddr, IpAddr)| from != to && from.is_ipv4() == to.is_ipv4() && !topology.is_host(*to);
    pairs.filter(is_meant).collect()
}

/// Addresses that could be backends: mostly endpoints'.
fn machines(topology: &Topology) -> Vec<IpAddr> {
    let endpoints = topology.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone());
    let nodes = topology.host.iter().chain(&topology.remote_nodes).copied();
    endpoints.chain(nodes).chain(super::topology::addresses(&MACHINES)).collect()
}

fn labels(random: &mut Random) -> Map<String, Value> {
    let mut labels = Map::new();
    if random.chance(70) {
        labels.insert("app".to_owned(), json!(random.pick(&APPS)));
    }
    if labels.is_empty() || random.chance(20) {
        labels.insert("tier".to_owned(), json!(random.pick(&TIERS)));
    }
    labels
}

fn policy(random: &mut Random) -> &'static str {
    if random.chance(30) { "Local" } else { "Cluster" }
}

fn ranges(random: &mut Random) -> Vec<&'static str> {
    if random.chance(60) {
        return Vec::new();
    }
    let picked: BTreeSet<&str> = (0..random.within(1..=3)).map(|_| *random.pick(&RANGES)).collect();
    picked.into_iter().collect()
}

fn ours(random: &mut Random, draft: &mut Draft, topology: &Topology, number: usize) {
    let selects = random.chance(50);
    // Its ports are not rewritten.
    let sctp = random.chance(10);
    let mut places = vec![
        ("cluster", Some(format!("10.96.0.{number}"))),
        ("cluster", Some(format!("fd00:96::{number}"))),
        ("external", Some(format!("203.0.113.{}", 100 + number))),
        ("node-port", None),
        ("node-port", None),
    ];
    if random.chance(10) {
        let of_somebody = [topology.remote_nodes.clone(), machines(topology)].concat();
        // One service has it at most.
        let address = of_somebody.get(number).filter(|_| number == 1);
        places.extend(address.map(|address| (*random.pick(&["cluster", "external"]), Some(address.to_string()))));
    }
    let mut frontends = Vec::new();
    let mut taken = BTreeSet::new();
    for (kind, address) in places {
        for _ in 0..random.within(0..=2) {
            let protocol = if sctp { "SCTP" } else { *random.pick(&["TCP", "TCP", "UDP"]) };
            let port = match &address {
                Some(_) => *random.pick(&PORTS),
                None => 30000 + (number * 10 + random.within(0..=3)) as u16,
            };
            if !taken.insert((address.clone(), port, protocol)) {
                continue;
            }
            let mut frontend = json!({"port": port, "protocol": protocol, "type": kind});
            if let Some(address) = &address {
                frontend["address"] = json!(address);
            }
            if !sctp && random.chance(40) {
                frontend["targetPort"] = match selects && random.chance(60) {
                    true => json!(random.pick(&PORT_NAMES)),
                    false => json!(random.pick(&[80, 8080])),
                };
            }
            let address = address.as_deref().and_then(|text| text.parse().ok());
            draft.frontends.push(Place { address, port, protocol });
            frontends.push(frontend);
        }
    }
    if frontends.is_empty() {
        return;
    }
    let mut spec = json!({
        "frontends": frontends,
        "externalTrafficPolicy": policy(random),
        "internalTrafficPolicy": policy(random),
        "algorithm": random.pick(&["random", "maglev"]),
        "noBackends": random.pick(&["reject", "drop"]),
        "sourceRanges": ranges(random),
    });
    match selects {
        true => spec["selector"] = json!({"matchLabels": labels(random)}),
        false => spec["backends"] = json!(backends(random, topology, sctp)),
    }
    let name = format!("s{number}");
    draft.push(json!({
        "apiVersion": "weir/v1alpha1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace(random)}, "spec": spec,
    }));
}

fn backends(random: &mut Random, topology: &Topology, sctp: bool) -> Vec<Value> {
    let all = machines(topology);
    let mut taken = BTreeSet::new();
    let mut backends = Vec::new();
    for _ in 0..random.within(1..=6) {
        let address = random.pick(&all);
        let port = (!sctp && random.chance(60)).then(|| *random.pick(&[80u16, 8080]));
        // With and without a port they could be one.
        if !taken.insert(*address) {
            continue;
        }
        let mut backend = json!({"address": address});
        if let Some(port) = port {
            backend["port"] = json!(port);
        }
        if random.chance(30) {
            backend["weight"] = json!(random.pick(&[0, 1, 2, 7]));
        }
        if random.chance(25) {
            backend["state"] = json!(random.pick(&["draining", "maintenance", "active"]));
        }
        backends.push(backend);
    }
    backends
}
