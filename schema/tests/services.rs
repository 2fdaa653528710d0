//! What manifests of services mean.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod story;

use std::{sync::Arc, time::Duration};

use story::file;
use weir_schema::{
    Algorithm, BackendState, FrontendType, NoBackends, Object, Options, PortNumber, ServiceProtocol, ServiceSpec, Spec,
    TrafficPolicy, parse,
};

fn read(text: &str) -> Vec<Arc<Object>> {
    parse(&[file("a.yaml", text.as_bytes())], &Options::default())
        .unwrap_or_else(|errors| panic!("{errors}"))
        .objects()
        .collect()
}

fn service(spec: &str) -> ServiceSpec {
    let text = format!("apiVersion: weir/v1alpha1\nkind: Service\nmetadata: {{name: s}}\nspec:\n{spec}");
    match &read(&text)[0].spec {
        Spec::Service(spec) => ServiceSpec::clone(spec),
        other => panic!("{other:?}"),
    }
}

#[test]
fn defaults_are_filled_in() {
    let spec = service("  frontends: [{address: 10.96.0.1, port: 80}]\n  backends: [{address: 10.0.0.1}]\n");
    assert_eq!((spec.algorithm, spec.no_backends), (Algorithm::Random, NoBackends::Reject));
    assert_eq!(spec.internal_traffic_policy, TrafficPolicy::Cluster);
    assert_eq!(spec.external_traffic_policy, TrafficPolicy::Cluster);
    assert_eq!(spec.session_affinity, None);
    let frontend = &spec.frontends[0];
    assert_eq!((frontend.protocol, frontend.kind), (ServiceProtocol::Tcp, FrontendType::Cluster));
    let backend = &spec.backends[0];
    assert_eq!((backend.port, backend.weight, backend.state), (None, 1, BackendState::Active));
    let spec = service(
        "  frontends: [{address: \"2001:db8::1\", port: 80, targetPort: \"8080\"}, {port: 30080, type: node-port, targetPort: web}]\n  selector: {}\n  sessionAffinity: {}\n",
    );
    assert_eq!(spec.session_affinity.unwrap().timeout, Duration::from_secs(10800));
    assert_eq!(spec.frontends[0].target_port, Some(PortNumber::Number(8080)));
    assert_eq!(spec.frontends[1].target_port, Some(PortNumber::Name("web".to_owned())));
}

/// As `kubectl get -o yaml` prints it.
const KUBERNETES: &str = "apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  resourceVersion: \"12\"
  annotations: {weir/algorithm: maglev, weir/no-backends: drop}
spec:
  allocateLoadBalancerNodePorts: true
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, \"fd00:96::10\"]
  externalIPs: [198.51.100.7, 198.51.100.8]
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  internalTrafficPolicy: Cluster
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: PreferDualStack
  loadBalancerIP: 198.51.100.7
  ports:
  - {appProtocol: http, name: http, nodePort: 30080, port: 80, protocol: TCP, targetPort: web}
  - {name: dns, port: 53, protocol: UDP, targetPort: 53}
  selector: {app: web}
  sessionAffinity: ClientIP
  trafficDistribution: PreferClose
  type: LoadBalancer
status: {loadBalancer: {ingress: [{ip: 198.51.100.7}]}}
";

#[test]
fn a_service_of_kubernetes_has_its_places() {
    let object = &read(KUBERNETES)[0];
    let Spec::KubernetesService(spec) = &object.spec else { panic!("{object:?}") };
    assert_eq!((object.metadata.algorithm(), object.metadata.no_backends()), (Algorithm::Maglev, NoBackends::Drop));
    assert_eq!(spec.affinity(), 10800);
    let places: Vec<_> = spec
        .frontends()
        .into_iter()
        .map(|one| {
            let address = one.address.map_or_else(|| "node".to_owned(), |address| address.to_string());
            format!("{:?} {address} {} {} {}", one.kind, one.port, one.protocol.name(), one.path)
        })
        .collect();
    let expected = [
        "Cluster 10.96.0.10 80 TCP spec.clusterIP",
        "Cluster fd00:96::10 80 TCP spec.clusterIPs[1]",
        "External 198.51.100.7 80 TCP spec.externalIPs[0]",
        "External 198.51.100.8 80 TCP spec.externalIPs[1]",
        "NodePort node 30080 TCP spec.ports[0].nodePort",
        "Cluster 10.96.0.10 53 UDP spec.clusterIP",
        "Cluster fd00:96::10 53 UDP spec.clusterIPs[1]",
        "External 198.51.100.7 53 UDP spec.externalIPs[0]",
        "External 198.51.100.8 53 UDP spec.externalIPs[1]",
    ];
    assert_eq!(places, expected);
    for nowhere in [
        KUBERNETES.replace("clusterIP: 10.96.0.10\n", "clusterIP: None\n"),
        KUBERNETES.replace("type: LoadBalancer", "type: ExternalName\n  externalName: example.org"),
    ] {
        let object = &read(&nowhere)[0];
        let Spec::KubernetesService(spec) = &object.spec else { panic!("{object:?}") };
        assert_eq!(spec.frontends(), []);
    }
}

/// What the API server adds changes nothing, and what it says of itself does not either.
#[test]
fn fields_that_are_read_over_do_not_change_the_hash() {
    let hash = |text: &str| read(text)[0].hash;
    let plain = hash(KUBERNETES);
    for same in [
        KUBERNETES.replace("healthCheckNodePort: 32000", "healthCheckNodePort: 32001"),
        KUBERNETES.replace("  trafficDistribution: PreferClose\n", ""),
        KUBERNETES.replace("appProtocol: http, ", ""),
        KUBERNETES.replace("status: {", "status: {conditions: [], "),
    ] {
        assert_eq!(hash(&same), plain, "{same}");
    }
    assert_ne!(hash(&KUBERNETES.replace("30080", "30081")), plain);
}

#[test]
fn a_slice_names_its_backends() {
    let text = "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- addresses: [10.0.0.1, 10.0.0.2]
  conditions: {ready: true, serving: true, terminating: false}
  hints: {forZones: [{name: a}]}
  nodeName: node1
  targetRef: {kind: Pod, name: p}
  zone: a
- addresses: [10.0.0.3]
  conditions: {ready: false}
ports:
- {name: http, port: 8080, protocol: TCP}
- {name: other}
";
    let object = &read(text)[0];
    let Spec::EndpointSlice(slice) = &object.spec else { panic!("{object:?}") };
    let backends: Vec<_> =
        slice.backends().map(|(address, one)| (address.to_string(), one.node_name.clone())).collect();
    assert_eq!(backends, [("10.0.0.1".to_owned(), Some("node1".to_owned())), ("10.0.0.3".to_owned(), None)]);
    assert_eq!(slice.ports[1].port, None);
    // Written out, it is the same object.
    for form in [object.to_manifest(), object.to_value().to_string()] {
        let again = &read(&form)[0];
        assert_eq!((again.hash, &again.spec), (object.hash, &object.spec), "{form}");
    }
    let empty = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e}\naddressType: IPv4\nendpoints: null\nports: null\n";
    assert!(matches!(&read(empty)[0].spec, Spec::EndpointSlice(slice) if slice.endpoints.is_empty()));
}
