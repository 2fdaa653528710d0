//! The L4 part of random rules.
use serde_json::{Map, Value, json};
use weir_oracle::FlowProtocol;

use super::{
    generate::{Draft, Hint},
    random::Random,
    topology::PORT_NAMES,
};

pub const PORTS: [u16; 14] = [1, 22, 53, 79, 80, 81, 443, 1023, 1024, 8000, 8080, 32768, 65534, 65535];
/// ICMP types: of both families, none of them neighbour discovery.
pub const ICMP_TYPES: [u8; 5] = [0, 3, 8, 128, 129];

/// `toPorts` or `icmps` of one item, or neither.
pub fn draw(random: &mut Random, draft: &mut Draft, item: &mut Map<String, Value>, hint: &mut Hint) {
    match random.within(0..=9) {
        0..=2 => draft.feature("no port field"),
        3 => icmps(random, draft, item, hint),
        _ => {
            let mut rules = Vec::new();
            for _ in 0..random.within(1..=2) {
                if random.chance(5) {
                    draft.feature("toPorts without ports");
                    rules.push(json!({}));
                    continue;
                }
                let ports: Vec<Value> = (0..random.within(1..=3)).map(|_| port(random, draft, hint)).collect();
                rules.push(json!({"ports": ports}));
            }
            item.insert("toPorts".to_owned(), Value::Array(rules));
        }
    }
}

fn icmps(random: &mut Random, draft: &mut Draft, item: &mut Map<String, Value>, hint: &mut Hint) {
    let mut fields = Vec::new();
    for _ in 0..random.within(1..=2) {
        let kind = *random.pick(&ICMP_TYPES);
        hint.protocols.extend([FlowProtocol::Icmp { kind }, FlowProtocol::Icmpv6 { kind }]);
        hint.protocols.push(FlowProtocol::Icmp { kind: kind.wrapping_add(1) });
        fields.push(if random.chance(50) {
            draft.feature("ICMP");
            json!({"type": kind})
        } else {
            draft.feature("ICMPv6");
            json!({"family": "IPv6", "type": kind})
        });
    }
    item.insert("icmps".to_owned(), json!([{ "fields": fields }]));
}

fn transport(protocol: &str, destination: u16) -> Vec<FlowProtocol> {
    let source = 40000;
    let tcp = FlowProtocol::Tcp { source, destination };
    let udp = FlowProtocol::Udp { source, destination };
    let sctp = FlowProtocol::Sctp { source, destination };
    match protocol {
        "TCP" => vec![tcp, tcp, udp],
        "UDP" => vec![udp, udp, tcp],
        "SCTP" => vec![sctp, sctp, tcp],
        _ => vec![tcp, udp, sctp],
    }
}

/// Both sides of both borders.
fn borders(first: u16, last: u16) -> Vec<u16> {
    let mut all = vec![first, last, first.midpoint(last), first, last];
    all.extend(first.checked_sub(1));
    all.extend(last.checked_add(1));
    all
}

fn hint_ports(hint: &mut Hint, protocol: &str, ports: &[u16]) {
    hint.protocols.extend(ports.iter().flat_map(|port| transport(protocol, *port)));
}

/// A number as text or as a number: manifests do both.
fn number(random: &mut Random, port: u16) -> Value {
    if random.chance(50) { json!(port) } else { json!(port.to_string()) }
}

fn port(random: &mut Random, draft: &mut Draft, hint: &mut Hint) -> Value {
    let protocol = random.weighted(&[(4, "TCP"), (3, "UDP"), (1, "SCTP"), (3, "ANY"), (2, "")]);
    draft.feature(match protocol {
        "TCP" => "TCP",
        "UDP" => "UDP",
        "SCTP" => "SCTP",
        _ => "any protocol",
    });
    let mut entry = Map::new();
    if !protocol.is_empty() {
        entry.insert("protocol".to_owned(), json!(protocol));
    }
    match random.within(0..=9) {
        0 => {
            draft.feature("port 0");
            entry.insert("port".to_owned(), number(random, 0));
            hint_ports(hint, protocol, &[0, 1, 80, 65535]);
        }
        1 | 2 => {
            draft.feature("named port");
            entry.insert("port".to_owned(), json!(random.pick(&PORT_NAMES)));
            hint_ports(hint, protocol, &[80, 8080, 8000, 53, 81]);
        }
        3..=5 => {
            draft.feature("port range");
            let (a, b) = (*random.pick(&PORTS), *random.pick(&PORTS));
            let (first, last) = match random.within(0..=3) {
                0 => (a, a.saturating_add(random.within(1..=9) as u16)),
                1 => (1, a.max(2)),
                2 => (a.min(65534), 65535),
                _ => (a.min(b), a.max(b)),
            };
            entry.insert("port".to_owned(), number(random, first));
            entry.insert("endPort".to_owned(), json!(last));
            hint_ports(hint, protocol, &borders(first, last));
        }
        _ => {
            draft.feature("port");
            let port = *random.pick(&PORTS);
            entry.insert("port".to_owned(), number(random, port));
            hint_ports(hint, protocol, &borders(port, port));
        }
    }
    Value::Object(entry)
}

/// `ports` of a Kubernetes policy.
pub fn kubernetes(random: &mut Random, draft: &mut Draft, rule: &mut Map<String, Value>, hint: &mut Hint) {
    if random.chance(30) {
        draft.feature("no port field");
        return;
    }
    let mut list = Vec::new();
    for _ in 0..random.within(1..=3) {
        let protocol = random.weighted(&[(3, "TCP"), (3, "UDP"), (1, "SCTP"), (3, "")]);
        let shown = if protocol.is_empty() { "TCP" } else { protocol };
        let mut entry = Map::new();
        if !protocol.is_empty() {
            entry.insert("protocol".to_owned(), json!(protocol));
        }
        match random.within(0..=5) {
            0 => {
                draft.feature("protocol without port");
                hint_ports(hint, shown, &[0, 80, 65535]);
            }
            1 => {
                draft.feature("named port");
                entry.insert("port".to_owned(), json!(random.pick(&PORT_NAMES)));
                hint_ports(hint, shown, &[80, 8080, 53]);
            }
            2 | 3 => {
                draft.feature("port range");
                let first = *random.pick(&PORTS);
                let last = first.saturating_add(random.within(0..=99) as u16);
                entry.insert("port".to_owned(), json!(first));
                entry.insert("endPort".to_owned(), json!(last));
                hint_ports(hint, shown, &borders(first, last));
            }
            _ => {
                draft.feature("port");
                let port = *random.pick(&PORTS);
                entry.insert("port".to_owned(), json!(port));
                hint_ports(hint, shown, &borders(port, port));
            }
        }
        list.push(Value::Object(entry));
    }
    rule.insert("ports".to_owned(), Value::Array(list));
}
