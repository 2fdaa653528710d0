//! The cluster that a generated set speaks of. Interfaces have fixed names, so that one set of devices serves every set.
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{generate::Draft, random::Random};

/// The node that everything is compiled for.
pub const NODE: &str = "n1";
/// Host-side interfaces of this node's endpoints; a set uses the first few.
pub const ENDPOINT_INTERFACES: [&str; 5] = ["lxc0", "lxc1", "lxc2", "lxc3", "lxc4"];
/// Network devices: the first is of `devices`, the second only of filters that name it.
pub const NETWORK_INTERFACES: [&str; 2] = ["net0", "wan0"];
/// Addresses of the host: of its `Node`, and one that only a device carries.
pub const HOST_ADDRESSES: [&str; 4] = ["192.0.2.1", "2001:db8::1", "192.0.2.129", "2001:db8::129"];

pub const NAMESPACES: [&str; 3] = ["default", "shop", "ops"];
pub const APPS: [&str; 3] = ["web", "db", "cache"];
pub const TIERS: [&str; 2] = ["front", "back"];
pub const ZONES: [&str; 2] = ["a", "b"];
pub const TEAMS: [&str; 2] = ["sales", "infra"];
pub const PORT_NAMES: [&str; 2] = ["http", "dns"];

#[derive(Clone, Debug)]
pub struct Endpoint {
    pub name: String,
    pub namespace: &'static str,
    pub addresses: Vec<IpAddr>,
    /// On this node.
    pub interface: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub struct Topology {
    pub endpoints: Vec<Endpoint>,
    pub host: Vec<IpAddr>,
    pub remote_nodes: Vec<IpAddr>,
}

impl Topology {
    /// The interface behind an address of this node's endpoints.
    pub fn interface_of(&self, address: IpAddr) -> Option<&'static str> {
        self.endpoints.iter().find(|endpoint| endpoint.addresses.contains(&address))?.interface
    }

    pub fn is_host(&self, address: IpAddr) -> bool {
        self.host.contains(&address)
    }
}

/// Half of everything is in one namespace, so that policies and endpoints meet.
pub fn namespace(random: &mut Random) -> &'static str {
    if random.chance(40) { NAMESPACES[0] } else { NAMESPACES[random.within(0..=NAMESPACES.len() - 1)] }
}

pub fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("a literal address")).collect()
}

/// Draws nodes, namespaces and endpoints.
pub fn draw(random: &mut Random, draft: &mut Draft) -> Topology {
    draft.push(json!({
        "apiVersion": "weir/v1alpha1", "kind": "NodeConfig", "metadata": {"name": "all"},
        "spec": {"devices": ["net*"]},
    }));
    let mut topology = Topology { endpoints: Vec::new(), host: addresses(&HOST_ADDRESSES), remote_nodes: Vec::new() };
    for number in 1..=3 {
        let own = [format!("192.0.2.{number}"), format!("2001:db8::{number}")];
        if number > 1 {
            topology.remote_nodes.extend(own.iter().filter_map(|text| text.parse::<IpAddr>().ok()));
        }
        draft.push(json!({
            "apiVersion": "weir/v1alpha1", "kind": "Node",
            "metadata": {"name": format!("n{number}"), "labels": {"zone": random.pick(&ZONES), "role": "worker"}},
            "spec": {
                "addresses": own,
                "endpointCIDRs": [format!("10.0.{number}.0/24"), format!("fd00:0:0:{number}::/64")],
            },
        }));
    }
    for namespace in NAMESPACES {
        if random.chance(60) {
            draft.feature("Namespace");
            draft.push(json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": namespace, "labels": {"team": random.pick(&TEAMS)}},
            }));
        }
    }
    let locals = random.within(2..=ENDPOINT_INTERFACES.len());
    let remotes = random.within(0..=3);
    for index in 0..locals + remotes {
        let interface = ENDPOINT_INTERFACES.get(index).copied().filter(|_| index < locals);
        let node = if interface.is_some() { 1 } else { random.within(2..=3) };
        if interface.is_none() {
            draft.feature("endpoint of another node");
        }
        endpoint(random, draft, &mut topology, index, node, interface);
    }
    if random.chance(40) {
        draft.feature("host endpoint");
        draft.push(json!({
            "apiVersion": "weir/v1alpha1", "kind": "Endpoint", "metadata": {"name": "host"},
            "spec": {"node": NODE, "attach": {"host": true}, "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}]},
        }));
    }
    topology
}

fn endpoint(
    random: &mut Random,
    draft: &mut Draft,
    topology: &mut Topology,
    index: usize,
    node: usize,
    interface: Option<&'static str>,
) {
    let v4 = format!("10.0.{node}.{}", index + 1);
    let v6 = format!("fd00:0:0:{node}::{:x}", index + 1);
    let texts = match random.within(0..=6) {
        0 => vec![v4],
        1 => vec![v6],
        _ => vec![v4, v6],
    };
    let mut labels = serde_json::Map::new();
    if random.chance(90) {
        labels.insert("app".to_owned(), json!(random.pick(&APPS)));
    }
    if random.chance(60) {
        labels.insert("tier".to_owned(), json!(random.pick(&TIERS)));
    }
    let mut ports: Vec<Value> = Vec::new();
    if random.chance(60) {
        ports.push(json!({"name": "http", "port": random.pick(&[80, 8080]), "protocol": random.pick(&["TCP", "ANY"])}));
    }
    if random.chance(40) {
        ports.push(json!({"name": "dns", "port": 53, "protocol": "UDP"}));
    }
    let namespace = namespace(random);
    let name = format!("e{index}");
    let attach = interface.map_or_else(|| format!("elsewhere{index}"), str::to_owned);
    draft.push(json!({
        "apiVersion": "weir/v1alpha1", "kind": "Endpoint",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"node": format!("n{node}"), "addresses": texts, "attach": {"interface": attach}, "ports": ports},
    }));
    let addresses = texts.iter().filter_map(|text| text.parse().ok()).collect();
    topology.endpoints.push(Endpoint { name, namespace, addresses, interface });
}
