//! tcx and clsact: attached, upgraded under traffic and taken away again, each in both modes, through the binary.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use weir_datapath::{Kernel, Options, Residue};
use weir_tests::node::{
    ENDPOINTS, HOST, Node, UPLINK, WEB,
    connection::Connection,
    eventually,
    kernel::{self, ForeignProgram},
    tool,
    traffic::{Stream, Way, reaches},
};

const RULES: &str = r"
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromCIDR: [192.0.2.0/24, '2001:db8:0:1::/64']
    toPorts: [{ports: [{port: 80, protocol: ANY}]}]
  egress:
  - {}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: host}
spec:
  nodeSelector: {}
  ingress:
  - fromEntities: [world]
    toPorts: [{ports: [{port: 22, protocol: UDP}]}]
---
apiVersion: weir/v1alpha1
kind: CidrFilter
metadata: {name: drop}
spec:
  interfaces: [uplink0]
  cidrs: [198.51.100.0/24]
";

/// To web, through `from_network`, the stack and `to_endpoint`.
const ALLOWED: Way<'_> = Way { from: "client", to: "web", address: WEB[0], port: 80 };
const DENIED: Way<'_> = Way { from: "client", to: "web", address: WEB[0], port: 81 };

fn write(node: &Node, mode: &str) {
    let limits = format!("  attachMode: {mode}\n  limits:");
    node.write("endpoints.yaml", &ENDPOINTS.replace("  limits:", &limits));
    node.write("rules.yaml", RULES);
}

fn in_both_modes(test: fn(&Node, &'static str)) {
    for mode in ["tcx", "clsact"] {
        println!("{mode}");
        Node::run(move |node| {
            write(node, mode);
            node.apply();
            test(node, mode);
        });
    }
}

fn works(node: &Node) {
    assert!(reaches(node, ALLOWED) && reaches(node, Way { address: WEB[1], ..ALLOWED }), "what is allowed passes");
    assert!(!reaches(node, DENIED), "what is not does not");
    let host = |port| reaches(node, Way { from: "client", to: "node", address: HOST[0], port });
    assert!(host(22), "the host policy lets it in");
    assert!(!host(23), "the host policy keeps it out");
}

/// Interface, program and mode of every attachment; each is the one that is loaded now.
fn attachments(node: &Node) -> BTreeSet<[String; 3]> {
    let status = node.expect(0, &["status", "-o", "json"]).json();
    let list = status["attachments"].as_array().unwrap().clone();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    list.iter()
        .map(|attachment| {
            let note = attachment["note"].as_str().unwrap_or_default();
            assert!(!note.contains("not the program"), "{attachment}");
            [text(&attachment["interface"]), text(&attachment["program"]), text(&attachment["mode"])]
        })
        .collect()
}

#[test]
fn every_program_is_attached_in_the_mode_that_was_asked_for() {
    in_both_modes(|node, mode| {
        let found = attachments(node);
        let by_tc: Vec<_> = found.iter().filter(|[_, program, _]| program != "xdp_ingress").collect();
        assert_eq!(by_tc.len(), 6, "both directions of two endpoints and of the uplink: {found:?}");
        assert!(by_tc.iter().all(|[.., is]| is == mode), "{found:?}");
        assert_eq!(kernel::clsact_on(UPLINK), mode == "clsact");
        assert_eq!(kernel::tcx_ingress_on(UPLINK).len(), usize::from(mode == "tcx"));
        works(node);
        node.expect(0, &["diff", "-f", "."]);
    });
}

/// The kernel stops a device's queues for a moment when a clsact qdisc is added to it or removed, with or without a filter
/// in it, so that here packets of what is allowed may be lost: a connection lives on, and nothing that is denied passes.
#[test]
fn the_other_mode_is_taken_under_traffic_and_lets_nothing_through() {
    in_both_modes(|node, mode| {
        let mut connection = Connection::open(node, ALLOWED);
        let denied = Stream::start(node, DENIED, Duration::from_millis(5), false);
        for other in [if mode == "tcx" { "clsact" } else { "tcx" }, mode] {
            write(node, other);
            node.apply();
            connection.exchange();
            assert!(attachments(node).iter().all(|[_, program, is]| program == "xdp_ingress" || is == other));
        }
        assert_eq!(kernel::clsact_on(UPLINK), mode == "clsact", "what is not used is gone");
        let denied = denied.finish();
        assert_eq!((denied.received, denied.sent > 0), (0, true), "what is denied never passes");
        works(node);
    });
}

fn whole(stream: Stream, denied: Stream) {
    let account = stream.finish();
    assert!(account.sent > 100 && account.lost.is_empty(), "of {} sent, {:?} were lost", account.sent, account.lost);
    let denied = denied.finish();
    assert_eq!((denied.received, denied.sent > 0), (0, true), "what is denied never passes");
}

/// The directory that is named by the ABI's hash.
fn tables(node: &Node) -> PathBuf {
    kernel::table_pin(node, "RUNTIME").parent().unwrap().to_owned()
}

fn program_sets(node: &Node) -> Vec<PathBuf> {
    fs::read_dir(tables(node).join("programs")).unwrap().map(|set| set.unwrap().path()).collect()
}

/// Ids of what the kernel runs on the uplink at tc ingress.
fn running(mode: &str) -> Vec<u32> {
    if mode == "tcx" {
        return kernel::tcx_ingress_on(UPLINK);
    }
    let filters = tool("tc", &format!("filter show dev {UPLINK} ingress")).stdout;
    let ids = filters.split_whitespace().skip_while(|word| *word != "id").nth(1);
    ids.map(|id| id.parse().unwrap()).into_iter().collect()
}

/// A binary with other programs on the same tables: they are swapped in by link update, or by replacing the filter.
#[test]
fn newer_programs_are_swapped_in_under_traffic() {
    in_both_modes(|node, mode| {
        let mut connection = Connection::open(node, ALLOWED);
        let stream = Stream::start(node, ALLOWED, Duration::from_millis(1), true);
        let denied = Stream::start(node, DENIED, Duration::from_millis(5), false);
        for round in 0..3 {
            let before = running(mode);
            assert_eq!(before.len(), 1);
            // What is pinned is now another build's.
            let [set] = program_sets(node).try_into().unwrap();
            fs::rename(&set, set.with_file_name(format!("{:08}-0123456789abcdef", round + 100))).unwrap();
            node.expect(1, &["diff", "-f", "."]);
            node.apply();
            node.expect(0, &["diff", "-f", "."]);
            let after = running(mode);
            assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
            // The flow is known still: web may send nothing of its own.
            connection.exchange();
        }
        assert_eq!(program_sets(node).len(), 1);
        whole(stream, denied);
        assert_eq!(connection.lost(), 0);
        works(node);
    });
}

/// A binary of another ABI: new tables beside the old ones, and programs swapped in once the new tables are live. What
/// traffic filled, and looks the same in both, stays where it is.
#[test]
fn another_abi_takes_over_under_traffic() {
    in_both_modes(|node, mode| {
        let of_traffic = ["CONNTRACK_TCP", "CONNTRACK_OTHER", "NAT", "AFFINITY", "FRAGMENTS", "METRICS", "EVENTS"];
        let ids = || {
            of_traffic.map(|table| {
                kernel::bpftool(&format!("map show pinned {}", kernel::table_pin(node, table).display()))["id"].clone()
            })
        };
        let (own, mut connection) = (ids(), Connection::open(node, ALLOWED));
        let stream = Stream::start(node, ALLOWED, Duration::from_millis(1), true);
        let denied = Stream::start(node, DENIED, Duration::from_millis(5), false);
        let before = running(mode);
        let mine = tables(node);
        let other = mine.with_file_name("0123456789abcdef");
        fs::rename(&mine, &other).unwrap();
        node.apply();
        node.expect(0, &["diff", "-f", "."]);
        assert!(mine.exists() && !other.exists(), "the other version's pins are gone");
        let after = running(mode);
        assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
        assert_eq!(ids(), own);
        // The flow is known still: web may send nothing of its own.
        connection.exchange();
        whole(stream, denied);
        assert_eq!(connection.lost(), 0);
        works(node);
    });
}

/// Beside a tcx program, a clsact filter and a device of others.
#[test]
fn uninstall_leaves_nothing_of_ours_and_everything_of_others() {
    for mode in ["tcx", "clsact"] {
        println!("{mode}");
        Node::run(move |node| {
            node.ip("link add foreign0 type veth peer name foreign1");
            node.ip("link set foreign0 up");
            let program = ForeignProgram::tc();
            let _link = program.attach_tcx_ingress(UPLINK);
            assert!(tool("tc", &format!("qdisc add dev {UPLINK} clsact")).status.success());
            program.pin("/sys/fs/bpf/foreign");
            let filter = "ingress prio 7 handle 7 protocol all bpf direct-action object-pinned /sys/fs/bpf/foreign";
            let ran = tool("tc", &format!("filter add dev {UPLINK} {filter}"));
            assert!(ran.status.success(), "{ran}");

            write(node, mode);
            node.apply();
            node.expect(0, &["diff", "-f", "."]);
            works(node);
            let ours = Kernel::open(Options::new(node.pins())).unwrap().belongings().unwrap();
            let all = || Kernel::open(Options::new(node.pins())).unwrap().residue(&ours).unwrap();
            assert!(all().len() > 10, "the scan sees what is there");

            node.expect(0, &["uninstall"]);
            // The kernel frees a program a moment after its last user is gone.
            eventually("nothing of ours is left", || {
                let left: Vec<Residue> = all();
                left.is_empty().then_some(())
            });
            assert!(!node.pins().exists() && Path::new("/sys/fs/bpf/foreign").exists());
            assert_eq!(kernel::tcx_ingress_on(UPLINK), [program.id()]);
            let filters = tool("tc", &format!("filter show dev {UPLINK} ingress")).stdout;
            assert!(filters.contains("pref 7 ") && !filters.contains("from_network"), "{filters}");
            assert!(kernel::clsact_on(UPLINK), "the qdisc was there before");
            assert!(!kernel::clsact_on("foreign0"), "the qdisc of ours is gone");
            let devices = tool("ip", "-brief link").stdout;
            let names: BTreeSet<&str> = devices.lines().filter_map(|line| line.split([' ', '@']).next()).collect();
            assert_eq!(names, BTreeSet::from(["lo", UPLINK, "foreign0", "foreign1"]));
            assert!(reaches(node, Way { from: "client", to: "node", address: HOST[0], port: 23 }), "nobody filters");
            node.expect(0, &["uninstall"]);
        });
    }
}
