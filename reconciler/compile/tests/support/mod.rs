//! A node to compile for, from YAML as users write it.
#![allow(dead_code, reason = "each test file uses what it needs")]
use std::{net::IpAddr, sync::Arc};

use weir_compile::{CompileError, Compiled, Input, Outcome, Trace, TraceFlow, compile};
use weir_plan::{Delivery, InterfaceFacts, InterfaceName, NetnsFacts, NodeFacts, Numbering, Provenance};
use weir_schema::{ContentHash, File, Inventory, Options};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

pub fn file(path: &str, text: &str) -> File {
    // Any distinct hash will do: nothing here looks files up by it.
    let mut hash = [0u8; 32];
    text.bytes().enumerate().for_each(|(at, byte)| hash[at % 32] = hash[at % 32].wrapping_mul(31).wrapping_add(byte));
    File { path: path.into(), bytes: text.as_bytes().into(), hash: ContentHash(hash) }
}

pub fn parse(text: &str) -> Inventory {
    parse_files(&[file("set.yaml", text)])
}

pub fn parse_files(files: &[File]) -> Inventory {
    weir_schema::parse(files, &Options::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

pub fn interface(name: &str, ifindex: u32) -> InterfaceFacts {
    InterfaceFacts {
        name: InterfaceName::from(name),
        ifindex,
        kind: String::new(),
        loopback: name == "lo",
        addresses: Vec::new(),
        ours: name.starts_with("wr"),
        delivery: Delivery::Stack,
    }
}

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// `lo`, `eth0`, `eth1`, and the host side of three endpoints; the host is 192.0.2.1 and 2001:db8:ffff::1.
pub fn facts() -> NodeFacts {
    let names = ["eth0", "eth1", "lo", "lxc-db", "lxc-web", "lxc-x", "wr0"];
    NodeFacts {
        interfaces: names.iter().enumerate().map(|(at, name)| interface(name, at as u32 + 1)).collect(),
        addresses: vec![address("192.0.2.1"), address("2001:db8:ffff::1")],
        netns: vec![
            NetnsFacts { netns: "ns-web".to_owned(), exists: true },
            NetnsFacts { netns: "ns-gone".to_owned(), exists: false },
        ],
        tcx: true,
        cgroup2: true,
    }
}

/// Endpoints `web`, `db` and `x` here, `far` on another node; the node's own objects.
pub const CLUSTER: &str = "
apiVersion: weir/v1alpha1
kind: Node
metadata: {name: node1, labels: {zone: a}}
spec: {addresses: [192.0.2.1], endpointCIDRs: [10.0.0.0/24, 'fd00::/64']}
---
apiVersion: weir/v1alpha1
kind: Node
metadata: {name: node2, labels: {zone: b}}
spec: {addresses: [192.0.2.2]}
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: web, labels: {app: web}}
spec:
  node: node1
  addresses: [10.0.0.10, 'fd00::10']
  attach: {interface: lxc-web}
  ports: [{name: http, port: 80, protocol: TCP}]
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: db, labels: {app: db}}
spec:
  node: node1
  addresses: [10.0.0.11, 'fd00::11']
  attach: {interface: lxc-db}
  ports: [{name: sql, port: 5432, protocol: TCP}]
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: x, namespace: other, labels: {app: x}}
spec:
  node: node1
  addresses: [10.0.0.12, 'fd00::12']
  attach: {interface: lxc-x}
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: far, labels: {app: web, tier: far}}
spec:
  node: node2
  addresses: [10.0.1.10, 'fd00:1::10']
  attach: {interface: lxc9}
---
apiVersion: v1
kind: Namespace
metadata: {name: other, labels: {team: blue}}
---
";

pub fn try_compile(inventory: &Inventory, facts: &NodeFacts) -> Result<Compiled, Vec<CompileError>> {
    compile(&Input { inventory, node: "node1", facts, sequence: 1 }, &mut Numbering::default())
}

pub fn compiled(text: &str) -> Compiled {
    try_compile(&parse(text), &facts()).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// [`CLUSTER`] and one namespaced policy `p` with this spec (flow style or indented by two).
pub fn with_policy(spec: &str) -> Compiled {
    with_policies(&[("NetworkPolicy", spec)])
}

/// [`CLUSTER`] and policies `p0`, `p1`, … of these kinds with these specs.
pub fn with_policies(policies: &[(&str, &str)]) -> Compiled {
    let mut text = CLUSTER.to_owned();
    for (at, (kind, spec)) in policies.iter().enumerate() {
        let (version, kind) = match *kind {
            "NetworkPolicy" => ("weir/v1alpha1", "NetworkPolicy"),
            "Kubernetes" => ("networking.k8s.io/v1", "NetworkPolicy"),
            "Clusterwide" => ("cilium.io/v2", "CiliumClusterwideNetworkPolicy"),
            other => panic!("{other}"),
        };
        text.push_str(&format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: p{at}}}\nspec:\n  {}\n---\n",
            spec.trim()
        ));
    }
    compiled(&text)
}

pub fn trace(compiled: &Compiled, from: &str, to: &str, protocol: u8, port: u16) -> Trace {
    let resolve = |text| compiled.resolve(text).unwrap_or_else(|error| panic!("{error}"));
    let flow = TraceFlow { source: resolve(from), destination: resolve(to), protocol, port };
    compiled.trace(&flow).unwrap_or_else(|error| panic!("{from} {to}: {error}"))
}

/// What the destination's policy says.
pub fn ingress(compiled: &Compiled, from: &str, to: &str, protocol: u8, port: u16) -> (Outcome, Option<String>) {
    let decision = trace(compiled, from, to, protocol, port).ingress.expect("the destination is on this node");
    (decision.outcome, decision.rule.map(|rule| rule.path.to_string()))
}

pub fn egress(compiled: &Compiled, from: &str, to: &str, protocol: u8, port: u16) -> (Outcome, Option<String>) {
    let decision = trace(compiled, from, to, protocol, port).egress.expect("the source is on this node");
    (decision.outcome, decision.rule.map(|rule| rule.path.to_string()))
}

pub fn enters(compiled: &Compiled, from: &str, to: &str, protocol: u8, port: u16) -> bool {
    ingress(compiled, from, to, protocol, port).0.passes()
}

pub fn leaves(compiled: &Compiled, from: &str, to: &str, protocol: u8, port: u16) -> bool {
    egress(compiled, from, to, protocol, port).0.passes()
}

/// The object and path of a rule number.
pub fn rule(compiled: &Compiled, number: u32) -> Option<(Arc<str>, Arc<str>)> {
    compiled.provenance.rule(number).map(|rule| (Arc::clone(&rule.object.name), Arc::clone(&rule.path)))
}
