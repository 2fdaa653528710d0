//! Tables grow under traffic: hashes by swapping an inner map, arrays by new outer maps and programs that are swapped in,
//! conntrack by moving its entries. No packet of what is allowed is lost, none of what is denied passes.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{fmt::Write as _, time::Duration};

use weir_abi::Side;
use weir_tests::node::{
    ENDPOINTS, Node, WEB,
    connection::Connection,
    kernel::{RawMap, table_pin},
    traffic::{Stream, Way, reaches},
};

const ALLOWED: Way<'_> = Way { from: "client", to: "web", address: WEB[0], port: 80 };
const DENIED: Way<'_> = Way { from: "client", to: "web", address: WEB[0], port: 81 };

/// What is allowed stays so; `size` other networks are in the ipcache and in the policy, and ten times as many in the
/// prefilter.
fn write(node: &Node, mode: &str, size: u32, conntrack: u32) {
    let limits = format!("  attachMode: {mode}\n  limits: {{conntrackTcp: {conntrack}, conntrackOther: {conntrack}}}");
    let endpoints = ENDPOINTS.replace("  limits: {conntrackTcp: 8192, conntrackOther: 8192}", &limits);
    assert_ne!(endpoints, ENDPOINTS);
    node.write("endpoints.yaml", &endpoints);
    let mut list = String::new();
    for n in 0..size * 10 {
        writeln!(list, "{}.{}.{}.0/24", 100 + n / 65_536, n / 256 % 256, n % 256).unwrap();
    }
    node.write("lists/drop.txt", &list);
    let cidrs: String = (0..size).map(|n| format!("    - 120.{}.{}.0/24\n", n / 256, n % 256)).collect();
    node.write(
        "rules.yaml",
        &format!(
            r"
apiVersion: weir/v1alpha1
kind: CidrFilter
metadata: {{name: drop}}
spec: {{interfaces: [uplink0], fromFiles: [lists/drop.txt]}}
---
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {{name: web}}
spec:
  endpointSelector: {{matchLabels: {{app: web}}}}
  ingress:
  - fromCIDR: [192.0.2.0/24]
    toPorts: [{{ports: [{{port: 80, protocol: ANY}}]}}]
  - fromCIDR:
{cidrs}    toPorts: [{{ports: [{{port: 82, protocol: UDP}}]}}]
  egress:
  - {{}}
"
        ),
    );
}

/// Room in the side that is live after a flip, and after the next.
fn room(node: &Node, table: &str) -> u32 {
    Side::BOTH.into_iter().map(|side| RawMap::side(node, table, side).max_entries).max().unwrap()
}

fn conntrack(node: &Node) -> u32 {
    RawMap::pinned(&table_pin(node, "CONNTRACK_TCP")).max_entries
}

fn grows(mode: &'static str) {
    Node::run(move |node| {
        write(node, mode, 4, 8192);
        node.apply();
        // Web may send nothing of its own: the other end's messages pass only where the flow is known.
        let mut connection = Connection::open(node, ALLOWED);
        let stream = Stream::start(node, ALLOWED, Duration::from_millis(1), true);
        let denied = Stream::start(node, DENIED, Duration::from_millis(5), false);
        let tables = ["POLICY", "IPCACHE", "PREFILTER"];
        let before = tables.map(|table| room(node, table));
        for size in [400, 4000] {
            write(node, mode, size, 8192);
            node.apply();
            connection.exchange();
        }
        let after = tables.map(|table| room(node, table));
        assert!(after.iter().zip(before).all(|(after, before)| *after > before), "{before:?} became {after:?}");
        for entries in [32_768, 4096] {
            write(node, mode, 4000, entries);
            node.apply();
            assert_eq!(conntrack(node), entries);
            connection.exchange();
        }
        // And back to little, of which a rollback is the opposite.
        write(node, mode, 4, 8192);
        node.apply();
        connection.exchange();
        node.expect(0, &["rollback"]);
        connection.exchange();

        let account = stream.finish();
        assert!(
            account.sent > 500 && account.lost.is_empty(),
            "of {} sent, {:?} were lost",
            account.sent,
            account.lost
        );
        let denied = denied.finish();
        assert_eq!((denied.received, denied.sent > 0), (0, true), "what is denied never passes");
        assert_eq!(connection.lost(), 0, "in {} messages", connection.messages());
        assert!(reaches(node, ALLOWED) && !reaches(node, DENIED));
    });
}

#[test]
fn no_packet_is_lost_when_tables_grow_tcx() {
    grows("tcx");
}

#[test]
fn no_packet_is_lost_when_tables_grow_clsact() {
    grows("clsact");
}
