//! `v1 Service`s and their slices.
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{PORT_NAMES, PORTS, Place, labels, machines, policy, ranges};
use crate::property::{
    generate::Draft,
    random::Random,
    topology::{Topology, namespace},
};

pub fn draw(random: &mut Random, draft: &mut Draft, topology: &Topology, number: usize) {
    let kind = *random.pick(&["ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer", "ExternalName"]);
    let (name, namespace) = (format!("s{number}"), namespace(random));
    let clusters = match random.within(0..=9) {
        0 => vec!["None".to_owned()],
        1..=4 => vec![format!("10.96.0.{number}")],
        _ => vec![format!("10.96.0.{number}"), format!("fd00:96::{number}")],
    };
    let external = format!("203.0.113.{}", 100 + number);
    let balancer = format!("203.0.113.{}", 110 + number);
    let mut ports = Vec::new();
    for at in 0..random.within(1..=2) {
        let (protocol, port) = (*random.pick(&["TCP", "UDP"]), PORTS[at + random.within(0..=1) * 2]);
        let node_port = 30000 + (number * 10 + at) as u16;
        let mut document = json!({"name": format!("p{at}"), "port": port, "protocol": protocol, "nodePort": node_port});
        if random.chance(50) {
            document["targetPort"] = match random.chance(50) {
                true => json!(random.pick(&PORT_NAMES)),
                false => json!(random.pick(&[80, 8080])),
            };
        }
        let addresses = clusters.iter().chain([&external, &balancer]).filter_map(|text| text.parse::<IpAddr>().ok());
        draft.frontends.extend(addresses.map(|address| Place { address: Some(address), port, protocol }));
        draft.frontends.push(Place { address: None, port: node_port, protocol });
        ports.push((document, protocol));
    }
    let mut spec = json!({
        "type": kind,
        "clusterIP": clusters[0],
        "clusterIPs": clusters,
        "loadBalancerIP": balancer,
        "ports": ports.iter().map(|(document, _)| document).collect::<Vec<_>>(),
        "externalTrafficPolicy": policy(random),
        "internalTrafficPolicy": policy(random),
        "loadBalancerSourceRanges": ranges(random),
        "publishNotReadyAddresses": random.chance(10),
    });
    if random.chance(40) {
        spec["externalIPs"] = json!([external]);
    }
    if random.chance(70) {
        spec["selector"] = json!(labels(random));
    }
    draft.push(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    }));
    for at in 0..random.within(0..=2) {
        let v4 = random.chance(60);
        let mut slice_ports: Vec<Value> = Vec::new();
        for (document, protocol) in &ports {
            if random.chance(85) {
                let port = random.pick(&[80, 8080]);
                slice_ports.push(json!({"name": document["name"], "protocol": protocol, "port": port}));
            }
        }
        draft.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{name}-{at}"), "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
            "addressType": if v4 { "IPv4" } else { "IPv6" },
            "ports": slice_ports,
            "endpoints": endpoints(random, topology, v4),
        }));
    }
}

fn endpoints(random: &mut Random, topology: &Topology, v4: bool) -> Vec<Value> {
    let mut all = machines(topology);
    all.retain(|address| address.is_ipv4() == v4);
    let mut endpoints = Vec::new();
    for _ in 0..random.within(0..=4) {
        if all.is_empty() {
            break;
        }
        let address = all.swap_remove(random.within(0..=all.len() - 1));
        let mut conditions = Map::new();
        for (name, chance) in [("ready", 50), ("serving", 30), ("terminating", 30)] {
            if random.chance(chance) {
                conditions.insert(name.to_owned(), json!(random.chance(50)));
            }
        }
        let mut endpoint = json!({"addresses": [address], "conditions": conditions});
        if random.chance(30) {
            endpoint["nodeName"] = json!(random.pick(&["n1", "n2"]));
        }
        endpoints.push(endpoint);
    }
    endpoints
}
