//! Labels, namespaces, reserved labels.
use crate::set::*;

#[test]
fn a_namespaced_policy_selects_subjects_and_peers_in_its_namespace() {
    let set = on_web("ingress: [{fromEndpoints: [{}]}]");
    assert!(set.reaches(DB, WEB, tcp(80)) && set.reaches(FAR, WEB, tcp(80)));
    for source in [SHOP, HOST, REMOTE, WORLD] {
        assert!(!set.reaches(source, WEB, tcp(80)), "{source}");
    }
    assert!(set.reaches(WORLD, SHOP, tcp(80)), "the other web is of another namespace");
}

#[test]
fn a_selector_may_name_another_namespace() {
    for key in ["io.kubernetes.pod.namespace", "k8s:io.kubernetes.pod.namespace", "any:io.kubernetes.pod.namespace"] {
        let set = on_web(&format!("ingress: [{{fromEndpoints: [{{matchLabels: {{'{key}': shop}}}}]}}]"));
        assert!(set.reaches(SHOP, WEB, tcp(80)) && !set.reaches(DB, WEB, tcp(80)), "{key}");
    }
    let set = on_web("ingress: [{fromEndpoints: [{matchLabels: {io.cilium.k8s.namespace.labels.team: sales}}]}]");
    assert!(set.reaches(SHOP, WEB, tcp(80)) && !set.reaches(DB, WEB, tcp(80)));
}

#[test]
fn a_clusterwide_selector_selects_every_endpoint_and_nobody_else() {
    let set = set("
{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {name: p}, spec: {endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{}]}]}}
");
    for (source, destination) in [(DB, WEB), (FAR, WEB), (SHOP, WEB), (DB, SHOP)] {
        assert!(set.reaches(source, destination, tcp(80)), "{source}");
    }
    for source in [HOST, REMOTE, WORLD] {
        assert!(!set.reaches(source, WEB, tcp(80)), "{source}");
    }
}

#[test]
fn reserved_labels_select_what_entities_do() {
    for (label, reaching) in [("host", HOST), ("remote-node", REMOTE), ("world", WORLD), ("world-ipv4", WORLD)] {
        let set = on_web(&format!("ingress: [{{fromEndpoints: [{{matchLabels: {{'reserved:{label}': ''}}}}]}}]"));
        for source in [DB, SHOP, HOST, REMOTE, WORLD] {
            assert_eq!(set.reaches(source, WEB, tcp(80)), source == reaching, "{label}: {source}");
        }
    }
}

#[test]
fn operators() {
    let reaching = |expression: &str| {
        let set = on_web(&format!("ingress: [{{fromEndpoints: [{{matchExpressions: [{expression}]}}]}}]"));
        [DB, FAR].map(|source| set.reaches(source, WEB, tcp(80)))
    };
    assert_eq!(reaching("{key: tier, operator: In, values: [back, front]}"), [true, false]);
    assert_eq!(reaching("{key: tier, operator: In, values: [front]}"), [false, false]);
    assert_eq!(reaching("{key: tier, operator: NotIn, values: [back]}"), [false, true]);
    assert_eq!(reaching("{key: tier, operator: Exists}"), [true, false]);
    assert_eq!(reaching("{key: tier, operator: DoesNotExist}"), [false, true]);
    assert_eq!(
        reaching("{key: 'k8s:tier', operator: Exists}, {key: app, operator: In, values: [far]}"),
        [false, false]
    );
}

#[test]
fn a_present_empty_list_is_no_peer_and_no_field_is_every_peer() {
    for field in ["fromEndpoints", "fromCIDR", "fromCIDRSet", "fromEntities", "fromNodes"] {
        let set = on_web(&format!("ingress: [{{{field}: [], toPorts: [{{ports: [{{port: '80'}}]}}]}}]"));
        assert!(!set.reaches(DB, WEB, tcp(80)) && !set.reaches(WORLD, WEB, tcp(80)), "{field}");
    }
    let set = on_web("ingress: [{toPorts: [{ports: [{port: '80'}]}]}]");
    for source in [DB, SHOP, FAR, HOST, REMOTE, WORLD] {
        assert!(set.reaches(source, WEB, tcp(80)), "{source}");
    }
}

#[test]
fn nodes_by_their_labels_and_never_this_one() {
    let set = on_web("ingress: [{fromNodes: [{matchLabels: {zone: b}}]}]");
    assert!(set.reaches(REMOTE, WEB, tcp(80)) && set.reaches(REMOTE6, WEB6, tcp(80)));
    assert!(!set.reaches(HOST, WEB, tcp(80)) && !set.reaches(FAR, WEB, tcp(80)));
    let set = on_web("ingress: [{fromNodes: [{}]}]");
    assert!(set.reaches(REMOTE, WEB, tcp(80)) && !set.reaches(HOST, WEB, tcp(80)));
}
