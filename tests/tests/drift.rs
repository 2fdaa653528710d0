//! Somebody else writes into Weir's tables, detaches its programs, removes its pins or makes its devices anew: every
//! such deed is shown as `!`, then healed, by `apply` and by the agent.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{collections::BTreeSet, fs, path::PathBuf};

use weir_abi::{
    KernelTable, Side, TableKind, sided_tables,
    tree::{BUCKET_V4, Cell, HEADER_ROOT_V4, KIND_BUCKET, KIND_INDEX, KIND_SKIP, SKIP_NEXT},
};
use weir_tests::node::{
    ENDPOINTS, Node, UPLINK, WEB, eventually,
    kernel::{self, RawMap, bpftool},
    tool,
    traffic::{Way, reaches},
};

/// Fills every table: policies with CIDRs, a prefilter whose IPv4 prefixes are short, so that a longer one fits in, and
/// a service.
const RULES: &str = r"
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromCIDR: [192.0.2.0/24, 10.77.0.0/16, '2001:db8:0:1::/64']
    toPorts: [{ports: [{port: 80, protocol: UDP}]}]
---
apiVersion: weir/v1alpha1
kind: CidrFilter
metadata: {name: drop}
spec:
  interfaces: [uplink0]
  cidrs: [198.51.100.0/24, 203.0.113.0/24, '2001:db8:bad::/48']
---
apiVersion: weir/v1alpha1
kind: Service
metadata: {name: app}
spec:
  frontends:
  - {address: 10.96.0.10, port: 80}
  - {address: 192.0.2.80, port: 80, type: external}
  backends: [{address: 10.10.0.3, port: 8080}, {address: 10.10.0.2, port: 8080}]
  sourceRanges: [192.0.2.0/24]
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Add,
    Change,
    Remove,
}

fn started(node: &Node) {
    node.write("endpoints.yaml", ENDPOINTS);
    node.write("rules.yaml", RULES);
    node.apply();
    // A second commit, taken back, so that both sides have seen everything.
    node.write("rules.yaml", &RULES.replace("port: 80", "port: 81"));
    node.apply();
    node.write("rules.yaml", RULES);
    node.apply();
    node.expect(0, &["diff", "-f", "."]);
}

fn works(node: &Node) {
    let reach = |port| reaches(node, Way { from: "client", to: "web", address: WEB[0], port });
    assert!(reach(80), "what is allowed passes");
    assert!(!reach(81), "what is not does not");
}

/// One line of a tree.
fn words(map: &RawMap, line: u32) -> [u32; 16] {
    let bytes = map.lookup(&line.to_ne_bytes()).unwrap();
    std::array::from_fn(|at| u32::from_ne_bytes(bytes[at * 4..][..4].try_into().unwrap()))
}

fn write_words(map: &RawMap, line: u32, words: [u32; 16]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    map.update(&line.to_ne_bytes(), &bytes);
}

/// A line that holds IPv4 prefixes, the last slot free.
fn bucket(map: &RawMap) -> u32 {
    let mut cells = vec![Cell(words(map, 0)[HEADER_ROOT_V4])];
    let mut seen = BTreeSet::new();
    while let Some(cell) = cells.pop() {
        if !seen.insert(cell.0) {
            continue;
        }
        match cell.kind() {
            KIND_BUCKET if words(map, cell.line())[2 * BUCKET_V4 - 1] == 0 => return cell.line(),
            KIND_SKIP => cells.push(Cell(words(map, cell.line())[SKIP_NEXT])),
            KIND_INDEX => {
                for line in 0..(1u32 << cell.stride()).div_ceil(16) {
                    cells.extend(words(map, cell.index_line() + line).into_iter().filter(|word| *word != 0).map(Cell));
                }
            }
            _ => {}
        }
    }
    panic!("no bucket with a free slot");
}

/// Does it, by plain `bpf(2)`. `false`: there is no such deed for this table.
fn commit(table: &KernelTable, map: &RawMap, deed: Deed) -> bool {
    let flipped = |mut value: Vec<u8>| {
        value[0] ^= 1;
        value
    };
    match table.kind {
        TableKind::Hash => {
            let keys = map.keys();
            let key = keys.first().expect("the table is not empty");
            let value = map.lookup(key).unwrap();
            match deed {
                Deed::Add => {
                    let mut new = keys.last().unwrap().clone();
                    while keys.contains(&new) {
                        new[0] = new[0].wrapping_add(1);
                    }
                    map.update(&new, &value);
                }
                Deed::Change => map.update(key, &flipped(value)),
                Deed::Remove => map.delete(key),
            }
        }
        TableKind::MappedArray if matches!(table.name, "IPCACHE" | "PREFILTER") => {
            let line = bucket(map);
            let mut words = words(map, line);
            let used = (0..BUCKET_V4).take_while(|slot| words[slot * 2 + 1] != 0).count();
            match deed {
                Deed::Add => {
                    // A longer prefix goes before those that are there.
                    words.copy_within(0..used * 2, 2);
                    words[0] |= 0x7b;
                    words[1] = (33 << 24) | (words[3] & 0x00ff_ffff);
                }
                Deed::Change => words[used * 2 - 1] ^= 1,
                Deed::Remove => (words[used * 2 - 2], words[used * 2 - 1]) = (0, 0),
            }
            write_words(map, line, words);
        }
        // A line that no service has is nothing that anybody could miss or find.
        TableKind::MappedArray if table.name == "SLOTS" && deed == Deed::Add => return false,
        TableKind::MappedArray => {
            let indexes = 0..map.max_entries;
            let zero = vec![0; map.value_size];
            let value = |index: u32| map.lookup(&index.to_ne_bytes()).unwrap();
            let used = indexes.clone().find(|index| value(*index) != zero).expect("the table is not empty");
            match deed {
                Deed::Add => {
                    let Some(free) = indexes.clone().skip(1).find(|index| value(*index) == zero) else { return false };
                    map.update(&free.to_ne_bytes(), &value(used));
                }
                Deed::Change => map.update(&used.to_ne_bytes(), &flipped(value(used))),
                Deed::Remove => map.update(&used.to_ne_bytes(), &zero),
            }
        }
        other => panic!("{} is a {other:?}", table.name),
    }
    true
}

/// `weir diff` shows drift that a line of `what` says; JSON and exit code agree.
fn shown(node: &Node, what: &str) {
    let ran = node.expect(1, &["diff", "-f", "."]);
    let lines: Vec<&str> = ran.stdout.lines().filter(|line| line.trim_start().starts_with('!')).collect();
    assert!(lines.iter().any(|line| line.to_lowercase().contains(what)), "no `!` line says {what}: {ran}");
    let json = node.expect(1, &["diff", "-f", ".", "-o", "json"]).json();
    assert!(json["summary"]["drift"].as_u64().unwrap() > 0 && !json["drift"].as_array().unwrap().is_empty(), "{json}");
    assert_eq!(json["changes"].as_array().unwrap().len(), 0, "drift is not a change: {json}");
}

fn healed(node: &Node) {
    node.apply();
    let ran = node.expect(0, &["diff", "-f", "."]);
    assert!(!ran.stdout.contains('!'), "{ran}");
}

fn active(node: &Node) -> Side {
    let runtime = RawMap::pinned(&kernel::table_pin(node, "RUNTIME"));
    let word = runtime.lookup(&0u32.to_ne_bytes()).unwrap();
    weir_abi::Generation::unpack(u64::from_ne_bytes(word[..8].try_into().unwrap())).side
}

fn every_deed(table: &'static KernelTable) {
    Node::run(move |node| {
        started(node);
        // Slots are shown as what their services have.
        let name = if table.name == "SLOTS" { "services".to_owned() } else { table.name.to_lowercase() };
        let mut done = 0;
        // On both sides alike, neither tells of the other.
        for whose in ["active", "standby", "both"] {
            for deed in [Deed::Add, Deed::Change, Deed::Remove] {
                let sides = match whose {
                    "active" => vec![active(node)],
                    "standby" => vec![active(node).other()],
                    _ => Side::BOTH.to_vec(),
                };
                println!("{deed:?} in {name}, {whose}");
                if !sides.into_iter().all(|side| commit(table, &RawMap::side(node, table.name, side), deed)) {
                    continue;
                }
                shown(node, &name);
                healed(node);
                done += 1;
            }
        }
        works(node);
        // A table of a single entry has no room for another.
        assert!(done >= if table.max_entries == 1 || table.name == "SLOTS" { 6 } else { 9 });

        // The same, and nobody calls: the agent finds it by itself.
        let mut agent = node.agent(&["--verify", "500ms"]);
        for deed in [Deed::Remove, Deed::Change] {
            let map = RawMap::side(node, table.name, active(node));
            let before = healings(&agent.status());
            assert!(commit(table, &map, deed));
            eventually("the agent heals", || (healings(&agent.status()) > before).then_some(()));
            node.expect(0, &["diff", "-f", "."]);
        }
        works(node);
        assert!(agent.runs());
        assert!(agent.stop().success());
    });
}

/// Commits that healed something.
fn healings(status: &serde_json::Value) -> u64 {
    status["commit"]["sequence"].as_u64().or_else(|| status["applied"]["sequence"].as_u64()).unwrap_or_else(|| {
        panic!("status does not say which commit is applied: {status}");
    })
}

macro_rules! tables {
    ($($test:ident: $name:literal;)*) => {
        $(#[test]
        fn $test() {
            every_deed(sided_tables().iter().find(|table| table.name == $name).unwrap());
        })*

        #[test]
        fn every_table_has_its_test() {
            let tested = BTreeSet::from([$($name),*]);
            assert_eq!(tested, sided_tables().iter().map(|table| table.name).collect());
        }
    };
}

tables! {
    settings: "SETTINGS";
    interfaces: "INTERFACES";
    endpoints: "ENDPOINTS";
    ipcache: "IPCACHE";
    subjects: "SUBJECTS";
    policy: "POLICY";
    prefilter: "PREFILTER";
    frontends: "FRONTENDS";
    services: "SERVICES";
    slots: "SLOTS";
    backends: "BACKENDS";
    source_ranges: "SOURCE_RANGES";
    prefilter_classes: "PREFILTER_CLASSES";
}

fn link_pins(node: &Node) -> Vec<PathBuf> {
    let pins = fs::read_dir(node.pins().join("links")).unwrap().map(|entry| entry.unwrap().path());
    // Beside a link there may be a note of how it was asked for.
    let mut pins: Vec<_> = pins.filter(|pin| pin.to_str().unwrap().matches('=').count() == 1).collect();
    pins.sort();
    pins
}

#[test]
fn a_link_that_is_unpinned() {
    Node::run(|node| {
        started(node);
        let pins = link_pins(node);
        assert!(pins.len() >= 5, "XDP and both directions of two endpoints: {pins:?}");
        for pin in pins {
            println!("{}", pin.display());
            fs::remove_file(&pin).unwrap();
            shown(node, "hooks");
            healed(node);
            assert!(pin.exists(), "{} is back", pin.display());
        }
        works(node);
    });
}

#[test]
fn a_program_that_is_detached() {
    Node::run(|node| {
        started(node);
        for pin in link_pins(node) {
            println!("{}", pin.display());
            bpftool(&format!("link detach pinned {}", pin.display()));
            shown(node, "hooks");
            healed(node);
        }
        works(node);
        let agent = node.agent(&["--verify", "500ms"]);
        for pin in link_pins(node) {
            let before = healings(&agent.status());
            bpftool(&format!("link detach pinned {}", pin.display()));
            eventually("the agent attaches it again", || (healings(&agent.status()) > before).then_some(()));
        }
        node.expect(0, &["diff", "-f", "."]);
        works(node);
        assert!(agent.stop().success());
    });
}

/// Devices with clsact filters of ours, and the directions.
fn filters() -> Vec<(String, &'static str)> {
    let devices = tool("ip", "-brief link").stdout;
    let names = devices.lines().filter_map(|line| line.split([' ', '@']).next()).map(str::to_owned);
    let both = names.flat_map(|name| [(name.clone(), "ingress"), (name, "egress")]);
    both.filter(|(name, half)| tool("tc", &format!("filter show dev {name} {half}")).stdout.contains("bpf")).collect()
}

#[test]
fn a_clsact_filter_that_is_deleted() {
    Node::run(|node| {
        node.write("endpoints.yaml", &ENDPOINTS.replace("  limits:", "  attachMode: clsact\n  limits:"));
        node.write("rules.yaml", RULES);
        node.apply();
        let all = filters();
        assert!(all.len() >= 4, "both directions of two endpoints: {all:?}");
        for (device, half) in &all {
            println!("{half} of {device}");
            assert!(tool("tc", &format!("filter del dev {device} {half}")).status.success());
            shown(node, "hooks");
            healed(node);
            assert_eq!(filters(), all);
        }
        let (device, _) = &all[0];
        assert!(tool("tc", &format!("qdisc del dev {device} clsact")).status.success());
        shown(node, "hooks");
        healed(node);
        assert_eq!(filters(), all);
        works(node);
    });
}

/// What is not ours survives beside what is.
#[test]
fn a_foreign_filter_is_left_alone() {
    Node::run(|node| {
        node.write("endpoints.yaml", &ENDPOINTS.replace("  limits:", "  attachMode: clsact\n  limits:"));
        node.write("rules.yaml", RULES);
        assert!(tool("tc", &format!("qdisc add dev {UPLINK} clsact")).status.success());
        kernel::ForeignProgram::tc().pin("/sys/fs/bpf/foreign");
        let foreign = "ingress prio 7 handle 7 protocol all bpf direct-action object-pinned /sys/fs/bpf/foreign";
        let ran = tool("tc", &format!("filter add dev {UPLINK} {foreign}"));
        assert!(ran.status.success(), "{ran}");
        node.apply();
        node.expect(0, &["diff", "-f", "."]);
        works(node);
        node.expect(0, &["uninstall"]);
        assert!(tool("tc", &format!("filter show dev {UPLINK} ingress")).stdout.contains("pref 7"));
    });
}

/// Weir's own veth pair is deleted; somebody's interface is made anew under the same name.
#[test]
fn a_device_that_is_made_anew() {
    Node::run(|node| {
        node.ip("link add app0 type veth peer name app1");
        node.ip("link set app0 up");
        let endpoint = "apiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata: {name: app, labels: {app: app}}\nspec: \
            {node: node1, addresses: [10.10.0.9], attach: {interface: app0}}\n";
        node.write("app.yaml", endpoint);
        started(node);
        let own = tool("ip", "-brief link").stdout;
        let own: Vec<&str> = own.lines().filter_map(|line| line.split([' ', '@']).next()).collect();
        let own = own.into_iter().find(|name| !["lo", UPLINK, "app0", "app1"].contains(name)).unwrap().to_owned();

        node.ip(&format!("link del {own}"));
        shown(node, "devices");
        healed(node);
        works(node);

        let again = |node: &Node| {
            node.ip("link del app0");
            node.ip("link add app0 type veth peer name app1");
            node.ip("link set app0 up");
        };
        again(node);
        shown(node, "hooks");
        healed(node);

        let agent = node.agent(&["--verify", "1h", "--catch-up", "500ms"]);
        let before = healings(&agent.status());
        again(node);
        // Not by the periodic verification: netlink said so.
        eventually("the agent attaches to the new device", || (healings(&agent.status()) > before).then_some(()));
        eventually("both sides know it", || node.weir(&["diff", "-f", "."]).status.success().then_some(()));
        let before = healings(&agent.status());
        node.ip(&format!("link del {own}"));
        eventually("the agent makes its device again", || (healings(&agent.status()) > before).then_some(()));
        works(node);
        assert!(agent.stop().success());
    });
}

/// The pin of a table is replaced by another map: programs use the old one, and everybody else would see the new.
#[test]
fn a_pin_that_leads_to_another_map() {
    Node::run(|node| {
        started(node);
        let pin = kernel::table_pin(node, "POLICY");
        fs::remove_file(&pin).unwrap();
        let ran = node.weir(&["diff", "-f", "."]);
        assert_eq!(ran.code(), 1, "{ran}");
        node.apply();
        node.expect(0, &["diff", "-f", "."]);
        assert!(pin.exists());
        works(node);
    });
}

/// With `--heal=false` drift is shown, by the entry, and nothing is written until somebody applies.
#[test]
fn drift_that_is_only_reported() {
    Node::run(|node| {
        started(node);
        let mut agent = node.agent(&["--verify", "300ms", "--catch-up", "300ms", "--heal", "false"]);
        eventually("the agent has converged", || (agent.status()["state"] == "converged").then_some(()));
        let before = healings(&agent.status());
        let policy = sided_tables().iter().find(|table| table.name == "POLICY").unwrap();
        let map = RawMap::side(node, policy.name, active(node));
        assert!(commit(policy, &map, Deed::Remove));
        let left = map.keys();
        eventually("the drift is shown", || (agent.status()["state"] == "drifted").then_some(()));
        let verified = || agent.status()["agent"]["verifiedUnixMs"].as_u64().unwrap();
        let then = verified();
        eventually("it was verified again, twice", || (verified() > then + 600).then_some(()));
        let status = agent.status();
        assert_eq!(status["state"], "drifted", "{status}");
        let drifted = status["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "Drifted").unwrap();
        assert_eq!(drifted["status"], "True", "{status}");
        assert_eq!(healings(&status), before, "nothing was committed");
        assert_eq!(RawMap::side(node, policy.name, active(node)).keys().len(), left.len(), "nothing was written");
        node.expect(1, &["diff", "-f", "."]);

        node.expect(0, &["apply", "-f", "."]);
        eventually("it is healed", || (agent.status()["state"] == "converged").then_some(()));
        node.expect(0, &["diff", "-f", "."]);
        works(node);
        assert!(agent.runs());
        assert!(agent.stop().success());
    });
}
