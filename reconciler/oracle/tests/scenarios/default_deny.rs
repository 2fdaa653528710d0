//! Whom a policy isolates, and in which direction.
use weir_oracle::Verdict::{Allow, DefaultDeny, RuleDeny};

use crate::set::*;

#[test]
fn nothing_selects_the_endpoint_and_everything_passes() {
    let set = set("");
    for (source, destination) in [(WEB, DB), (WORLD, WEB), (WEB, WORLD), (HOST, WEB), (WEB, HOST), (WORLD6, WEB6)] {
        assert!(set.reaches(source, destination, tcp(80)), "{source} to {destination}");
    }
}

#[test]
fn a_rule_for_ingress_denies_ingress_and_leaves_egress_open() {
    let set = on_web("ingress: [{fromEndpoints: [{matchLabels: {app: db}}]}]");
    assert_eq!(set.ingress(DB, WEB, tcp(80)), Allow);
    assert_eq!(set.ingress(FAR, WEB, tcp(80)), DefaultDeny);
    assert_eq!(set.ingress(DB6, WEB6, tcp(80)), Allow);
    assert_eq!(set.ingress(WORLD6, WEB6, tcp(80)), DefaultDeny);
    assert_eq!(set.egress(WEB, FAR, tcp(80)), Allow);
    assert_eq!(set.ingress(FAR, DB, tcp(80)), Allow, "another endpoint is not selected");
}

#[test]
fn a_rule_for_egress_denies_egress_and_leaves_ingress_open() {
    let set = on_web("egress: [{toEndpoints: [{matchLabels: {app: db}}]}]");
    assert_eq!(set.egress(WEB, DB, udp(53)), Allow);
    assert_eq!(set.egress(WEB, WORLD, udp(53)), DefaultDeny);
    assert_eq!(set.ingress(WORLD, WEB, udp(53)), Allow);
}

#[test]
fn an_empty_rule_allows_nobody_and_an_empty_section_is_none() {
    for (section, verdict) in [
        ("ingress: [{}]", DefaultDeny),
        ("ingressDeny: [{}]", DefaultDeny),
        ("ingress: [], ingressDeny: [{}]", DefaultDeny),
        ("ingress: []", Allow),
        ("ingressDeny: []", Allow),
        ("ingress: [], enableDefaultDeny: {ingress: true}", DefaultDeny),
    ] {
        let set = on_web(section);
        assert_eq!(set.ingress(DB, WEB, tcp(80)), verdict, "{section}");
        assert_eq!(set.egress(WEB, DB, tcp(80)), Allow, "{section}");
    }
}

#[test]
fn default_deny_can_be_left_off_and_deny_rules_still_hold() {
    let set = on_web("enableDefaultDeny: {ingress: false}, ingressDeny: [{fromEndpoints: [{matchLabels: {app: db}}]}]");
    assert_eq!(set.ingress(DB, WEB, tcp(80)), RuleDeny);
    assert_eq!(set.ingress(FAR, WEB, tcp(80)), Allow);
    assert_eq!(set.ingress_rule(FAR, WEB, tcp(80)), None);
}

#[test]
fn default_deny_can_be_asked_for_without_a_section() {
    let set = on_web("enableDefaultDeny: {egress: true}");
    assert_eq!(set.egress(WEB, DB, tcp(80)), DefaultDeny);
    assert_eq!(set.ingress(DB, WEB, tcp(80)), Allow);
}

#[test]
fn one_rule_that_leaves_default_deny_off_does_not_lift_it_for_another() {
    let set = set("
{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: p}, specs: [
  {endpointSelector: {}, enableDefaultDeny: {ingress: false}, ingress: [{fromEndpoints: [{matchLabels: {app: db}}]}]},
  {endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {app: far}}]}]}]}
");
    assert_eq!(set.ingress(WORLD, WEB, tcp(80)), DefaultDeny);
    assert_eq!(set.ingress_rule(DB, WEB, tcp(80)), Some("specs[0].ingress[0]".to_owned()));
    assert_eq!(set.ingress_rule(FAR, WEB, tcp(80)), Some("specs[1].ingress[0]".to_owned()));
}

#[test]
fn both_ends_are_judged_and_only_those_of_this_node() {
    let set = on_web("egress: [{toEndpoints: [{}]}], ingress: [{}]");
    let judgement = set.judge(DB, WEB, tcp(80));
    assert_eq!((judgement.egress.verdict, judgement.ingress.verdict), (Allow, DefaultDeny));
    let judgement = set.judge(FAR, WEB, tcp(80));
    assert!(judgement.egress.subject.is_none() && judgement.ingress.subject.is_some());
    let judgement = set.judge(WEB, FAR, tcp(80));
    assert!(judgement.egress.subject.is_some() && judgement.ingress.subject.is_none());
}

#[test]
fn neighbour_discovery_is_never_judged() {
    let set = on_web("ingress: [{}], ingressDeny: [{fromEntities: [all]}], egress: [{}]");
    for kind in 133..=137 {
        assert!(set.reaches(WORLD6, WEB6, weir_oracle::FlowProtocol::Icmpv6 { kind }));
    }
    assert!(!set.reaches(WORLD6, WEB6, weir_oracle::FlowProtocol::Icmpv6 { kind: 128 }));
    assert!(!set.reaches(WORLD6, WEB6, weir_oracle::FlowProtocol::Icmpv6 { kind: 138 }));
}
