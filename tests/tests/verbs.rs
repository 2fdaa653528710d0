//! The verbs that look, as a user meets them: monitor, get, trace, doctor, history, suspend, resume, rollback, schema,
//! completions.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    fs::{self, File},
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use weir_tests::node::{
    Agent, ENDPOINTS, Node, WEB, eventually,
    traffic::{Way, reaches},
};

/// Of each kind of decision one: a rule that allows, one that denies, a list that drops, and what no rule allows.
const RULES: &str = r"apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromCIDR: [192.0.2.0/24, '2001:db8:0:1::/64']
    toPorts:
    - ports:
      - {port: 80, protocol: UDP}
      - {port: 82, protocol: UDP}
  ingressDeny:
  - fromCIDR: [192.0.2.0/24]
    toPorts:
    - ports:
      - {port: 82, protocol: UDP}
---
apiVersion: weir/v1alpha1
kind: CidrFilter
metadata: {name: drop}
spec:
  interfaces: [uplink0]
  fromFiles: [lists/drop.txt]
";
const LIST: &str = "; a drop list\n203.0.113.0/24\n192.0.2.66\n";

const ALLOWED: Way<'_> = Way { from: "client", to: "web", address: WEB[0], port: 80 };

fn write(node: &Node) {
    node.write("endpoints.yaml", ENDPOINTS);
    node.write("rules.yaml", RULES);
    node.write("lists/drop.txt", LIST);
}

fn applied(node: &Node) {
    write(node);
    node.apply();
}

/// `weir monitor`, killed when it is dropped.
struct Monitor {
    child: Child,
    output: PathBuf,
}

impl Monitor {
    fn start(node: &Node, words: &[&str]) -> Self {
        let output = node.directory().join(format!("monitor{}", words.concat()));
        let mut command = node.command(&["monitor"]);
        command.args(words).stdin(Stdio::null()).stdout(File::create(&output).unwrap());
        Self { child: command.spawn().unwrap(), output }
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.output).unwrap().lines().map(str::to_owned).collect()
    }

    /// A line with all of `needles`, while `again` sends what it is about: a listener that comes late misses nothing.
    fn says(&mut self, needles: &[&str], again: impl Fn()) -> String {
        eventually(&format!("monitor says {needles:?}"), || {
            assert!(self.child.try_wait().unwrap().is_none(), "monitor runs until it is stopped");
            again();
            self.lines().into_iter().find(|line| needles.iter().all(|needle| line.contains(needle)))
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Already gone is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("monitor printed:\n{}", self.lines().join("\n"));
        }
    }
}

fn send(node: &Node, from: &'static str, to: &'static str, port: u16) {
    let send = node.inside("client", move || {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        // Refused is fine: who counts is who reads.
        let _ = socket.send_to(b"hello", (to, port));
    });
    send.join().unwrap();
}

#[test]
fn monitor_names_endpoint_tuple_and_rule_with_its_line() {
    Node::run(|node| {
        write(node);
        let agent = node.agent(&[]);
        converged(&agent);
        node.ip("-netns client address add 192.0.2.66/24 dev eth0");
        let mut text = Monitor::start(node, &[]);

        let line = text.says(&["policy_deny ", "10.10.0.2:82"], || send(node, "192.0.2.10", WEB[0], 82));
        for needle in [
            " egress udp 192.0.2.10:",
            " -> 10.10.0.2:82, ",
            " bytes, on wr",
            "(to_endpoint), Endpoint default/web, NetworkPolicy default/web spec.ingressDeny[0]",
            " rules.yaml:16",
        ] {
            assert!(line.contains(needle), "{needle}: {line}");
        }
        let line = text.says(&["policy_default_deny ", ":81"], || send(node, "2001:db8:0:1::10", WEB[1], 81));
        assert!(line.contains(" udp [2001:db8:0:1::10]:") && line.contains(" -> [fd00:10::2]:81, "), "{line}");
        assert!(line.ends_with("Endpoint default/web"), "no rule decided: {line}");
        let line = text.says(&["prefilter ", "192.0.2.66"], || send(node, "192.0.2.66", WEB[0], 80));
        for needle in [
            " ingress udp 192.0.2.66:",
            " -> 10.10.0.2:80, ",
            "on uplink0 (xdp_ingress), CidrFilter default/drop spec.fromFiles[0] lists/drop.txt:3",
        ] {
            assert!(line.contains(needle), "{needle}: {line}");
        }

        let mut json = Monitor::start(node, &["-o", "json"]);
        let line = json.says(&["\"policy_deny\""], || send(node, "192.0.2.10", WEB[0], 82));
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["endpoint"]["name"], "web", "{event}");
        assert_eq!(event["rule"]["object"]["kind"], "NetworkPolicy", "{event}");
        assert_eq!((event["rule"]["file"].as_str(), event["rule"]["line"].as_u64()), (Some("rules.yaml"), Some(16)));
        assert!(event["sourcePort"].as_u64() > Some(0), "{event}");
        assert_eq!(event["destinationPort"].as_u64(), Some(82));
        assert!(agent.stop().success());
    });
}

/// A flow that begins is told once at each end that judges it, with the rule that lets it; what goes on is not told.
#[test]
fn monitor_shows_flows_that_begin_with_the_rule_that_allows_them() {
    Node::run(|node| {
        write(node);
        node.write(
            "service.yaml",
            "apiVersion: weir/v1alpha1\nkind: Service\nmetadata: {name: web}\nspec:\n  frontends:\n  \
             - {address: 203.0.112.80, port: 80, protocol: UDP, type: external}\n  backends: [{address: 10.10.0.2}]\n",
        );
        let agent = node.agent(&[]);
        converged(&agent);
        let mut drops = Monitor::start(node, &[]);
        let mut flows = Monitor::start(node, &["--flows"]);
        let line = flows.says(&["allow ", "10.10.0.2:80,"], || send(node, "192.0.2.10", WEB[0], 80));
        for needle in [
            " egress udp 192.0.2.10:",
            "(to_endpoint), Endpoint default/web, NetworkPolicy default/web spec.ingress[0]",
            " rules.yaml:",
        ] {
            assert!(line.contains(needle), "{needle}: {line}");
        }
        let by = || send(node, "192.0.2.10", "203.0.112.80", 80);
        let line = flows.says(&["allow ", " -> 10.10.0.2:80 by 203.0.112.80:80, "], by);
        assert!(line.contains("NetworkPolicy default/web spec.ingress[0]"), "{line}");
        // Drops are told to both, flows only to who asked.
        flows.says(&["policy_deny "], || send(node, "192.0.2.10", WEB[0], 82));
        drops.says(&["policy_deny "], || send(node, "192.0.2.10", WEB[0], 82));
        assert!(drops.lines().iter().all(|line| !line.starts_with("allow")), "{:?}", drops.lines());
        let mut json = Monitor::start(node, &["--flows", "-o", "json"]);
        let line = json.says(&["\"allow\""], || send(node, "192.0.2.10", WEB[0], 80));
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((event["reason"].as_str(), event["rule"]["file"].as_str()), (Some("forwarded"), Some("rules.yaml")));
        // One flow, many packets: one line an end.
        let packets = node.inside("client", || {
            let socket = UdpSocket::bind(("192.0.2.10", 5353)).unwrap();
            (0..50).for_each(|_| drop(socket.send_to(b"hello", (WEB[0], 80))));
        });
        packets.join().unwrap();
        flows.says(&["192.0.2.10:5353 "], || {});
        send(node, "192.0.2.10", WEB[0], 82);
        flows.says(&["policy_deny "], || {});
        assert_eq!(flows.lines().iter().filter(|line| line.contains("192.0.2.10:5353 ")).count(), 1);
        assert!(agent.stop().success());
    });
}

/// Whoever listens does not keep the agent from stopping, and is told that it is over.
#[test]
fn an_agent_stops_while_somebody_monitors() {
    Node::run(|node| {
        write(node);
        let agent = node.agent(&[]);
        converged(&agent);
        let mut monitor = Monitor::start(node, &[]);
        monitor.says(&["policy_deny "], || send(node, "192.0.2.10", WEB[0], 82));
        assert!(agent.stop().success());
        let status = eventually("monitor ends", || monitor.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
        node.agent(&[]);
    });
}

#[test]
fn monitor_without_an_agent_says_how_to_start_one() {
    Node::run(|node| {
        applied(node);
        let ran = node.expect(69, &["monitor"]);
        assert!(ran.stderr.contains("[agent-unreachable]") && ran.stderr.contains("`weir run`"), "{ran}");
    });
}

/// With an agent and without one, the lists are the same; counters count.
#[test]
fn get_lists_everything_with_counters() {
    Node::run(|node| {
        applied(node);
        assert!(reaches(node, ALLOWED));
        let check = |node: &Node| {
            let rows = |words: &[&str]| node.expect(0, words).stdout;
            for (what, needles) in [
                ("endpoints", &["NAMESPACE", "web", "10.10.0.2,fd00:10::2", "ready"][..]),
                ("identities", &["reserved:host", "app=web", "cidr:192.0.2.0/24"]),
                ("policies", &["NetworkPolicy", "web", "rules.yaml:1"]),
                ("filters", &["CidrFilter", "drop"]),
                ("rules", &["spec.ingressDeny[0]", "rules.yaml:16", "spec.fromFiles[0]"]),
                ("tables", &["POLICY", "CONNTRACK_TCP", "ipcache4"]),
                ("metrics", &["forwarded", "ingress", "lost_events"]),
            ] {
                let text = rows(&["get", what]);
                assert!(needles.iter().all(|needle| text.contains(needle)), "{what}: {text}");
                let json = node.expect(0, &["get", what, "-o", "json"]).json();
                assert_eq!((json["formatVersion"].as_str(), json["resource"].as_str()), (Some("1"), Some(what)));
                let items = json["items"].as_array().unwrap().len();
                assert!(items > 0);
                let yaml: serde_json::Value = serde_yaml::from_str(&rows(&["get", what, "-o", "yaml"])).unwrap();
                assert_eq!(yaml["items"].as_array().unwrap().len(), items);
            }
            assert_eq!(rows(&["get", "endpoints", "-o", "name"]), "endpoints/db\nendpoints/web\n");
            let one = node.expect(0, &["get", "endpoints", "web", "-o", "json"]).json();
            assert_eq!(one["items"].as_array().unwrap().len(), 1);
            assert_eq!(one["items"][0]["name"], "web");
            let rules = node.expect(0, &["get", "rules", "-o", "json"]).json();
            let allow = rules["items"].as_array().unwrap().iter().find(|rule| {
                rule["path"].as_str().unwrap().starts_with("spec.ingress[0]") && rule["packets"].as_u64() > Some(0)
            });
            assert!(allow.is_some(), "the rule that let it in counted it: {rules}");
        };
        check(node);
        let agent = node.agent(&[]);
        converged(&agent);
        check(node);
        assert!(agent.stop().success());
        let ran = node.expect(64, &["get", "everything"]);
        assert!(ran.stderr.contains("endpoints, services, backends, identities"), "{ran}");
    });
}

#[test]
fn trace_says_which_rule_decides_and_several_matches_are_listed() {
    Node::run(|node| {
        applied(node);
        let trace = |words: [&str; 3]| node.expect(0, &["trace", words[0], words[1], words[2]]).stdout;
        let check = || {
            let text = trace(["192.0.2.10", "web", "udp/80"]);
            assert!(text.contains("rules.yaml:10") && text.ends_with("\nallowed\n"), "{text}");
            let text = trace(["192.0.2.10", "10.10.0.2", "udp/82"]);
            assert!(text.contains("deny") && text.contains("rules.yaml:16") && text.ends_with("\ndropped\n"), "{text}");
            let text = trace(["203.0.113.9", "default/web", "udp/80"]);
            assert!(text.contains("prefilter on uplink0") && text.contains("lists/drop.txt:2"), "{text}");
            let text = trace(["world", "web", "udp/80"]);
            assert!(text.contains("default deny") && text.ends_with("\ndropped\n"), "{text}");
            assert!(trace(["web", "host", "tcp/22"]).ends_with("\nallowed\n"));
            assert!(trace(["host", "db", "icmp/8"]).ends_with("\nallowed\n"));
            let json = node.expect(0, &["trace", "192.0.2.10", "web", "udp/82", "-o", "json"]).json();
            assert_eq!(
                (json["verdict"].as_str(), json["steps"][1]["rule"]["line"].as_u64()),
                (Some("dropped"), Some(16))
            );
            for bad in [
                ["nobody", "web", "udp/80"],
                ["web", "db", "udp"],
                ["web", "db", "udp/65536"],
                ["web", "::1:", "udp/1"],
            ] {
                let ran = node.expect(64, &["trace", bad[0], bad[1], bad[2]]);
                assert!(ran.stderr.contains("[usage]"), "{ran}");
            }
        };
        check();
        let agent = node.agent(&[]);
        converged(&agent);
        check();
        // The same name in another namespace.
        let other = "apiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata: {name: web, namespace: shop}\nspec: {node: \
            node2, addresses: [10.20.0.2], attach: {netns: web}}\n";
        node.write("other.yaml", other);
        let status = || node.expect(0, &["status", "-o", "json"]).json();
        eventually("the other endpoint is known", || (status()["commit"]["sequence"].as_u64() > Some(1)).then_some(()));
        let ran = node.expect(64, &["trace", "192.0.2.10", "web", "udp/80"]);
        for needle in ["[ambiguous]", "`web` is 2 endpoints", "default/web", "shop/web"] {
            assert!(ran.stderr.contains(needle), "{needle}: {ran}");
        }
        assert!(trace(["192.0.2.10", "default/web", "udp/80"]).ends_with("\nallowed\n"));
        assert!(agent.stop().success());
    });
}

#[test]
fn doctor_checks_and_says_how_to_mend() {
    Node::run(|node| {
        let json = node.expect(0, &["doctor", "-o", "json"]).json();
        assert_eq!(json["ok"], true, "{json}");
        let names: Vec<&str> = json["checks"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["kernel", "capabilities", "bpffs", "cgroup2", "btf"]);
        applied(node);
        let text = node.expect(0, &["doctor"]).stdout;
        for needle in ["ok  kernel", "VERIFIED INSTRUCTIONS", "xdp_ingress", "to_network"] {
            assert!(text.contains(needle), "{needle}: {text}");
        }
        let ran = node.expect(78, &["doctor", "--pin-dir", "/run/test/nowhere"]);
        assert!(format!("{}{}", ran.stdout, ran.stderr).contains("mount -t bpf"), "{ran}");
    });
}

#[test]
fn history_tells_what_was_done_and_rollback_goes_to_any_of_it() {
    Node::run(|node| {
        applied(node);
        for port in [90, 91] {
            node.write("rules.yaml", &RULES.replace("port: 80", &format!("port: {port}")));
            node.apply();
        }
        let commits = |node: &Node| node.expect(0, &["history", "-o", "json"]).json()["commits"].clone();
        let list = commits(node);
        let sequences: Vec<u64> = list.as_array().unwrap().iter().map(|c| c["sequence"].as_u64().unwrap()).collect();
        assert_eq!(sequences, [3, 2, 1], "newest first");
        assert_eq!(node.expect(0, &["history", "--limit", "1", "-o", "name"]).stdout.lines().count(), 1);
        assert!(!reaches(node, ALLOWED));

        node.expect(0, &["rollback", "1"]);
        assert!(reaches(node, ALLOWED), "commit 1 is back");
        let newest = commits(node)[0].clone();
        assert_eq!((newest["operation"].as_str(), newest["restores"].as_u64()), (Some("rollback"), Some(1)));
        let ran = node.expect(1, &["rollback", "77"]);
        assert!(ran.stderr.contains("77"), "{ran}");
        let status = node.expect(0, &["status"]).stdout;
        assert!(status.contains("rolled back to commit 1"), "{status}");
        assert_eq!(node.expect(0, &["resume"]).code(), 0);
        assert_eq!(node.expect(0, &["status", "-o", "json"]).json()["suspended"], serde_json::Value::Null);
    });
}

fn converged(agent: &Agent) {
    eventually("it converges", || (state(agent) == "converged").then_some(()));
}

fn state(agent: &Agent) -> String {
    agent.status()["state"].as_str().unwrap().to_owned()
}

/// The revision of the files that the agent has read last.
fn read(agent: &Agent) -> serde_json::Value {
    agent.status()["agent"]["revision"].clone()
}

#[test]
fn rollback_suspends_until_resume() {
    Node::run(|node| {
        write(node);
        let agent = node.agent(&["--resync", "500ms"]);
        converged(&agent);
        let before = read(&agent);
        node.write("rules.yaml", &RULES.replace("port: 80", "port: 90"));
        eventually("the change is read", || (read(&agent) != before).then_some(()));
        eventually("the change is live", || (state(&agent) == "converged" && !reaches(node, ALLOWED)).then_some(()));
        node.expect(0, &["rollback"]);
        assert!(reaches(node, ALLOWED));
        assert_eq!(state(&agent), "suspended");

        // What the source says meanwhile is read, and not followed; nor by another agent.
        let before = read(&agent);
        node.write("rules.yaml", &RULES.replace("port: 80", "port: 91"));
        eventually("the change is read", || (read(&agent) != before).then_some(()));
        assert!(reaches(node, ALLOWED));
        assert!(agent.stop().success());
        let agent = node.agent(&[]);
        eventually("it is still suspended", || (state(&agent) == "suspended").then_some(()));
        assert!(reaches(node, ALLOWED));

        node.expect(0, &["resume"]);
        // It never says so before it has read what to converge on.
        eventually("the source is followed again", || (state(&agent) == "converged").then_some(()));
        assert!(!reaches(node, ALLOWED) && reaches(node, Way { port: 91, ..ALLOWED }));
        assert!(agent.stop().success());
    });
}

#[test]
fn suspend_holds_for_as_long_as_it_was_asked_to() {
    Node::run(|node| {
        write(node);
        let agent = node.agent(&["--verify", "1h"]);
        converged(&agent);
        let ran = node.expect(0, &["suspend", "--reason", "changing cables"]);
        assert!(ran.stdout.contains("changing cables") && ran.stdout.contains("weir resume"), "{ran}");
        assert!(node.expect(0, &["status"]).stdout.contains("changing cables"));
        let before = read(&agent);
        node.write("rules.yaml", &RULES.replace("port: 80", "port: 90"));
        eventually("the change is read", || (read(&agent) != before).then_some(()));
        assert!(reaches(node, ALLOWED), "and not followed");
        node.expect(0, &["suspend", "--for", "100ms"]);
        converged(&agent);
        assert!(!reaches(node, ALLOWED));
        assert!(agent.stop().success());
    });
}

#[test]
fn schema_prints_what_is_checked_in() {
    Node::run(|node| {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schema/json");
        let mut kinds = 0;
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let printed = node.expect(0, &["schema", &kind]).json();
            let kept: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            assert_eq!(printed, kept, "{kind}");
            kinds += 1;
        }
        let all = node.expect(0, &["schema"]).json();
        assert_eq!(all.as_object().unwrap().len(), kinds);
        assert_eq!(node.expect(0, &["schema", "CidrFilter"]).json()["title"], "CidrFilter");
        let ran = node.expect(64, &["schema", "Nonsense"]);
        assert!(ran.stderr.contains("networkpolicy") && ran.stderr.contains("[usage]"), "{ran}");
    });
}

/// Every verb that works is offered, and the script is one that its shell can read.
#[test]
fn completions_offer_every_verb() {
    Node::run(|node| {
        let help = node.expect(0, &["--help"]).stdout;
        let verbs: Vec<&str> = help
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert_eq!(verbs.len(), 20, "{verbs:?}");
        for shell in ["bash", "zsh", "fish"] {
            let script = node.expect(0, &["completions", shell]).stdout;
            assert!(verbs.iter().all(|verb| script.contains(verb)), "{shell}");
        }
        let path = node.directory().join("completions.bash");
        fs::write(&path, node.expect(0, &["completions", "bash"]).stdout).unwrap();
        let ran = weir_tests::node::tool("bash", &format!("-n {}", path.display()));
        assert!(ran.status.success(), "{ran}");
    });
}
