//! Flow tests: a commit that breaks one never goes live, and whoever asks is told what decided.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{collections::BTreeMap, fs, os::unix::process::CommandExt as _, path::Path};

use serde_json::Value;
use weir_abi::{Generation, PolicyEntry, PolicyKey, SubjectInfo};
use weir_agent::{Allow, Engine, EngineOptions, Error, FlowTestResult, Look, Manifests, flow_tests_by_oracle};
use weir_datapath::Kernel;
use weir_plan::{
    Capacity, Datapath, DatapathError, NodeFacts, Observed, Operation, Probe, ProbeStep, Session, Table, TableCopy,
    Tables, TablesDelta, WiringDelta,
};
use weir_source::{Revision, SourceFile};
use weir_state::SledStore;
use weir_tests::node::{
    ENDPOINTS, HOST, NODE, Node, UPLINK, eventually,
    kernel::{RawMap, residue, table_pin},
    metrics::scrape,
    run, tool,
    traffic::{Way, reaches},
};

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
      - {port: 82, protocol: TCP}
  - icmps:
    - fields: [{type: EchoRequest}, {family: IPv6, type: EchoRequest}]
  ingressDeny:
  - fromCIDR: [192.0.2.0/24, '2001:db8:0:1::/64']
    toPorts: [{ports: [{port: 82, protocol: TCP}]}]
---
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: db}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web}}]
    toPorts: [{ports: [{port: 5432, protocol: TCP}, {port: 5433, protocol: SCTP}, {port: 53, protocol: UDP}]}]
---
apiVersion: weir/v1alpha1
kind: CidrFilter
metadata: {name: drop}
spec:
  interfaces: [uplink0]
  dropUnknownDestinations: true
  cidrs: [203.0.113.0/24, '2001:db8:bad::/48']
";

/// Name, from, to, protocol and port, what is expected.
const TESTS: &[(&str, &str, &str, &str, &str)] = &[
    ("client-web", "{address: 192.0.2.10}", "{endpoint: web}", "TCP, port: 80", "{verdict: allow}"),
    ("client6-web", "{address: '2001:db8:0:1::10'}", "{endpoint: web}", "TCP, port: 80", "{verdict: allow}"),
    (
        "client-denied",
        "{address: 192.0.2.10}",
        "{endpoint: web}",
        "TCP, port: 82",
        "{verdict: deny, reason: policy_deny}",
    ),
    (
        "client6-denied",
        "{address: '2001:db8:0:1::10'}",
        "{endpoint: web}",
        "TCP, port: 82",
        "{verdict: deny, reason: policy_deny}",
    ),
    (
        "client-closed",
        "{address: 192.0.2.10}",
        "{endpoint: web}",
        "TCP, port: 81",
        "{verdict: deny, reason: policy_default_deny}",
    ),
    ("stranger", "{address: 198.51.100.1}", "{endpoint: web}", "TCP, port: 80", "{verdict: deny}"),
    ("ping", "{address: 198.51.100.1}", "{endpoint: web}", "ICMP", "{verdict: allow}"),
    ("ping6", "{address: '2001:db8:0:9::1'}", "{endpoint: web}", "ICMPv6", "{verdict: allow}"),
    ("web-db", "{endpoint: web}", "{endpoint: default/db}", "TCP, port: 5432", "{verdict: allow}"),
    ("web-db-sctp", "{endpoint: web}", "{endpoint: db}", "SCTP, port: 5433", "{verdict: allow}"),
    ("web-db-udp", "{endpoint: web}", "{endpoint: db}", "UDP, port: 53", "{verdict: allow}"),
    ("db-web", "{endpoint: db}", "{endpoint: web}", "TCP, port: 80", "{verdict: deny, reason: policy_default_deny}"),
    ("host-db", "{host: true}", "{endpoint: db}", "TCP, port: 5432", "{verdict: deny}"),
    ("db-outside", "{endpoint: db}", "{address: 192.0.2.10}", "UDP, port: 53", "{verdict: allow}"),
    (
        "bad-source",
        "{address: 203.0.113.9, interface: uplink0}",
        "{endpoint: web}",
        "TCP, port: 80",
        "{verdict: deny, reason: prefilter}",
    ),
    (
        "bad6-source",
        "{address: '2001:db8:bad::1'}",
        "{endpoint: web}",
        "TCP, port: 80",
        "{verdict: deny, reason: prefilter}",
    ),
    (
        "nobody-there",
        "{address: 192.0.2.10}",
        "{address: 10.10.0.99}",
        "UDP, port: 9",
        "{verdict: deny, reason: unknown_destination}",
    ),
];

fn flow_test(name: &str, from: &str, to: &str, protocol: &str, expect: &str) -> String {
    format!(
        "---\napiVersion: weir/v1alpha1\nkind: FlowTest\nmetadata: {{name: {name}}}\nspec:\n  from: {from}\n  to: {to}\n  \
         protocol: {}\n  expect: {expect}\n",
        protocol.replace(", port", "\n  port")
    )
}

fn tests() -> String {
    TESTS.iter().map(|(name, from, to, protocol, expect)| flow_test(name, from, to, protocol, expect)).collect()
}

fn write(node: &Node) {
    node.write("endpoints.yaml", ENDPOINTS);
    node.write("rules.yaml", RULES);
    node.write("tests.yaml", &tests());
}

/// What packets leave behind, as far as only the tests' would: nobody else speaks TCP here, nor matches a rule.
fn traces(node: &Node) -> Value {
    let metrics = node.expect(0, &["get", "metrics", "-o", "json"]).json();
    let only_tests = ["policy_deny", "prefilter", "unknown_destination"];
    let of_tests = |item: &&Value| only_tests.contains(&item["name"].as_str().unwrap());
    let metrics: Vec<_> = metrics["items"].as_array().unwrap().iter().filter(of_tests).cloned().collect();
    let rules = node.expect(0, &["get", "rules", "-o", "json"]).json();
    let flows = RawMap::pinned(&table_pin(node, "CONNTRACK_TCP")).keys().len();
    serde_json::json!({"metrics": metrics, "rules": rules["items"], "flows": flows})
}

#[test]
fn a_commit_that_fails_its_tests_never_goes_live() {
    Node::run(|node| {
        write(node);
        node.apply();
        assert!(node.plan()["changes"].as_array().unwrap().is_empty());
        let before = traces(node);

        // The rule that lets the client in goes: two of its tests fail, in each family one.
        node.write("rules.yaml", &RULES.replace("port: 80, protocol: TCP", "port: 8080, protocol: TCP"));
        let refused = node.expect(1, &["apply", "-f", "."]);
        for needle in [
            "error[flow-test]",
            "2 of 17 flow tests failed",
            "FlowTest default/client-web",
            "192.0.2.10 -> 10.10.0.2 tcp/80 by uplink0: expected allow, got deny (policy_default_deny) at to_endpoint on",
            "FlowTest default/client6-web",
            "nothing went live",
        ] {
            assert!(refused.stderr.contains(needle), "{needle}: {refused}");
        }
        // A deny rule goes: who fails is who expects it, and the line that let it pass is named.
        let open = RULES.replace("  ingressDeny:\n  - fromCIDR: [192.0.2.0/24, '2001:db8:0:1::/64']\n    toPorts: [{ports: [{port: 82, protocol: TCP}]}]\n", "");
        assert_ne!(open, RULES);
        node.write("rules.yaml", &open);
        let refused = node.expect(1, &["apply", "-f", ".", "-o", "json"]);
        let failure = refused.json();
        let errors = failure["error"]["errors"].as_array().unwrap();
        assert_eq!(errors.len(), 2, "{refused}");
        assert_eq!(errors[0]["object"], "FlowTest default/client-denied", "{refused}");
        assert_eq!(errors[0]["file"], "tests.yaml");
        let message = errors[0]["message"].as_str().unwrap();
        assert!(message.contains("expected deny (policy_deny), got allow at to_endpoint"), "{message}");
        assert!(message.contains("(rules.yaml:11)"), "{message}");

        // It left no apply behind that looks interrupted.
        assert!(!refused.stderr.contains("interrupted"), "{refused}");
        // Nothing of it is live, or was seen: not by conntrack, no counter, no event.
        assert_eq!(traces(node), before);
        assert_eq!(node.expect(0, &["history", "-o", "json"]).json()["commits"].as_array().unwrap().len(), 1);
        assert!(!node.plan()["changes"].as_array().unwrap().is_empty());

        // Whoever means it says so.
        node.expect(0, &["apply", "-f", ".", "--allow-failed-tests"]);
        assert!(node.plan()["changes"].as_array().unwrap().is_empty());
        // A rollback is tried as well, and is right.
        node.expect(0, &["rollback"]);
    });
}

#[test]
fn a_first_apply_that_fails_its_tests_can_be_mended() {
    Node::run(|node| {
        write(node);
        let wrong = flow_test("wrong", "{host: true}", "{endpoint: web}", "UDP, port: 1", "{verdict: allow}");
        node.write("wrong.yaml", &wrong);
        for _ in 0..2 {
            let refused = node.expect(1, &["apply", "-f", "."]);
            assert!(refused.stderr.contains("1 of 18 flow tests failed"), "{refused}");
        }
        assert!(node.expect(0, &["history", "-o", "json"]).json()["commits"].as_array().unwrap().is_empty());
        let devices = tool("ip", "-o link show type veth");
        assert!(!devices.stdout.contains(" wr"), "the endpoints' devices are taken back: {devices}");
        // Nothing is enforced on the uplink.
        assert!(reaches(node, Way { from: "client", to: "node", address: HOST[0], port: 9 }));
        node.remove("wrong.yaml");
        node.apply();
        assert!(node.plan()["changes"].as_array().unwrap().is_empty());
        node.expect(0, &["test", "--live"]);
        node.expect(0, &["uninstall"]);
        eventually("nothing is left", || residue(node, &["lo", UPLINK]).is_empty().then_some(()));
    });
}

#[test]
fn tests_alone_are_tried_on_what_is_live_and_need_no_flip() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("rules.yaml", RULES);
        node.apply();
        node.write("tests.yaml", &tests());
        let applied = node.expect(0, &["apply", "-f", ".", "-o", "json"]).json();
        assert_eq!((&applied["result"], &applied["flipped"]), (&"applied".into(), &false.into()));
        node.write(
            "wrong.yaml",
            &flow_test("wrong", "{host: true}", "{endpoint: web}", "UDP, port: 1", "{verdict: allow}"),
        );
        let refused = node.expect(1, &["apply", "-f", "."]);
        assert!(refused.stderr.contains("FlowTest default/wrong"), "{refused}");
        assert!(!refused.stderr.contains("default/client"), "only what failed is told: {refused}");
    });
}

#[test]
fn an_agent_keeps_the_last_good_commit_and_says_which_test_failed() {
    Node::run(|node| {
        write(node);
        let agent = node.agent(&[]);
        eventually("it is live", || (agent.status()["state"] == "converged").then_some(()));
        node.write("rules.yaml", &RULES.replace("port: 80, protocol: TCP", "port: 8080, protocol: TCP"));
        let stalled = |status: &Value| {
            let conditions = status["conditions"].as_array().unwrap();
            conditions
                .iter()
                .any(|one| one["type"] == "Ready" && one["reason"] == "FlowTest" && one["status"] == "False")
        };
        let status = eventually("the failed test is told", || Some(agent.status()).filter(stalled));
        assert!(status.to_string().contains("tests.yaml:2: 192.0.2.10 -> 10.10.0.2 tcp/80"), "{status:#}");
        // It tries again now and then, and every time it leaves no commit behind.
        std::thread::sleep(std::time::Duration::from_secs(3));
        let status = agent.status();
        assert_eq!(status["commit"]["sequence"], 1, "{status}");
        let metrics = scrape(node);
        let last = |result| metrics.get("weir_flow_tests", &[("result", result)]);
        assert_eq!(["passed", "failed", "skipped"].map(last), [15.0, 2.0, 0.0]);
        assert!(metrics.get("weir_flow_tests_total", &[("result", "passed")]) >= 17.0 + 15.0);
        node.write("rules.yaml", &format!("{RULES}# and a comment\n"));
        eventually("it is well again", || {
            let status = agent.status();
            let conditions = status["conditions"].as_array().unwrap();
            conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True").then_some(())
        });
        let commits = node.expect(0, &["history", "-o", "json"]).json();
        assert_eq!(commits["commits"].as_array().unwrap().len(), 1, "{commits}");
    });
}

#[test]
fn a_diff_says_which_flows_meet_another_fate() {
    Node::run(|node| {
        write(node);
        node.apply();
        let none = node.expect(0, &["diff", "-f", ".", "--flows"]);
        assert!(none.stdout.contains("no flow changes its verdict"), "{none}");
        assert!(
            node.expect(0, &["diff", "-f", ".", "--flows", "-o", "json"]).json()["flows"]
                .as_array()
                .unwrap()
                .is_empty()
        );
        assert!(node.expect(0, &["diff", "-f", ".", "-o", "json"]).json()["flows"].is_null());

        node.write("rules.yaml", &RULES.replace("port: 5432, protocol: TCP", "port: 5433, protocol: TCP"));
        let alone = node.expect(1, &["diff", "-f", ".", "--flows"]);
        for needle in [
            "flows that change their verdict:",
            "10.10.0.2 -> 10.10.0.3 tcp/5432  (FlowTest default/web-db)",
            "default/app=web -> default/app=db tcp/5432 ingress",
            "    - allow by NetworkPolicy default/db spec.ingress[0].toPorts[0].ports[0] (rules.yaml:25)",
            "    + deny by no rule",
            "default/app=web -> default/app=db tcp/5433 ingress",
        ] {
            assert!(alone.stdout.contains(needle), "{needle}: {alone}");
        }
        let document = node.expect(1, &["diff", "-f", ".", "--flows", "-o", "json"]).json();
        let agent = node.agent(&["--resync", "1h"]);
        assert_eq!(node.expect(1, &["diff", "-f", ".", "--flows"]).stdout, alone.stdout, "the agent says the same");
        let of_agent = node.expect(1, &["diff", "-f", ".", "--flows", "-o", "json"]).json();
        assert_eq!(of_agent["flows"], document["flows"]);
        drop(agent);
    });
}

fn by_name(document: &Value) -> BTreeMap<String, (String, String)> {
    let results = document["results"].as_array().unwrap();
    let verdict = |result: &Value| format!("{} {}", result["actual"]["verdict"], result["actual"]["reason"]);
    let entry = |result: &Value| {
        (
            format!("{} {}", result["test"]["name"], result["flow"]["source"]),
            (result["result"].as_str().unwrap().to_owned(), verdict(result)),
        )
    };
    results.iter().map(entry).collect()
}

#[test]
fn the_live_node_and_the_oracle_agree_and_the_oracle_needs_no_privilege() {
    Node::run(|node| {
        write(node);
        // As nobody, who has neither the kernel nor the state.
        let mut command = node.command(&["test", "-f", ".", "-o", "json"]);
        command.uid(65534).gid(65534).env_remove("WEIR_NODE").env("WEIR_STATE_DIR", "/nonexistent");
        open_to_all(&node.manifests());
        let oracle = run(command, "weir test, as nobody");
        assert_eq!(oracle.code(), 0, "{oracle}");
        let oracle = oracle.json();
        assert_eq!(oracle["judge"], "oracle");
        assert_eq!(oracle["summary"], serde_json::json!({"passed": 17, "failed": 0, "skipped": 0}), "{oracle:#}");

        node.expect(64, &["test"]);
        node.apply();
        let live = node.expect(0, &["test", "--live", "-o", "json"]).json();
        assert_eq!(live["judge"], "liveTables");
        let agent = node.agent(&[]);
        let of_agent = node.expect(0, &["test", "-o", "json"]).json();
        assert_eq!(by_name(&of_agent), by_name(&live));
        assert_eq!(by_name(&live), by_name(&oracle));
        // Tests that are not applied yet, against what is live.
        let before = traces(node);
        node.write(
            "tests.yaml",
            &flow_test("new", "{endpoint: web}", "{endpoint: db}", "TCP, port: 1", "{verdict: allow}"),
        );
        let failed = node.expect(1, &["test", "-f", "."]);
        for needle in
            ["on the live tables", "FAILED", "expected allow, got deny (policy_default_deny)", "0 passed, 1 failed"]
        {
            assert!(failed.stdout.contains(needle), "{needle}: {failed}");
        }
        let told = node.expect(1, &["test", "-f", ".", "--oracle"]);
        assert!(told.stdout.contains("no packet was sent"), "{told}");
        assert_eq!(node.expect(1, &["test", "-f", ".", "-o", "name"]).stdout, "FlowTest default/new\n");
        assert_eq!(traces(node), before);
        drop(agent);
    });
}

fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    for path in directory.ancestors().take_while(|path| path.starts_with("/run")) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn what_cannot_be_tried_here_is_skipped_with_a_word() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        node.write(
            "others.yaml",
            "apiVersion: weir/v1alpha1\nkind: Node\nmetadata: {name: node2}\nspec: {addresses: [192.0.2.2]}\n---\n\
             apiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata: {name: far}\nspec: {node: node2, addresses: [10.20.0.2], \
             attach: {netns: far}}\n---\napiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata: {name: late}\nspec: {node: \
             node1, addresses: [10.10.0.9], attach: {netns: late}}\n",
        );
        let test = |name, from, to| flow_test(name, from, to, "TCP, port: 80", "{verdict: allow}");
        let all = [
            test("elsewhere", "{endpoint: far}", "{host: true}"),
            test("not-yet", "{endpoint: late}", "{endpoint: web}"),
            test("no-device", "{address: 192.0.2.9, interface: eth7}", "{endpoint: web}"),
            test("from-there", "{endpoint: far}", "{endpoint: web}"),
        ];
        node.write("tests.yaml", &all.concat());
        // One endpoint waits for its namespace.
        let applied = node.expect(1, &["apply", "-f", "."]);
        assert!(applied.stderr.contains("pending[netns-missing]"), "{applied}");
        let shown = node.expect(0, &["test", "--live"]);
        for needle in [
            "neither end is on this node",
            "Endpoint default/late is not attached yet",
            "this node has no network device eth7",
            "1 passed, 0 failed, 3 skipped",
        ] {
            assert!(shown.stdout.contains(needle), "{needle}: {shown}");
        }
        node.write(
            "tests.yaml",
            &flow_test("families", "{endpoint: far}", "{address: 'fd00:10::2'}", "TCP, port: 80", "{verdict: allow}"),
        );
        let shown = node.expect(1, &["test", "-f", ".", "--oracle"]);
        assert!(shown.stdout.contains("no address family in common"), "{shown}");
    });
}

/// The real kernel, given the tables of a compiler that has a fault.
struct Faulty {
    kernel: Kernel,
    plant: fn(&mut Tables),
}

impl Datapath for Faulty {
    fn facts(&mut self, netns: &[String]) -> Result<NodeFacts, DatapathError> {
        self.kernel.facts(netns)
    }

    fn sessions(&mut self) -> Vec<Session> {
        self.kernel.sessions()
    }

    fn observe(&mut self) -> Result<Option<Observed>, DatapathError> {
        self.kernel.observe()
    }

    fn unchanged(&mut self, known: &Observed) -> Result<bool, DatapathError> {
        self.kernel.unchanged(known)
    }

    fn generation(&mut self) -> Result<Option<Generation>, DatapathError> {
        self.kernel.generation()
    }

    fn prepare(&mut self, tables: &Tables, capacity: &Capacity) -> Result<(), DatapathError> {
        self.kernel.prepare(tables, capacity)
    }

    fn build(&mut self, delta: &WiringDelta) -> Result<(), DatapathError> {
        self.kernel.build(delta)
    }

    fn stage(&mut self, delta: &TablesDelta) -> Result<(), DatapathError> {
        // Only ever of nothing.
        let mut tables = Tables::default();
        tables.apply(delta);
        (self.plant)(&mut tables);
        self.kernel.stage(&Tables::default().diff(&tables))
    }

    fn probe(&mut self, copy: TableCopy, probes: &[Probe]) -> Result<Vec<Vec<ProbeStep>>, DatapathError> {
        self.kernel.probe(copy, probes)
    }

    fn flip(&mut self) -> Result<Generation, DatapathError> {
        self.kernel.flip()
    }

    fn grace(&mut self) -> Result<(), DatapathError> {
        self.kernel.grace()
    }

    fn tear(&mut self, delta: &WiringDelta) -> Result<(), DatapathError> {
        self.kernel.tear(delta)
    }
}

fn policy(tables: &mut Tables, change: impl Fn(&PolicyKey) -> PolicyKey) {
    let changed: Vec<(PolicyKey, PolicyEntry)> =
        tables.policy.iter().map(|(key, entry)| (change(key), *entry)).collect();
    tables.policy = Table::from_unsorted(changed);
}

fn subjects(tables: &mut Tables, change: impl Fn(&mut SubjectInfo)) {
    let all: Vec<(u32, SubjectInfo)> = tables.subjects.iter().map(|(key, info)| (*key, *info)).collect();
    tables.subjects = all
        .into_iter()
        .map(|(key, mut info)| {
            change(&mut info);
            (key, info)
        })
        .collect();
}

/// What the compiler could do wrong and the oracle does not.
type Fault = (&'static str, fn(&mut Tables));

const FAULTS: &[Fault] = &[
    ("ports in the wrong byte order", |tables| {
        policy(tables, |key| PolicyKey { port: key.port.swap_bytes(), ..*key });
    }),
    ("deny classes forgotten", |tables| subjects(tables, |info| info.deny_classes = [0; 2])),
    ("default deny forgotten", |tables| subjects(tables, |info| info.default_deny = [0; 2])),
    ("no identity for IPv6", |tables| tables.ipcache6 = Table::new()),
    ("no identity for IPv4", |tables| tables.ipcache4 = Table::new()),
    ("the prefilter of IPv6 forgotten", |tables| tables.prefilter6 = Table::new()),
    ("directions swapped", |tables| {
        policy(tables, |key| PolicyKey { direction_class: key.direction_class ^ 0x80, ..*key });
    }),
];

const NO_FAULT: Fault = ("none", |_| {});

#[test]
fn a_compiler_fault_that_the_oracle_does_not_share_is_caught() {
    for (name, plant) in FAULTS.iter().chain([&NO_FAULT]) {
        let (name, plant) = (*name, *plant);
        Node::run(move |node| {
            let texts = [("endpoints.yaml", ENDPOINTS), ("rules.yaml", RULES), ("tests.yaml", &tests())];
            let files = texts.map(|(path, text)| SourceFile::new(path, text.as_bytes()));
            let manifests = Manifests::new("dir:test", &Revision::new(files.into()));
            let inventory = weir_schema::parse(&manifests.files, &weir_schema::Options::default()).unwrap();
            let told = flow_tests_by_oracle(&manifests, &inventory, Some(NODE));
            assert_eq!((told.summary.passed, told.summary.failed), (TESTS.len(), 0), "the oracle is right");

            let kernel = Kernel::open(weir_datapath::Options::new(node.pins())).unwrap();
            let (store, _) = SledStore::open(&node.state()).unwrap();
            let options = EngineOptions { node: NODE.into(), boot_id: "1".to_owned(), ignore_foreign: false };
            let mut engine = Engine::new(Faulty { kernel, plant }, store, options);
            let planned = engine.plan_to_apply(&manifests, Look::Kernel, Allow::default()).unwrap();
            match engine.apply(planned, Allow::default(), Operation::Apply) {
                Ok(_) => assert_eq!(name, "none", "not caught"),
                Err(Error::FlowTests(tests)) => {
                    assert_ne!(name, "none", "{tests:#?}");
                    let failed = tests.results.iter().filter(|one| one.result == FlowTestResult::Failed);
                    assert!(failed.count() > 0, "{name}");
                    assert!(engine.head().unwrap().is_none(), "{name}: nothing went live");
                }
                Err(other) => panic!("{name}: {other}"),
            }
        });
    }
}
