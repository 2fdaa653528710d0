//! The router of a node's endpoints: what they and the host see of it, and what ends there.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use weir_tests::node::{DB, ENDPOINTS, HOST, Node, ROUTER, Ran, UPLINK, WEB, eventually, metrics::scrape, tool};

/// Addresses in the endpoints' ranges that nobody has.
const NOBODY: [&str; 2] = ["10.10.0.77", "fd00:10::77"];

/// Only the host may speak to web, and web to nobody.
const POLICY: &str = r"
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress: [{fromEntities: [host]}]
";

fn endpoints() -> String {
    let addresses = format!("addresses: [{}, '{}'", HOST[0], HOST[1]);
    let [v4, v6] = ROUTER;
    let more = format!("{addresses}, {v4}, '{v6}']\n  routerAddresses: [{v4}, '{v6}'");
    let text = ENDPOINTS.replace(&addresses, &more);
    assert_ne!(text, ENDPOINTS);
    text
}

/// Run in `netns`, at most three times: the first packet may wait for the link.
fn ping(node: &Node, netns: &str, words: &str) -> Ran {
    let words = words.to_owned();
    let pinging = node.inside(netns, move || {
        let ran = tool("ping", &format!("-n -c1 -W1 {words}"));
        if ran.status.success() || ran.stdout.contains("From ") {
            ran
        } else {
            tool("ping", &format!("-n -c2 -W1 {words}"))
        }
    });
    pinging.join().unwrap()
}

/// Who a datagram from the host to `to` says that it is from.
fn host_speaks_to(node: &Node, netns: &str, to: &str) -> String {
    let to = SocketAddr::new(to.parse().unwrap(), 9000);
    let server = node.inside(netns, move || UdpSocket::bind(("::", 9000)).unwrap()).join().unwrap();
    server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let client =
        node.inside("node", move || UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap());
    let client = client.join().unwrap();
    let from = eventually("the host is heard", || {
        client.send_to(b"hello", to).unwrap();
        server.recv_from(&mut [0; 16]).ok()
    });
    from.1.ip().to_canonical().to_string()
}

fn unknown(node: &Node) -> f64 {
    scrape(node).get("weir_packets_total", &[("reason", "unknown_destination"), ("direction", "egress")])
}

#[test]
fn endpoints_and_the_host_meet_the_router() {
    Node::run(|node| {
        node.write("endpoints.yaml", &endpoints());
        node.write("policy.yaml", POLICY);
        node.apply();
        assert_eq!(node.plan()["summary"]["writes"], 0);
        for family in 0..2 {
            let (router, web, db) = (ROUTER[family], WEB[family], DB[family]);
            let answered = ping(node, "db", router);
            assert!(answered.status.success(), "{answered}");
            // The gateway of an endpoint is who tells it of a packet that lives no longer.
            let too_far = ping(node, "web", &format!("-t1 {db}"));
            assert!(too_far.stdout.contains(&format!("From {router}")), "{too_far}");
            // The host's policy and everybody else's know it as the host.
            assert_eq!(host_speaks_to(node, "web", web), router);
            let refused = ping(node, "db", &format!("-W1 {web}"));
            assert!(!refused.status.success(), "{refused}");
        }
        let gateways =
            tool("ip", "-n web route show default").stdout + &tool("ip", "-n web -6 route show default").stdout;
        assert!(ROUTER.iter().all(|router| gateways.contains(&format!("via {router} "))), "{gateways}");
    });
}

#[test]
fn what_is_for_nobody_ends_at_the_router_and_is_counted() {
    Node::run(|node| {
        node.write("endpoints.yaml", &endpoints());
        let agent = node.agent(&[]);
        eventually("it follows the source", || (agent.status()["state"] == "converged").then_some(()));
        // Without the router, they would go where the node's default route goes.
        node.ip(&format!("route add default via 192.0.2.10 dev {UPLINK}"));
        for nobody in NOBODY {
            for netns in ["web", "client", "node"] {
                let before = unknown(node);
                let ran = ping(node, netns, nobody);
                assert!(!ran.status.success(), "{ran}");
                let after = eventually("counted", || Some(unknown(node)).filter(|after| *after > before));
                // The host's own sender is told that it was dropped, and tries again.
                assert!(after - before <= 3.0 || netns == "node", "{netns}: {before} {after}");
            }
        }
        // What is somebody's is not.
        let before = unknown(node);
        for address in WEB.iter().chain(&DB) {
            assert!(ping(node, "client", address).status.success());
        }
        assert_eq!(unknown(node), before);
    });
}

#[test]
fn the_router_comes_changes_and_goes_with_its_manifest() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        node.apply();
        assert!(!tool("ip", "link").stdout.contains("weir_host"));
        node.write("endpoints.yaml", &endpoints());
        let plan = node.expect(1, &["diff", "-f", "."]).stdout;
        let shown = format!("router {}, {} for 10.10.0.0/24, fd00:10::/64", ROUTER[0], ROUTER[1]);
        assert!(plan.contains(&shown) && plan.contains("weir_host from_host"), "{plan}");
        node.apply();

        node.ip("link delete weir_host");
        let plan = node.expect(1, &["diff", "-f", "."]).stdout;
        assert!(plan.contains("! ") && plan.contains("weir_host"), "{plan}");
        node.apply();
        assert!(ping(node, "web", ROUTER[0]).status.success());

        let moved = endpoints().replace(ROUTER[0], "10.10.0.254");
        node.write("endpoints.yaml", &moved);
        node.apply();
        assert!(ping(node, "web", "10.10.0.254").status.success());
        assert!(!ping(node, "web", ROUTER[0]).status.success());
        assert_eq!(host_speaks_to(node, "db", DB[0]), "10.10.0.254");

        node.write("endpoints.yaml", ENDPOINTS);
        node.apply();
        assert!(!tool("ip", "link").stdout.contains("weir_"));
        assert_eq!(host_speaks_to(node, "db", DB[1]), HOST[1]);
        assert!(ping(node, "web", DB[0]).status.success());
        assert_eq!(node.plan()["summary"]["writes"], 0);

        node.write("endpoints.yaml", &endpoints());
        node.apply();
        node.expect(0, &["uninstall"]);
        assert!(!tool("ip", "link").stdout.contains("weir_"));
        assert!(!tool("ip", "route").stdout.contains("10.10.0.0/24"));
    });
}
