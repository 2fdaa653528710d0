//! Random policies of every kind.
use serde_json::{Map, Value, json};

use super::{
    generate::{Draft, Hint},
    peers, ports,
    random::Random,
    topology::{ZONES, namespace},
};

/// 2 to 50 rules.
pub fn draw(random: &mut Random, draft: &mut Draft) {
    let wanted = match random.within(0..=9) {
        0..=4 => random.within(2..=8),
        5..=7 => random.within(9..=20),
        _ => random.within(21..=36),
    };
    let mut number = 0;
    while draft.rules < wanted {
        let most = (wanted - draft.rules).min(6);
        let name = format!("p{number}");
        number += 1;
        match random.within(0..=9) {
            0..=5 => cilium(random, draft, &name, most),
            6 => host(random, draft, &name, most),
            _ => kubernetes(random, draft, &name, most),
        }
    }
}

/// `NetworkPolicy`, `CiliumNetworkPolicy` or `CiliumClusterwideNetworkPolicy` for endpoints.
fn cilium(random: &mut Random, draft: &mut Draft, name: &str, most: usize) {
    let (api_version, kind) = random.weighted(&[
        (4, ("weir/v1alpha1", "NetworkPolicy")),
        (4, ("cilium.io/v2", "CiliumNetworkPolicy")),
        (3, ("cilium.io/v2", "CiliumClusterwideNetworkPolicy")),
    ]);
    draft.feature(kind);
    let clusterwide = kind == "CiliumClusterwideNetworkPolicy";
    let several = most > 1 && random.chance(25);
    let mut specs = Vec::new();
    for _ in 0..if several { random.within(2..=3) } else { 1 } {
        let mut spec = Map::new();
        spec.insert("endpointSelector".to_owned(), peers::subject(random, draft));
        sections(random, draft, &mut spec, most.div_ceil(if several { 2 } else { 1 }));
        specs.push(Value::Object(spec));
    }
    let mut metadata = json!({"name": name});
    if !clusterwide {
        metadata["namespace"] = json!(namespace(random));
    }
    let mut document = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
    if several {
        draft.feature("specs");
        document["specs"] = Value::Array(specs);
    } else {
        document["spec"] = specs.remove(0);
    }
    draft.push(document);
}

/// A clusterwide policy with a `nodeSelector`.
fn host(random: &mut Random, draft: &mut Draft, name: &str, most: usize) {
    draft.feature("nodeSelector");
    let selector = match random.within(0..=2) {
        0 => json!({}),
        1 => json!({"matchLabels": {"zone": random.pick(&ZONES)}}),
        _ => json!({"matchExpressions": [{"key": "role", "operator": "Exists"}]}),
    };
    let mut spec = Map::new();
    spec.insert("nodeSelector".to_owned(), selector);
    sections(random, draft, &mut spec, most);
    draft.push(json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": name}, "spec": spec,
    }));
}

/// The directions of one `spec`, and what it says of default deny.
fn sections(random: &mut Random, draft: &mut Draft, spec: &mut Map<String, Value>, most: usize) {
    const SECTIONS: [&str; 4] = ["ingress", "ingressDeny", "egress", "egressDeny"];
    let mut left = random.within(1..=most.max(1));
    let mut chosen: Vec<&'static str> = SECTIONS.into_iter().filter(|_| random.chance(40)).collect();
    if chosen.is_empty() {
        chosen.push(random.weighted(&[(4, SECTIONS[0]), (1, SECTIONS[1]), (4, SECTIONS[2]), (1, SECTIONS[3])]));
    }
    for section in chosen {
        draft.feature(section);
        let mut items = Vec::new();
        if random.chance(4) {
            draft.feature("empty section");
        } else {
            for _ in 0..random.within(1..=left.clamp(1, 4)) {
                items.push(item(random, draft, section));
                left = left.saturating_sub(1);
            }
        }
        spec.insert(section.to_owned(), Value::Array(items));
    }
    for direction in ["ingress", "egress"] {
        if random.chance(10) {
            let on = random.chance(35);
            draft.feature(if on { "enableDefaultDeny: true" } else { "enableDefaultDeny: false" });
            let entry = spec.entry("enableDefaultDeny").or_insert_with(|| json!({}));
            entry[direction] = json!(on);
        }
    }
}

/// One rule: peers and ports.
fn item(random: &mut Random, draft: &mut Draft, section: &'static str) -> Value {
    draft.rules += 1;
    let mut item = Map::new();
    let mut hint = Hint::default();
    if random.chance(3) {
        draft.feature("empty rule");
        return Value::Object(item);
    }
    let from = if section.starts_with("ingress") { "from" } else { "to" };
    // A deny rule for everybody leaves little to test.
    peers::draw(random, draft, &mut item, &mut hint, from, section.ends_with("Deny"));
    ports::draw(random, draft, &mut item, &mut hint);
    draft.hints.push(hint);
    Value::Object(item)
}

/// `networking.k8s.io/v1 NetworkPolicy`.
fn kubernetes(random: &mut Random, draft: &mut Draft, name: &str, most: usize) {
    draft.feature("networking.k8s.io NetworkPolicy");
    let mut spec = Map::new();
    spec.insert("podSelector".to_owned(), peers::subject(random, draft));
    let types: &[&[&str]] = &[&[], &["Ingress"], &["Egress"], &["Ingress", "Egress"]];
    if random.chance(60) {
        draft.feature("policyTypes");
        spec.insert("policyTypes".to_owned(), json!(random.pick(types)));
    }
    let mut left = most;
    for (section, from) in [("ingress", "from"), ("egress", "to")] {
        if !random.chance(65) {
            continue;
        }
        let mut rules = Vec::new();
        for _ in 0..random.within(0..=left.clamp(1, 3)) {
            left = left.saturating_sub(1);
            draft.rules += 1;
            let mut rule = Map::new();
            let mut hint = Hint::default();
            peers::kubernetes(random, draft, &mut rule, &mut hint, from);
            ports::kubernetes(random, draft, &mut rule, &mut hint);
            draft.hints.push(hint);
            rules.push(Value::Object(rule));
        }
        spec.insert(section.to_owned(), Value::Array(rules));
    }
    draft.push(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace(random)}, "spec": spec,
    }));
}
