//! What services fill tables with, and that an edit fills them as the whole does.
mod support;

use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use proptest::{prelude::*, test_runner::TestRunner};
use support::{CLUSTER, TCP, compiled, facts, file, parse, trace, try_compile};
use weir_abi::{FrontendKey, backend_flags, interface_flags, service_flags, settings_flags};
use weir_compile::{
    BackendTrace, BackendView, Compiled, Decision, Input, ServiceView, TraceVerdict, compile, compile_after,
};
use weir_plan::{Hook, HookKey, HookState, InterfaceName, NodeFacts, Numbering, Space, XdpAttach, address_of, ip_of};
use weir_schema::{BackendState, Inventory, Options, ParsedFile, assemble, parse_file};

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: weir/v1alpha1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
}

fn shown(views: &[ServiceView]) -> Vec<String> {
    let backend = |one: &BackendView| {
        let local = if one.local { " local" } else { "" };
        format!("{}:{} {:?}*{}{local}", one.address, one.port, one.state, one.weight)
    };
    let view = |view: &ServiceView| {
        let places: Vec<_> = view.frontends.iter().map(|one| format!("{}:{}", one.address, one.port)).collect();
        let backends: Vec<_> = view.backends.iter().map(backend).collect();
        format!("{} {} -> {}", view.object.name, places.join(" "), backends.join(", "))
    };
    views.iter().map(view).collect()
}

fn hooks(set: &Compiled, interface: &str) -> Vec<(&'static str, HookState)> {
    let on = |key: &weir_plan::HookKey| key.place.to_string() == *interface;
    set.wiring.hooks.iter().filter(|(key, _)| on(key)).map(|(key, state)| (key.hook.program(), *state)).collect()
}

#[test]
fn a_set_without_services_has_nothing_of_them() {
    let set = compiled(CLUSTER);
    assert_eq!(set.tables.settings.get(&0).unwrap().flags & settings_flags::SERVICES, 0);
    assert!(set.tables.frontends.is_empty() && set.tables.services.is_empty() && set.skipped.is_empty());
    assert!(hooks(&set, "eth0").is_empty());
}

#[test]
fn the_hosts_sockets_reach_services_where_there_is_a_frontend_and_a_cgroup() {
    let services = service("b", "{frontends: [{address: 10.96.0.2, port: 80}], backends: [{address: 10.9.9.9}]}")
        + &service("a", "{frontends: [{port: 30080, type: node-port}], backends: [{address: 10.9.9.9}]}");
    let said = |limit: &str| {
        format!(
            "{CLUSTER}apiVersion: weir/v1alpha1\nkind: NodeConfig\nmetadata: {{name: c}}\nspec: {limit}\n---\n{services}"
        )
    };
    let of = |text: &str, facts: &NodeFacts| {
        let set = try_compile(&parse(text), facts).unwrap();
        let settings = *set.tables.settings.get(&0).unwrap();
        let nodes = [settings.node_v4, settings.node_v6].map(|address| ip_of(&address).to_string());
        let pending: Vec<_> = set.pending.iter().map(|one| format!("{} {}", one.code, one.object)).collect();
        (
            hooks(&set, "cgroup").len(),
            settings.flags & settings_flags::SOCKETS != 0,
            nodes,
            pending,
            set.capacity.sockets,
        )
    };
    let (none, both) = (["::", "::"].map(str::to_owned), ["192.0.2.1", "2001:db8:ffff::1"].map(str::to_owned));
    let pending = of(CLUSTER, &facts()).3;
    assert_eq!(of(CLUSTER, &facts()), (0, false, none.clone(), pending.clone(), 64));
    assert_eq!(of(&said("{limits: {sockets: 77}}"), &facts()), (8, true, both, pending.clone(), 77));
    assert_eq!(of(&said("{socketLoadBalancing: false}"), &facts()), (0, false, none.clone(), pending.clone(), 64));
    let bare = NodeFacts { cgroup2: false, ..facts() };
    let mut found = of(&said("{}"), &bare);
    found.3.retain(|one| one.starts_with("cgroup-missing"));
    assert_eq!(found, (0, false, none, vec!["cgroup-missing Service default/a".to_owned()], 65_536));
}

#[test]
fn services_are_shown_with_their_backends() {
    let set = compiled(&format!(
        "{CLUSTER}{}{}",
        service(
            "web",
            "{frontends: [{address: 10.96.0.1, port: 80}, {address: 10.96.0.1, port: 81, targetPort: http}], selector: {matchLabels: {app: web}}}"
        ),
        service(
            "db",
            "{frontends: [{address: 10.96.0.2, port: 80}], backends: [{address: 10.9.9.9, port: 81, weight: 7}, {address: 10.0.0.11, state: maintenance}, {address: 192.0.2.1, weight: 0}]}"
        ),
    ));
    let expected = [
        "db 10.96.0.2:80 -> 10.0.0.11:80 Maintenance*1, 10.9.9.9:81 Active*7, 192.0.2.1:80 Active*0 local",
        "web 10.96.0.1:81 -> 10.0.0.10:80 Active*1 local",
        "web 10.96.0.1:80 -> 10.0.0.10:80 Active*1 local, 10.0.1.10:80 Active*1",
    ];
    let mut found = shown(&set.services());
    found.sort_by(|a, b| a.split(' ').next().cmp(&b.split(' ').next()).then(b.cmp(a)));
    assert_eq!(found, expected);
    let views = set.services();
    let db = &views[0];
    assert_eq!(db.backends[0].number, 0, "in maintenance, in no table");
    let info = set.tables.backends.get(&db.backends[2].number).unwrap();
    assert_eq!(info.flags, backend_flags::EXISTS | backend_flags::DRAINING | backend_flags::LOCAL);
    let value = set.tables.services.get(&db.number).unwrap();
    assert_eq!(value.slots[..], [db.backends[1].number]);
    assert!(value.local_slots.is_empty());
    assert_eq!(value.flags, service_flags::REJECT);
    assert_eq!(db.backends[0].state, BackendState::Maintenance);
}

#[test]
fn an_address_of_somebody_is_not_taken_whole() {
    let frontends = "{address: 10.96.0.1, port: 80}, {address: 10.0.0.10, port: 80}, {address: 192.0.2.1, port: 80, type: external}, {address: 192.0.2.2, port: 80}, {address: 10.0.1.10, port: 80}";
    let set = compiled(&format!(
        "{CLUSTER}{}",
        service("a", &format!("{{frontends: [{frontends}], backends: [{{address: 10.9.9.9}}]}}"))
    ));
    let alone: Vec<_> = set.tables.frontends.iter().filter(|(key, _)| key.is_address()).collect();
    let addresses: Vec<_> = alone.iter().map(|(key, info)| (ip_of(&key.address).to_string(), info.service)).collect();
    assert_eq!(addresses, [("10.96.0.1".to_owned(), 0)]);
    assert_eq!(set.tables.frontends.len(), 6);
}

/// One that is named keeps its entry beside a node port of all addresses.
#[test]
fn a_named_address_of_the_host_goes_before_its_node_ports() {
    let set = compiled(&format!(
        "{CLUSTER}{}{}",
        service("a", "{frontends: [{port: 8080, type: node-port}], backends: [{address: 10.9.9.1}]}"),
        service(
            "b",
            "{frontends: [{address: 192.0.2.1, port: 8080, type: external}], backends: [{address: 10.9.9.2}]}"
        ),
    ));
    let at = |address: &str| {
        let key = FrontendKey::new(address_of(support::address(address)), 6, 8080);
        let number = set.tables.frontends.get(&key).unwrap().service;
        set.services().into_iter().find(|view| view.number == number).unwrap().object.name.to_string()
    };
    assert_eq!((at("192.0.2.1"), at("2001:db8:ffff::1")), ("b".to_owned(), "a".to_owned()));
}

#[test]
fn network_devices_have_programs_where_there_is_a_frontend() {
    let eth0 = InterfaceName::from("eth0");
    assert!(hooks(&compiled(CLUSTER), "eth0").is_empty());
    // What comes from outside to a cluster address ends there.
    let inside = service("a", "{frontends: [{address: 10.96.0.1, port: 80}], backends: [{address: 10.9.9.1}]}");
    let set = compiled(&format!("{CLUSTER}{inside}"));
    assert_eq!(set.tables.settings.get(&0).unwrap().flags & settings_flags::SERVICES, settings_flags::SERVICES);
    assert_eq!(hooks(&set, "eth0"), [("from_network", HookState::Tcx), ("to_network", HookState::Tcx)]);
    let edge = service("b", "{frontends: [{port: 30080, type: node-port}], backends: [{address: 10.9.9.1}]}");
    let set = compiled(&format!("{CLUSTER}{inside}{edge}"));
    assert_eq!(hooks(&set, "eth0"), [("from_network", HookState::Tcx), ("to_network", HookState::Tcx)]);
    assert_eq!(set.tables.interfaces.get(&eth0).unwrap().flags, interface_flags::NETWORK);
}

#[test]
fn acceleration_puts_xdp_on_network_devices() {
    let config = |spec: &str| {
        format!(
            "apiVersion: weir/v1alpha1\nkind: NodeConfig\nmetadata: {{name: c}}\nspec: {{loadBalancer: {{acceleration: {spec}}}}}\n---\n"
        )
    };
    let filter = |mode: &str| {
        format!(
            "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: f}}\nspec: {{interfaces: [eth0], mode: {mode}, cidrs: [203.0.113.0/24]}}\n---\n"
        )
    };
    let edge = service("b", "{frontends: [{port: 30080, type: node-port}], backends: [{address: 10.9.9.1}]}");
    let xdp = |set: &Compiled, device: &str| {
        let key = HookKey::on(device.into(), Hook::XdpIngress);
        set.wiring.hooks.get(&key).copied()
    };
    let is_on = |set: &Compiled| set.tables.settings.get(&0).unwrap().flags & settings_flags::XDP_BALANCER != 0;
    let plain = compiled(&format!("{CLUSTER}{}{edge}", config("disabled")));
    assert_eq!((xdp(&plain, "eth0"), is_on(&plain)), (None, false));
    for (mode, attach) in [("auto", XdpAttach::Auto), ("native", XdpAttach::Native), ("generic", XdpAttach::Generic)] {
        let set = compiled(&format!("{CLUSTER}{}{edge}", config(mode)));
        assert!(is_on(&set));
        for device in ["eth0", "eth1"] {
            assert_eq!(xdp(&set, device), Some(HookState::Xdp(attach)), "{mode} on {device}");
        }
        // What filters eth0 says nothing of eth1, which is in no group.
        let set = compiled(&format!("{CLUSTER}{}{}{edge}", config(mode), filter("auto")));
        assert_eq!(
            (xdp(&set, "eth0"), xdp(&set, "eth1")),
            (Some(HookState::Xdp(attach)), Some(HookState::Xdp(attach)))
        );
        let decisions = trace(&set, "203.0.113.9", "host", TCP, 1).prefilter;
        let drops: Vec<_> = decisions.into_iter().map(|one| (one.interface.to_string(), one.drops)).collect();
        assert_eq!(drops, [("eth0".to_owned(), true), ("eth1".to_owned(), false)]);
    }
    let stricter = compiled(&format!("{CLUSTER}{}{}{edge}", config("auto"), filter("generic")));
    assert_eq!(xdp(&stricter, "eth0"), Some(HookState::Xdp(XdpAttach::Generic)));
    assert_eq!(xdp(&stricter, "eth1"), Some(HookState::Xdp(XdpAttach::Auto)));
    // Nothing is served to the outside.
    assert_eq!(xdp(&compiled(&format!("{CLUSTER}{}", config("auto"))), "eth0"), None);

    let both = format!("{CLUSTER}{}{}{edge}", config("native"), filter("generic"));
    let [error] = &try_compile(&parse(&both), &facts()).unwrap_err()[..] else { panic!("one error") };
    assert_eq!((error.code, error.path.as_deref()), ("xdp-mode-conflict", Some("spec.loadBalancer.acceleration")));
    let both = format!("{CLUSTER}{}{}{edge}", config("generic"), filter("native"));
    let [error] = &try_compile(&parse(&both), &facts()).unwrap_err()[..] else { panic!("one error") };
    assert_eq!((error.code, error.path.as_deref()), ("xdp-mode-conflict", Some("spec.mode")));
}

#[test]
fn limits_name_who_fills_the_table() {
    let text = format!(
        "{CLUSTER}apiVersion: weir/v1alpha1\nkind: NodeConfig\nmetadata: {{name: c}}\nspec: {{limits: {{frontends: 2, services: 1, backends: 2, affinity: 77}}}}\n---\n{}{}",
        service(
            "a",
            "{frontends: [{address: 10.96.0.1, port: 80}, {address: 10.96.0.1, port: 81}], backends: [{address: 10.9.9.1}]}"
        ),
        service("b", "{frontends: [{address: 10.96.0.2, port: 80}], backends: [{address: 10.9.9.1}]}"),
    );
    let errors: Vec<String> =
        try_compile(&parse(&text), &facts()).unwrap_err().iter().map(|error| error.message.clone()).collect();
    let expected = [
        "table frontends: 5 entries, 2 is the limit; filled by Service default/a (3), Service default/b (2)",
        "table services: 3 entries, 1 is the limit; filled by Service default/a (2), Service default/b (1)",
        "table backends: 3 entries, 2 is the limit; filled by Service default/a (2), Service default/b (1)",
    ];
    assert_eq!(errors, expected);
    let set =
        compiled(&text.replace("frontends: 2, services: 1, backends: 2", "frontends: 5, services: 3, backends: 3"));
    assert_eq!(set.capacity.affinity, 77);
    let used: Vec<_> = set.usage.iter().map(|one| (one.table, one.used)).collect();
    assert!(used.contains(&("frontends", 5)) && used.contains(&("services", 3)) && used.contains(&("backends", 3)));
}

/// What two slices say of one port.
#[test]
fn slices_are_backends_by_the_name_of_the_port() {
    let slice = |name: &str, endpoints: &str, ports: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: s}}}}\naddressType: IPv4\nendpoints: [{endpoints}]\nports: [{ports}]\n---\n"
        )
    };
    let head = |more: &str| {
        format!(
            "{CLUSTER}apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{name: http, port: 80, targetPort: 1}}], selector: {{app: web}}{more}}}\n---\n"
        )
    };
    let show = |text: String| shown(&compiled(&text).services()).remove(0);
    let ports = "{name: other, port: 1}, {name: http, port: 8080}";
    assert_eq!(show(head("")), "s 10.96.0.1:80 -> 10.0.0.10:1 Active*1 local, 10.0.1.10:1 Active*1", "no slice");
    let some = "{addresses: [10.9.0.1], nodeName: node1}, {addresses: [10.9.0.2], conditions: {ready: false}}";
    let on_its_way = "{addresses: [10.9.0.3], conditions: {ready: false, serving: true, terminating: true}}";
    assert_eq!(
        show(format!("{}{}{}", head(""), slice("a", some, ports), slice("b", on_its_way, ports))),
        "s 10.96.0.1:80 -> 10.9.0.1:8080 Active*1 local, 10.9.0.3:8080 Draining*1"
    );
    assert_eq!(
        show(format!("{}{}", head(""), slice("b", on_its_way, ports))),
        "s 10.96.0.1:80 -> 10.9.0.3:8080 Active*1"
    );
    assert_eq!(
        show(format!("{}{}", head(", publishNotReadyAddresses: true"), slice("a", some, ports))),
        "s 10.96.0.1:80 -> 10.9.0.1:8080 Active*1 local, 10.9.0.2:8080 Active*1"
    );
    assert_eq!(show(format!("{}{}", head(""), slice("a", some, "{name: other, port: 1}"))), "s 10.96.0.1:80 -> ");
}

#[test]
fn ports_of_sctp_stay_what_they_are() {
    let set = compiled(&format!(
        "{CLUSTER}{}",
        service(
            "a",
            "{frontends: [{address: 10.96.0.1, port: 80, protocol: SCTP, targetPort: http}, {address: 10.96.0.1, port: 81, protocol: SCTP, targetPort: http}], selector: {}}"
        )
    ));
    assert!(set.tables.backends.is_empty(), "`http` is a port of TCP");
    let text = CLUSTER.replace("{name: http, port: 80, protocol: TCP}", "{name: http, port: 80, protocol: SCTP}");
    let set = compiled(&format!(
        "{text}{}",
        service(
            "a",
            "{frontends: [{address: 10.96.0.1, port: 80, protocol: SCTP, targetPort: http}, {address: 10.96.0.1, port: 81, protocol: SCTP, targetPort: http}], selector: {}}"
        )
    ));
    let mut views = shown(&set.services());
    views.sort();
    assert_eq!(views, ["a 10.96.0.1:80 -> 10.0.0.10:80 Active*1 local", "a 10.96.0.1:81 -> "]);
}

/// A backend that was gone is another one when it is back, by an edit as by the whole.
#[test]
fn a_backend_that_comes_back_is_another() {
    let with = |backends: &str| {
        parse(&format!(
            "{CLUSTER}{}",
            service("a", &format!("{{frontends: [{{address: 10.96.0.1, port: 80}}], backends: [{backends}]}}"))
        ))
    };
    let both = with("{address: 10.9.0.1}, {address: 10.9.0.2}");
    let incarnation = |set: &Compiled, address: &str| {
        let found = set.tables.backends.iter().find(|(_, info)| ip_of(&info.address).to_string() == address);
        found.map(|(_, info)| info.incarnation)
    };
    for state in ["{address: 10.9.0.1}", "{address: 10.9.0.1}, {address: 10.9.0.2, state: maintenance}"] {
        for edits in [false, true] {
            let mut numbering = Numbering::default();
            let facts = facts();
            let mut sets: Vec<Compiled> = Vec::new();
            for (sequence, inventory) in [&both, &with(state), &both].into_iter().enumerate() {
                let input = Input { inventory, node: "node1", facts: &facts, sequence: sequence as u64 + 1 };
                let set = match sets.last().filter(|_| edits) {
                    Some(former) => compile_after(former, &input, &mut numbering).unwrap().0,
                    None => compile(&input, &mut numbering).unwrap(),
                };
                sets.push(set);
            }
            assert_eq!(incarnation(&sets[0], "10.9.0.1"), incarnation(&sets[2], "10.9.0.1"));
            assert_eq!(incarnation(&sets[1], "10.9.0.2"), None);
            assert_ne!(incarnation(&sets[0], "10.9.0.2"), incarnation(&sets[2], "10.9.0.2"));
        }
    }
}

/// A document of a small world, or nothing. No two of different places can exclude each other.
fn document(place: usize, variant: u32) -> Option<String> {
    let variant = variant % 8;
    if variant == 0 {
        return None;
    }
    let text = match place {
        // Services.
        0..=3 => {
            let port = 80 + place;
            let named = format!("{{address: 10.96.0.{}, port: {port}}}", variant % 3);
            match variant {
                1 => service(
                    &format!("s{place}"),
                    &format!("{{frontends: [{named}], selector: {{matchLabels: {{app: web}}}}}}"),
                ),
                2 => service(
                    &format!("s{place}"),
                    &format!(
                        "{{frontends: [{{port: {port}, type: node-port, targetPort: http}}], selector: {{matchExpressions: [{{key: app, operator: Exists}}]}}, algorithm: maglev}}"
                    ),
                ),
                3 => service(
                    &format!("s{place}"),
                    &format!(
                        "{{frontends: [{named}, {{address: 10.96.0.1, port: {port}, type: external, targetPort: 9}}], backends: [{{address: 10.0.0.1, weight: 2}}, {{address: 10.0.0.2}}, {{address: 10.96.0.2, state: draining}}], sourceRanges: [10.0.0.0/8]}}"
                    ),
                ),
                4 => service(
                    &format!("s{place}"),
                    &format!(
                        "{{frontends: [{named}], backends: [{{address: 10.0.0.1}}, {{address: 10.0.0.3}}], internalTrafficPolicy: Local}}"
                    ),
                ),
                5 => service(
                    &format!("s{place}"),
                    &format!(
                        "{{frontends: [{{address: 192.0.2.1, port: {port}, type: external}}], backends: [{{address: 10.0.0.1}}]}}"
                    ),
                ),
                6 => format!(
                    "apiVersion: v1\nkind: Service\nmetadata: {{name: k{place}}}\nspec: {{clusterIP: 10.96.0.2, ports: [{{name: http, port: {port}}}], selector: {{app: web}}}}\n"
                ),
                _ => format!(
                    "apiVersion: v1\nkind: Service\nmetadata: {{name: k{place}, annotations: {{weir/algorithm: maglev}}}}\nspec: {{type: NodePort, clusterIP: {}, ports: [{{name: http, port: {port}, nodePort: 3000{place}}}]}}\n",
                    ["None", "10.96.0.1"][place % 2]
                ),
            }
        }
        // Slices.
        4..=5 => {
            let ready = ["true", "false"][variant as usize / 4];
            format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: x{place}, labels: {{kubernetes.io/service-name: k{}}}}}\naddressType: IPv4\nendpoints: [{{addresses: [10.0.0.{place}], nodeName: node{}}}, {{addresses: [10.0.0.1], conditions: {{ready: {ready}, serving: true, terminating: true}}}}]\nports: [{{name: http, port: 8080}}]\n",
                variant % 4,
                variant % 2
            )
        }
        // Endpoints, of this node and another, some with an address of a service.
        6..=9 => {
            let address = if variant > 5 { format!("10.96.0.{}", place - 6) } else { format!("10.0.0.{}", place - 5) };
            let port = if variant.is_multiple_of(3) { "ports: [{name: http, port: 8080}]" } else { "" };
            format!(
                "apiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata: {{name: e{place}, labels: {{app: {}}}}}\nspec: {{node: node{}, addresses: [{address}], attach: {{netns: ns{place}}}, {port}}}\n",
                ["web", "db", "web"][variant as usize % 3],
                variant % 2 + 1
            )
        }
        // A node with an address of a service.
        _ => format!(
            "apiVersion: weir/v1alpha1\nkind: Node\nmetadata: {{name: far}}\nspec: {{addresses: [10.96.0.{}]}}\n",
            10 + variant % 2
        ),
    };
    Some(text)
}

/// 10.96.0.0 and up are services' and, in places 6 to 9, endpoints'.
const PLACES: usize = 11;

fn inventory(variants: &BTreeMap<usize, u32>, known: &mut BTreeMap<(usize, u32), Arc<ParsedFile>>) -> Inventory {
    let mut files = vec![file(
        "0.yaml",
        "apiVersion: weir/v1alpha1\nkind: Node\nmetadata: {name: node1}\nspec: {addresses: [192.0.2.1]}\n",
    )];
    let mut parsed = vec![Arc::new(parse_file(&files[0], &Options::default()))];
    for (place, variant) in variants {
        let Some(text) = document(*place, *variant) else { continue };
        let file = file(&format!("d{place:02}.yaml"), &text);
        let parse = || Arc::new(parse_file(&file, &Options::default()));
        parsed.push(Arc::clone(known.entry((*place, variant % 8)).or_insert_with(parse)));
        files.push(file);
    }
    assemble(&parsed.into(), &files).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The parts that differ, for the message.
fn difference(edited: &Compiled, whole: &Compiled) -> Vec<String> {
    let delta = whole.tables.diff(&edited.tables);
    let mut parts: Vec<String> =
        delta.changes().map(|change| format!("{} {:?}", change.table(), change.show())).collect();
    for (name, same) in [
        ("wiring", edited.wiring == whole.wiring),
        ("provenance", edited.provenance == whole.provenance),
        ("pending", edited.pending == whole.pending),
        ("skipped", edited.skipped == whole.skipped),
        ("usage", edited.usage == whole.usage),
    ] {
        if !same {
            parts.push(name.to_owned());
        }
    }
    parts
}

#[test]
fn an_edit_gives_what_the_whole_gives() {
    let first = proptest::collection::vec(0u32..8, PLACES);
    let step = proptest::collection::vec((0..PLACES, 0u32..8), 1..4);
    let steps = proptest::collection::vec(step, 1..10);
    let config = ProptestConfig { cases: 4 * ProptestConfig::default().cases, ..ProptestConfig::default() };
    let (edits, wholes) = (Cell::new(0), Cell::new(0));
    let facts = facts();
    let ran = TestRunner::new(config).run(&(first, steps), |(first, steps)| {
        let mut known = BTreeMap::new();
        let mut variants: BTreeMap<usize, u32> = first.into_iter().enumerate().collect();
        let mut numbering = Numbering::default();
        let start = inventory(&variants, &mut known);
        let input = Input { inventory: &start, node: "node1", facts: &facts, sequence: 1 };
        let mut former = compile(&input, &mut numbering).unwrap();
        for (at, step) in steps.into_iter().enumerate() {
            variants.extend(step);
            let next = inventory(&variants, &mut known);
            let sequence = at as u64 + 2;
            let input = Input { inventory: &next, node: "node1", facts: &facts, sequence };
            let mut after = numbering.clone();
            let (edited, effort) = compile_after(&former, &input, &mut after).unwrap();
            edits.set(edits.get() + 1);
            wholes.set(wholes.get() + usize::from(effort.whole));
            let mut again = after.clone();
            let whole = compile(&input, &mut again).unwrap();
            prop_assert_eq!(difference(&edited, &whole), Vec::<String>::new());
            prop_assert!(edited == whole);
            prop_assert!(after == again, "the same numbers are given out, and the next will be the same");
            numbering = after;
            numbering.retire(sequence - 1);
            former = edited;
        }
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
    println!("{} edits, {} of them compiled whole", edits.get(), wholes.get());
    assert!(wholes.get() * 2 < edits.get(), "most edits are not compiled whole");
}

/// What is not touched is not even looked at.
#[test]
fn a_change_of_one_service_is_a_change_of_one_service() {
    let spec = |at: usize, weight: usize| {
        service(
            &format!("s{at}"),
            &format!(
                "{{frontends: [{{address: 10.96.{}.{}, port: 80}}], backends: [{{address: 10.0.0.{}, weight: {weight}}}, {{address: 10.9.9.9}}]}}",
                at / 250,
                at % 250,
                at % 250 + 1
            ),
        )
    };
    let text = |weight: usize| -> String {
        let all: String = (0..1000).map(|at| spec(at, if at == 500 { weight } else { 1 })).collect();
        format!("{CLUSTER}{all}")
    };
    let (before, after) = (parse(&text(1)), parse(&text(3)));
    let (facts, mut numbering) = (facts(), Numbering::default());
    let input = Input { inventory: &before, node: "node1", facts: &facts, sequence: 1 };
    let former = compile(&input, &mut numbering).unwrap();
    let input = Input { inventory: &after, node: "node1", facts: &facts, sequence: 2 };
    let (edited, effort) = compile_after(&former, &input, &mut numbering).unwrap();
    assert_eq!((effort.objects, effort.whole), (1, false));
    let delta = former.tables.diff(&edited.tables);
    let changes: Vec<_> = delta.changes().map(|change| change.table()).collect();
    assert_eq!(changes, ["services"]);
    assert_eq!(numbering.bound(Space::Service), 1001);
}

/// `no_backend`; or `1.2.3.4:80 egress NotEnforced, ingress Allow p spec.…; …`.
fn sent(set: &Compiled, from: &str, to: &str, protocol: u8, port: u16) -> String {
    let trace = trace(set, from, to, protocol, port);
    let Some(service) = &trace.service else { return "no service".to_owned() };
    assert!(trace.egress.is_none() && trace.ingress.is_none(), "nobody is asked about the frontend");
    let name = service.service.as_ref().map_or_else(|| "nobody's".to_owned(), |service| service.name.to_string());
    if let Some(reason) = service.dropped {
        assert!(!matches!(trace.verdict(), TraceVerdict::Allowed) && service.backends.is_empty());
        return format!("{name}: {}", reason.name());
    }
    let end = |name: &str, decision: &Option<Decision>| {
        decision.as_ref().map(|one| format!(" {name} {:?}", one.outcome)).unwrap_or_default()
    };
    let backend = |one: &BackendTrace| {
        let address = one.backend.address.expect("a backend has an address");
        let own = if one.is_client { " itself" } else { "" };
        format!(" {address}:{}{own}{}{}", one.port, end("egress", &one.egress), end("ingress", &one.ingress))
    };
    let backends: Vec<_> = service.backends.iter().map(backend).collect();
    format!("{name}:{} {:?}", backends.join(","), trace.verdict())
}

#[test]
fn a_trace_looks_behind_a_frontend() {
    let set = compiled(&format!(
        "{CLUSTER}{}{}{}{}apiVersion: weir/v1alpha1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {{endpointSelector: {{matchLabels: {{app: db}}}}, ingress: [{{fromEndpoints: [{{matchLabels: {{app: web}}}}], toPorts: [{{ports: [{{port: '5432', protocol: TCP}}]}}]}}]}}\n---\n",
        service(
            "db",
            "{frontends: [{address: 10.96.0.1, port: 80, targetPort: 5432}, {address: 203.0.113.80, port: 80, targetPort: 5432, type: external}, {port: 30080, targetPort: 5432, type: node-port}], sourceRanges: [198.51.100.0/24], backends: [{address: 10.0.0.11}, {address: 10.0.0.12}, {address: 10.0.1.10}, {address: 10.9.9.9, state: draining}]}"
        ),
        service(
            "local",
            "{frontends: [{address: 10.96.0.2, port: 80}], internalTrafficPolicy: Local, backends: [{address: 10.0.0.11}, {address: 10.0.1.10}]}"
        ),
        service(
            "none",
            "{frontends: [{address: 10.96.0.3, port: 80}], internalTrafficPolicy: Local, backends: [{address: 10.0.1.10}]}"
        ),
        service("own", "{frontends: [{address: 10.96.0.4, port: 80}], backends: [{address: 10.0.0.11, port: 80}]}"),
    ));
    let sent = |from: &str, to: &str, port: u16| sent(&set, from, to, TCP, port);
    let far = "10.0.1.10:5432 egress NotEnforced";
    assert_eq!(
        sent("web", "10.96.0.1", 80),
        format!(
            "db: 10.0.0.11:5432 egress NotEnforced ingress Allow, 10.0.0.12:5432 egress NotEnforced ingress NotEnforced, {far} Allowed"
        )
    );
    assert_eq!(
        sent("x", "10.96.0.1", 80),
        format!("db: 10.0.0.11:5432 egress NotEnforced ingress DefaultDeny, 10.0.0.12:5432 itself, {far} Varies")
    );
    let outside = "10.0.0.11:5432 ingress DefaultDeny, 10.0.0.12:5432 ingress NotEnforced, 10.0.1.10:5432";
    assert_eq!(sent("198.51.100.7", "203.0.113.80", 80), format!("db: {outside} Varies"));
    assert_eq!(sent("198.51.100.7", "192.0.2.1", 30080), format!("db: {outside} Varies"));
    assert_eq!(sent("198.51.100.7", "10.96.0.1", 80), "db: no_service");
    assert_eq!(sent("world", "203.0.113.80", 80), "db: source_range");
    assert_eq!(sent("192.0.2.77", "203.0.113.80", 80), "db: source_range");
    assert_eq!(sent("web", "10.96.0.1", 81), "db: no_service");
    assert_eq!(sent("web", "10.96.0.2", 80), "local: 10.0.0.11:80 egress NotEnforced ingress DefaultDeny Dropped");
    assert_eq!(sent("web", "10.96.0.3", 80), "none: no_backend");
    assert_eq!(sent("db", "10.96.0.4", 80), "own: 10.0.0.11:80 itself Allowed");
    assert_eq!(sent("host", "10.96.0.3", 80), "none: no_backend");
    for node in ["192.0.2.1", "127.0.0.1"] {
        assert!(sent("host", node, 30080).starts_with("db: 10.0.0.11:5432"), "by its socket, and the loopback too");
    }
    assert_eq!(sent("web", "10.0.0.11", 80), "no service");
    assert_eq!(sent("web", "127.0.0.1", 30080), "no service");
    let udp = trace(&set, "web", "10.96.0.1", 17, 80).service.unwrap();
    assert_eq!(udp.dropped.unwrap().name(), "no_service");
}
