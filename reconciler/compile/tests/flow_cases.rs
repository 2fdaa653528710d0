//! Flow tests as one node sends them: which packets, and by which programs.
mod support;

use support::{CLUSTER, address, compiled, facts, parse};
use weir_abi::{BackendInfo, FrontendInfo, FrontendKey, frontend_flags};
use weir_compile::{Compiled, Input, Untestable, compile, compile_after};
use weir_plan::{Numbering, Service, Table, Tables, address_of};

const FILTER: &str = "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {name: drop}\nspec: {interfaces: ['eth*'], cidrs: [198.51.100.0/24]}\n---\n";

fn test(name: &str, from: &str, to: &str) -> String {
    format!(
        "apiVersion: weir/v1alpha1\nkind: FlowTest\nmetadata: {{name: {name}}}\nspec: {{from: {from}, to: {to}, protocol: TCP, port: 80, expect: {{verdict: allow}}}}\n---\n"
    )
}

/// `web 10.0.0.10 > 10.0.0.11: from_endpoint@lxc-web to_endpoint@lxc-db / from_endpoint@lxc-db to_endpoint@lxc-web`
fn cases(set: &Compiled) -> Vec<String> {
    let way = |hooks: &[weir_plan::HookKey]| {
        let hooks: Vec<_> = hooks.iter().map(|at| format!("{}@{}", at.hook.program(), at.place)).collect();
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
    assert!(!Untestable::HostToService.is_failure());
}

const SERVICE: &str = "apiVersion: weir/v1alpha1\nkind: Service\nmetadata: {name: shop}\nspec:\n  frontends:\n  - {address: 10.96.0.1, port: 80}\n  - {address: 203.0.113.80, port: 80, type: external}\n  - {port: 80, type: node-port}\n  - {port: 90, type: node-port}\n  backends: [{address: 10.0.0.11}, {address: 198.51.100.1}]\n---\n";

fn to_service(from: &str, more: &str) -> String {
    format!(
        "apiVersion: weir/v1alpha1\nkind: FlowTest\nmetadata: {{name: t}}\nspec: {{from: {from}, to: {{service: shop}}, protocol: TCP, {more}}}\n---\n"
    )
}

#[test]
fn a_service_is_met_where_its_sender_finds_it() {
    let of = |from: &str, port: u16| {
        let test = to_service(from, &format!("port: {port}, expect: {{verdict: allow}}"));
        cases(&compiled(&format!("{CLUSTER}{SERVICE}{test}")))
    };
    let to = |found: Vec<String>| -> Vec<String> {
        let destination =
            |case: &String| case.split("> ").nth(1).and_then(|rest| rest.split(": ").next()).map(str::to_owned);
        found.iter().filter_map(destination).collect()
    };
    // Whatever a family has of the best kind: the node's ports are there in both.
    assert_eq!(to(of("{endpoint: web}", 80)), ["10.96.0.1", "2001:db8:ffff::1"]);
    assert_eq!(to(of("{endpoint: web}", 90)), ["192.0.2.1", "2001:db8:ffff::1"]);
    assert_eq!(to(of("{address: 203.0.113.7}", 80)), ["203.0.113.80"]);
    assert_eq!(to(of("{address: 203.0.113.7}", 90)), ["192.0.2.1"]);
    assert_eq!(
        of("{endpoint: web}", 80)[0],
        "t 10.0.0.10 > 10.96.0.1: from_endpoint@lxc-web / to_endpoint@lxc-web",
        "behind the first program it goes to a backend"
    );
    assert_eq!(of("{endpoint: web}", 81), ["t not: Service default/shop has no frontend on port 81 of this protocol"]);
    assert_eq!(of("{host: true}", 80), ["t not: the host picks a backend at the socket, before there is a packet"]);
    assert_eq!(of("{endpoint: far}", 80), ["t not: neither end is on this node"], "its own node picks the backend");
}

/// As if the tables had the frontend 10.96.0.1:80 with these backends (address, port, on this node), for everybody.
fn balanced(set: &Compiled, flags: u32, backends: &[(&str, u16, bool)]) -> Compiled {
    let mut tables = Tables::clone(&set.tables);
    let key = FrontendKey::new(address_of(address("10.96.0.1")), 6, 80);
    tables.frontends = Table::from_unsorted(vec![(key, FrontendInfo { service: 1, flags })]);
    let numbers = |wanted: &dyn Fn(bool) -> bool| {
        let these = (1..).zip(backends).filter(|(_, (.., local))| wanted(*local));
        these.map(|(number, _)| number).collect::<Vec<u32>>().into()
    };
    let service = Service { slots: numbers(&|_| true), local_slots: numbers(&|local| local), ..Service::default() };
    tables.services = Table::from_unsorted(vec![(1, service)]);
    let info = |(ip, port, _): &(&str, u16, bool)| BackendInfo {
        address: address_of(address(ip)),
        port_be: port.to_be(),
        service: 1,
        ..BackendInfo::default()
    };
    tables.backends = Table::from_unsorted((1..).zip(backends.iter().map(info)).collect());
    let mut balanced = set.clone();
    balanced.tables = tables.into();
    balanced
}

#[test]
fn behind_a_service_the_way_is_its_backends() {
    let set = |from: &str, expect: &str| {
        compiled(&format!("{CLUSTER}{FILTER}{SERVICE}{}", to_service(from, &format!("port: 80, expect: {expect}"))))
    };
    let both = [("10.0.0.11", 8080, true), ("198.51.100.1", 80, false)];
    let first = |set: &Compiled| set.flow_cases().cases.into_iter().next().unwrap();
    let hooks = |hooks: &[weir_plan::HookKey]| {
        hooks.iter().map(|at| format!("{}@{}", at.hook.program(), at.place)).collect::<Vec<_>>().join(" ")
    };
    let inside = set("{endpoint: web}", "{verdict: allow, backend: db}");
    let case = first(&balanced(&inside, 0, &both));
    let onward = case.probe.onward(address("10.0.0.11"));
    assert_eq!(hooks(&onward.way), "to_endpoint@lxc-db");
    assert_eq!(hooks(&onward.back), "from_endpoint@lxc-db to_endpoint@lxc-web");
    let onward = case.probe.onward(address("198.51.100.1"));
    assert_eq!((&*hooks(&onward.way), &*hooks(&onward.back)), ("to_network@eth0", "to_endpoint@lxc-web"));
    assert_eq!(case.astray, Some((address("198.51.100.1"), 80)), "new flows go there, too");
    let case = first(&balanced(&inside, frontend_flags::INTERNAL_LOCAL, &both));
    assert_eq!(case.astray, None);
    assert!(case.backend.unwrap().is(address("10.0.0.11"), 8080));

    // From outside: the flags that are about it.
    let outside = set("{address: 203.0.113.7, interface: eth0}", "{verdict: allow, backend: '10.0.0.11:8080'}");
    let to_address = |flags: u32| {
        let text = test("t", "{address: 203.0.113.7, interface: eth0}", "{address: 10.96.0.1}");
        let text = text.replace("{verdict: allow}", "{verdict: allow, backend: '10.0.0.11:8080'}");
        first(&balanced(&compiled(&format!("{CLUSTER}{FILTER}{SERVICE}{text}")), flags, &both))
    };
    assert_eq!(to_address(frontend_flags::EXTERNAL).astray, Some((address("198.51.100.1"), 80)));
    assert_eq!(to_address(frontend_flags::EXTERNAL | frontend_flags::EXTERNAL_LOCAL).astray, None);
    assert_eq!(to_address(0).astray, None, "a cluster address is for nobody outside");
    assert_eq!(to_address(0).probe.backends, Default::default());
    let wanted = first(&outside).backend.unwrap();
    assert!(wanted.is(address("10.0.0.11"), 8080) && !wanted.is(address("10.0.0.11"), 80));
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
