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
        let backends = fate.backends.iter().map(|one| {
            let verdict = if one.passes { "" } else { " denied" };
            format!(" {}:{}{verdict}", one.address, one.port)
        });
        let reason = fate.dropped.iter().map(|reason| format!(" {}", reason.name()));
        let more: String = reason.chain(backends).collect();
        format!("{}{rule}{more}", if fate.passes { "allow" } else { "deny" })
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
        ChangedFlow::Service { service, client, address, protocol, port } => {
            let service = service.as_ref().map_or("nobody", |service| &*service.name);
            format!("{} -> {address} {protocol}/{port} of {service}", side(client))
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

fn service(spec: &str) -> String {
    format!("apiVersion: weir/v1alpha1\nkind: Service\nmetadata: {{name: s}}\nspec: {spec}\n---\n")
}

const TO_DB: &str = "{frontends: [{address: 10.96.0.1, port: 80}, {address: 10.96.0.1, port: 81}, {address: 203.0.113.80, port: 80, type: external}], backends: [{address: 10.0.0.11, port: 80}]}";

/// Without the host, whose flows change with those of endpoints.
fn of_services(before: &str, after: &str) -> Vec<String> {
    let mut changed = changes(before, after);
    changed.retain(|line| line.contains(" of s:") && !line.contains("reserved:host"));
    changed
}

#[test]
fn a_backend_more_is_told_of_each_client_of_the_service() {
    let more = TO_DB.replace("port: 80}]}", "port: 80}, {address: 10.0.1.10, port: 80}]}");
    let changed = of_services(&set(&[service(TO_DB)]), &set(&[service(&more)]));
    let turns = "allow 10.0.0.11:80 => allow 10.0.0.11:80 10.0.1.10:80";
    let world = r#"{"reserved:world": ""}"#;
    // Port 81 has its backends in common with port 80; the third frontend is for clients outside as well.
    let expected = [
        format!("web(10.0.0.10) -> 10.96.0.1 6/80 of s: {turns}"),
        format!("db(10.0.0.11) -> 10.96.0.1 6/80 of s: {turns}"),
        format!("x(10.0.0.12) -> 10.96.0.1 6/80 of s: {turns}"),
        format!("web(10.0.0.10) -> 203.0.113.80 6/80 of s: {turns}"),
        format!("db(10.0.0.11) -> 203.0.113.80 6/80 of s: {turns}"),
        format!("x(10.0.0.12) -> 203.0.113.80 6/80 of s: {turns}"),
        format!("{world} -> 203.0.113.80 6/80 of s: {turns}"),
    ];
    let sorted = |mut list: Vec<String>| {
        list.sort();
        list
    };
    assert_eq!(sorted(changed), sorted(expected.to_vec()));
    let same = set(&[service(TO_DB)]);
    assert_eq!(of_services(&same, &same), Vec::<String>::new());
    // Whoever comes with the service had no flow to it.
    assert_eq!(of_services("", &same), [format!("{world} -> 203.0.113.80 6/80 of s: allow => allow 10.0.0.11:80")]);
}

#[test]
fn a_policy_of_the_backend_is_told_of_the_frontend() {
    let deny = "{endpointSelector: {matchLabels: {app: db}}, enableDefaultDeny: {ingress: false}, ingressDeny: [{fromEndpoints: [{matchLabels: {app: web}}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]}";
    let (before, after) = (set(&[service(TO_DB)]), set(&[service(TO_DB), policy("p", deny)]));
    let turns = "allow 10.0.0.11:80 => deny 10.0.0.11:80 denied";
    assert_eq!(
        of_services(&before, &after),
        [
            format!("web(10.0.0.10) -> 10.96.0.1 6/80 of s: {turns}"),
            format!("web(10.0.0.10) -> 203.0.113.80 6/80 of s: {turns}"),
            // On another node: from outside.
            format!("web(10.0.1.10) -> 203.0.113.80 6/80 of s: {turns}"),
        ]
    );
    // The frontend's own port is nobody's business.
    let elsewhere = deny.replace("'80'", "'81'");
    assert_eq!(of_services(&before, &set(&[service(TO_DB), policy("p", &elsewhere)])), Vec::<String>::new());
}

#[test]
fn a_service_without_a_backend_and_one_that_goes_are_told_by_their_reason() {
    let none = TO_DB.replace("[{address: 10.0.0.11, port: 80}]", "[{address: 10.0.0.11, port: 80, state: draining}]");
    let changed = of_services(&set(&[service(TO_DB)]), &set(&[service(&none)]));
    assert_eq!(changed.len(), 7, "{changed:#?}");
    assert!(changed.iter().all(|line| line.ends_with("allow 10.0.0.11:80 => deny no_backend")), "{changed:#?}");
    let moved = TO_DB.replace("10.96.0.1, port: 80", "10.96.0.1, port: 8080");
    let changed = of_services(&set(&[service(TO_DB)]), &set(&[service(&moved)]));
    let of_web: Vec<&String> = changed.iter().filter(|line| line.starts_with("web(10.0.0.10) -> 10.96.0.1")).collect();
    assert_eq!(
        of_web,
        [
            "web(10.0.0.10) -> 10.96.0.1 6/80 of s: allow 10.0.0.11:80 => deny no_service",
            "web(10.0.0.10) -> 10.96.0.1 6/8080 of s: deny no_service => allow 10.0.0.11:80",
        ]
    );
    let gone = of_services(&set(&[service(TO_DB)]), &set(&[]));
    assert!(gone.iter().all(|line| line.ends_with("allow 10.0.0.11:80 => allow")), "{gone:#?}");
}

#[test]
fn source_ranges_are_told_of_whom_they_shut_out() {
    let ranges = |ranges: &str| TO_DB.replace("backends:", &format!("sourceRanges: [{ranges}], backends:"));
    let changed = of_services(&set(&[service(TO_DB)]), &set(&[service(&ranges("198.51.100.0/24"))]));
    let world = r#"{"reserved:world": ""}"#;
    assert_eq!(changed, [format!("{world} -> 203.0.113.80 6/80 of s: allow 10.0.0.11:80 => deny source_range")]);
    let changed = of_services(&set(&[service(&ranges("198.51.100.0/24"))]), &set(&[service(&ranges("192.0.2.0/24"))]));
    assert_eq!(
        changed,
        [
            format!("{world}(198.51.100.0) -> 203.0.113.80 6/80 of s: allow 10.0.0.11:80 => deny source_range"),
            format!("{world}(192.0.2.0) -> 203.0.113.80 6/80 of s: deny source_range => allow 10.0.0.11:80"),
        ]
    );
}

#[test]
fn declared_tests_to_a_service_are_told_with_their_backends() {
    let test = "apiVersion: weir/v1alpha1\nkind: FlowTest\nmetadata: {name: t}\nspec: {from: {endpoint: web}, to: {service: s}, protocol: TCP, port: 80, expect: {verdict: allow}}\n---\n".to_owned();
    let moved = TO_DB.replace("{address: 10.0.0.11, port: 80}", "{address: 10.0.1.10, port: 80}");
    let changed = changes(&set(&[service(TO_DB), test.clone()]), &set(&[service(&moved), test]));
    assert_eq!(changed[0], "test t 10.0.0.10: allow 10.0.0.11:80 => allow 10.0.1.10:80");
}
