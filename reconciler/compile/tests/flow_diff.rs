//! Which flows meet another fate after a commit, for sets as users write them.
mod support;

use std::fmt::Write as _;

use support::{CLUSTER, facts, parse};
use weir_compile::{ChangedFlow, Compiled, Fate, Input, Side, compile, flow_changes};
use weir_plan::Numbering;

fn both(before: &str, after: &str) -> [Compiled; 2] {
    let mut numbering = Numbering::default();
    let mut sequence = 0;
    [before, after].map(|text| {
        sequence += 1;
        let input = Input { inventory: &parse(text), node: "node1", facts: &facts(), sequence };
        compile(&input, &mut numbering).unwrap_or_else(|errors| panic!("{errors:?}"))
    })
}

/// One line each: `app=db -> app=web ingress 6/80: allow spec.ingress[0]… => deny`.
fn changes(before: &str, after: &str) -> Vec<String> {
    let [before, after] = both(before, after);
    let fate = |fate: &Fate| {
        let rule = fate.rule.as_ref().map(|rule| format!(" {} {}", rule.object.name, rule.path)).unwrap_or_default();
        format!("{}{rule}", if fate.passes { "allow" } else { "deny" })
    };
    let side = |side: &Side| {
        let mut text = side.labels.get("app").cloned().unwrap_or_else(|| format!("{:?}", side.labels));
        side.address.iter().for_each(|address| write!(text, "({address})").unwrap_or_default());
        text
    };
    let line = |flow: &ChangedFlow| match flow {
        ChangedFlow::Test(case) => format!("test {} {}", case.test.name, case.probe.source),
        ChangedFlow::Policy { subject, peer, egress, protocol, port } => {
            let (subject, peer) = (side(subject), peer.as_ref().map_or_else(|| "anybody".to_owned(), side));
            let way =
                if *egress { format!("{subject} -> {peer} egress") } else { format!("{peer} -> {subject} ingress") };
            format!("{way} {protocol:?}/{port:?}")
        }
        ChangedFlow::Prefilter { interface, address, destination } => {
            format!("{interface} {address}{}", if *destination { " as destination" } else { "" })
        }
    };
    let all = flow_changes(&before, &after);
    all.iter().map(|one| format!("{}: {} => {}", line(&one.flow), fate(&one.before), fate(&one.after))).collect()
}

fn policy(name: &str, spec: &str) -> String {
    format!("apiVersion: weir/v1alpha1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
}

fn set(more: &[String]) -> String {
    format!("{CLUSTER}{}", more.concat())
}

const WEB_FROM_DB: &str = "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{matchLabels: {app: db}}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]}";

#[test]
fn the_same_set_changes_no_flow() {
    let same = set(&[policy("p", WEB_FROM_DB)]);
    assert_eq!(changes(&same, &same), Vec::<String>::new());
    // Another name for the rule is no other verdict.
    assert_eq!(changes(&same, &set(&[policy("q", WEB_FROM_DB)])), Vec::<String>::new());
}

#[test]
fn a_first_policy_shuts_out_whom_it_does_not_name() {
    let changed = changes(&set(&[]), &set(&[policy("p", WEB_FROM_DB)]));
    assert_eq!(changed, ["anybody -> web ingress None/None: allow => deny"]);
    let back = changes(&set(&[policy("p", WEB_FROM_DB)]), &set(&[]));
    assert_eq!(back, ["anybody -> web ingress None/None: deny => allow"]);
}

#[test]
fn a_port_that_moves_is_two_flows() {
    let moved = WEB_FROM_DB.replace("'80'", "'8080'");
    let changed = changes(&set(&[policy("p", WEB_FROM_DB)]), &set(&[policy("p", &moved)]));
    let rule = "p spec.ingress[0].toPorts[0].ports[0]";
    assert_eq!(
        changed,
        [
            format!("db -> web ingress Some(6)/Some(80): allow {rule} => deny"),
            format!("db -> web ingress Some(6)/Some(8080): deny => allow {rule}"),
        ]
    );
}

#[test]
fn a_deny_rule_stops_what_an_allow_rule_let_pass_and_only_that() {
    let deny = "{endpointSelector: {matchLabels: {app: web}}, ingressDeny: [{fromEndpoints: [{matchLabels: {app: db}}], toPorts: [{ports: [{port: '80', protocol: TCP}, {port: '81', protocol: TCP}]}]}]}";
    let changed = changes(&set(&[policy("p", WEB_FROM_DB)]), &set(&[policy("p", WEB_FROM_DB), policy("q", deny)]));
    // Port 81 was denied before, by default.
    assert_eq!(
        changed,
        [
            "db -> web ingress Some(6)/Some(80): allow p spec.ingress[0].toPorts[0].ports[0] => deny q spec.ingressDeny[0].toPorts[0].ports[0]"
        ]
    );
}

#[test]
fn an_endpoint_with_another_label_is_told_by_its_address() {
    let relabelled =
        set(&[policy("p", WEB_FROM_DB)]).replace("{name: db, labels: {app: db}}", "{name: db, labels: {app: sql}}");
    let changed = changes(&set(&[policy("p", WEB_FROM_DB)]), &relabelled);
    assert_eq!(
        changed,
        ["sql(10.0.0.11) -> web ingress Some(6)/Some(80): allow p spec.ingress[0].toPorts[0].ports[0] => deny"]
    );
}

#[test]
fn an_endpoint_that_is_selected_from_now_on_is_told_as_subject() {
    let relabelled = set(&[policy("p", WEB_FROM_DB)]).replace("labels: {app: x}}", "labels: {app: web}}");
    // Its namespace keeps it out of the policy.
    assert_eq!(changes(&set(&[policy("p", WEB_FROM_DB)]), &relabelled), Vec::<String>::new());
    let everywhere = WEB_FROM_DB.replace("{app: web}", "{tier: front}");
    let before = set(&[policy("p", &everywhere)]);
    let after = before.replace("{name: web, labels: {app: web}}", "{name: web, labels: {app: web, tier: front}}");
    let changed = changes(&before, &after);
    assert_eq!(changed, ["anybody -> web(10.0.0.10) ingress None/None: allow => deny"], "{changed:#?}");
}

#[test]
fn filters_are_told_by_one_address_of_each_kind() {
    let filter = |cidrs: &str| {
        format!(
            "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: drop}}\nspec: {{interfaces: [eth0], cidrs: [{cidrs}]}}\n---\n"
        )
    };
    let (one, more) = (
        set(&[filter("198.51.100.0/24")]),
        set(&[filter("198.51.100.0/24, 203.0.113.0/24, 203.0.112.0/24, 'fd99::/32'")]),
    );
    assert_eq!(changes(&one, &one), Vec::<String>::new());
    assert_eq!(changes(&one, &more), ["eth0 203.0.112.0: allow => deny drop spec.cidrs"]);
    assert_eq!(changes(&more, &one), ["eth0 203.0.112.0: deny drop spec.cidrs => allow"]);
    assert_eq!(changes(&set(&[]), &one), ["eth0 198.51.100.0: allow => deny drop spec.cidrs"]);
}

#[test]
fn declared_tests_are_told_by_their_names() {
    let test = "apiVersion: weir/v1alpha1\nkind: FlowTest\nmetadata: {name: t}\nspec: {from: {endpoint: db}, to: {endpoint: web}, protocol: TCP, port: 80, expect: {verdict: allow}}\n---\n".to_owned();
    let before = set(&[policy("p", WEB_FROM_DB), test.clone()]);
    let after = set(&[policy("p", &WEB_FROM_DB.replace("'80'", "'81'")), test]);
    let changed = changes(&before, &after);
    assert_eq!(changed.len(), 4, "{changed:#?}");
    assert_eq!(changed[0], "test t 10.0.0.11: allow p spec.ingress[0].toPorts[0].ports[0] => deny");
    assert_eq!(changed[1], "test t fd00::11: allow p spec.ingress[0].toPorts[0].ports[0] => deny");
}
