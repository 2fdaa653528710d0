//! etcd as the source, whole: the binary, a real etcd, real packets.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use weir_datapath::{Kernel, Options};
use weir_plan::Datapath as _;
use weir_tests::{
    etcd::{Etcd, PREFIX},
    node::{
        Agent, ENDPOINTS, Node, WEB, binary, eventually,
        traffic::{Way, reaches},
    },
};

fn policy(port: u16) -> String {
    format!(
        "apiVersion: weir/v1alpha1\nkind: NetworkPolicy\nmetadata: {{name: web}}\nspec:\n  endpointSelector: \
         {{matchLabels: {{app: web}}}}\n  ingress:\n  - fromCIDR: [192.0.2.0/24]\n    toPorts: [{{ports: [{{port: {port}, \
         protocol: UDP}}]}}]\n"
    )
}

fn open(node: &Node, port: u16) -> bool {
    reaches(node, Way { from: "client", to: "web", address: WEB[0], port })
}

fn follow(node: &Node, etcd: &Etcd) -> Agent {
    Agent::following(node, &["--source", &etcd.source(), "--etcd-timeout", "500ms", "--resync", "5s"], &[])
}

fn status_where(agent: &Agent, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let status = agent.status();
        holds(&status).then_some(status)
    })
}

fn push(node: &Node, etcd: &Etcd) -> String {
    let pushed = node.expect(0, &["push", "-f", ".", "--to", &etcd.source(), "-o", "json"]).json();
    pushed["digest"].as_str().unwrap().to_owned()
}

fn follows(agent: &Agent, revision: &str) -> Value {
    status_where(agent, "the revision is live", |status| {
        status["state"] == "converged" && status["agent"]["revision"] == revision
    })
}

#[test]
fn the_agent_follows_keys_and_pushed_sets() {
    Node::run(|node| {
        let etcd = Etcd::start();
        etcd.put("endpoints.yaml", ENDPOINTS);
        etcd.put("policy.yaml", &policy(80));
        let agent = follow(node, &etcd);
        status_where(&agent, "the keys are live", |status| status["state"] == "converged");
        assert!(open(node, 80) && !open(node, 81));

        etcd.put("policy.yaml", &policy(81));
        eventually("a key is followed", || open(node, 81).then_some(()));
        assert!(!open(node, 80));

        node.write("endpoints.yaml", ENDPOINTS);
        node.write("policy.yaml", &policy(82));
        let first = push(node, &etcd);
        let status = follows(&agent, &first);
        assert_eq!(status["commit"]["revision"], first.as_str());
        assert!(open(node, 82) && !open(node, 81));
        etcd.put("policy.yaml", "no manifest at all: it is not looked at");

        node.write("policy.yaml", &policy(83));
        let second = push(node, &etcd);
        follows(&agent, &second);
        assert!(open(node, 83) && !open(node, 82));
        // Back, by one key.
        etcd.put("revision", &first);
        follows(&agent, &first);
        assert!(open(node, 82) && !open(node, 83));
        let history = node.expect(0, &["history", "-o", "json"]).json();
        let revisions: Vec<&str> =
            history["commits"].as_array().unwrap().iter().filter_map(|commit| commit["revision"].as_str()).collect();
        assert_eq!(&revisions[..3], [first.as_str(), second.as_str(), first.as_str()]);

        // Verbs read it, too: the very manifests that are live.
        node.expect(0, &["diff", "--source", &etcd.source()]);
        node.expect(0, &["apply", "--source", &etcd.source()]);
    });
}

#[test]
fn what_is_live_stays_live_whatever_becomes_of_etcd() {
    Node::run(|node| {
        let mut etcd = Etcd::start();
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("policy.yaml", &policy(80));
        let first = push(node, &etcd);
        let agent = follow(node, &etcd);
        follows(&agent, &first);

        let failure = |code: &str| {
            let status = status_where(&agent, code, |status| status["agent"]["failure"]["code"] == code);
            assert_eq!(status["state"], "failing");
            assert!(open(node, 80) && !open(node, 81), "{status}");
        };
        etcd.freeze();
        failure("etcd-unreachable");
        etcd.thaw();
        follows(&agent, &first);
        etcd.kill();
        failure("etcd-unreachable");
        etcd.restart();
        follows(&agent, &first);
        etcd.put("revision", &"0".repeat(64));
        failure("etcd-incomplete");
        etcd.ctl(&["del", "--prefix", "/weir/manifests/"]);
        failure("source-empty");
        node.write("policy.yaml", &policy(81));
        follows(&agent, &push(node, &etcd));
        assert!(open(node, 81) && !open(node, 80));
        assert!(agent.stop().success());
    });
}

#[test]
fn an_agent_that_starts_without_etcd_keeps_what_is_live() {
    Node::run(|node| {
        let mut etcd = Etcd::start();
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("policy.yaml", &policy(80));
        let first = push(node, &etcd);
        let agent = follow(node, &etcd);
        follows(&agent, &first);
        agent.murder();
        etcd.kill();
        let agent = follow(node, &etcd);
        status_where(&agent, "unreachable", |status| status["agent"]["failure"]["code"] == "etcd-unreachable");
        assert!(open(node, 80) && !open(node, 81));
        etcd.restart();
        follows(&agent, &first);
    });
}

#[test]
fn push_and_pull_are_the_way_there_and_back() {
    Node::run(|node| {
        let etcd = Etcd::start();
        let source = etcd.source();
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("lists/drop.txt", "198.51.100.0/24\n");
        node.write("filter.yaml", "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {name: drop}\nspec: {fromFiles: [lists/drop.txt]}\n");
        let digest = push(node, &etcd);
        let pull = |code: i32, words: &[&str]| {
            let to = node.directory().join("pulled");
            node.expect(code, &[&["pull", "--from", &source, to.to_str().unwrap()], words].concat())
        };
        pull(0, &[]);
        let same =
            Command::new("diff").arg("-r").arg(node.manifests()).arg(node.directory().join("pulled")).output().unwrap();
        assert!(same.status.success(), "{same:?}");
        assert!(pull(1, &[]).stderr.contains("error[pull-directory]"));
        assert!(pull(0, &["--replace"]).stdout.contains(&digest));

        let before = etcd.revision();
        let again = node.expect(0, &["push", "-f", ".", "--to", &source]);
        assert!(again.stdout.starts_with("unchanged: 3 files"), "{again}");
        assert_eq!(etcd.revision(), before, "not a single write");

        node.write(
            "filter.yaml",
            "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {name: drop}\nspec: {fromFiles: [missing.txt]}\n",
        );
        let invalid = node.expect(65, &["push", "-f", ".", "--to", &source]);
        assert!(invalid.stderr.contains("filter.yaml:4"), "{invalid}");
        assert_eq!(etcd.revision(), before, "and nothing of an invalid set");
        node.write("filter.yaml", "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {name: drop}\nspec: {fromFiles: [lists/drop.txt]}\n");
        node.write("lists/drop.txt", &"# 198.51.100.0/24 and so on\n".repeat(60_000));
        let large = node.expect(65, &["push", "-f", ".", "--to", &source]);
        assert!(large.stderr.contains("lists/drop.txt: is larger than"), "{large}");
        node.write("lists/drop.txt", "198.51.100.0/24\n");

        node.expect(64, &["push", "-f", ".", "--to", "etcd://127.0.0.1:2379/weir"]);
        node.expect(69, &["push", "-f", ".", "--to", "etcd://127.0.0.1:1/weir/"]);
        node.expect(69, &["validate", "--source", "etcd://127.0.0.1:1/weir/"]);
        node.expect(66, &["validate", "--source", &source.replace("manifests", "nothing")]);
    });
}

#[test]
fn the_fleet_says_how_it_stands() {
    Node::run(|node| {
        let etcd = Etcd::start();
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("policy.yaml", &policy(80));
        node.write(
            "other.yaml",
            "apiVersion: weir/v1alpha1\nkind: Node\nmetadata: {name: node2}\nspec: {addresses: [192.0.2.2]}\n",
        );
        let first = push(node, &etcd);
        let fleet = || node.expect(0, &["status", "--all", "--from", &etcd.source(), "-o", "json"]).json();
        let state =
            |fleet: &Value, at: usize| (fleet["nodes"][at]["node"].clone(), fleet["nodes"][at]["state"].clone());
        let silent = |node: &str| (Value::from(node), Value::from("no word"));
        assert_eq!((state(&fleet(), 0), state(&fleet(), 1)), (silent("node1"), silent("node2")));

        let agent = follow(node, &etcd);
        follows(&agent, &first);
        let told = eventually("node1 tells", || {
            let fleet = fleet();
            (fleet["nodes"][0]["state"] == "converged").then_some(fleet)
        });
        let told = &told["nodes"][0];
        assert_eq!(told["revision"], serde_json::json!({"seen": first, "applied": first}));
        assert_eq!(told["source"], etcd.source());
        assert!(told["timeUnixMs"].as_u64() > Some(0) && told["commit"]["sequence"] == 1, "{told}");
        let text = node.expect(0, &["status", "--all", "--from", &etcd.source()]).stdout;
        assert!(text.contains(&first[..12]) && text.contains("no word from 1"), "{text}");

        // A set that this node's compiler refuses, pushed past the check by hand: seen, and not applied.
        let same = agent.status()["commit"]["revision"].clone();
        etcd.delete("revision");
        etcd.put("endpoints.yaml", ENDPOINTS);
        etcd.put("policy.yaml", &policy(80).replace("NetworkPolicy", "NetworkPolitics"));
        let failing = eventually("node1 tells of its failure", || {
            let fleet = fleet();
            (fleet["nodes"][0]["state"] == "failing").then_some(fleet)
        });
        assert_eq!(failing["nodes"][0]["failure"]["code"], "invalid-manifests");
        assert_eq!(failing["nodes"][0]["revision"]["applied"], same);
        assert_ne!(failing["nodes"][0]["revision"]["seen"], same);

        // Nothing is written while nothing changes.
        let quiet = etcd.revision();
        thread::sleep(Duration::from_secs(4));
        assert_eq!(etcd.revision(), quiet);

        // One that goes takes its word back; the word of one that was killed runs out.
        etcd.put("revision", &first);
        follows(&agent, &first);
        assert!(agent.stop().success());
        assert_eq!(state(&fleet(), 0), silent("node1"));
        let agent = follow(node, &etcd);
        eventually("node1 tells again", || (fleet()["nodes"][0]["state"] == "converged").then_some(()));
        agent.murder();
        eventually("its lease runs out", || (state(&fleet(), 0) == silent("node1")).then_some(()));

        // Another source, the same fleet.
        let words = ["-f", ".", "--status-to", &format!("etcd://{}", etcd.host()), "--status-prefix", "/elsewhere/"];
        let agent = Agent::following(node, &words, &[]);
        let all = [
            "status",
            "--all",
            "--status-to",
            &format!("etcd://{}", etcd.host()),
            "--status-prefix",
            "/elsewhere/",
            "-o",
            "name",
        ];
        eventually("it is told elsewhere", || (node.expect(0, &all).stdout == "node/node1\n").then_some(()));
        drop(agent);
    });
}

/// 1,000 keys of 45 KB with 512,000 entries: what one changed entry costs, from the write to the flip, and what the agent
/// keeps in memory. The figures are printed, not judged: machines differ.
#[test]
fn one_of_a_thousand_keys_goes_live() {
    Node::run(|node| {
        let etcd = Etcd::start();
        let file = |n: u32, first: u32| {
            let mut text = format!(
                "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: drop{n}}}\nspec:\n  interfaces: [uplink0]\n  \
                 cidrs:\n"
            );
            for entry in 0..512 {
                let address = std::net::Ipv4Addr::from((100 << 24) + n * 512 + entry);
                let address = if entry == 0 { std::net::Ipv4Addr::from((99 << 24) + n * 512 + first) } else { address };
                text += &format!("  - {address}/32 # {:60}\n", "a comment, as lists have them");
            }
            text
        };
        node.write("endpoints.yaml", ENDPOINTS);
        for n in 0..1000 {
            node.write(&format!("lists/{n:03}.yaml"), &file(n, 0));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut client = runtime.block_on(etcd_client::Client::connect([etcd.host()], None)).unwrap();
        let mut put = |name: &str, text: &str| {
            let put = client.put(format!("{PREFIX}{name}"), text, None);
            drop(runtime.block_on(put).unwrap());
        };
        put("endpoints.yaml", ENDPOINTS);
        for n in 0..1000 {
            put(&format!("lists/{n:03}.yaml"), &file(n, 0));
        }
        let words = ["--source", &etcd.source(), "--rest", "0s", "--verify", "1h", "--catch-up", "1h"];
        let agent = Agent::following(node, &words, &[]);
        status_where(&agent, "half a million entries are live", |status| status["state"] == "converged");
        let mut kernel = Kernel::open(Options::new(node.pins())).unwrap();
        let mut times = Vec::new();
        for round in 1..41 {
            let epoch = kernel.generation().unwrap().unwrap().epoch;
            let text = file(round * 7, round);
            let start = Instant::now();
            put(&format!("lists/{:03}.yaml", round * 7), &text);
            eventually_spinning(|| kernel.generation().unwrap().unwrap().epoch > epoch);
            times.push(start.elapsed());
            // What follows the flip is not part of the next round.
            thread::sleep(Duration::from_millis(150));
        }
        times.sort();
        let memory = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
        let memory = memory.lines().find(|line| line.starts_with("RssAnon")).unwrap().to_owned();
        println!("one of 1,000 keys, etcd write to flip: median {:?}, p90 {:?}; {memory}", times[20], times[36]);
        println!("the last apply: {}", agent.status()["agent"]["timings"]);
    });
}

/// An agent that follows etcd and has nothing to do keeps little: the limit is of the whole agent.
#[test]
fn an_idle_agent_is_small() {
    Node::run(|node| {
        let etcd = Etcd::start();
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart");
        node.expect(0, &["push", "-f", quickstart.to_str().unwrap(), "--to", &etcd.source()]);
        let agent = follow(node, &etcd);
        status_where(&agent, "the quickstart is live", |status| status["state"] == "converged");
        thread::sleep(Duration::from_secs(2));
        let memory = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
        let line = memory.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        println!("idle with the quickstart from etcd: RssAnon {line}");
        let kib: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
        assert!(kib <= 20 << 10, "{kib} KiB");
    });
}

fn eventually_spinning(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_micros(50));
    }
}

/// The walk-through's commands, as they stand there.
#[test]
fn the_walk_through_works_as_it_is() {
    Node::run(|node| {
        let etcd = Etcd::at_usual_ports("127.0.0.1", &[]);
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let copy = Command::new("cp").arg("-r").arg(&examples).arg(node.directory()).status().unwrap();
        assert!(copy.success());
        let path = format!("{}:{}", binary().parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut command = node.command(&[]);
        let environment: Vec<_> =
            command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
        command = Command::new("sh");
        command.arg("walk-through.sh").current_dir(node.directory().join("examples/etcd")).env_clear();
        for (name, value) in environment {
            command.env(name, value.unwrap_or_default());
        }
        let output = command.env("PATH", path).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{text}");
        for part in [
            "pushed: 7 files",
            "converged",
            "unchanged: 7 files",
            "node1",
            "pulled: 7 files",
            "the first revision is back",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        let (socket, log) = (node.directory().join("agent.sock"), node.directory().join("examples/etcd/agent.log"));
        assert!(!socket.exists(), "the agent was stopped:\n{}", fs::read_to_string(log).unwrap_or_default());
        drop(etcd);
    });
}
