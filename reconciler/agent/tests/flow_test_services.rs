//! Flow tests of services: what the oracle says from the manifests, and what is made of what programs did.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use weir_agent::{
    Allow, Engine, EngineOptions, Error, FlowTestResult, FlowTestsDocument, Look, Manifests, flow_tests_by_oracle,
};
use weir_plan::{
    Delivery, InterfaceFacts, NodeFacts, Operation,
    fake::{FakeDatapath, FakeStore, Faults},
};
use weir_source::{Revision, SourceFile};

const SET: &str = "\
{apiVersion: weir/v1alpha1, kind: Node, metadata: {name: n1}, spec: {addresses: [192.0.2.1]}}
---
{apiVersion: weir/v1alpha1, kind: Endpoint, metadata: {name: web, labels: {app: web}}, spec: {node: n1, addresses: [10.0.0.1], attach: {interface: vweb}}}
---
{apiVersion: weir/v1alpha1, kind: Endpoint, metadata: {name: db, labels: {app: db}}, spec: {node: n1, addresses: [10.0.0.2], attach: {interface: vdb}}}
---
apiVersion: weir/v1alpha1
kind: Service
metadata: {name: s}
spec:
  frontends: [{address: 10.96.0.1, port: 80}, {address: 203.0.113.80, port: 80, type: external}, {port: 30080, type: node-port}]
  sourceRanges: [198.51.100.0/24]
  backends: [{address: 10.0.0.2, port: 8080}]
---
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: db}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress: [{toPorts: [{ports: [{port: 8080, protocol: TCP}]}]}]
---
";

/// Another node with a backend of a service of its own.
const FAR: &str = "\
{apiVersion: weir/v1alpha1, kind: Node, metadata: {name: n2}, spec: {addresses: [192.0.2.2]}}
---
{apiVersion: weir/v1alpha1, kind: Endpoint, metadata: {name: far, labels: {app: far}}, spec: {node: n2, addresses: [10.0.2.1], attach: {interface: vfar}}}
---
{apiVersion: weir/v1alpha1, kind: Service, metadata: {name: wide}, spec: {frontends: [{address: 10.96.0.2, port: 80}], backends: [{address: 10.0.0.2, port: 8080}, {address: 10.0.2.1}]}}
---
{apiVersion: weir/v1alpha1, kind: NetworkPolicy, metadata: {name: far}, spec: {endpointSelector: {matchLabels: {app: far}}, ingress: [{fromEndpoints: [{matchLabels: {app: db}}]}]}}
---
";

fn test(from: &str, to: &str, port: u16, expect: &str) -> String {
    format!(
        "{{apiVersion: weir/v1alpha1, kind: FlowTest, metadata: {{name: t}}, spec: {{from: {from}, to: {to}, protocol: TCP, port: {port}, expect: {expect}}}}}\n"
    )
}

fn manifests(text: &str) -> Manifests {
    Manifests::new("dir:/etc/weir", &Revision::new(vec![SourceFile::new("set.yaml", text.as_bytes())]))
}

fn by_oracle(text: &str, node: Option<&str>) -> FlowTestsDocument {
    let manifests = manifests(text);
    let inventory = weir_schema::parse(&manifests.files, &weir_schema::Options::default()).unwrap();
    flow_tests_by_oracle(&manifests, &inventory, node)
}

/// `passed`, or what is wrong; `skipped: …`.
fn said(document: &FlowTestsDocument) -> String {
    let result = document.results.first().unwrap();
    match result.result {
        FlowTestResult::Passed => format!("passed: {}", result.actual.as_ref().unwrap()),
        FlowTestResult::Failed => result.complaint(),
        FlowTestResult::Skipped => format!("skipped: {}", result.why.as_ref().unwrap()),
    }
}

fn oracle(from: &str, to: &str, port: u16, expect: &str) -> String {
    said(&by_oracle(&format!("{SET}{}", test(from, to, port, expect)), None))
}

#[test]
fn the_oracle_follows_a_flow_to_its_backend() {
    let (web, service) = ("{endpoint: web}", "{service: s}");
    assert_eq!(oracle(web, service, 80, "{verdict: allow}"), "passed: allow via 10.0.0.2:8080");
    for backend in ["db", "default/db", "10.0.0.2", "'10.0.0.2:8080'"] {
        let expect = format!("{{verdict: allow, backend: {backend}}}");
        assert_eq!(oracle(web, service, 80, &expect), "passed: allow via 10.0.0.2:8080", "{backend}");
        assert_eq!(oracle(web, "{address: 10.96.0.1}", 80, &expect), "passed: allow via 10.0.0.2:8080", "{backend}");
    }
    assert_eq!(
        oracle(web, service, 80, "{verdict: allow, backend: '10.0.0.2:80'}"),
        "10.0.0.1 -> 10.96.0.1 tcp/80: expected allow via 10.0.0.2:80, got allow via 10.0.0.2:8080"
    );
    assert_eq!(
        oracle(web, service, 80, "{verdict: allow, backend: web}"),
        "10.0.0.1 -> 10.96.0.1 tcp/80: expected allow via web, got allow via 10.0.0.2:8080"
    );
    assert_eq!(
        oracle(web, service, 81, "{verdict: allow}"),
        "Service default/s has no frontend on port 81 of this protocol"
    );
    assert_eq!(
        oracle(web, "{address: 10.96.0.1}", 81, "{verdict: deny, reason: no_service}"),
        "passed: deny (no_service)"
    );
    assert_eq!(
        oracle(web, "{address: 10.0.0.2}", 8080, "{verdict: allow, backend: db}"),
        "10.0.0.1 -> 10.0.0.2 tcp/8080: expected allow via db, got allow",
        "it went to no service"
    );
    assert_eq!(
        oracle("{host: true}", service, 80, "{verdict: allow}"),
        "skipped: neither end says on which node the host is meant"
    );
    let on_n1 = format!("{SET}{}", test("{host: true}", service, 80, "{verdict: allow}"));
    assert_eq!(said(&by_oracle(&on_n1, Some("n1"))), "passed: allow via 10.0.0.2:8080");
}

#[test]
fn the_oracle_tells_who_comes_from_outside() {
    let (listed, other) = ("{address: 198.51.100.7}", "{address: 192.0.2.77}");
    assert_eq!(oracle(listed, "{service: s}", 80, "{verdict: allow, backend: db}"), "passed: allow via 10.0.0.2:8080");
    assert_eq!(oracle(listed, "{service: s}", 30080, "{verdict: allow}"), "passed: allow via 10.0.0.2:8080");
    assert_eq!(
        oracle(other, "{service: s}", 80, "{verdict: deny, reason: source_range}"),
        "passed: deny (source_range)"
    );
    assert_eq!(
        oracle(other, "{address: 192.0.2.1}", 30080, "{verdict: deny, reason: source_range}"),
        "passed: deny (source_range)"
    );
    assert_eq!(
        oracle(listed, "{address: 10.96.0.1}", 80, "{verdict: deny, reason: no_service}"),
        "passed: deny (no_service)"
    );
    let empty = SET.replace("[{address: 10.0.0.2, port: 8080}]", "[{address: 10.0.0.2, state: draining}]");
    let text = format!("{empty}{}", test(listed, "{service: s}", 80, "{verdict: deny, reason: no_backend}"));
    assert_eq!(said(&by_oracle(&text, None)), "passed: deny (no_backend)");
}

#[test]
fn of_several_backends_each_must_be_as_expected_on_its_own_node() {
    let of = |expect: &str, node: Option<&str>| {
        let text = format!("{SET}{FAR}{}", test("{endpoint: web}", "{service: wide}", 80, expect));
        said(&by_oracle(&text, node))
    };
    let flow = "10.0.0.1 -> 10.96.0.2 tcp/80";
    assert_eq!(
        of("{verdict: allow}", None),
        format!("{flow}: expected allow, got deny (policy_default_deny) via 10.0.2.1:80 at n2")
    );
    assert_eq!(
        of("{verdict: deny}", None),
        format!("{flow}: expected deny, got allow via 10.0.0.2:8080"),
        "one lets it in"
    );
    assert_eq!(
        of("{verdict: allow, backend: db}", Some("n1")),
        format!("{flow}: expected allow via db, got allow via 10.0.2.1:80")
    );
    assert_eq!(of("{verdict: allow}", Some("n1")), "passed: allow via 10.0.0.2:8080", "n2 is not asked");
    assert_eq!(of("{verdict: allow}", Some("n2")), "skipped: neither end is on this node");
    let text = format!("{SET}{FAR}{}", test("{address: 198.51.100.7}", "{service: s}", 80, "{verdict: allow}"));
    assert_eq!(said(&by_oracle(&text, None)), "skipped: nobody says by which node it comes in: name one with --node");
    assert_eq!(said(&by_oracle(&text, Some("n1"))), "passed: allow via 10.0.0.2:8080");
}

/// What an apply says whose packets to 10.96.0.1 are sent to this backend.
fn applied(expect: &str, backend: Option<(&str, u16)>) -> Option<String> {
    let faults = Faults::default();
    let interface = |name: &str, ifindex| InterfaceFacts {
        name: name.into(),
        ifindex,
        kind: "veth".to_owned(),
        loopback: false,
        addresses: Vec::new(),
        ours: false,
        delivery: Delivery::Stack,
    };
    let facts = NodeFacts {
        interfaces: vec![interface("vdb", 2), interface("vweb", 3)],
        addresses: vec!["192.0.2.1".parse().unwrap()],
        netns: vec![],
        tcx: true,
        cgroup2: true,
    };
    let datapath = FakeDatapath::new(facts, faults.clone());
    datapath.kernel(|kernel| {
        let sent = backend.map(|(address, port)| ("10.96.0.1".parse().unwrap(), (address.parse().unwrap(), port)));
        kernel.backends.extend(sent);
    });
    let options = EngineOptions { node: "n1".into(), boot_id: "boot".to_owned(), ignore_foreign: false };
    let mut engine = Engine::new(datapath, FakeStore::new(faults), options);
    let text = format!("{SET}{}", test("{endpoint: web}", "{service: s}", 80, expect));
    let planned = engine.plan_to_apply(&manifests(&text), Look::Kernel, Allow::default()).unwrap();
    match engine.apply(planned, Allow::default(), Operation::Apply) {
        Ok(_) => None,
        Err(Error::FlowTests(tests)) => Some(said(&tests)),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn what_programs_did_is_held_against_the_backend() {
    let here = Some(("10.0.0.2", 8080));
    assert_eq!(applied("{verdict: allow, backend: db}", here), None);
    assert_eq!(applied("{verdict: allow, backend: '10.0.0.2:8080'}", here), None);
    assert_eq!(applied("{verdict: allow}", here), None);
    let flow = "10.0.0.1 -> 10.96.0.1 tcp/80";
    assert_eq!(
        applied("{verdict: allow, backend: db}", Some(("10.0.0.1", 8080))),
        Some(format!("{flow}: expected allow via db, got allow via 10.0.0.1:8080"))
    );
    assert_eq!(
        applied("{verdict: allow, backend: db}", None),
        Some(format!("{flow}: expected allow via db, got allow")),
        "no program sent it anywhere"
    );
    assert_eq!(applied("{verdict: deny}", here), Some(format!("{flow}: expected deny, got allow via 10.0.0.2:8080")));
}
