//! What stands in the tables and hooks, and whose it is.
mod support;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use support::{CLUSTER, TCP, compiled, facts, file, interface, parse, parse_files, rule, trace, try_compile};
use weir_abi::{identity, interface_flags, settings_flags};
use weir_compile::{Compiled, Input, compile, netns_needed};
use weir_plan::{
    Change, Device, Hook, HookKey, HookState, InterfaceName, NodeFacts, Numbering, Plan, Provenance, ROUTER,
    RouterPair, Tables, Target, Wiring, XdpAttach,
};

fn name(text: &str) -> InterfaceName {
    InterfaceName::from(text)
}

fn hooks(set: &Compiled) -> Vec<(String, HookState)> {
    set.wiring.hooks.iter().map(|(key, state)| (format!("{} {}", key.place, key.hook.program()), *state)).collect()
}

fn filter(name: &str, spec: &str) -> String {
    format!("apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
}

fn pending(set: &Compiled) -> Vec<(String, &'static str)> {
    set.pending.iter().map(|one| (one.object.to_string(), one.code)).collect()
}

#[test]
fn a_drop_list_becomes_prefixes_of_one_class() {
    let set = compiled(&filter("bogons", "{interfaces: [eth0], cidrs: [192.0.2.0/24, 192.0.2.7, 'fe80::/10']}"));
    let shown: Vec<String> = set.tables.prefilter4.iter().map(|(prefix, class)| format!("{prefix} {class}")).collect();
    assert_eq!(shown, ["192.0.2.0/24 1"], "a prefix that says what its cover says is left out");
    assert_eq!(set.tables.prefilter6.len(), 1);
    let class = set.tables.classes.get(&1).copied().unwrap();
    assert_eq!(rule(&set, class.cells[0].rule()), Some(("bogons".into(), "spec.cidrs".into())));
    assert_eq!(hooks(&set), [("eth0 xdp_ingress".to_owned(), HookState::Xdp(XdpAttach::Auto))]);
    let info = set.tables.interfaces.get(&name("eth0")).unwrap();
    assert_eq!(info.flags, interface_flags::PREFILTER_SOURCE);
}

#[test]
fn published_lists_are_counted_apart_and_exceptions_are_holes() {
    let manifest = filter("lists", "{interfaces: [eth0], fromFiles: [drop.txt, edrop.txt], allow: [198.51.100.7]}");
    let set = try_compile(
        &parse_files(&[
            file("set.yaml", &manifest),
            file("drop.txt", "198.51.100.0/24 ; SBL1\r\n# x\n203.0.113.0/24\n"),
            file("edrop.txt", "198.51.100.0/25\n"),
        ]),
        &facts(),
    )
    .unwrap();
    let decides = |from: &str| {
        let decision = &trace(&set, from, "host", TCP, 1).prefilter[0];
        (decision.drops, decision.rule.as_ref().map(|rule| rule.path.to_string()))
    };
    assert_eq!(decides("203.0.113.9"), (true, Some("spec.fromFiles[0]".to_owned())));
    assert_eq!(decides("198.51.100.200"), (true, Some("spec.fromFiles[0]".to_owned())));
    assert_eq!(decides("198.51.100.1"), (true, Some("spec.fromFiles[1]".to_owned())));
    assert_eq!(decides("198.51.100.7"), (false, None));
    assert_eq!(decides("8.8.8.8"), (false, None));
}

#[test]
fn devices_with_the_same_filters_share_a_group() {
    let set = compiled(&format!(
        "{}{}{}",
        filter("a", "{interfaces: ['eth*'], cidrs: [10.9.0.0/16]}"),
        filter("b", "{interfaces: [eth1], match: destination, mode: generic, cidrs: [10.8.0.0/16]}"),
        filter("c", "{interfaces: [eth0], cidrs: [10.7.0.0/16], allow: [10.9.1.0/24]}"),
    ));
    let info = |interface: &str| *set.tables.interfaces.get(&name(interface)).unwrap();
    assert_ne!(info("eth0").prefilter_group, info("eth1").prefilter_group);
    assert_eq!(info("eth0").flags, interface_flags::PREFILTER_SOURCE);
    assert_eq!(info("eth1").flags, interface_flags::PREFILTER_SOURCE | interface_flags::PREFILTER_DESTINATION);
    assert_eq!(
        set.wiring.hooks.get(&HookKey::on(name("eth1"), Hook::XdpIngress)),
        Some(&HookState::Xdp(XdpAttach::Generic))
    );
    let drops = |from: &str, to: &str| -> Vec<(String, bool)> {
        let devices = trace(&set, from, to, TCP, 1).prefilter;
        devices.into_iter().map(|device| (device.interface.to_string(), device.drops)).collect()
    };
    let both = |eth0, eth1| vec![("eth0".to_owned(), eth0), ("eth1".to_owned(), eth1)];
    assert_eq!(drops("10.9.1.1", "192.0.2.1"), both(true, true), "c's exception does not hold for a");
    assert_eq!(drops("10.7.1.1", "192.0.2.1"), both(true, false));
    assert_eq!(drops("1.1.1.1", "10.8.0.1"), both(false, true));
}

#[test]
fn unknown_destinations_are_dropped_inside_the_endpoint_ranges() {
    let set = compiled(&format!(
        "{CLUSTER}{}",
        filter("edge", "{interfaces: [eth0], dropUnknownDestinations: true, allow: [10.0.0.99]}")
    ));
    let drops = |to: &str| {
        trace(&set, if to.contains(':') { "2001:db8::9" } else { "203.0.113.9" }, to, TCP, 1).prefilter[0].drops
    };
    for (to, dropped) in [
        ("10.0.0.10", false),
        ("10.0.0.50", true),
        ("10.0.0.99", false),
        ("10.0.1.10", false),
        ("192.0.2.1", false),
        ("fd00::10", false),
        ("fd00::50", true),
    ] {
        assert_eq!(drops(to), dropped, "{to}");
    }
}

#[test]
fn a_filter_that_finds_no_device_waits() {
    let set = compiled(&filter("a", "{interfaces: [eth0, 'ppp*'], cidrs: [10.9.0.0/16]}"));
    assert_eq!(pending(&set), [("CidrFilter default/a".to_owned(), "interface-missing")]);
    assert_eq!(hooks(&set).len(), 1, "and holds where it can");
}

#[test]
fn by_default_a_filter_holds_on_what_is_nobodys_endpoint() {
    let set = compiled(&format!("{CLUSTER}{}", filter("a", "{cidrs: [10.9.0.0/16]}")));
    let xdp: Vec<String> =
        hooks(&set).into_iter().map(|(hook, _)| hook).filter(|hook| hook.ends_with("xdp_ingress")).collect();
    assert_eq!(xdp, ["eth0 xdp_ingress", "eth1 xdp_ingress"]);
    let configured = compiled(&format!(
        "{CLUSTER}{}apiVersion: weir/v1alpha1\nkind: NodeConfig\nmetadata: {{name: c}}\nspec: {{devices: ['eth[1-9]', 'lxc*'], attachMode: clsact}}\n",
        filter("a", "{cidrs: [10.9.0.0/16]}")
    ));
    let configured = hooks(&configured);
    assert!(configured.contains(&("eth1 xdp_ingress".to_owned(), HookState::Xdp(XdpAttach::Auto))));
    assert_eq!(configured.iter().filter(|(hook, _)| hook.ends_with("xdp_ingress")).count(), 1);
    assert!(configured.contains(&("lxc-web from_endpoint".to_owned(), HookState::Clsact)));
}

#[test]
fn filters_that_contradict_each_other_are_refused() {
    let text = filter("a", "{interfaces: [eth0], mode: native}") + &filter("b", "{interfaces: ['e*'], mode: generic}");
    let errors = try_compile(&parse(&text), &facts()).unwrap_err();
    assert_eq!(errors.iter().map(|error| error.code).collect::<Vec<_>>(), ["xdp-mode-conflict"]);

    let mut many = String::new();
    let mut facts = facts();
    for index in 0..9 {
        many.push_str(&filter(&format!("f{index}"), &format!("{{interfaces: [nic{index}], cidrs: [10.0.0.0/8]}}")));
        facts.interfaces.push(interface(&format!("nic{index}"), 100 + index));
    }
    let errors = try_compile(&parse(&many), &facts).unwrap_err();
    assert_eq!(errors.iter().map(|error| error.code).collect::<Vec<_>>(), ["too-many-interface-groups"]);
}

#[test]
fn endpoints_enter_ipcache_from_every_node_and_are_attached_here() {
    let set = compiled(CLUSTER);
    let identity_of = |address: &str| trace(&set, address, "host", TCP, 1).source.identity;
    assert!(identity_of("10.0.1.10") >= identity::FIRST_LOCAL);
    assert_ne!(identity_of("10.0.1.10"), identity_of("10.0.0.10"), "other labels, other identity");
    assert_eq!(identity_of("10.0.0.10"), trace(&set, "fd00::10", "host", TCP, 1).source.identity);
    assert_eq!(identity_of("192.0.2.1"), identity::HOST);
    assert_eq!(identity_of("192.0.2.2"), identity::REMOTE_NODE);
    assert_eq!(identity_of("203.0.113.1"), identity::WORLD);

    assert!(set.tables.endpoints.get(&support::address("10.0.1.10")).is_none());
    let web = set.tables.endpoints.get(&support::address("10.0.0.10")).unwrap();
    let info = set.tables.interfaces.get(&name("lxc-web")).unwrap();
    assert_eq!((info.endpoint, info.identity, info.incarnation), (web.endpoint, web.identity, web.incarnation));
    assert_eq!(info.flags, interface_flags::ENDPOINT);
    assert_eq!(set.tables.endpoints.get(&support::address("192.0.2.1")).unwrap().identity, identity::HOST);
    assert_eq!(hooks(&set).len(), 6);
    assert!(hooks(&set).iter().all(|(_, state)| *state == HookState::Tcx));
    let old = try_compile(&parse(CLUSTER), &NodeFacts { tcx: false, ..facts() }).unwrap();
    assert!(hooks(&old).iter().all(|(_, state)| *state == HookState::Clsact));
}

#[test]
fn a_namespace_gets_a_veth_pair_and_a_missing_one_waits() {
    let endpoint = |name: &str, netns: &str, address: &str| {
        format!(
            "apiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata: {{name: {name}}}\nspec: {{node: node1, addresses: [{address}], attach: {{netns: {netns}}}}}\n---\n"
        )
    };
    let text = endpoint("a", "ns-web", "10.0.0.30") + &endpoint("b", "ns-gone", "10.0.0.31");
    let inventory = parse(&text);
    assert_eq!(netns_needed(&inventory, "node1"), ["ns-gone", "ns-web"]);
    assert!(netns_needed(&inventory, "node2").is_empty());
    let set = try_compile(&inventory, &facts()).unwrap();
    assert_eq!(pending(&set), [("Endpoint default/b".to_owned(), "netns-missing")]);
    let (device, state) = set.wiring.devices.iter().next().unwrap();
    assert!(device.0.starts_with("wr") && device.0.len() == 12);
    let Device::Endpoint(pair) = state else { panic!("{state:?}") };
    assert_eq!((&*pair.netns, &*pair.peer), ("ns-web", "eth0"));
    assert_eq!(pair.router, Vec::<IpAddr>::new());
    let info = set.tables.interfaces.get(device).unwrap();
    let (ours, redirect) = (interface_flags::CHECK_SOURCE, interface_flags::DELIVER | interface_flags::PEER);
    assert_eq!(info.flags, interface_flags::ENDPOINT | ours | redirect);
    // Who waits is still known to everybody else.
    assert!(trace(&set, "10.0.0.31", "host", TCP, 1).source.identity >= identity::FIRST_LOCAL);
    let gone = Change { key: device.clone(), from: Some(state.clone()), to: None };
    let owner = set.provenance.owner(&weir_plan::AnyChange::Device(&gone)).unwrap();
    assert_eq!(owner.reference().to_string(), "Endpoint default/a");
}

#[test]
fn a_router_is_a_pair_of_its_own_and_every_endpoint_s_gateway() {
    let text = "
apiVersion: weir/v1alpha1
kind: Node
metadata: {name: node1}
spec:
  addresses: [192.0.2.1, 10.0.0.1, 'fd00::1']
  endpointCIDRs: ['fd00::/64', 10.0.1.0/24, 10.0.0.0/24]
  routerAddresses: ['fd00::1', 10.0.0.1]
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: a}
spec: {node: node1, addresses: [10.0.0.30], attach: {netns: ns-web}}
";
    let set = try_compile(&parse(text), &facts()).unwrap();
    let router = RouterPair {
        addresses: vec![support::address("10.0.0.1"), support::address("fd00::1")],
        routes: ["10.0.0.0/24", "10.0.1.0/24", "fd00::/64"].map(|range| range.parse().unwrap()).to_vec(),
    };
    let device = Device::Router(router);
    assert_eq!(set.wiring.devices.get(&name(ROUTER)), Some(&device));
    let made = Change { key: name(ROUTER), from: None, to: Some(device) };
    let owner = set.provenance.owner(&weir_plan::AnyChange::Device(&made)).unwrap();
    assert_eq!(owner.reference().to_string(), "Node node1");
    assert_eq!(set.wiring.hooks.get(&HookKey::on(name(ROUTER), Hook::FromHost)), Some(&HookState::Tcx));
    let pair = set.wiring.devices.iter().find_map(|(_, device)| match device {
        Device::Endpoint(pair) => Some(pair),
        Device::Router(_) => None,
    });
    assert_eq!(pair.unwrap().router, [support::address("10.0.0.1")], "of the family that it has");
    assert_eq!(set.tables.endpoints.get(&support::address("10.0.0.1")).unwrap().identity, identity::HOST);
}

#[test]
fn a_missing_interface_waits() {
    let mut facts = facts();
    facts.interfaces.retain(|interface| interface.name != name("lxc-web"));
    let set = try_compile(&parse(CLUSTER), &facts).unwrap();
    assert_eq!(pending(&set), [("Endpoint default/web".to_owned(), "interface-missing")]);
    assert!(set.tables.interfaces.get(&name("lxc-web")).is_none());
    assert_eq!(hooks(&set).len(), 4);
}

#[test]
fn the_host_endpoint_and_its_policy() {
    let host = "apiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata: {name: node1, labels: {role: gateway}}\nspec: {node: node1, attach: {host: true}}\n---\n";
    let policy = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: fw}\nspec: {nodeSelector: {}, ingress: [{fromCIDR: [203.0.113.0/24]}]}\n---\n";
    let bare = compiled(CLUSTER).tables.settings.get(&0).copied().unwrap();
    assert_eq!(bare.flags, 0);
    let set = compiled(&format!("{CLUSTER}{host}{policy}"));
    let settings = set.tables.settings.get(&0).unwrap();
    assert_eq!(settings.flags, settings_flags::HOST_ENDPOINT | settings_flags::HOST_POLICY);
    let network: Vec<_> = hooks(&set).into_iter().filter(|(hook, _)| hook.contains("network")).collect();
    assert_eq!(network.len(), 4, "{network:?}");
    assert_eq!(set.tables.interfaces.get(&name("eth0")).unwrap().flags, interface_flags::NETWORK);
    assert!(trace(&set, "203.0.113.9", "host", TCP, 1).passes());
    assert!(!trace(&set, "203.0.112.9", "node1", TCP, 1).passes());
}

#[test]
fn node_config_sets_timeouts_and_sizes() {
    let config = "apiVersion: weir/v1alpha1\nkind: NodeConfig\nmetadata: {name: ours}\nspec: {nodeSelector: {matchLabels: {zone: a}}, limits: {conntrackTcp: 4096, conntrackOther: 1024}, timeouts: {tcpSyn: 2s, other: 2m}}\n---\napiVersion: weir/v1alpha1\nkind: NodeConfig\nmetadata: {name: others}\nspec: {nodeSelector: {matchLabels: {zone: b}}, limits: {conntrackTcp: 1}}\n";
    let set = compiled(&format!("{CLUSTER}{config}"));
    assert_eq!((set.capacity.conntrack_tcp, set.capacity.conntrack_other, set.capacity.rules), (4096, 1024, 1024));
    let settings = set.tables.settings.get(&0).unwrap();
    assert_eq!((settings.tcp_syn, settings.tcp_established, settings.tcp_closing, settings.other), (2, 8000, 10, 120));
}

#[test]
fn an_overfull_table_is_refused_by_name_with_who_fills_it() {
    let limits = |limits: &str| {
        format!(
            "apiVersion: weir/v1alpha1\nkind: NodeConfig\nmetadata: {{name: c}}\nspec: {{limits: {{{limits}}}}}\n---\n"
        )
    };
    let lists = filter("big", "{interfaces: [eth0], cidrs: [10.1.0.0/16, 10.3.0.0/16, 10.5.0.0/16]}")
        + &filter("small", "{interfaces: [eth0], cidrs: [10.7.0.0/16]}");
    let errors = try_compile(&parse(&(limits("prefilter: 3") + &lists)), &facts()).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].code, "table-full");
    assert_eq!(
        errors[0].message,
        "table prefilter: 4 entries, 3 is the limit; filled by CidrFilter default/big (3), CidrFilter default/small (1)"
    );
    assert!(try_compile(&parse(&(limits("prefilter: 4") + &lists)), &facts()).is_ok());

    let policy = "apiVersion: weir/v1alpha1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {endpointSelector: {}, ingress: [{fromCIDR: [10.9.0.0/24, 10.9.1.0/24], toPorts: [{ports: [{port: '80', protocol: ANY}]}]}]}\n";
    for (field, used) in [("policyPerIdentity", 6), ("policyTotal", 12), ("ipcache", 13), ("endpoints", 8)] {
        let with = |limit: usize| {
            try_compile(&parse(&format!("{}{CLUSTER}{policy}", limits(&format!("{field}: {limit}")))), &facts())
        };
        assert!(with(used).is_ok(), "{field} {:?}", with(used));
        let errors = with(used - 1).unwrap_err();
        assert!(errors.iter().all(|error| error.code == "table-full"), "{errors:?}");
        assert!(errors[0].message.contains(&format!("{used} entries, {} is the limit", used - 1)), "{errors:?}");
        assert!(errors[0].help.as_ref().unwrap().contains(field), "{errors:?}");
    }
}

/// Everything at once.
fn whole_set() -> String {
    format!(
        "{CLUSTER}{}{}{}",
        filter("a", "{cidrs: [10.9.0.0/16, 'fd99::/16'], allow: [10.9.1.0/24, 'fd99:1::/32'], dropUnknownDestinations: true}"),
        filter("b", "{interfaces: [eth1], match: destination, cidrs: [10.9.0.0/16]}"),
        "apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: p}
spec: {endpointSelector: {}, ingress: [{fromCIDR: [172.16.0.0/12, '2001:db8::/32']}, {fromEndpoints: [{}], toPorts: [{ports: [{port: http}]}]}], egressDeny: [{toEntities: [world-ipv4]}]}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: fw}
spec: {nodeSelector: {}, ingress: [{fromNodes: [{}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p}
spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {}}], ports: [{port: sql}]}]}
---
apiVersion: weir/v1alpha1
kind: NodeConfig
metadata: {name: c}
spec: {timeouts: {other: 90s}}
---
apiVersion: weir/v1alpha1
kind: Service
metadata: {name: s}
spec: {frontends: [{address: 10.96.0.1, port: 80}, {port: 30080, type: node-port}], selector: {}, sourceRanges: [10.0.0.0/8]}
"
    )
}

#[test]
fn every_entry_has_an_owner() {
    let set = compiled(&whole_set());
    let (none, nothing) = (Tables::default(), Wiring::default());
    let tables = none.diff(&set.tables);
    let wiring = nothing.diff(&set.wiring);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for change in tables.changes().chain(wiring.changes()) {
        let owner = set.provenance.owner(&change);
        assert!(owner.is_some(), "{} {:?} belongs to nobody", change.table(), change.show());
        *seen.entry(change.table()).or_default() += 1;
    }
    assert_eq!(seen.len(), Tables::NAMES.len() + 1, "{seen:?}: all but devices");
    let target = Target { tables: &set.tables, wiring: &set.wiring, provenance: &*set.provenance };
    let plan = Plan::new(target, None, None, &[]);
    assert!(plan.changes.iter().all(|change| change.object.is_some() && !change.file.is_empty()));
}

#[test]
fn the_same_set_gives_the_same_tables_in_any_order() {
    let text = whole_set();
    let documents: Vec<&str> = text.split("---\n").filter(|document| !document.trim().is_empty()).collect();
    let first = compiled(&text);
    assert_eq!(first, compiled(&text));
    for turn in 1..documents.len() {
        let mut turned = documents.clone();
        turned.rotate_left(turn);
        turned.reverse();
        let set = compiled(&turned.join("---\n"));
        assert_eq!(set.tables, first.tables);
        assert_eq!((&set.wiring, set.capacity, &set.pending), (&first.wiring, first.capacity, &first.pending));
        assert_eq!((&set.identities, &set.endpoints()), (&first.identities, &first.endpoints()));
    }
    let mut shuffled = facts();
    shuffled.interfaces.reverse();
    shuffled.addresses.reverse();
    assert_eq!(try_compile(&parse(&text), &shuffled).unwrap().tables, first.tables);
}

#[test]
fn numbers_survive_what_does_not_concern_them() {
    let mut numbering = Numbering::default();
    let mut at = |text: &str, sequence: u64| {
        let inventory = parse(text);
        compile(&Input { inventory: &inventory, node: "node1", facts: &facts(), sequence }, &mut numbering).unwrap()
    };
    let first = at(&whole_set(), 1);
    let more = "---\napiVersion: weir/v1alpha1\nkind: NetworkPolicy\nmetadata: {name: a-first}\nspec: {endpointSelector: {matchLabels: {app: nobody}}, ingress: [{fromCIDR: [1.2.3.0/24]}]}\n---\napiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata: {name: aaa, labels: {app: aaa}}\nspec: {node: node2, addresses: [10.0.1.99], attach: {interface: x}}\n";
    let second = at(&format!("{}{more}", whole_set()), 2);
    let delta = first.tables.diff(&second.tables);
    // `{}` selects the new endpoint, so ipcache gets one entry; no policy entry that was there changes.
    assert_eq!(delta.ipcache4.len(), 1);
    assert!(delta.policy.iter().all(|change| change.from.is_none()), "{:?}", delta.policy);
    assert!(delta.prefilter4.is_empty() && delta.classes.is_empty() && delta.interfaces.is_empty());
    let back = at(&whole_set(), 3);
    assert_eq!(back.tables, first.tables);
}

#[test]
fn another_address_or_place_is_another_incarnation() {
    let mut numbering = Numbering::default();
    let mut at = |text: &str, sequence: u64| {
        let inventory = parse(text);
        let set = compile(&Input { inventory: &inventory, node: "node1", facts: &facts(), sequence }, &mut numbering);
        let set = set.unwrap();
        let info = *set.tables.endpoints.get(&support::address("10.0.0.10")).unwrap();
        (info.endpoint, info.incarnation)
    };
    let first = at(CLUSTER, 1);
    let relabelled = at(&CLUSTER.replace("{name: web, labels: {app: web}}", "{name: web, labels: {app: new}}"), 2);
    assert_eq!(relabelled, first, "labels are policy's matter");
    let moved = at(&CLUSTER.replace("lxc-web", "eth1"), 3);
    assert_eq!(moved.0, first.0);
    assert_ne!(moved.1, first.1);
    let readdressed = at(&CLUSTER.replace("fd00::10", "fd00::77"), 4);
    assert!(readdressed.1 != first.1 && readdressed.1 != moved.1);
}

#[test]
fn rules_are_named_by_object_and_path() {
    let set = compiled(&whole_set());
    let names: Vec<(Arc<str>, Arc<str>)> = (1..set.capacity.rules).filter_map(|number| rule(&set, number)).collect();
    let shown: Vec<String> = names.iter().map(|(object, path)| format!("{object} {path}")).collect();
    assert_eq!(
        shown,
        [
            "fw spec.ingress[0]",
            "p spec.ingress[0].ports[0]",
            "a spec.cidrs",
            "a spec.dropUnknownDestinations",
            "b spec.cidrs",
            "p spec.egressDeny[0]",
            "p spec.ingress[0]",
            "p spec.ingress[1].toPorts[0].ports[0]",
        ]
    );
}

#[test]
fn what_trace_cannot_mean() {
    let set = compiled(&CLUSTER.replace("name: x, namespace: other", "name: web, namespace: other"));
    let error = set.resolve("web").unwrap_err().to_string();
    assert_eq!(error, "`web` is several endpoints: default/web, other/web");
    assert!(set.resolve("other/web").is_ok());
    assert!(set.resolve("nobody").unwrap_err().to_string().contains("`nobody`"));
}
