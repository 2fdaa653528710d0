//! The host firewall.
use weir_oracle::{Subject, Verdict::*};

use crate::set::*;

fn on_host(selector: &str, body: &str) -> Set {
    set(&format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {{name: h}}, spec: {{nodeSelector: {{matchLabels: {{zone: {selector}}}}}, {body}}}}}"
    ))
}

#[test]
fn a_node_selector_selects_the_host_of_this_node() {
    let set = on_host("a", "ingress: [{fromEntities: [cluster], toPorts: [{ports: [{port: '22', protocol: TCP}]}]}]");
    assert_eq!(set.judge(DB, HOST, tcp(22)).ingress.subject, Some(Subject::Host));
    for (source, verdict) in [(DB, Allow), (REMOTE, Allow), (FAR, Allow), (WORLD, DefaultDeny)] {
        assert_eq!(set.ingress(source, HOST, tcp(22)), verdict, "{source}");
        assert_eq!(set.ingress(source, "192.0.2.9", tcp(22)), verdict, "{source}");
        assert_eq!(set.ingress(source, HOST, tcp(23)), DefaultDeny, "{source}");
    }
    assert_eq!(set.egress(HOST, WORLD, tcp(80)), Allow);
    assert_eq!(set.ingress(WORLD, WEB, tcp(22)), Allow, "forwarded packets are not the host's");
    assert!(set.judge(WORLD, REMOTE, tcp(22)).ingress.subject.is_none());
}

#[test]
fn a_node_selector_for_another_node_says_nothing_here() {
    let set = on_host("b", "ingress: [{}]");
    assert_eq!(set.ingress(WORLD, HOST, tcp(22)), Allow);
}

#[test]
fn host_to_endpoint_is_judged_at_both_ends() {
    let set = on_host("a", "egress: [{toEndpoints: [{matchLabels: {app: db}}]}]");
    assert!(set.reaches(HOST, DB, tcp(80)) && !set.reaches(HOST, WEB, tcp(80)));
    let set = on_web("ingress: [{fromEntities: [remote-node]}]");
    assert!(!set.reaches(HOST, WEB, tcp(80)), "the node is a peer like any other");
}
