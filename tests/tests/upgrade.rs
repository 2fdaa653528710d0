//! The agent's binary is swapped for one of the next version, in which programs and values are others, and back again,
//! under traffic.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use weir_tests::node::{
    Agent, CLIENT, DB, ENDPOINTS, Node, UPLINK, WEB, binary,
    connection::{Connection, Pump},
    dialogue::Dialogue,
    eventually,
    kernel::{self, RawMap, table_pin},
    traffic::{Stream, Way, reaches},
};

const VIP: [&str; 2] = ["10.96.0.10", "fd00:96::10"];
const EXTERNAL: &str = "203.0.113.80";

/// Who may begin: db and the client toward web, db toward the client. Web and the client may only answer.
const POLICY: &str = r"
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: db}}]
    toPorts: [{ports: [{port: 8000, endPort: 8099, protocol: ANY}]}]
  - fromCIDR: [192.0.2.0/24, '2001:db8:0:1::/64']
    toPorts: [{ports: [{port: 8000, endPort: 8099, protocol: ANY}]}]
  egress:
  - {}
---
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: db}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - {}
";

/// Every port that is spoken to by the service's addresses; `backends` is a YAML list.
fn service(backends: &str) -> String {
    let mut text = "apiVersion: weir/v1alpha1\nkind: Service\nmetadata: {name: app}\nspec:\n  frontends:\n".to_owned();
    for port in 8010..8020 {
        for protocol in ["TCP", "UDP"] {
            for address in VIP {
                text += &format!("  - {{address: '{address}', port: {port}, protocol: {protocol}}}\n");
            }
            text += &format!("  - {{address: {EXTERNAL}, port: {port}, protocol: {protocol}, type: external}}\n");
        }
    }
    format!("{text}  backends: [{backends}]\n")
}

fn write(node: &Node, backends: &str) {
    node.write(
        "endpoints.yaml",
        &ENDPOINTS.replace("spec:\n  limits:", "spec:\n  masquerade: {enabled: true}\n  limits:"),
    );
    node.write("policy.yaml", POLICY);
    node.write("service.yaml", &service(backends));
}

/// The binary of the next version: this one, built with other layouts. Made here, so that it is never an old one; only
/// Weir's own crates are built anew.
fn next_version() -> PathBuf {
    let ours = binary();
    let release = ours.parent().unwrap();
    let build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--workspace", "--bin", "weir-next", "--features", "weir/next-layout"])
        .arg("--target-dir")
        .arg(release.parent().unwrap())
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
        .output()
        .unwrap();
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    release.join("weir-next")
}

/// The directories that are named by an ABI's hash.
fn versions(node: &Node) -> Vec<PathBuf> {
    let pins = fs::read_dir(node.pins()).unwrap().map(|entry| entry.unwrap().path());
    pins.filter(|path| path.join("RUNTIME").exists()).collect()
}

/// Of what the kernel runs on the uplink and web's device at tc ingress.
fn programs() -> Vec<u32> {
    let devices = weir_tests::node::tool("ip", "-brief link").stdout;
    let devices = devices.lines().filter_map(|line| line.split([' ', '@']).next()).filter(|name| *name != "lo");
    let ids: Vec<u32> = devices.flat_map(kernel::tcx_ingress_on).collect();
    assert!(ids.len() == 3 && kernel::tcx_ingress_on(UPLINK).len() == 1, "{ids:?}");
    ids
}

/// As [`eventually`]: on a machine that has much else to do, the verifier takes longer than a minute.
fn patiently(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(600), "{what}: not within ten minutes");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Swaps the binary as a service manager does, and waits until the new one has converged.
fn swap(agent: Agent, to: &Node) -> Agent {
    let (before, former) = (programs(), versions(to));
    assert!(agent.stop().success());
    let agent = to.agent(&[]);
    patiently("the other version has taken over", || {
        let status = agent.status();
        let all = status["attachments"].as_array().unwrap();
        let well = |one: &serde_json::Value| !one["note"].as_str().unwrap_or_default().contains("not the program");
        status["state"] == "converged" && !all.is_empty() && all.iter().all(well)
    });
    let after = programs();
    assert!(after.iter().all(|id| !before.contains(id)), "{before:?} {after:?}");
    let now = versions(to);
    assert!(now.len() == 1 && former.len() == 1 && now != former, "the former version's tables are gone: {now:?}");
    agent
}

/// Bytes of an entry of conntrack.
fn entry(node: &Node) -> usize {
    RawMap::pinned(&table_pin(node, "CONNTRACK_TCP")).value_size
}

#[test]
fn the_binary_is_swapped_for_one_of_another_layout_and_nothing_is_lost() {
    let next = next_version();
    Node::run(move |node| {
        let to_web = format!("{{address: {}}}, {{address: '{}'}}", WEB[0], WEB[1]);
        write(node, &to_web);
        let ours = node.agent(&[]);
        patiently("the policy is live", || ours.status()["state"] == "converged");

        let way = |from: &'static str, to: &'static str, address: &'static str, port| Way { from, to, address, port };
        // Directly, by a service's addresses, and out of the node under its address.
        let ways = [
            way("db", "web", WEB[0], 8001),
            way("client", "web", WEB[1], 8002),
            way("db", "web", VIP[0], 8011),
            way("db", "web", VIP[1], 8012),
            way("client", "web", EXTERNAL, 8013),
            way("db", "client", CLIENT[0], 8021),
        ];
        let pumps: Vec<Pump> = ways.map(|way| Connection::open(node, way).pump()).into();
        // Silent meanwhile; then the first packet is a reply's.
        let mut asleep = Connection::open(node, way("client", "web", EXTERNAL, 8014));
        let dialogues =
            [way("db", "web", WEB[0], 8003), way("db", "web", VIP[1], 8015)].map(|way| Dialogue::start(node, way));
        // From now on a new flow to the service would mostly go to db, where nobody listens and nothing is let in.
        write(node, &format!("{to_web}, {{address: {}, weight: 99}}, {{address: '{}', weight: 99}}", DB[0], DB[1]));
        eventually("the other backends are known", || {
            let backends = node.weir(&["get", "backends", "-o", "json"]);
            backends.stdout.contains(DB[1]).then_some(())
        });
        let denied =
            [way("client", "web", WEB[0], 81), way("web", "db", DB[0], 8001), way("web", "client", CLIENT[1], 8022)]
                .map(|way| Stream::start(node, way, Duration::from_millis(5), false));

        let newer = node.with_binary(next);
        let (ours_is, mut agent) = (entry(node), ours);
        for _ in 0..2 {
            agent = swap(agent, &newer);
            assert!(entry(node) > ours_is, "an entry is larger there");
            let many = dialogues.each_ref().map(|dialogue| dialogue.sent() + 10_000);
            eventually("it goes on", || {
                dialogues.iter().zip(many).all(|(dialogue, many)| dialogue.sent() > many).then_some(())
            });
            agent = swap(agent, node);
            assert_eq!(entry(node), ours_is);
        }
        asleep.exchange();

        for (dialogue, way) in dialogues.into_iter().zip(["directly", "by the service"]) {
            for (account, end) in dialogue.finish().iter().zip(["there", "back"]) {
                println!("{} datagrams {way} {end}", account.sent);
                assert!(account.lost.is_empty(), "{way} {end}: of {} sent, {:?} were lost", account.sent, account.lost);
                assert_eq!(account.doubled, 0, "{way} {end}");
            }
        }
        for (pump, way) in pumps.into_iter().zip(ways) {
            let (connection, words) = pump.finish();
            println!("{words} words, {way:?}");
            assert_eq!(connection.lost(), 0, "{way:?}");
        }
        assert_eq!(asleep.lost(), 0);
        for (stream, way) in denied.into_iter().zip(["in", "to db", "out"]) {
            let account = stream.finish();
            assert_eq!((account.received, account.sent > 100), (0, true), "what is denied never passes: {way}");
        }
        assert!(reaches(node, way("client", "web", WEB[0], 8004)) && !reaches(node, way("client", "web", WEB[0], 82)));
        node.expect(0, &["diff", "-f", "."]);
        drop(agent);
    });
}
