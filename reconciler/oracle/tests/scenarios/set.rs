//! Manifests to objects, without the checks: the tests write only what is valid.
use std::{net::IpAddr, sync::Arc};

use serde::Deserialize;
use serde_yaml::Value;
use weir_oracle::{Flow, FlowProtocol, Judgement, Verdict, World};
use weir_schema::{CidrFilterSpec, CidrList, ContentHash, Metadata, NamespaceSpec, Object, ObjectKey, Origin, Spec};

/// A set of objects as node `n1` sees it.
pub struct Set {
    pub objects: Vec<Arc<Object>>,
    pub host: Vec<IpAddr>,
}

/// Two nodes; on `n1` the endpoints `web` and `db` of `default` and `web` of `shop`, on `n2` the endpoint `far`.
const CLUSTER: &str = "
{apiVersion: weir/v1alpha1, kind: Node, metadata: {name: n1, labels: {zone: a}}, spec: {addresses: [192.0.2.1, '2001:db8::1'], endpointCIDRs: [10.0.1.0/24]}}
---
{apiVersion: weir/v1alpha1, kind: Node, metadata: {name: n2, labels: {zone: b}}, spec: {addresses: [192.0.2.2, '2001:db8::2']}}
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: web, labels: {app: web}}
spec: {node: n1, addresses: [10.0.1.1, 'fd00::1:1'], attach: {interface: a}, ports: [{name: http, port: 80, protocol: TCP}]}
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: db, labels: {app: db, tier: back}}
spec: {node: n1, addresses: [10.0.1.2, 'fd00::1:2'], attach: {interface: b}, ports: [{name: http, port: 8080}]}
---
{apiVersion: weir/v1alpha1, kind: Endpoint, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {node: n1, addresses: [10.0.1.3, 'fd00::1:3'], attach: {interface: c}}}
---
{apiVersion: weir/v1alpha1, kind: Endpoint, metadata: {name: far, labels: {app: far}}, spec: {node: n2, addresses: [10.0.2.1, 'fd00::2:1'], attach: {interface: d}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: sales}}}
";

pub const WEB: &str = "10.0.1.1";
pub const WEB6: &str = "fd00::1:1";
pub const DB: &str = "10.0.1.2";
pub const DB6: &str = "fd00::1:2";
pub const SHOP: &str = "10.0.1.3";
pub const FAR: &str = "10.0.2.1";
pub const HOST: &str = "192.0.2.1";
pub const REMOTE: &str = "192.0.2.2";
pub const REMOTE6: &str = "2001:db8::2";
pub const WORLD: &str = "198.51.100.7";
pub const WORLD6: &str = "2001:db8:f00::7";

fn typed<T: for<'de> Deserialize<'de>>(spec: Value) -> Arc<T> {
    Arc::new(serde_yaml::from_value(spec).expect("the spec of a test"))
}

fn object(document: Value) -> Object {
    let text = |key: &str| document[key].as_str().expect("apiVersion and kind").to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let metadata: Metadata = serde_yaml::from_value(document["metadata"].clone()).expect("metadata");
    let spec = document["spec"].clone();
    let rules = || match document.get("specs") {
        Some(specs) => serde_yaml::from_value::<Vec<_>>(specs.clone()).expect("specs").into(),
        None => vec![serde_yaml::from_value(spec.clone()).expect("spec")].into(),
    };
    let spec = match (api_version.as_str(), kind.as_str()) {
        (_, "Node") => Spec::Node(typed(spec)),
        (_, "Endpoint") => Spec::Endpoint(typed(spec)),
        (_, "NodeConfig") => Spec::NodeConfig(typed(spec)),
        (_, "CidrFilter") => {
            let mut filter: CidrFilterSpec = serde_yaml::from_value(spec).expect("filter");
            filter.exceptions = filter.allow.to_vec();
            filter.lists = vec![CidrList { rule_path: "spec.cidrs".to_owned(), prefixes: filter.cidrs.shared() }];
            Spec::CidrFilter(Arc::new(filter))
        }
        ("v1", "Namespace") => Spec::Namespace(Arc::new(NamespaceSpec)),
        ("networking.k8s.io/v1", "NetworkPolicy") => Spec::KubernetesNetworkPolicy(typed(spec)),
        (_, "NetworkPolicy" | "CiliumNetworkPolicy") => Spec::NetworkPolicy(rules()),
        (_, "CiliumClusterwideNetworkPolicy") => Spec::ClusterwideNetworkPolicy(rules()),
        other => panic!("no such kind: {other:?}"),
    };
    Object {
        key: ObjectKey {
            group: api_version.split_once('/').map_or("", |(group, _)| group).into(),
            kind: kind.as_str().into(),
            namespace: metadata.namespace.as_str().into(),
            name: metadata.name.as_str().into(),
        },
        api_version: api_version.into(),
        metadata,
        spec,
        origin: Origin { path: "test.yaml".into(), file: ContentHash([0; 32]), document: 0, line: 1 },
        hash: ContentHash([0; 32]),
    }
}

/// The cluster and more manifests.
pub fn set(manifests: &str) -> Set {
    let documents = [CLUSTER, manifests].map(serde_yaml::Deserializer::from_str).into_iter().flatten();
    let values = documents.map(|document| Value::deserialize(document).expect("YAML"));
    let objects = values.filter(|value| !value.is_null()).map(|value| Arc::new(object(value))).collect();
    Set { objects, host: vec!["192.0.2.9".parse().expect("an address")] }
}

/// One policy on `web`, in `default`, by the body of its `spec`.
pub fn on_web(body: &str) -> Set {
    set(&format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: p}}, spec: {{endpointSelector: {{matchLabels: {{app: web}}}}, {body}}}}}"
    ))
}

pub fn tcp(port: u16) -> FlowProtocol {
    FlowProtocol::Tcp { source: 40000, destination: port }
}

pub fn udp(port: u16) -> FlowProtocol {
    FlowProtocol::Udp { source: 40000, destination: port }
}

impl Set {
    pub fn judge(&self, source: &str, destination: &str, protocol: FlowProtocol) -> Judgement {
        let address = |text: &str| text.parse().expect("an address");
        let flow = Flow { source: address(source), destination: address(destination), protocol };
        World::new(&self.objects, "n1", &self.host).judge(&flow)
    }

    pub fn ingress(&self, source: &str, destination: &str, protocol: FlowProtocol) -> Verdict {
        self.judge(source, destination, protocol).ingress.verdict
    }

    pub fn egress(&self, source: &str, destination: &str, protocol: FlowProtocol) -> Verdict {
        self.judge(source, destination, protocol).egress.verdict
    }

    pub fn reaches(&self, source: &str, destination: &str, protocol: FlowProtocol) -> bool {
        self.judge(source, destination, protocol).allowed()
    }

    /// Path of the rule that decides at the destination.
    pub fn ingress_rule(&self, source: &str, destination: &str, protocol: FlowProtocol) -> Option<String> {
        self.judge(source, destination, protocol).ingress.rule.map(|rule| rule.path)
    }
}
