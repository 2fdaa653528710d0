//! `get flows`: what conntrack holds after real packets, and `get tables`, which counts it.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::net::UdpSocket;

use serde_json::Value;
use weir_abi::Side;
use weir_tests::node::{
    CLIENT, DB, ENDPOINTS, Node, WEB,
    connection::Connection,
    eventually,
    kernel::{self, RawMap},
    metrics::scrape,
    traffic::{Way, reaches},
};

/// `web` takes tcp/80 and udp/80 from the client, and `db` takes udp/53 from `web`.
const RULES: &str = r"apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromCIDR: [192.0.2.0/24, '2001:db8:0:1::/64']
    toPorts:
    - ports:
      - {port: 80, protocol: TCP}
      - {port: 80, protocol: UDP}
  egress:
  - toEndpoints: [{matchLabels: {app: db}}]
    toPorts: [{ports: [{port: 53, protocol: UDP}]}]
---
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: db}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - toPorts: [{ports: [{port: 53, protocol: UDP}]}]
";

fn write(node: &Node) {
    node.write("endpoints.yaml", ENDPOINTS);
    node.write("rules.yaml", RULES);
}

fn list(node: &Node, words: &[&str]) -> Value {
    node.expect(0, &[&["get", "flows", "-o", "json"], words].concat()).json()
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().unwrap()
}

/// The one flow that `words` leave.
fn one(node: &Node, words: &[&str]) -> Value {
    let list = list(node, words);
    assert_eq!((items(&list).len(), &list["more"]), (1, &0.into()), "{list}");
    list["items"][0].clone()
}

fn is_allowed_by(verdict: &Value, name: &str, path: &str, line: u64) {
    assert_eq!((&verdict["verdict"], &verdict["current"]), (&"allow".into(), &true.into()), "{verdict}");
    let rule = &verdict["rule"];
    assert_eq!((&rule["object"]["kind"], &rule["object"]["name"]), (&"NetworkPolicy".into(), &name.into()), "{rule}");
    assert!(rule["path"].as_str().unwrap().starts_with(path), "{rule}");
    assert_eq!((&rule["file"], rule["line"].as_u64()), (&"rules.yaml".into(), Some(line)), "{rule}");
}

const HOUR: f64 = 3600.0;

/// Seconds that it lives yet: more than none, and no more than `most`.
fn lives(flow: &Value, most: f64) -> f64 {
    let seconds = flow["expiresIn"].as_f64().unwrap();
    assert!(seconds > 0.0 && seconds <= most, "{flow}");
    seconds
}

#[test]
fn flows_are_listed_with_their_rules_and_how_long_they_live() {
    Node::run(|node| {
        let timeouts = "timeouts: {tcpSyn: 1m, tcpEstablished: 6h, tcpClosing: 30m, other: 1h}";
        node.write(
            "endpoints.yaml",
            &ENDPOINTS.replace("spec:\n  limits:", &format!("spec:\n  {timeouts}\n  limits:")),
        );
        node.write("rules.yaml", RULES);
        node.apply();
        let mut connection = Connection::open(node, Way { from: "client", to: "web", address: WEB[0], port: 80 });
        connection.exchange();
        for address in WEB {
            assert!(reaches(node, Way { from: "client", to: "web", address, port: 80 }));
        }
        assert!(reaches(node, Way { from: "web", to: "db", address: DB[0], port: 53 }));

        let check = |node: &Node| {
            let tcp = one(node, &["--protocol", "tcp"]);
            assert_eq!((&tcp["source"], &tcp["destination"]), (&CLIENT[0].into(), &WEB[0].into()));
            assert_eq!((&tcp["destinationPort"], &tcp["state"]), (&80.into(), &"established".into()), "{tcp}");
            assert_eq!((&tcp["destinationEndpoint"]["name"], &tcp["sourceEndpoint"]), (&"web".into(), &Value::Null));
            assert_eq!((&tcp["replied"], &tcp["egress"]), (&true.into(), &Value::Null), "{tcp}");
            is_allowed_by(&tcp["ingress"], "web", "spec.ingress[0]", 10);
            assert!(lives(&tcp, 6.0 * HOUR) > HOUR);

            let inside = one(node, &["--port", "53"]);
            assert_eq!((&inside["protocol"], &inside["state"]), (&"udp".into(), &"replied".into()), "{inside}");
            assert_eq!(inside["sourceEndpoint"]["name"], "web");
            assert_eq!(inside["destinationEndpoint"]["name"], "db");
            is_allowed_by(&inside["egress"], "web", "spec.egress[0]", 14);
            is_allowed_by(&inside["ingress"], "db", "spec.ingress[0]", 22);
            assert!(lives(&inside, HOUR) > HOUR / 2.0);

            let v6 = one(node, &["--address", CLIENT[1]]);
            assert_eq!((&v6["source"], &v6["destination"]), (&CLIENT[1].into(), &WEB[1].into()));
            is_allowed_by(&v6["ingress"], "web", "spec.ingress[0]", 11);
            assert_eq!(one(node, &["--address", "2001:db8::/32"])["sourcePort"], v6["sourcePort"]);
            assert_eq!(one(node, &["--protocol", "17", "--port", "80", "--address", CLIENT[0]])["protocol"], "udp");
            assert_eq!(items(&list(node, &["--address", "198.51.100.1"])).len(), 0);
            let source = tcp["sourcePort"].to_string();
            assert_eq!(one(node, &["--port", &source, "--protocol", "tcp"])["destinationPort"], 80);
        };
        check(node);
        let agent = node.agent(&[]);
        eventually("it is live", || (agent.status()["state"] == "converged").then_some(()));
        check(node);

        let all = list(node, &[]);
        assert_eq!((&all["formatVersion"], &all["resource"], &all["more"]), (&"1".into(), &"flows".into(), &0.into()));
        let total = items(&all).len() as u64;
        for limit in [0, 1, total - 1, total, total + 1] {
            let some = list(node, &["--limit", &limit.to_string()]);
            let shown = limit.min(total);
            assert_eq!((items(&some).len() as u64, some["more"].as_u64()), (shown, Some(total - shown)), "{limit}");
        }
        let text = node.expect(0, &["get", "flows", "--limit", "2"]).stdout;
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("PROTOCOL  SOURCE"), "{text}");
        assert_eq!((lines.len(), lines[3]), (4, &*format!("… {} more", total - 2)), "{text}");
        let text = node.expect(0, &["get", "flows", "--protocol", "tcp"]).stdout;
        for needle in
            ["10.10.0.2:80 (default/web)", "established", "allow  NetworkPolicy default/web ", "rules.yaml:10"]
        {
            assert!(text.contains(needle), "{needle}: {text}");
        }
        let names = node.expect(0, &["get", "flows", "--protocol", "tcp", "-o", "name"]).stdout;
        assert!(names.starts_with("flows/tcp/192.0.2.10:") && names.ends_with("/10.10.0.2:80\n"), "{names}");
        let yaml = node.expect(0, &["get", "flows", "-o", "yaml"]).stdout;
        let yaml: Value = serde_yaml::from_str(&yaml).unwrap();
        assert_eq!(items(&yaml).len() as u64, total);

        // After a flip the rules that are shown would be those of before.
        node.write("rules.yaml", &RULES.replace("port: 53", "port: 54"));
        eventually("it is live", || (agent.status()["commit"]["sequence"] == 2).then_some(()));
        let tcp = one(node, &["--protocol", "tcp"]);
        assert_eq!((&tcp["ingress"]["current"], &tcp["ingress"]["rule"]), (&false.into(), &Value::Null), "{tcp}");
        assert_eq!(tcp["ingress"]["verdict"], "allow");
        let text = node.expect(0, &["get", "flows", "--protocol", "tcp"]).stdout;
        assert!(text.contains("allow, in an earlier epoch"), "{text}");
        connection.exchange();
        is_allowed_by(&one(node, &["--protocol", "tcp"])["ingress"], "web", "spec.ingress[0]", 10);

        drop(connection);
        let closing = eventually("it is closing", || {
            Some(one(node, &["--protocol", "tcp"])).filter(|tcp| tcp["state"] == "closing")
        });
        lives(&closing, HOUR / 2.0);
        assert!(agent.stop().success());
    });
}

/// An entry that has expired stays in the table, and is not there all the same.
#[test]
fn what_has_expired_is_neither_listed_nor_counted() {
    Node::run(|node| {
        node.write(
            "endpoints.yaml",
            &ENDPOINTS.replace("spec:\n  limits:", "spec:\n  timeouts: {other: 1s}\n  limits:"),
        );
        node.write("rules.yaml", RULES);
        node.apply();
        let send = node.inside("client", || {
            let socket = UdpSocket::bind((CLIENT[0], 4242)).unwrap();
            for _ in 0..3 {
                // Refused is fine.
                let _ = socket.send_to(b"hello", (WEB[0], 80));
            }
        });
        send.join().unwrap();
        let table = RawMap::pinned(&kernel::table_pin(node, "CONNTRACK_OTHER"));
        let key =
            |port: u16| table.keys().into_iter().find(|key| key[32..36].chunks(2).any(|w| w == port.to_be_bytes()));
        eventually("the flow is made", || key(4242));
        eventually("it has expired", || items(&list(node, &["--port", "4242"])).is_empty().then_some(()));
        assert!(key(4242).is_some(), "the entry is still in the table");
        let tables = node.expect(0, &["get", "tables", "CONNTRACK_OTHER", "-o", "json"]).json();
        let unexpired = items(&list(node, &["--protocol", "udp"])).len();
        assert_eq!((unexpired, tables["items"][0]["entries"].as_u64()), (0, Some(0)), "{tables}");
    });
}

#[test]
fn wrong_questions_are_refused() {
    Node::run(|node| {
        write(node);
        assert_eq!(items(&list(node, &[])).len(), 0, "before the first apply there are no flows");
        for (words, needle) in [
            (&["get", "flows", "web"][..], "flows have no names"),
            (&["get", "rules", "--port", "80"], "are for flows"),
            (&["get", "flows", "--address", "nowhere"], "neither an address nor a CIDR"),
            (&["get", "flows", "--protocol", "gre"], "is no protocol"),
            (&["get", "flows", "--port", "65536"], "65536"),
        ] {
            let ran = node.expect(64, words);
            assert!(ran.stderr.contains(needle), "{needle}: {ran}");
        }
    });
}

/// Entries, limit, how full and how large: each table on each side, and conntrack by what lives in it.
#[test]
fn get_tables_shows_how_full_each_is() {
    Node::run(|node| {
        node.write("endpoints.yaml", &ENDPOINTS.replace("conntrackTcp: 8192", "conntrackTcp: 8192, policyTotal: 8"));
        node.write("rules.yaml", RULES);
        node.apply();
        let _connection = Connection::open(node, Way { from: "client", to: "web", address: WEB[0], port: 80 });
        let list = node.expect(0, &["get", "tables", "-o", "json"]).json();
        let of = |name: &str, state: Option<&str>| {
            let is = |item: &&Value| item["name"] == name && item["state"].as_str() == state;
            items(&list).iter().find(is).unwrap_or_else(|| panic!("{name} {state:?}: {list}")).clone()
        };
        let status = node.expect(0, &["status", "-o", "json"]).json();
        let active = if status["generation"]["side"] == 0 { Side::A } else { Side::B };
        for (state, side) in [("active", active), ("standby", active.other())] {
            let policy = of("POLICY", Some(state));
            let held = RawMap::side(node, "POLICY", side).keys().len();
            assert_eq!((&policy["entries"], &policy["limit"]), (&held.into(), &8.into()), "{policy}");
            assert_eq!(policy["percent"].as_f64(), Some((held as f64 * 1000.0 / 8.0).round() / 10.0), "{policy}");
            assert!(policy["bytes"].as_u64() > Some(0) && policy["side"] == side.index(), "{policy}");
        }
        let ipcache = of("IPCACHE", Some("active"));
        let families = ["ipcache4", "ipcache6"].map(|family| of(family, None)["active"].as_u64().unwrap());
        assert_eq!(ipcache["entries"].as_u64(), Some(families.iter().sum()), "{list}");
        let tcp = of("CONNTRACK_TCP", None);
        assert_eq!((&tcp["entries"], &tcp["limit"], &tcp["estimated"]), (&1.into(), &8192.into(), &false.into()));
        let text = node.expect(0, &["get", "tables"]).stdout;
        assert!(text.starts_with("TABLE") && text.contains("FULL %"), "{text}");
    });
}

/// A full count of a large table would take long: it is worked out from a part, and said so. A list counts all.
#[test]
fn a_large_conntrack_is_estimated() {
    const FLOWS: u32 = 120_000;
    Node::run(|node| {
        node.write("endpoints.yaml", &ENDPOINTS.replace("conntrackTcp: 8192", "conntrackTcp: 262144"));
        node.write("rules.yaml", RULES);
        let agent = node.agent(&[]);
        eventually("it is live", || (agent.status()["state"] == "converged").then_some(()));
        let table = RawMap::pinned(&kernel::table_pin(node, "CONNTRACK_TCP"));
        let mut entry = vec![0; table.value_size];
        for number in 0..FLOWS {
            let mut key = vec![0; table.key_size];
            key[12..16].copy_from_slice(&number.to_be_bytes());
            key[28] = 0xff;
            key[36] = 6;
            // Every fourth has expired.
            let expires = if number % 4 == 0 { 1 } else { u64::MAX };
            entry[16..24].copy_from_slice(&expires.to_ne_bytes());
            table.update(&key, &entry);
        }
        let live = u64::from(FLOWS / 4 * 3);
        let list = list(node, &["--limit", "10"]);
        assert_eq!((items(&list).len(), list["more"].as_u64()), (10, Some(live - 10)));
        let tables = node.expect(0, &["get", "tables", "CONNTRACK_TCP", "-o", "json"]).json();
        assert_eq!(tables["items"][0]["estimated"], true, "{tables}");
        let estimates = [
            tables["items"][0]["entries"].as_f64().unwrap(),
            scrape(node).get("weir_table_entries", &[("table", "conntrack_tcp")]),
        ];
        for estimate in estimates {
            // Six standard deviations of what chance does to a sample of 65,536.
            assert!((estimate / live as f64 - 1.0).abs() < 0.03, "{estimate} of {live}");
        }
        assert!(agent.stop().success());
    });
}
