//! The L3 part of random rules.
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::{
    generate::{Draft, Hint},
    random::Random,
    topology::{APPS, NAMESPACES, TEAMS, TIERS, ZONES},
};

const OPERATORS: [(&str, &str); 4] =
    [("In", "In"), ("NotIn", "NotIn"), ("Exists", "Exists"), ("DoesNotExist", "DoesNotExist")];

/// A selector by the labels of endpoints.
fn by_labels(random: &mut Random, draft: &mut Draft) -> Value {
    let mut selector = Map::new();
    if random.chance(70) {
        let (key, value) =
            if random.chance(70) { ("app", *random.pick(&APPS)) } else { ("tier", *random.pick(&TIERS)) };
        let prefix = random.weighted(&[(6, ""), (1, "k8s:"), (1, "any:")]);
        if !prefix.is_empty() {
            draft.feature("label prefix");
        }
        draft.feature("matchLabels");
        selector.insert("matchLabels".to_owned(), json!({format!("{prefix}{key}"): value}));
    }
    if selector.is_empty() || random.chance(20) {
        let (key, values): (&str, &[&str]) =
            if random.chance(60) { ("app", &APPS[..2]) } else { ("tier", &TIERS[..1]) };
        let (operator, feature) = *random.pick(&OPERATORS);
        draft.feature(feature);
        let mut expression = json!({"key": key, "operator": operator});
        if operator.ends_with("In") {
            expression["values"] = json!(values);
        }
        selector.insert("matchExpressions".to_owned(), json!([expression]));
    }
    Value::Object(selector)
}

/// Whom a policy is for.
pub fn subject(random: &mut Random, draft: &mut Draft) -> Value {
    if random.chance(60) { json!({}) } else { by_labels(random, draft) }
}

/// An item of `fromEndpoints` or `toEndpoints`.
fn endpoints(random: &mut Random, draft: &mut Draft) -> Value {
    match random.within(0..=9) {
        0 => {
            draft.feature("empty peer selector");
            json!({})
        }
        1 => {
            draft.feature("namespace in a selector");
            let key = *random.pick(&["io.kubernetes.pod.namespace", "k8s:io.kubernetes.pod.namespace"]);
            let mut selector = json!({"matchLabels": {key: random.pick(&NAMESPACES)}});
            if random.chance(50) {
                selector["matchLabels"]["app"] = json!(random.pick(&APPS));
            }
            selector
        }
        2 => {
            draft.feature("namespace in a selector");
            json!({"matchExpressions": [{"key": "io.kubernetes.pod.namespace", "operator": "NotIn", "values": [random.pick(&NAMESPACES)]}]})
        }
        3 => {
            draft.feature("namespace labels in a selector");
            json!({"matchLabels": {"io.cilium.k8s.namespace.labels.team": random.pick(&TEAMS)}})
        }
        4 => {
            draft.feature("reserved label");
            let label = *random.pick(&["host", "remote-node", "world", "world-ipv4", "world-ipv6", "health"]);
            json!({"matchLabels": {format!("reserved:{label}"): ""}})
        }
        _ => by_labels(random, draft),
    }
}

const WORLD4: [[u8; 4]; 4] = [[198, 51, 100, 77], [203, 0, 113, 128], [10, 0, 1, 200], [8, 8, 8, 8]];
const WORLD6: [&str; 4] = ["2001:db8:f00::77", "2001:db8:f00:8000::1", "fd00:0:0:1::200", "2001:4860::8888"];

/// A prefix around one of a few places, some of which also hold endpoints and nodes.
pub fn prefix(random: &mut Random) -> IpNet {
    if random.chance(55) {
        let length = *random.pick(&[0u8, 1, 7, 8, 15, 16, 17, 23, 24, 25, 29, 30, 31, 32]);
        IpNet::new(IpAddr::from(*random.pick(&WORLD4)), length)
    } else {
        let length = *random.pick(&[0u8, 1, 3, 16, 31, 32, 33, 47, 48, 49, 63, 64, 65, 96, 127, 128]);
        IpNet::new(random.pick(&WORLD6).parse().expect("a literal address"), length)
    }
    .expect("the length fits the family")
    .trunc()
}

/// A longer prefix inside `outer`.
fn inside(random: &mut Random, outer: IpNet) -> IpNet {
    let longest = outer.max_prefix_len();
    let length = (outer.prefix_len() + random.within(1..=9) as u8).min(longest);
    let base = if random.chance(50) { outer.network() } else { outer.broadcast() };
    IpNet::new(base, length).expect("the length fits the family").trunc()
}

/// First and last address, and their neighbours outside.
pub fn edges(prefix: IpNet) -> Vec<IpAddr> {
    let number = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let (first, last) = (number(prefix.network()), number(prefix.broadcast()));
    let top = if prefix.max_prefix_len() == 32 { u128::from(u32::MAX) } else { u128::MAX };
    let below = first.checked_sub(1);
    let above = last.checked_add(1).filter(|above| *above <= top);
    let middle = first + (last - first) / 2;
    [Some(first), Some(last), Some(middle), below, above]
        .into_iter()
        .flatten()
        .map(|number| match prefix {
            IpNet::V4(_) => IpAddr::V4((number as u32).into()),
            IpNet::V6(_) => IpAddr::V6(number.into()),
        })
        .filter(|address| is_ordinary(*address))
        .collect()
}

/// An address that a packet of a flow can come from.
pub fn is_ordinary(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            // Not unspecified, loopback, mapped, link-local or multicast.
            first != 0 && first & 0xffc0 != 0xfe80 && first < 0xff00
        }
    }
}

fn cidr_set(random: &mut Random, draft: &mut Draft, hint: &mut Hint) -> (IpNet, Vec<IpNet>) {
    let outer = prefix(random);
    hint.peers.extend(edges(outer));
    let mut holes = Vec::new();
    if outer.prefix_len() < outer.max_prefix_len() && random.chance(75) {
        draft.feature("except");
        for _ in 0..random.within(1..=2) {
            let hole = inside(random, outer);
            hint.peers.extend(edges(hole));
            holes.push(hole);
        }
    }
    (outer, holes)
}

/// The peer fields of one item. `from`: `from` or `to`.
pub fn draw(
    random: &mut Random,
    draft: &mut Draft,
    item: &mut Map<String, Value>,
    hint: &mut Hint,
    from: &'static str,
    deny: bool,
) {
    let mut kinds: Vec<u8> =
        vec![random.weighted(&[(if deny { 1 } else { 6 }, 0u8), (9, 1), (4, 2), (5, 3), (6, 4), (2, 5)])];
    if matches!(kinds[0], 2..=4) && random.chance(20) {
        draft.feature("union of peer fields");
        kinds = vec![2, 3, 4];
    }
    for kind in kinds {
        let empty = random.chance(3);
        if empty && kind != 0 {
            draft.feature("empty peer list");
        }
        let count = if empty { 0 } else { random.within(1..=2) };
        match kind {
            0 => draft.feature("no peer field"),
            1 => {
                draft.feature("from/toEndpoints");
                let list: Vec<Value> = (0..count).map(|_| endpoints(random, draft)).collect();
                item.insert(format!("{from}Endpoints"), Value::Array(list));
            }
            2 => {
                draft.feature("from/toCIDR");
                let list: Vec<IpNet> = (0..count).map(|_| prefix(random)).collect();
                list.iter().for_each(|prefix| hint.peers.extend(edges(*prefix)));
                item.insert(format!("{from}CIDR"), json!(list));
            }
            3 => {
                draft.feature("from/toCIDRSet");
                let mut list = Vec::new();
                for _ in 0..count {
                    let (cidr, except) = cidr_set(random, draft, hint);
                    if let Some(hole) = except.first().filter(|hole| hole.prefix_len() < hole.max_prefix_len()).copied()
                        && random.chance(25)
                    {
                        draft.feature("CIDR inside an exception");
                        let island = inside(random, hole);
                        hint.peers.extend(edges(island));
                        list.push(json!({"cidr": island}));
                    }
                    list.push(if except.is_empty() {
                        json!({"cidr": cidr})
                    } else {
                        json!({"cidr": cidr, "except": except})
                    });
                }
                item.insert(format!("{from}CIDRSet"), Value::Array(list));
            }
            4 => {
                draft.feature("from/toEntities");
                let list: Vec<&str> = (0..count).map(|_| entity(random, draft, deny)).collect();
                item.insert(format!("{from}Entities"), json!(list));
            }
            _ => {
                draft.feature("from/toNodes");
                let list: Vec<Value> = (0..count)
                    .map(|_| {
                        if random.chance(30) {
                            json!({})
                        } else {
                            json!({"matchLabels": {"zone": random.pick(&ZONES)}})
                        }
                    })
                    .collect();
                item.insert(format!("{from}Nodes"), Value::Array(list));
            }
        }
    }
}

fn entity(random: &mut Random, draft: &mut Draft, deny: bool) -> &'static str {
    let entity = random.weighted(&[
        (if deny { 1 } else { 4 }, "all"),
        (4, "world"),
        (2, "world-ipv4"),
        (2, "world-ipv6"),
        (4, "cluster"),
        (3, "host"),
        (3, "remote-node"),
        (1, "health"),
        (1, "none"),
    ]);
    draft.feature(match entity {
        "health" | "none" => "entity that is nobody",
        entity => entity,
    });
    entity
}

/// `from` or `to` of a Kubernetes policy.
pub fn kubernetes(
    random: &mut Random,
    draft: &mut Draft,
    rule: &mut Map<String, Value>,
    hint: &mut Hint,
    from: &'static str,
) {
    if random.chance(25) {
        draft.feature("no peer field");
        if random.chance(50) {
            rule.insert(from.to_owned(), json!([]));
        }
        return;
    }
    let mut list = Vec::new();
    for _ in 0..random.within(1..=2) {
        let namespaces =
            if random.chance(30) { json!({}) } else { json!({"matchLabels": {"team": random.pick(&TEAMS)}}) };
        list.push(match random.within(0..=4) {
            0 => {
                draft.feature("podSelector as peer");
                json!({"podSelector": by_labels(random, draft)})
            }
            1 => {
                draft.feature("namespaceSelector");
                let by_name = json!({"matchLabels": {"kubernetes.io/metadata.name": random.pick(&NAMESPACES)}});
                json!({"namespaceSelector": if random.chance(40) { by_name } else { namespaces }})
            }
            2 => {
                draft.feature("namespaceSelector and podSelector");
                json!({"namespaceSelector": namespaces, "podSelector": by_labels(random, draft)})
            }
            _ => {
                draft.feature("ipBlock");
                let (cidr, except) = cidr_set(random, draft, hint);
                json!({"ipBlock": {"cidr": cidr, "except": except}})
            }
        });
    }
    rule.insert(from.to_owned(), Value::Array(list));
}
