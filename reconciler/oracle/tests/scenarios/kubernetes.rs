//! `networking.k8s.io/v1`.
use weir_oracle::{FlowProtocol, Verdict::*};

use crate::set::*;

fn k8s(spec: &str) -> Set {
    set(&format!("{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: k}}, spec: {{{spec}}}}}"))
}

#[test]
fn policy_types_and_their_defaults() {
    for (spec, ingress, egress) in [
        ("podSelector: {}", DefaultDeny, Allow),
        ("podSelector: {}, policyTypes: []", DefaultDeny, Allow),
        ("podSelector: {}, egress: [{}]", DefaultDeny, Allow),
        ("podSelector: {}, egress: [{ports: [{port: 1}]}]", DefaultDeny, DefaultDeny),
        ("podSelector: {}, egress: []", DefaultDeny, Allow),
        ("podSelector: {}, policyTypes: [Egress]", Allow, DefaultDeny),
        ("podSelector: {}, policyTypes: [Ingress, Egress]", DefaultDeny, DefaultDeny),
        ("podSelector: {}, policyTypes: [Egress], ingress: [{ports: [{port: 1}]}]", Allow, DefaultDeny),
        ("podSelector: {}, ingress: [{}]", Allow, Allow),
        ("podSelector: {matchLabels: {app: other}}", Allow, Allow),
    ] {
        let set = k8s(spec);
        assert_eq!(set.ingress(WORLD, WEB, tcp(80)), ingress, "{spec}");
        assert_eq!(set.egress(WEB, WORLD, tcp(80)), egress, "{spec}");
        assert_eq!(set.ingress(WORLD, SHOP, tcp(80)), Allow, "{spec}: another namespace");
    }
}

#[test]
fn peers_by_pod_namespace_and_both() {
    let reaching = |peer: &str| {
        let set = k8s(&format!("podSelector: {{}}, ingress: [{{from: [{peer}]}}]"));
        [DB, FAR, SHOP, HOST, REMOTE, WORLD].map(|source| u8::from(set.reaches(source, WEB, tcp(80))))
    };
    assert_eq!(reaching("{podSelector: {}}"), [1, 1, 0, 0, 0, 0]);
    assert_eq!(reaching("{podSelector: {matchLabels: {app: db}}}"), [1, 0, 0, 0, 0, 0]);
    assert_eq!(reaching("{namespaceSelector: {}}"), [1, 1, 1, 0, 0, 0]);
    assert_eq!(reaching("{namespaceSelector: {matchLabels: {team: sales}}}"), [0, 0, 1, 0, 0, 0]);
    assert_eq!(
        reaching("{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}}"),
        [1, 1, 0, 0, 0, 0]
    );
    assert_eq!(reaching("{namespaceSelector: {}, podSelector: {matchLabels: {app: far}}}"), [0, 1, 0, 0, 0, 0]);
    assert_eq!(
        reaching("{namespaceSelector: {matchLabels: {team: sales}}}, {podSelector: {matchLabels: {app: db}}}"),
        [1, 0, 1, 0, 0, 0]
    );
    assert_eq!(reaching("{ipBlock: {cidr: 0.0.0.0/0}}"), [0, 0, 0, 0, 0, 1]);
    assert_eq!(reaching("{ipBlock: {cidr: 0.0.0.0/0, except: [198.51.100.0/24]}}"), [0; 6]);
    assert_eq!(reaching(""), [1; 6]);
}

#[test]
fn ports_default_to_tcp_and_to_all() {
    let set = k8s(
        "podSelector: {}, ingress: [{ports: [{port: 80}, {port: 90, endPort: 92, protocol: UDP}, {protocol: SCTP}, {port: http}]}]",
    );
    let sctp = |destination| FlowProtocol::Sctp { source: 1, destination };
    assert_eq!(set.ingress_rule(DB, WEB, tcp(80)), Some("spec.ingress[0].ports[0]".to_owned()));
    assert!(!set.reaches(DB, WEB, udp(80)) && !set.reaches(DB, WEB, tcp(91)));
    assert!(!set.reaches(DB, WEB, udp(89)) && set.reaches(DB, WEB, udp(90)));
    assert!(set.reaches(DB, WEB, udp(92)) && !set.reaches(DB, WEB, udp(93)));
    assert!(set.reaches(DB, WEB, sctp(0)) && set.reaches(DB, WEB, sctp(65535)));
    assert!(set.reaches(WEB, DB, tcp(8080)), "db's http");
    assert!(!set.reaches(WEB, DB, udp(8080)), "without a protocol it is TCP");
}
