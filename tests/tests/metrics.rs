//! What Prometheus is told: by the agent's socket, and by `--metrics` on an address.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, UdpSocket},
};

use serde_json::Value;
use weir_abi::Side;
use weir_tests::node::{
    Agent, ENDPOINTS, Node, WEB, eventually,
    kernel::RawMap,
    metrics::{Metrics, request, scrape, tcp},
    traffic::{Way, reaches},
};

const RULES: &str = r"apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromCIDR: [192.0.2.0/24]
    toPorts: [{ports: [{port: 80, protocol: UDP}, {port: 82, protocol: UDP}]}]
  ingressDeny:
  - fromCIDR: [192.0.2.0/24]
    toPorts: [{ports: [{port: 82, protocol: UDP}]}]
---
apiVersion: weir/v1alpha1
kind: CidrFilter
metadata: {name: drop}
spec: {interfaces: [uplink0], cidrs: [203.0.113.0/24, 192.0.2.66]}
";

const ADDRESS: &str = "127.0.0.1:9464";
const LISTED: &str = "192.0.2.66";
const CLIENT: &str = "192.0.2.10";
/// What `send` sends, with Ethernet, IPv4 and UDP headers.
const FRAME: u64 = 14 + 20 + 8 + 5;

fn send(node: &Node, from: &'static str, port: u16, count: usize) {
    let send = node.inside("client", move || {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        for _ in 0..count {
            // Refused is fine: who counts is who reads.
            let _ = socket.send_to(b"hello", (WEB[0], port));
        }
    });
    send.join().unwrap();
}

/// Scrapes until it holds.
fn until(node: &Node, what: &str, holds: impl Fn(&Metrics) -> bool) -> Metrics {
    eventually(what, || Some(scrape(node)).filter(&holds))
}

fn condition(metrics: &Metrics, kind: &str) -> f64 {
    metrics.get("weir_condition", &[("type", kind)])
}

fn converged(agent: &Agent, sequence: u64) {
    eventually("it is live", || {
        let status = agent.status();
        (status["state"] == "converged" && status["commit"]["sequence"] == sequence).then_some(())
    });
}

fn started(node: &Node, words: &[&str]) -> Agent {
    node.write("endpoints.yaml", ENDPOINTS);
    node.write("rules.yaml", RULES);
    let agent = node.agent(words);
    converged(&agent, 1);
    agent
}

/// Without any table of Weir's in the kernel, the agent tells of itself; once there are, of them.
#[test]
fn a_scrape_works_before_there_are_tables() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("rules.yaml", "kind: NetworkPolice\n");
        let agent = node.agent(&[]);
        let cold = until(node, "it has failed", |m| m.get("weir_reconcile_total", &[("result", "failed")]) > 0.0);
        assert_eq!((condition(&cold, "Stalled"), condition(&cold, "Ready")), (1.0, 0.0));
        assert_eq!(cold.get("weir_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
        assert!(cold.get("process_resident_memory_bytes", &[]) > 0.0);
        assert_eq!((cold.get("weir_scrape_errors_total", &[]), cold.get("weir_flips_total", &[])), (0.0, 0.0));
        for absent in ["weir_packets_total", "weir_table_entries", "weir_table_bytes", "weir_epoch", "weir_objects"] {
            assert!(!cold.has(absent, &[]), "{absent}");
        }
        node.write("rules.yaml", RULES);
        converged(&agent, 1);
        let warm = scrape(node);
        assert_eq!((condition(&warm, "Stalled"), condition(&warm, "Ready")), (0.0, 1.0));
        assert_eq!(warm.get("weir_objects", &[("kind", "Endpoint")]), 2.0);
        assert_eq!(warm.get("weir_packets_total", &[("reason", "prefilter"), ("direction", "ingress")]), 0.0);
        assert!(agent.stop().success());
    });
}

#[test]
fn counters_go_up_by_exactly_the_packets_dropped() {
    Node::run(|node| {
        let agent = started(node, &[]);
        node.ip(&format!("-netns client address add {LISTED}/24 dev eth0"));
        let of = |metrics: &Metrics, what: &str, reason: &str| {
            metrics.get(what, &[("reason", reason), ("verdict", "dropped"), ("direction", direction(reason))])
        };
        let before = scrape(node);
        for (reason, from, port, count) in [("prefilter", LISTED, 80, 7), ("policy_deny", CLIENT, 82, 5)] {
            send(node, from, port, count);
            let expected = of(&before, "weir_packets_total", reason) + count as f64;
            let after = until(node, reason, |m| of(m, "weir_packets_total", reason) >= expected);
            assert_eq!(of(&after, "weir_packets_total", reason), expected, "{reason}");
            let bytes = of(&after, "weir_bytes_total", reason) - of(&before, "weir_bytes_total", reason);
            assert_eq!(bytes, (FRAME * count as u64) as f64, "{reason}");
        }
        // The other list says the same.
        let items = node.expect(0, &["get", "metrics", "-o", "json"]).json();
        let after = scrape(node);
        for reason in ["prefilter", "policy_deny"] {
            let is = |item: &&Value| item["name"] == reason && item["direction"] == direction(reason);
            let item = items["items"].as_array().unwrap().iter().find(is).unwrap();
            assert_eq!(of(&after, "weir_packets_total", reason), item["packets"].as_f64().unwrap(), "{item}");
            assert_eq!(of(&after, "weir_bytes_total", reason), item["bytes"].as_f64().unwrap(), "{item}");
        }
        assert_eq!(after.get("weir_lost_events_total", &[]), before.get("weir_lost_events_total", &[]));
        assert!(agent.stop().success());
    });
}

/// Seen from the node's stack.
fn direction(reason: &str) -> &'static str {
    if reason == "prefilter" { "ingress" } else { "egress" }
}

#[test]
fn flips_drift_and_outcomes_are_counted() {
    Node::run(|node| {
        let agent = started(node, &["--verify", "300ms"]);
        let result = |metrics: &Metrics, what: &str| metrics.get("weir_reconcile_total", &[("result", what)]);
        let first = scrape(node);
        assert_eq!((first.get("weir_commit_sequence", &[]), result(&first, "applied")), (1.0, 1.0));

        node.write("rules.yaml", &RULES.replace("port: 80", "port: 90"));
        converged(&agent, 2);
        let second = scrape(node);
        assert_eq!(second.get("weir_flips_total", &[]), first.get("weir_flips_total", &[]) + 1.0);
        assert_eq!(second.get("weir_epoch", &[]), first.get("weir_epoch", &[]) + 1.0);
        assert_eq!(second.get("weir_active_side", &[]), 1.0 - first.get("weir_active_side", &[]));
        assert_eq!((second.get("weir_commit_sequence", &[]), result(&second, "applied")), (2.0, 2.0));
        let status = agent.status();
        let applied = status["commit"]["timeUnixMs"].as_f64().unwrap() / 1000.0;
        assert_eq!(second.get("weir_last_apply_timestamp_seconds", &[]), applied);
        assert_eq!(second.get("weir_epoch", &[]), status["generation"]["epoch"].as_f64().unwrap());

        // A look that finds nothing is an attempt as well, and each takes its time.
        let third = until(node, "a verification", |m| result(m, "unchanged") > result(&second, "unchanged"));
        let name = "weir_reconcile_duration_seconds";
        let all = ["applied", "healed", "rolled_back", "unchanged", "failed"].map(|what| result(&third, what));
        assert_eq!(third.get(&format!("{name}_count"), &[]), all.iter().sum::<f64>());
        assert!(third.get(&format!("{name}_sum"), &[]) > 0.0);
        assert!(third.get("weir_last_verification_timestamp_seconds", &[]) >= applied);

        // Somebody else takes entries away.
        let side = if third.get("weir_active_side", &[]) == 0.0 { Side::A } else { Side::B };
        let table = RawMap::side(node, "POLICY", side);
        let keys = table.keys();
        keys.iter().for_each(|key| table.delete(key));
        let healed = until(node, "it is healed", |m| result(m, "healed") > 0.0);
        assert_eq!(healed.get("weir_drift_found_total", &[]), keys.len() as f64);
        assert_eq!(healed.get("weir_drift_healed_total", &[]), keys.len() as f64);
        assert_eq!(healed.get("weir_drift_entries", &[]), 0.0);
        assert_eq!(healed.get("weir_flips_total", &[]), second.get("weir_flips_total", &[]) + 1.0);

        // While suspended it is found, and left; once.
        node.expect(0, &["suspend"]);
        let side = if agent.status()["generation"]["side"] == 0 { Side::A } else { Side::B };
        let table = RawMap::side(node, "POLICY", side);
        table.delete(&table.keys()[0]);
        let left = until(node, "it is seen", |m| m.get("weir_drift_entries", &[]) == 1.0);
        until(node, "it is seen again", |m| result(m, "unchanged") > result(&left, "unchanged") + 1.0);
        let left = scrape(node);
        assert_eq!(left.get("weir_drift_found_total", &[]), keys.len() as f64 + 1.0);
        assert_eq!(left.get("weir_drift_healed_total", &[]), keys.len() as f64);
        assert_eq!((condition(&left, "Suspended"), condition(&left, "Drifted")), (1.0, 1.0));
        node.expect(0, &["resume"]);
        let back = until(node, "it is healed", |m| m.get("weir_drift_entries", &[]) == 0.0);
        assert_eq!(back.get("weir_drift_found_total", &[]), keys.len() as f64 + 1.0);
        assert_eq!(back.get("weir_drift_healed_total", &[]), keys.len() as f64 + 1.0);

        node.expect(0, &["rollback"]);
        let rolled = scrape(node);
        assert_eq!(result(&rolled, "rolled_back"), 1.0);
        assert_eq!(rolled.get("weir_flips_total", &[]), back.get("weir_flips_total", &[]) + 1.0);
        node.expect(0, &["resume"]);

        let away = node.directory().join("away");
        fs::rename(node.manifests(), &away).unwrap();
        let stale = until(node, "the source is stale", |m| condition(m, "SourceStale") == 1.0);
        assert!(stale.get("weir_source_stale_seconds", &[]) > 0.0);
        fs::rename(&away, node.manifests()).unwrap();
        let fresh = until(node, "the source is back", |m| condition(m, "SourceStale") == 0.0);
        assert_eq!(fresh.get("weir_source_stale_seconds", &[]), 0.0);

        node.write("endpoints.yaml", &ENDPOINTS.replace("netns: db", "netns: later"));
        until(node, "an object waits", |m| m.get("weir_pending_objects", &[]) == 1.0);
        assert!(agent.stop().success());
    });
}

#[test]
fn tables_are_as_get_tables_says() {
    Node::run(|node| {
        let agent = started(node, &["--verify", "1h", "--catch-up", "1h"]);
        node.write("rules.yaml", &RULES.replace("[203.0.113.0/24, 192.0.2.66]", "[203.0.113.0/24]"));
        converged(&agent, 2);
        assert!(reaches(node, Way { from: "client", to: "web", address: WEB[0], port: 80 }));
        let list = node.expect(0, &["get", "tables", "-o", "json"]).json();
        let metrics = scrape(node);
        let mut differ = 0;
        for table in list["items"].as_array().unwrap() {
            let name = table["name"].as_str().unwrap().to_lowercase();
            let of = |what: &str, side: &str| metrics.get(what, &[("table", &name), ("side", side)]);
            let number = |value: &Value| value.as_f64().unwrap();
            if table["active"].is_null() {
                let side = match table["side"].as_f64() {
                    None => "shared",
                    Some(side) if side == metrics.get("weir_active_side", &[]) => "active",
                    Some(_) => "standby",
                };
                assert_eq!(of("weir_table_bytes", side), number(&table["bytes"]), "{table}");
                if name.starts_with("conntrack") || name == "fragments" {
                    assert_eq!(of("weir_table_max_entries", side), number(&table["maxEntries"]), "{table}");
                }
                continue;
            }
            for side in ["active", "standby"] {
                assert_eq!(of("weir_table_entries", side), number(&table[side]), "{table}");
                if !table["limit"].is_null() {
                    assert_eq!(of("weir_table_max_entries", side), number(&table["limit"]), "{table}");
                }
            }
            differ += usize::from(table["active"] != table["standby"]);
        }
        assert!(differ > 0, "the sides are told apart: {list}");
        assert!(metrics.get("weir_table_entries", &[("table", "conntrack_other"), ("side", "shared")]) >= 1.0);

        // More rules, addresses and flows make no more series.
        let many: Vec<String> = (0..200).map(|octet| format!("198.51.100.{octet}")).collect();
        node.write("rules.yaml", &RULES.replace("192.0.2.66", &many.join(", ")));
        converged(&agent, 3);
        assert_eq!(scrape(node).series(), metrics.series());
        assert!(agent.stop().success());
    });
}

#[test]
fn an_address_serves_metrics_and_nothing_else() {
    Node::run(|node| {
        let agent = started(node, &["--metrics", ADDRESS]);
        let metrics = Metrics::of(&request(tcp(ADDRESS), "GET", "/metrics"));
        assert_eq!(metrics.families, scrape(node).families, "the same as by the socket");
        for path in ["/", "/metrics/", "/metric", "/v1/status", "/v1/get/rules", "/v1/monitor", "/metrics/../v1/status"]
        {
            for method in ["GET", "POST"] {
                assert_eq!(request(tcp(ADDRESS), method, path).status, 404, "{method} {path}");
            }
        }
        for path in ["/v1/apply", "/v1/suspend?reason=x", "/v1/rollback"] {
            assert_eq!(request(tcp(ADDRESS), "POST", path).status, 404, "{path}");
        }
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let answer = request(tcp(ADDRESS), method, "/metrics");
            assert_eq!(answer.status, 405, "{method}");
            assert!(answer.head.contains("\r\nallow: get"), "{}", answer.head);
        }
        assert_eq!(agent.status()["state"], "converged", "nothing came of it");

        // Whoever talks something else, or says nothing at all, keeps nobody away.
        let idle: Vec<_> = (0..32).map(|_| tcp(ADDRESS)).collect();
        let mut stray = tcp(ADDRESS);
        stray.write_all(&[0x16, 3, 1, 0, 0xff]).unwrap();
        stray.write_all(b"\r\n\r\n").unwrap();
        let mut said = Vec::new();
        // A reset is as good as an end.
        let _ = stray.read_to_end(&mut said);
        Metrics::of(&request(tcp(ADDRESS), "GET", "/metrics"));
        drop(idle);

        // The next agent can have the address at once.
        assert!(agent.stop().success());
        let agent = node.agent(&["--metrics", ADDRESS]);
        Metrics::of(&request(tcp(ADDRESS), "GET", "/metrics"));
        assert!(agent.stop().success());
    });
}

#[test]
fn ipv6_and_the_environment_name_an_address_too() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        let agent = Agent::following(node, &["-f", "."], &[("WEIR_METRICS", "[::1]:9464")]);
        Metrics::of(&request(tcp("[::1]:9464"), "GET", "/metrics"));
        assert!(agent.stop().success());
    });
}

#[test]
fn an_address_that_cannot_be_had_is_an_error_at_the_start() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        let taken = TcpListener::bind(ADDRESS).unwrap();
        let ran = node.expect(1, &["run", "-f", ".", "--metrics", ADDRESS]);
        for needle in ["listen on 127.0.0.1:9464 for --metrics", "in use"] {
            assert!(ran.stderr.contains(needle), "{needle}: {ran}");
        }
        assert!(!node.directory().join("agent.sock").exists(), "nothing is left behind");
        let ran = node.expect(1, &["run", "-f", ".", "--metrics", "198.51.100.1:9464"]);
        assert!(ran.stderr.contains("listen on 198.51.100.1:9464 for --metrics"), "{ran}");
        drop(taken);
        for wrong in ["9464", "localhost", "127.0.0.1", "127.0.0.1:65536", "::1:9464"] {
            let ran = node.expect(64, &["run", "-f", ".", "--metrics", wrong]);
            assert!(ran.stderr.contains("--metrics <ADDRESS:PORT>"), "{ran}");
        }
        let agent = node.agent(&["--metrics", ADDRESS]);
        assert!(agent.stop().success());
    });
}
