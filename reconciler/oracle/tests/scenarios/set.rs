//! Manifests to objects, as seen by one node.
use std::{net::IpAddr, sync::Arc};

use weir_oracle::{Flow, FlowProtocol, Judgement, Verdict, World};
use weir_schema::{ContentHash, File, Object, Options, parse};

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

/// The cluster and more manifests.
pub fn set(manifests: &str) -> Set {
    let bytes: Arc<[u8]> = format!("{CLUSTER}---\n{manifests}").into_bytes().into();
    let file = File { path: "test.yaml".into(), bytes, hash: ContentHash([0; 32]) };
    let objects = match parse(&[file], &Options::default()) {
        Ok(inventory) => inventory.objects().collect(),
        Err(errors) => panic!("{manifests}\n{errors:?}"),
    };
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
