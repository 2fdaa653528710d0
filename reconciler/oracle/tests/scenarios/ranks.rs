//! What decides, and is named, when several rules match.
use weir_oracle::Verdict::{Allow, RuleDeny};

use crate::set::*;

/// The six shapes of an item: peer and port, peer and protocol, peer, port, protocol, neither. From specific to
/// general, as ranked.
const SHAPES: [(&str, &str); 6] = [
    ("fromEndpoints: [{matchLabels: {app: db}}]", "toPorts: [{ports: [{port: '80', protocol: TCP}]}]"),
    ("fromEntities: [all]", "toPorts: [{ports: [{port: '80', protocol: TCP}]}]"),
    ("fromEndpoints: [{matchLabels: {app: db}}]", "toPorts: [{ports: [{port: '0', protocol: TCP}]}]"),
    ("fromEntities: [all]", "toPorts: [{ports: [{port: '0', protocol: TCP}]}]"),
    ("fromEndpoints: [{matchLabels: {app: db}}]", "toPorts: []"),
    ("fromEntities: [all]", "toPorts: []"),
];

#[test]
fn the_most_specific_allow_is_named_in_every_pair() {
    for (a, specific) in SHAPES.iter().enumerate() {
        for general in &SHAPES[a + 1..] {
            for (first, second, winner) in [(specific, general, 0), (general, specific, 1)] {
                let set = on_web(&format!("ingress: [{{{}, {}}}, {{{}, {}}}]", first.0, first.1, second.0, second.1));
                let judgement = set.judge(DB, WEB, tcp(80));
                assert_eq!(judgement.ingress.verdict, Allow);
                let path = judgement.ingress.rule.expect("an allow has a rule").path;
                assert!(path.starts_with(&format!("spec.ingress[{winner}]")), "{specific:?} over {general:?}: {path}");
            }
        }
    }
}

#[test]
fn deny_wins_in_every_pair() {
    for deny in SHAPES {
        for allow in SHAPES {
            let set =
                on_web(&format!("ingressDeny: [{{{}, {}}}], ingress: [{{{}, {}}}]", deny.0, deny.1, allow.0, allow.1));
            assert_eq!(set.ingress(DB, WEB, tcp(80)), RuleDeny, "{deny:?} over {allow:?}");
            assert!(set.ingress_rule(DB, WEB, tcp(80)).is_some_and(|path| path.starts_with("spec.ingressDeny[0]")));
        }
    }
}

#[test]
fn deny_for_everybody_beats_allow_for_one_and_deny_for_one_port_beats_allow_for_all() {
    let set = on_web(
        "ingress: [{fromEndpoints: [{matchLabels: {app: db}}]}], ingressDeny: [{toPorts: [{ports: [{port: '22'}]}]}]",
    );
    assert!(!set.reaches(DB, WEB, tcp(22)) && set.reaches(DB, WEB, tcp(23)));
    let set =
        on_web("ingress: [{fromEndpoints: [{matchLabels: {app: db}}]}], ingressDeny: [{fromEntities: [cluster]}]");
    assert!(!set.reaches(DB, WEB, tcp(22)));
}

#[test]
fn of_two_ranges_the_block_with_more_bits_is_named() {
    let set = on_web(
        "ingress: [{toPorts: [{ports: [{port: '80', endPort: 83, protocol: TCP}, {port: '82', endPort: 90, protocol: TCP}]}]}]",
    );
    // 82-90 is 82-83, 84-87, 88-89, 90: of 15, 14, 15 and 16 bits; 80-83 is one block of 14.
    let rule = |port| set.ingress_rule(DB, WEB, tcp(port));
    assert_eq!(rule(80), Some("spec.ingress[0].toPorts[0].ports[0]".to_owned()));
    assert_eq!(rule(82), Some("spec.ingress[0].toPorts[0].ports[1]".to_owned()));
    assert_eq!(rule(90), Some("spec.ingress[0].toPorts[0].ports[1]".to_owned()));
    assert_eq!(rule(91), None);
}

#[test]
fn equal_rules_are_ordered_by_object_and_path() {
    let policy = |name: &str| {
        format!(
            "---\n{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: {name}}}, spec: {{endpointSelector: {{}}, ingress: [{{fromEntities: [none]}}, {{fromEntities: [cluster]}}, {{fromEntities: [cluster]}}]}}}}\n"
        )
    };
    let set = set(&(policy("b") + &policy("a")));
    let rule = set.judge(DB, WEB, tcp(1)).ingress.rule.expect("allowed by a rule");
    assert_eq!(rule.to_string(), "CiliumNetworkPolicy default/a spec.ingress[1]");
}
