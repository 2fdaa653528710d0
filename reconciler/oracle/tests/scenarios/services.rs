//! `Service`: which backends a flow may go to, and what policy makes of it then.
use weir_oracle::{Delivery, Flow, FlowProtocol, Sender, Verdict, World};
use weir_schema::ServiceProtocol;

use crate::set::*;

const VIP: &str = "10.96.0.10";
const VIP6: &str = "fd00:96::10";
const EXTERNAL: &str = "203.0.113.80";

/// One service `s` of `default`, by its frontends and the rest of its `spec`.
fn service(frontends: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: weir/v1alpha1, kind: Service, metadata: {{name: s}}, spec: {{frontends: [{frontends}], {rest}}}}}"
    )
}

const ON_VIP: &str = "{address: 10.96.0.10, port: 80}";
const BOTH: &str = "backends: [{address: 10.0.1.2, port: 8080}, {address: 10.0.2.1, port: 80}]";

fn deliver(set: &Set, source: &str, destination: &str, protocol: FlowProtocol) -> Delivery {
    let address = |text: &str| text.parse().expect("an address");
    let flow = Flow { source: address(source), destination: address(destination), protocol };
    World::new(&set.objects, "n1", &set.host).deliver(&flow)
}

/// `10.0.1.2:8080 10.0.2.1:80`, with `!` before each that policy denies; `direct`; or the reason of a drop.
fn sent(set: &Set, source: &str, destination: &str, protocol: FlowProtocol) -> String {
    match deliver(set, source, destination, protocol) {
        Delivery::Direct(_) => "direct".to_owned(),
        Delivery::Dropped(drop) => drop.reason().to_owned(),
        Delivery::Balanced { backends, .. } => {
            let shown = backends.iter().map(|backend| {
                let denied = if backend.judgement.allowed() { "" } else { "!" };
                format!("{denied}{}", std::net::SocketAddr::new(backend.address, backend.port))
            });
            shown.collect::<Vec<_>>().join(" ")
        }
    }
}

#[test]
fn an_endpoint_reaches_every_backend_and_no_other_port_of_the_address() {
    let set = set(&service(ON_VIP, BOTH));
    assert_eq!(sent(&set, WEB, VIP, tcp(80)), "10.0.1.2:8080 10.0.2.1:80");
    assert_eq!(sent(&set, WEB, VIP, tcp(81)), "no_service");
    assert_eq!(sent(&set, WEB, VIP, udp(80)), "no_service");
    assert_eq!(sent(&set, WEB, VIP, FlowProtocol::Sctp { source: 1, destination: 80 }), "no_service");
    assert_eq!(sent(&set, WEB, VIP, FlowProtocol::Icmp { kind: 8 }), "no_service");
    assert_eq!(sent(&set, WEB, VIP, FlowProtocol::Other(47)), "no_service");
    assert_eq!(sent(&set, WEB, DB, tcp(8080)), "direct");
    assert_eq!(sent(&set, WEB, "10.96.0.11", tcp(80)), "direct", "nobody's address");
}

#[test]
fn the_host_reaches_services_by_its_sockets() {
    let set = set(&service(ON_VIP, BOTH));
    assert_eq!(sent(&set, HOST, VIP, tcp(80)), "10.0.1.2:8080 10.0.2.1:80");
    assert_eq!(sent(&set, HOST, VIP, tcp(81)), "no_service");
    assert_eq!(sent(&set, HOST, VIP, udp(80)), "no_service");
    for without in [udp(0), FlowProtocol::Sctp { source: 1, destination: 80 }, FlowProtocol::Icmp { kind: 8 }] {
        assert_eq!(sent(&set, HOST, VIP, without), "direct", "{without:?}");
    }
    let off =
        "apiVersion: weir/v1alpha1\nkind: NodeConfig\nmetadata: {name: c}\nspec: {socketLoadBalancing: false}\n---\n";
    let off = self::set(&format!("{off}{}", service(ON_VIP, BOTH)));
    assert_eq!(sent(&off, HOST, VIP, tcp(80)), "direct");
    assert_eq!(sent(&off, WEB, VIP, tcp(81)), "no_service");
}

#[test]
fn the_port_is_the_targets_or_the_backends_or_the_frontends() {
    let of = |target: &str, backends: &str| {
        let set =
            set(&service(&format!("{{address: 10.96.0.10, port: 80{target}}}"), &format!("backends: [{backends}]")));
        sent(&set, WEB, VIP, tcp(80))
    };
    let (own, bare) = ("{address: 10.0.1.2, port: 8080}", "{address: 10.0.1.2}");
    assert_eq!(of("", own), "10.0.1.2:8080");
    assert_eq!(of("", bare), "10.0.1.2:80");
    assert_eq!(of(", targetPort: 9000", own), "10.0.1.2:9000");
    assert_eq!(of(", targetPort: 9000", bare), "10.0.1.2:9000");
}

#[test]
fn only_active_backends_with_weight_and_of_the_family_get_new_flows() {
    let set = set(&service(
        "{address: 10.96.0.10, port: 80}, {address: 'fd00:96::10', port: 80}",
        "backends: [{address: 10.0.1.1}, {address: 10.0.1.2, state: draining}, {address: 10.0.1.3, state: maintenance}, \
         {address: 10.0.2.1, weight: 0}, {address: 198.51.100.1, weight: 7}, {address: 'fd00::1:2'}]",
    ));
    assert_eq!(sent(&set, DB, VIP, tcp(80)), "10.0.1.1:80 198.51.100.1:80");
    assert_eq!(sent(&set, DB6, VIP6, tcp(80)), "[fd00::1:2]:80");
}

#[test]
fn without_a_backend_of_the_family_there_is_none() {
    let six = set(&service("{address: 'fd00:96::10', port: 80}", BOTH));
    assert_eq!(sent(&six, WEB6, VIP6, tcp(80)), "no_backend");
    for state in ["state: draining", "state: maintenance", "weight: 0"] {
        let set = set(&service(ON_VIP, &format!("backends: [{{address: 10.0.1.2, {state}}}]")));
        assert_eq!(sent(&set, WEB, VIP, tcp(80)), "no_backend", "{state}");
    }
    let Delivery::Dropped(drop) = deliver(&six, WEB6, VIP6, tcp(80)) else { panic!("it is dropped") };
    assert_eq!(drop.service().map(|service| &*service.name), Some("s"));
}

#[test]
fn a_selector_means_endpoints_of_the_namespace_on_every_node() {
    let of = |frontend: &str, selector: &str| {
        let set = set(&service(frontend, &format!("selector: {selector}")));
        (sent(&set, SHOP, VIP, tcp(80)), sent(&set, "fd00::1:3", VIP6, tcp(80)))
    };
    let both =
        |port: &str| format!("{{address: 10.96.0.10, port: 80{port}}}, {{address: 'fd00:96::10', port: 80{port}}}");
    assert_eq!(of(&both(""), "{matchLabels: {app: web}}"), ("10.0.1.1:80".to_owned(), "[fd00::1:1]:80".to_owned()));
    assert_eq!(of(&both(""), "{matchLabels: {'k8s:app': far}}").0, "10.0.2.1:80");
    assert_eq!(of(&both(", targetPort: 99"), "{matchLabels: {tier: back}}").0, "10.0.1.2:99");
    // By name: each endpoint's own, and none where it has none.
    assert_eq!(of(&both(", targetPort: http"), "{}").0, "10.0.1.1:80 10.0.1.2:8080");
    assert_eq!(of(&both(", targetPort: http"), "{matchLabels: {app: far}}").0, "no_backend");
    assert_eq!(of(&both(""), "{matchLabels: {app: nobody}}").0, "no_backend");
    // A name is one of a protocol: `web`'s is of TCP, `db`'s of any.
    let dns = set(&service("{address: 10.96.0.10, port: 80, protocol: UDP, targetPort: http}", "selector: {}"));
    assert_eq!(sent(&dns, WEB, VIP, udp(80)), "10.0.1.2:8080");
}

#[test]
fn policy_is_asked_about_the_backend_and_its_port() {
    let services = service(ON_VIP, BOTH);
    let policy = |selects: &str, body: &str| {
        format!(
            "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: p}}, spec: {{endpointSelector: {{matchLabels: {{app: {selects}}}}}, {body}}}}}\n---\n{services}"
        )
    };
    let to_db =
        "egress: [{toEndpoints: [{matchLabels: {app: db}}], toPorts: [{ports: [{port: '8080', protocol: TCP}]}]}]";
    assert_eq!(sent(&set(&policy("web", to_db)), WEB, VIP, tcp(80)), "10.0.1.2:8080 !10.0.2.1:80");
    let to_frontend = "egress: [{toCIDR: [10.96.0.0/16], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]";
    assert_eq!(sent(&set(&policy("web", to_frontend)), WEB, VIP, tcp(80)), "!10.0.1.2:8080 !10.0.2.1:80");
    let at_db =
        "ingress: [{fromEndpoints: [{matchLabels: {app: web}}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]";
    assert_eq!(sent(&set(&policy("db", at_db)), WEB, VIP, tcp(80)), "!10.0.1.2:8080 10.0.2.1:80");
    // The other node asks its own.
    assert_eq!(sent(&set(&policy("far", at_db)), WEB, VIP, tcp(80)), "10.0.1.2:8080 10.0.2.1:80");
    let Delivery::Balanced { backends, service } = deliver(&set(&policy("db", at_db)), WEB, VIP, tcp(80)) else {
        panic!("it is balanced")
    };
    assert_eq!(&*service.name, "s");
    assert_eq!(backends[0].judgement.ingress.verdict, Verdict::DefaultDeny);
}

#[test]
fn internal_traffic_stays_on_the_node_where_it_must() {
    let only_here = |backends: &str| {
        let set = set(&service(ON_VIP, &format!("internalTrafficPolicy: Local, backends: [{backends}]")));
        sent(&set, WEB, VIP, tcp(80))
    };
    assert_eq!(only_here("{address: 10.0.1.2}, {address: 10.0.2.1}, {address: 192.0.2.2}"), "10.0.1.2:80");
    assert_eq!(only_here("{address: 10.0.2.1}"), "no_backend");
    assert_eq!(only_here("{address: 192.0.2.1}, {address: 192.0.2.9}"), "192.0.2.1:80 192.0.2.9:80", "the host's");
    // The other policy is about whoever is outside.
    let other = set(&service(ON_VIP, &format!("externalTrafficPolicy: Local, {BOTH}")));
    assert_eq!(sent(&other, WEB, VIP, tcp(80)), "10.0.1.2:8080 10.0.2.1:80");
}

const THREE: &str = "{address: 10.96.0.10, port: 80}, {address: 203.0.113.80, port: 80, type: external}, {port: 30080, type: node-port}";

#[test]
fn from_outside_by_node_ports_and_external_addresses() {
    let set = set(&service(THREE, BOTH));
    for outside in [WORLD, REMOTE, FAR] {
        assert_eq!(sent(&set, outside, VIP, tcp(80)), "no_service", "{outside}: for clients inside");
        assert_eq!(sent(&set, outside, EXTERNAL, tcp(80)), "10.0.1.2:8080 10.0.2.1:80", "{outside}");
        assert_eq!(sent(&set, outside, EXTERNAL, tcp(81)), "no_service", "{outside}");
        assert_eq!(sent(&set, outside, HOST, tcp(30080)), "10.0.1.2:8080 10.0.2.1:80", "{outside}");
        assert_eq!(sent(&set, outside, "192.0.2.9", tcp(30080)), "10.0.1.2:8080 10.0.2.1:80", "{outside}");
        assert_eq!(sent(&set, outside, HOST, tcp(80)), "direct", "{outside}: the host's own port");
        assert_eq!(sent(&set, outside, REMOTE, tcp(30080)), "direct", "{outside}: another node's port");
    }
    // An endpoint inside may use all three.
    for (address, port) in [(VIP, 80), (EXTERNAL, 80), (HOST, 30080)] {
        assert_eq!(sent(&set, WEB, address, tcp(port)), "10.0.1.2:8080 10.0.2.1:80");
    }
    assert_eq!(sent(&set, WORLD6, "2001:db8::1", tcp(30080)), "no_backend", "no IPv6 backend");
}

#[test]
fn source_ranges_hold_for_whoever_is_outside() {
    let set = set(&service(THREE, &format!("sourceRanges: [198.51.100.0/25], {BOTH}")));
    let both = "10.0.1.2:8080 10.0.2.1:80";
    for (address, port) in [(EXTERNAL, 80), (HOST, 30080)] {
        assert_eq!(sent(&set, "198.51.100.127", address, tcp(port)), both);
        assert_eq!(sent(&set, "198.51.100.128", address, tcp(port)), "source_range");
        assert_eq!(sent(&set, WEB, address, tcp(port)), both, "inside");
    }
    assert_eq!(sent(&set, "198.51.100.128", VIP, tcp(80)), "no_service", "before any range");
    assert_eq!(sent(&set, WORLD6, "2001:db8::1", tcp(30080)), "source_range", "no range of its family");
}

#[test]
fn external_traffic_stays_on_the_node_where_it_must() {
    let set = set(&service(THREE, &format!("externalTrafficPolicy: Local, sourceRanges: [198.51.0.0/16], {BOTH}")));
    assert_eq!(sent(&set, WORLD, EXTERNAL, tcp(80)), "10.0.1.2:8080");
    assert_eq!(sent(&set, WORLD, HOST, tcp(30080)), "10.0.1.2:8080");
    assert_eq!(sent(&set, WEB, EXTERNAL, tcp(80)), "10.0.1.2:8080 10.0.2.1:80", "from inside");
    let far =
        service(THREE, "externalTrafficPolicy: Local, sourceRanges: [198.51.0.0/16], backends: [{address: 10.0.2.1}]");
    let set = crate::set::set(&far);
    assert_eq!(sent(&set, WORLD, EXTERNAL, tcp(80)), "no_backend");
    assert_eq!(sent(&set, "192.0.2.200", EXTERNAL, tcp(80)), "source_range", "the range is looked at first");
}

#[test]
fn an_address_that_is_also_somebodys_has_other_ports() {
    let frontends = "{address: 192.0.2.1, port: 80, type: external}, {address: 192.0.2.2, port: 80, type: external}, {address: 10.0.1.3, port: 80}";
    let set = set(&service(frontends, BOTH));
    for address in [HOST, REMOTE, SHOP] {
        assert_eq!(sent(&set, WEB, address, tcp(80)), "10.0.1.2:8080 10.0.2.1:80", "{address}");
        assert_eq!(sent(&set, WEB, address, tcp(81)), "direct", "{address}");
        assert_eq!(sent(&set, WEB, address, FlowProtocol::Icmp { kind: 8 }), "direct", "{address}");
    }
}

#[test]
fn neighbour_discovery_is_nobodys_service() {
    let set = set(&service("{address: 'fd00:96::10', port: 80}", "backends: [{address: 'fd00::1:2'}]"));
    assert_eq!(sent(&set, WEB6, VIP6, FlowProtocol::Icmpv6 { kind: 135 }), "direct");
    assert_eq!(sent(&set, WEB6, VIP6, FlowProtocol::Icmpv6 { kind: 128 }), "no_service");
}

#[test]
fn a_sender_finds_the_address_that_is_for_him() {
    let frontends =
        format!("{THREE}, {{address: 203.0.113.81, port: 443, type: external}}, {{port: 443, type: node-port}}");
    let set = set(&service(&frontends, BOTH));
    let world = World::new(&set.objects, "n1", &set.host);
    let service = set.objects.iter().find(|object| object.key.kind.as_ref() == "Service").expect("it is there");
    let found = |port, sender| {
        let addresses = world.addresses_of_service(&service.key, ServiceProtocol::Tcp, port, sender);
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(found(80, Sender::Endpoint), VIP);
    assert_eq!(found(80, Sender::Outside), EXTERNAL);
    assert_eq!(found(443, Sender::Endpoint), "203.0.113.81 2001:db8::1");
    assert_eq!(found(30080, Sender::Outside), "192.0.2.1 2001:db8::1");
    assert_eq!(found(81, Sender::Endpoint), "");
    assert!(world.addresses_of_service(&service.key, ServiceProtocol::Udp, 80, Sender::Endpoint).is_empty());
}

/// A `v1 Service` of `default`, by its `spec`, and slices of it: families, conditions and ports by hand.
fn kubernetes(spec: &str, slices: &[&str]) -> Set {
    let mut text = format!("{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{{spec}}}}}\n");
    for (index, slice) in slices.iter().enumerate() {
        text += &format!(
            "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s-{index}, labels: {{kubernetes.io/service-name: s}}}}, {slice}}}\n"
        );
    }
    set(&text)
}

const WEB_PORT: &str = "ports: [{name: web, port: 80, targetPort: http}]";

fn ipv4(endpoints: &str) -> String {
    format!("addressType: IPv4, ports: [{{name: web, port: 8080}}], endpoints: [{endpoints}]")
}

#[test]
fn of_kubernetes_by_its_slices() {
    let of = |slices: &[&str]| sent(&kubernetes(&format!("clusterIP: {VIP}, {WEB_PORT}"), slices), WEB, VIP, tcp(80));
    let ready = ipv4("{addresses: [10.0.1.2, 10.0.1.99]}, {addresses: [10.0.2.1], conditions: {ready: true}}");
    assert_eq!(of(&[&ready]), "10.0.1.2:8080 10.0.2.1:8080", "the first address of each");
    let twice = ipv4("{addresses: [10.0.1.2]}, {addresses: [10.0.1.1], conditions: {ready: false}}");
    assert_eq!(of(&[&ready, &twice]), "10.0.1.2:8080 10.0.2.1:8080");
    assert_eq!(of(&[&ready.replace("name: web", "name: other")]), "no_backend");
    assert_eq!(of(&[&ready.replace("port: 8080", "port: 8080, protocol: UDP")]), "no_backend");
    assert_eq!(
        of(&["addressType: FQDN, ports: [{name: web, port: 80}], endpoints: [{addresses: [a.example]}]"]),
        "no_backend"
    );
    let six = "addressType: IPv6, ports: [{name: web, port: 80}], endpoints: [{addresses: ['fd00::1:2']}]";
    assert_eq!(of(&[six]), "no_backend");
    let both = kubernetes(&format!("clusterIPs: [{VIP}, '{VIP6}'], {WEB_PORT}"), &[&ready, six]);
    assert_eq!(sent(&both, WEB6, VIP6, tcp(80)), "[fd00::1:2]:80");
    assert_eq!(sent(&both, WEB, VIP, tcp(80)), "10.0.1.2:8080 10.0.2.1:8080");
}

#[test]
fn of_kubernetes_those_who_leave_serve_only_where_nobody_stays() {
    let of = |more: &str, endpoints: &str| {
        sent(&kubernetes(&format!("clusterIP: {VIP}, {WEB_PORT}{more}"), &[&ipv4(endpoints)]), WEB, VIP, tcp(80))
    };
    let leaving = "{addresses: [10.0.2.1], conditions: {ready: false, serving: true, terminating: true}}";
    let gone = "{addresses: [10.0.1.1], conditions: {ready: false}}, {addresses: [10.0.1.3], conditions: {ready: false, serving: false, terminating: true}}";
    assert_eq!(of("", &format!("{leaving}, {gone}, {{addresses: [10.0.1.2]}}")), "10.0.1.2:8080");
    assert_eq!(of("", &format!("{leaving}, {gone}")), "10.0.2.1:8080");
    assert_eq!(of("", gone), "no_backend");
    assert_eq!(of(", publishNotReadyAddresses: true", gone), "10.0.1.1:8080 10.0.1.3:8080");
}

#[test]
fn of_kubernetes_without_slices_by_its_selector() {
    let of = |spec: &str| sent(&kubernetes(&format!("clusterIP: {VIP}, {spec}"), &[]), WEB, VIP, tcp(80));
    assert_eq!(of(&format!("{WEB_PORT}, selector: {{app: db}}")), "10.0.1.2:8080");
    assert_eq!(of("ports: [{port: 80}], selector: {app: db}"), "10.0.1.2:80");
    assert_eq!(of("ports: [{port: 80, targetPort: 99}], selector: {app: db, tier: back}"), "10.0.1.2:99");
    assert_eq!(of(&format!("{WEB_PORT}, selector: {{app: far}}")), "no_backend");
    assert_eq!(of(WEB_PORT), "no_backend");
    // With slices it says nothing.
    let slices = kubernetes(&format!("clusterIP: {VIP}, {WEB_PORT}, selector: {{app: db}}"), &[&ipv4("")]);
    assert_eq!(sent(&slices, WEB, VIP, tcp(80)), "no_backend");
}

#[test]
fn of_kubernetes_addresses_by_its_type() {
    let ports = "ports: [{name: web, port: 80, nodePort: 30080}]";
    let slice = ipv4("{addresses: [10.0.1.2]}, {addresses: [10.0.2.1]}, {addresses: [198.51.100.3], nodeName: n1}");
    let of = |spec: &str, destination: &str, port: u16| {
        let set = kubernetes(&format!("clusterIP: {VIP}, {ports}, {spec}"), &[&slice]);
        [WEB, WORLD].map(|source| sent(&set, source, destination, tcp(port)))
    };
    let all = "10.0.1.2:8080 10.0.2.1:8080 198.51.100.3:8080";
    assert_eq!(of("type: ClusterIP", VIP, 80), [all, "no_service"]);
    assert_eq!(of("type: ClusterIP", HOST, 30080), ["direct", "direct"]);
    assert_eq!(of("type: NodePort", HOST, 30080), [all, all]);
    assert_eq!(of("type: NodePort, loadBalancerIP: 203.0.113.80", EXTERNAL, 80), ["direct", "direct"]);
    assert_eq!(of("type: LoadBalancer, loadBalancerIP: 203.0.113.80", EXTERNAL, 80), [all, all]);
    assert_eq!(of("externalIPs: [203.0.113.80]", EXTERNAL, 80), [all, all]);
    assert_eq!(of("externalIPs: [203.0.113.80]", EXTERNAL, 443), ["no_service", "no_service"]);
    let local = "type: NodePort, externalTrafficPolicy: Local";
    assert_eq!(of(local, HOST, 30080), [all, "10.0.1.2:8080 198.51.100.3:8080"], "the slice says who is here");
    assert_eq!(of("internalTrafficPolicy: Local", VIP, 80)[0], "10.0.1.2:8080 198.51.100.3:8080");
    let ranges = "type: NodePort, loadBalancerSourceRanges: [192.0.2.0/24]";
    assert_eq!(of(ranges, HOST, 30080), [all, "source_range"]);
    assert_eq!(of("type: ExternalName", VIP, 80), ["direct", "direct"]);
    let headless = kubernetes(&format!("clusterIP: None, {ports}, type: NodePort"), &[&slice]);
    assert_eq!(sent(&headless, WORLD, HOST, tcp(30080)), "direct");
}
