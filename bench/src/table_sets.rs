//! Sets of manifests that fill one table with 100,000 entries, and others as little as can be.
use std::{fmt::Write as _, net::Ipv4Addr};

use crate::{edit, sets};

/// How many entries, or nearly.
pub(crate) const ENTRIES: u32 = 100_000;
/// Devices that sets speak of: `memory0` to `memory9`.
pub(crate) const DEVICES: u32 = 10;

/// What fills a table.
pub(crate) struct Set {
    /// As plans name the table; without the family.
    pub table: &'static str,
    /// The kernel's name of it.
    pub map: &'static str,
    pub manifests: fn() -> String,
}

pub(crate) const SETS: &[Set] = &[
    Set { table: "frontends", map: "FRONTENDS", manifests: frontends },
    Set { table: "services", map: "SERVICES", manifests: services },
    Set { table: "backends", map: "BACKENDS", manifests: backends },
    Set { table: "slots", map: "SLOTS", manifests: slots },
    Set { table: "source_ranges", map: "SOURCE_RANGES", manifests: source_ranges },
    Set { table: "ipcache", map: "IPCACHE", manifests: ipcache },
    Set { table: "policy", map: "POLICY", manifests: policy },
    Set { table: "endpoints", map: "ENDPOINTS", manifests: endpoints },
    Set { table: "prefilter", map: "PREFILTER", manifests: prefilter },
];

/// What every set has: room for it, and a node.
pub(crate) const BASE: &str = r"apiVersion: weir/v1alpha1
kind: NodeConfig
metadata: {name: node}
spec:
  limits:
    conntrackTcp: 100000
    conntrackOther: 100000
    affinity: 100000
    nat: 100000
    frontends: 262144
    services: 131072
    endpoints: 131072
    policyPerIdentity: 131072
---
apiVersion: weir/v1alpha1
kind: Node
metadata: {name: node1}
spec:
  addresses: [192.0.2.1]
  endpointCIDRs: [10.0.0.0/12]
---
apiVersion: weir/v1alpha1
kind: Node
metadata: {name: node2}
spec:
  addresses: [192.0.2.2]
  endpointCIDRs: [10.16.0.0/12]
";

/// With this, tables that traffic fills are as large as they may be: somebody could fill them.
pub(crate) const SERVED: &str = r"---
apiVersion: weir/v1alpha1
kind: Service
metadata: {name: served}
spec:
  frontends: [{type: external, address: 203.0.113.1, port: 80}]
  backends: [{address: 198.51.100.1, port: 80}]
  sessionAffinity: {timeout: 1h}
";

/// Addresses of services, backends, this node's endpoints, the other's, and clients.
const SERVICES: u32 = 0x0a60_0000;
const BACKENDS: u32 = 0x0a80_0000;
const HERE: u32 = 0x0a00_0100;
const THERE: u32 = 0x0a10_0100;
const CLIENTS: u32 = 0x6440_0000;

fn list(first: u32, count: u32, form: impl Fn(Ipv4Addr) -> String) -> String {
    let items: Vec<String> = (first..first + count).map(|bits| form(Ipv4Addr::from(bits))).collect();
    format!("[{}]", items.join(", "))
}

fn object(text: &mut String, kind: &str, name: &str, spec: &str) {
    // Writing to a String cannot fail.
    let _ = write!(text, "---\napiVersion: weir/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}");
}

fn on_port(address: Ipv4Addr) -> String {
    format!("{{address: {address}, port: 80}}")
}

/// Each address is one entry with its port and one without.
fn frontends() -> String {
    let mut text = String::new();
    for service in 0..500 {
        let frontends = list(SERVICES + service * 100, ENTRIES / 1000, on_port);
        let backends = list(BACKENDS + service, 1, on_port);
        object(
            &mut text,
            "Service",
            &format!("service-{service}"),
            &format!("  frontends: {frontends}\n  backends: {backends}\n"),
        );
    }
    text
}

fn services() -> String {
    let mut text = String::new();
    for service in 0..ENTRIES {
        let (frontend, backend) = (Ipv4Addr::from(SERVICES + service), Ipv4Addr::from(BACKENDS + service));
        let spec = format!(
            "  frontends:\n  - address: {frontend}\n    port: 80\n  backends:\n  - address: {backend}\n    port: 8080\n"
        );
        object(&mut text, "Service", &format!("service-{service}"), &spec);
    }
    text
}

fn backends() -> String {
    let mut text = String::new();
    for service in 0..1000 {
        let frontends = list(SERVICES + service, 1, on_port);
        let backends = list(BACKENDS + service * 100, ENTRIES / 1000, on_port);
        object(
            &mut text,
            "Service",
            &format!("service-{service}"),
            &format!("  frontends: {frontends}\n  backends: {backends}\n"),
        );
    }
    text
}

/// A Maglev table of ten backends has 16,381 slots.
fn slots() -> String {
    let mut text = String::new();
    for service in 0..6 {
        let frontends = list(SERVICES + service, 1, on_port);
        let backends = list(BACKENDS + service * 10, 10, on_port);
        object(
            &mut text,
            "Service",
            &format!("service-{service}"),
            &format!("  algorithm: maglev\n  frontends: {frontends}\n  backends: {backends}\n"),
        );
    }
    text
}

fn source_ranges() -> String {
    let mut text = String::new();
    for service in 0..100 {
        let frontend = Ipv4Addr::from(SERVICES + service);
        let backends = list(BACKENDS + service, 1, on_port);
        let ranges = list(CLIENTS + service * 1000, ENTRIES / 100, |address| format!("{address}/32"));
        let spec = format!(
            "  frontends: [{{type: external, address: {frontend}, port: 80}}]\n  backends: {backends}\n  sourceRanges: {ranges}\n"
        );
        object(&mut text, "Service", &format!("service-{service}"), &spec);
    }
    text
}

/// Endpoints of another node, with an address each and a hundred sets of labels.
fn ipcache() -> String {
    let mut text = String::new();
    for number in 0..ENTRIES {
        let address = Ipv4Addr::from(THERE + number);
        let name = format!("there-{number}, labels: {{app: app-{}}}", number % 100);
        let spec = format!("  node: node2\n  addresses:\n  - {address}\n  attach:\n    netns: there-{number}\n");
        object(&mut text, "Endpoint", &name, &spec);
    }
    text
}

/// Fifty policies of one endpoint: each lets 50 addresses come to 40 ports.
fn policy() -> String {
    let mut text = String::new();
    object(
        &mut text,
        "Endpoint",
        "here, labels: {app: here}",
        "  node: node1\n  addresses: [10.0.0.2]\n  attach: {interface: memory0}\n",
    );
    for number in 0..50 {
        let peers = list(CLIENTS + number * 50, 50, |address| format!("{address}/32"));
        // Odd ports: no two of them are a range.
        let ports: Vec<String> = (0..40).map(|port| format!("{{port: {}, protocol: TCP}}", 1001 + 2 * port)).collect();
        let spec = format!(
            "  endpointSelector: {{matchLabels: {{app: here}}}}\n  ingress:\n  - fromCIDR: {peers}\n    toPorts: [{{ports: [{}]}}]\n",
            ports.join(", ")
        );
        object(&mut text, "NetworkPolicy", &format!("policy-{number}"), &spec);
    }
    text
}

/// Ten endpoints of this node with as many addresses. The ipcache has each of them, too.
fn endpoints() -> String {
    let mut text = String::new();
    let each = ENTRIES / DEVICES;
    for number in 0..DEVICES {
        let addresses = list(HERE + number * each, each, |address| address.to_string());
        let spec = format!("  node: node1\n  addresses: {addresses}\n  attach: {{interface: memory{number}}}\n");
        object(&mut text, "Endpoint", &format!("here-{number}"), &spec);
    }
    text
}

fn prefilter() -> String {
    let set = sets::mixed4(ENTRIES as usize);
    let parts = set.chunks(edit::ENTRIES).enumerate();
    parts.map(|(number, prefixes)| format!("---\n{}", edit::file_for("memory0", number, prefixes))).collect()
}
