//! Flow tests as one node sends them: which packets, and by which programs.
mod support;

use support::{CLUSTER, compiled, facts, parse};
use weir_compile::{Compiled, Input, Untestable, compile, compile_after};
use weir_plan::Numbering;

const FILTER: &str = "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {name: drop}\nspec: {interfaces: ['eth*'], cidrs: [198.51.100.0/24]}\n---\n";

fn test(name: &str, from: &str, to: &str) -> String {
    format!(
        "apiVersion: weir/v1alpha1\nkind: FlowTest\nmetadata: {{name: {name}}}\nspec: {{from: {from}, to: {to}, protocol: TCP, port: 80, expect: {{verdict: allow}}}}\n---\n"
    )
}

/// `web 10.0.0.10 > 10.0.0.11: from_endpoint@lxc-web to_endpoint@lxc-db / from_endpoint@lxc-db to_endpoint@lxc-web`
fn cases(set: &Compiled) -> Vec<String> {
    let way = |hooks: &[weir_plan::HookKey]| {
        let hooks: Vec<_> = hooks.iter().map(|at| format!("{}@{}", at.hook.program(), at.interface)).collect();
        hooks.join(" ")
    };
    let found = set.flow_cases();
    let sent = found.cases.iter().map(|case| {
        let probe = &case.probe;
        let name = &case.test.name;
        format!("{name} {} > {}: {} / {}", probe.source, probe.destination, way(&probe.way), way(&probe.back))
    });
    sent.chain(found.untested.iter().map(|(test, why)| format!("{} not: {why}", test.name))).collect()
}

fn of(from: &str, to: &str) -> Vec<String> {
    cases(&compiled(&format!("{CLUSTER}{FILTER}{}", test("t", from, to))))
}

#[test]
fn between_endpoints_in_every_family() {
    assert_eq!(
        of("{endpoint: web}", "{endpoint: db}"),
        [
            "t 10.0.0.10 > 10.0.0.11: from_endpoint@lxc-web to_endpoint@lxc-db / from_endpoint@lxc-db to_endpoint@lxc-web",
            "t fd00::10 > fd00::11: from_endpoint@lxc-web to_endpoint@lxc-db / from_endpoint@lxc-db to_endpoint@lxc-web",
        ]
    );
    assert_eq!(of("{endpoint: web}", "{endpoint: other/x}").len(), 2);
    // By an address, it is the same endpoint.
    assert_eq!(of("{address: 10.0.0.10}", "{endpoint: db}")[..], of("{endpoint: web}", "{endpoint: db}")[..1]);
}

#[test]
fn from_outside_by_every_device_that_is_watched_or_by_one() {
    assert_eq!(
        of("{address: 203.0.113.7}", "{endpoint: web}"),
        [
            "t 203.0.113.7 > 10.0.0.10: xdp_ingress@eth0 to_endpoint@lxc-web / from_endpoint@lxc-web",
            "t 203.0.113.7 > 10.0.0.10: xdp_ingress@eth1 to_endpoint@lxc-web / from_endpoint@lxc-web",
        ]
    );
    let one = of("{address: 203.0.113.7, interface: eth1}", "{endpoint: web}");
    assert_eq!(one, ["t 203.0.113.7 > 10.0.0.10: xdp_ingress@eth1 to_endpoint@lxc-web / from_endpoint@lxc-web"]);
    // An endpoint of another node comes from outside, too.
    assert_eq!(of("{endpoint: far}", "{endpoint: web}").len(), 4);
}

#[test]
fn the_host_is_behind_no_program_of_its_own() {
    assert_eq!(
        of("{host: true}", "{endpoint: web}")[0],
        "t 192.0.2.1 > 10.0.0.10: to_endpoint@lxc-web / from_endpoint@lxc-web"
    );
    let inwards = of("{address: 203.0.113.7, interface: eth0}", "{host: true}");
    assert_eq!(inwards, ["t 203.0.113.7 > 192.0.2.1: xdp_ingress@eth0 / "]);
    let policy = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: host}\nspec: {nodeSelector: {}, ingress: [{fromEntities: [all]}]}\n---\n";
    let endpoint = "apiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata: {name: self}\nspec: {node: node1, attach: {host: true}}\n---\n";
    let guarded = format!(
        "{CLUSTER}{FILTER}{policy}{endpoint}{}",
        test("t", "{address: 203.0.113.7, interface: eth0}", "{host: true}")
    );
    assert_eq!(
        cases(&compiled(&guarded)),
        ["t 203.0.113.7 > 192.0.2.1: xdp_ingress@eth0 from_network@eth0 / to_network@eth0"]
    );
}

#[test]
fn what_makes_no_packet_says_why() {
    assert_eq!(of("{endpoint: far}", "{address: 203.0.113.7}"), ["t not: neither end is on this node"]);
    assert_eq!(of("{endpoint: far}", "{host: true}"), ["t not: neither end is on this node"]);
    assert_eq!(
        of("{address: 203.0.113.7, interface: eth9}", "{endpoint: web}"),
        ["t not: this node has no network device eth9"]
    );
    let families = of("{address: 203.0.113.7, interface: eth0}", "{address: 10.0.0.99}");
    assert_eq!(families.len(), 1, "{families:?}");
    assert!(Untestable::NoFamily.is_failure() && !Untestable::Elsewhere.is_failure());
}

#[test]
fn a_test_that_changes_compiles_nothing_else() {
    let mut numbering = Numbering::default();
    let (before, after) = (
        format!("{CLUSTER}{}", test("t", "{endpoint: web}", "{endpoint: db}")),
        format!("{CLUSTER}{}", test("t", "{endpoint: db}", "{endpoint: web}")),
    );
    let (before, after, facts) = (parse(&before), parse(&after), facts());
    let input = |inventory, sequence| Input { inventory, node: "node1", facts: &facts, sequence };
    let first = compile(&input(&before, 1), &mut numbering).unwrap_or_else(|errors| panic!("{errors:?}"));
    first.warm();
    let second = compile_after(&first, &input(&after, 2), &mut numbering);
    let (second, effort) = second.unwrap_or_else(|errors| panic!("{errors:?}"));
    assert!(!effort.whole, "{effort:?}");
    assert_eq!(second.tables, first.tables);
    assert_eq!(cases(&second)[0].split(':').next(), Some("t 10.0.0.11 > 10.0.0.10"));
}
