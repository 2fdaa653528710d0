//! A device goes and comes back under its name: it has another index and no program. Whatever happens next (a commit, a
//! rollback by flip, nothing), the endpoint behind it is enforced as the applied commit says.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{fs, time::Duration};

use weir_abi::Side;
use weir_agent::{Allow, Applied, Engine, EngineOptions, Look, Manifests};
use weir_datapath::{Kernel, Options};
use weir_source::{Revision, SourceFile};
use weir_state::SledStore;
use weir_tests::node::{
    Agent, ENDPOINTS, NODE, Node, eventually,
    kernel::{RawMap, table_pin},
    traffic::{Way, reaches},
};

const APP: &str = "10.10.0.9";

/// An endpoint on an interface that somebody else makes, and a policy that lets the client in on one port.
fn manifests(port: u16) -> String {
    format!(
        r"{ENDPOINTS}
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {{name: app, labels: {{app: app}}}}
spec: {{node: node1, addresses: [{APP}], attach: {{interface: app0}}}}
---
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {{name: app}}
spec:
  endpointSelector: {{matchLabels: {{app: app}}}}
  ingress:
  - fromCIDR: [192.0.2.0/24]
    toPorts: [{{ports: [{{port: {port}, protocol: UDP}}]}}]
"
    )
}

fn pair(node: &Node) {
    node.ip("link add app0 type veth peer name eth0 netns app");
    node.ip("link set app0 up");
    node.ip("address add 169.254.1.1/32 dev app0");
    node.ip(&format!("route add {APP}/32 dev app0"));
    node.ip(&format!("-netns app address add {APP}/32 dev eth0"));
    node.ip("-netns app link set eth0 up");
    node.ip("-netns app route add 169.254.1.1 dev eth0");
    node.ip("-netns app route add default via 169.254.1.1");
}

fn make_anew(node: &Node) {
    node.ip("link del app0");
    pair(node);
}

fn world(node: &Node) {
    node.ip("netns add app");
    node.ip("-netns app link set lo up");
    pair(node);
}

/// Exactly this port is open.
fn enforced(node: &Node, open: u16) {
    for port in [80, 81] {
        let reached = reaches(node, Way { from: "client", to: "app", address: APP, port });
        assert_eq!(reached, port == open, "udp/{port} when only udp/{open} is allowed");
    }
}

/// A process that lives as long as an agent does, and does what the test says, when it says so.
fn engine(node: &Node) -> Engine<Kernel, SledStore> {
    let options = EngineOptions {
        node: NODE.into(),
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned(),
        ignore_foreign: false,
    };
    let (store, _) = SledStore::open_within(&node.state(), Duration::from_secs(3)).unwrap();
    Engine::new(Kernel::open(Options::new(node.pins())).unwrap(), store, options)
}

fn apply(engine: &mut Engine<Kernel, SledStore>, port: u16) -> Applied {
    let file = SourceFile::new("all.yaml", manifests(port).into_bytes());
    let manifests = Manifests::new("dir:/run/test/manifests", &Revision::new(vec![file]));
    engine.bring_live(&manifests, Look::Known, Allow::default()).unwrap()
}

/// What is live is what the manifests with this port say, by a look of another process.
fn converged(node: &Node, port: u16) {
    node.write("all.yaml", &manifests(port));
    node.expect(0, &["diff", "-f", "."]);
}

#[test]
fn a_device_made_anew_just_before_a_rollback_by_flip() {
    Node::run(|node| {
        world(node);
        let mut engine = engine(node);
        apply(&mut engine, 80);
        apply(&mut engine, 81);
        enforced(node, 81);
        make_anew(node);
        // Nobody has told the engine yet; both sides know the former device.
        assert!(engine.go_back(None, Look::Known, Allow::default()).unwrap().flipped);
        enforced(node, 80);
        drop(engine);
        converged(node, 80);
    });
}

#[test]
fn a_device_made_anew_just_before_a_commit() {
    Node::run(|node| {
        world(node);
        let mut engine = engine(node);
        apply(&mut engine, 80);
        make_anew(node);
        apply(&mut engine, 81);
        enforced(node, 81);
        drop(engine);
        converged(node, 81);
    });
}

/// Two commits that differ, by an agent that neither verifies nor catches up in this time.
fn followed(node: &Node) -> Agent {
    world(node);
    node.write("all.yaml", &manifests(80));
    let agent = node.agent(&["--verify", "1h", "--catch-up", "1h", "--resync", "1h"]);
    eventually("the first commit", || (sequence(&agent) == 1).then_some(()));
    node.write("all.yaml", &manifests(81));
    eventually("the second commit", || (sequence(&agent) == 2).then_some(()));
    agent
}

fn sequence(agent: &Agent) -> u64 {
    agent.status()["commit"]["sequence"].as_u64().unwrap_or(0)
}

#[test]
fn a_device_made_anew_and_healed_and_then_a_rollback() {
    Node::run(|node| {
        let agent = followed(node);
        make_anew(node);
        eventually("the agent heals", || (sequence(&agent) > 2).then_some(()));
        eventually("the device is attached", || attached(&agent).then_some(()));
        enforced(node, 81);
        node.expect(0, &["rollback"]);
        enforced(node, 80);
        converged(node, 80);
        assert!(agent.stop().success());
    });
}

fn attached(agent: &Agent) -> bool {
    let attachments = agent.status()["attachments"].clone();
    attachments.as_array().unwrap().iter().filter(|hook| hook["interface"] == "app0").count() == 2
}

/// A rollback suspends following the source, not keeping what it brought back.
#[test]
fn a_device_made_anew_after_a_rollback() {
    Node::run(|node| {
        let agent = followed(node);
        node.expect(0, &["rollback"]);
        enforced(node, 80);
        let before = sequence(&agent);
        make_anew(node);
        eventually("the agent heals", || (sequence(&agent) > before).then_some(()));
        eventually("the device is attached", || attached(&agent).then_some(()));
        enforced(node, 80);
        assert_eq!(agent.status()["state"], "suspended", "the source is not followed");
        node.expect(0, &["resume"]);
        enforced(node, 81);
        assert!(agent.stop().success());
    });
}

/// Somebody suspended by hand, and wants to be left alone: drift is shown, not healed, until `resume`.
#[test]
fn a_device_made_anew_while_suspended_by_hand() {
    Node::run(|node| {
        let agent = followed(node);
        node.expect(0, &["suspend", "--reason", "looking around"]);
        let before = sequence(&agent);
        make_anew(node);
        eventually("the drift is seen", || (agent.status()["drift"].as_u64() > Some(0)).then_some(()));
        assert!(!attached(&agent));
        assert_eq!(sequence(&agent), before);
        node.expect(0, &["resume"]);
        enforced(node, 81);
        assert!(agent.stop().success());
    });
}

/// The side that a rollback would flip to was written to by somebody else: that must not go live.
#[test]
fn a_rollback_by_flip_to_a_side_that_drifted() {
    Node::run(|node| {
        let agent = followed(node);
        let runtime = RawMap::pinned(&table_pin(node, "RUNTIME"));
        let word = runtime.lookup(&0u32.to_ne_bytes()).unwrap();
        let active = weir_abi::Generation::unpack(u64::from_ne_bytes(word[..8].try_into().unwrap())).side;
        let standby: Side = active.other();
        let policy = RawMap::side(node, "POLICY", standby);
        let keys = policy.keys();
        assert!(!keys.is_empty(), "the standby side still holds the first commit");
        keys.iter().for_each(|key| policy.delete(key));
        node.expect(0, &["rollback"]);
        enforced(node, 80);
        converged(node, 80);
        assert!(agent.stop().success());
    });
}
