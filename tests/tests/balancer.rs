//! The load balancer's fast path between real sockets: a client, the node, and a backend on another machine of one
//! network (scenario 13).
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use weir_tests::node::{
    CLIENT, ENDPOINTS, HOST, Node, UPLINK, eventually,
    kernel::{self, ForeignProgram},
    tool,
};

const FAR: [&str; 2] = ["192.0.2.20", "2001:db8:0:1::20"];
const EXCHANGES: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(20);

fn manifests(acceleration: &str) -> String {
    ENDPOINTS
        .replace("spec:\n  limits:", &format!("spec:\n  loadBalancer: {{acceleration: {acceleration}}}\n  limits:"))
}

fn service() -> String {
    format!(
        "apiVersion: weir/v1alpha1\nkind: Service\nmetadata: {{name: app}}\nspec:\n  frontends: [{{port: 30080, type: \
         node-port}}]\n  backends: [{{address: {}, port: 8080}}, {{address: '{}', port: 8080}}]\n",
        FAR[0], FAR[1]
    )
}

/// In place of the cable to the client: a bridge with the node, the client and the backend's machine.
fn network(node: &Node) {
    node.ip("netns add lan");
    node.ip("netns add far");
    node.ip(&format!("link del {UPLINK}"));
    node.ip("-netns lan link add br0 type bridge");
    node.ip("-netns lan link set br0 up");
    let [host4, host6] = HOST;
    node.ip(&format!("link add {UPLINK} type veth peer name port0 netns lan"));
    node.ip(&format!("address add {host4}/24 dev {UPLINK}"));
    node.ip(&format!("-6 address add {host6}/64 dev {UPLINK} nodad"));
    node.ip(&format!("link set {UPLINK} up"));
    for (at, netns, [v4, v6]) in [(1, "client", CLIENT), (2, "far", FAR)] {
        node.ip(&format!("-netns {netns} link add eth0 type veth peer name port{at} netns lan"));
        node.ip(&format!("-netns {netns} link set lo up"));
        node.ip(&format!("-netns {netns} address add {v4}/24 dev eth0"));
        node.ip(&format!("-netns {netns} -6 address add {v6}/64 dev eth0 nodad"));
        node.ip(&format!("-netns {netns} link set eth0 up"));
        // What is sent has its checksums, as on a cable.
        ethtool(node, netns, "-K eth0 tx off");
    }
    for at in 0..3 {
        node.ip(&format!("-netns lan link set port{at} master br0"));
        node.ip(&format!("-netns lan link set port{at} up"));
    }
    // A veth takes frames from XDP only where its other end runs XDP, too.
    node.inside("lan", || ForeignProgram::xdp().attach_xdp("port0")).join().unwrap();
}

fn ethtool(node: &Node, netns: &str, words: &'static str) {
    let ran = node.inside(netns, move || tool("ethtool", words)).join().unwrap();
    assert!(ran.status.success(), "{ran}");
}

/// Packets that the node's stack has forwarded, of either family.
fn forwarded() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == "ForwDatagrams").unwrap();
    let v4: u64 = values.split(' ').nth(at).unwrap().parse().unwrap();
    let text = fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
    let v6 = text.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams")).unwrap();
    v4 + v6.trim().parse::<u64>().unwrap()
}

/// Packets that Weir has counted as forwarded, at both hooks.
fn counted(node: &Node) -> u64 {
    let map = kernel::table_pin(node, "METRICS");
    let dump = kernel::bpftool(&format!("map dump pinned {}", map.display()));
    let slots = dump.as_array().unwrap().iter().take(2);
    let packets = |cpu: &serde_json::Value| {
        let bytes = cpu["value"].as_array().unwrap().iter().take(8);
        let bytes: Vec<u8> = bytes
            .map(|byte| u8::from_str_radix(byte.as_str().unwrap().trim_start_matches("0x"), 16).unwrap())
            .collect();
        u64::from_ne_bytes(bytes.try_into().unwrap())
    };
    slots.flat_map(|slot| slot["values"].as_array().unwrap()).map(packets).sum()
}

/// A connection from the client to the node port, and its end at the backend.
fn connect(node: &Node, family: usize) -> (TcpStream, TcpStream) {
    let any: IpAddr = if family == 0 { [0; 4].into() } else { [0; 16].into() };
    let listener = node.inside("far", move || TcpListener::bind((any, 8080))).join().unwrap();
    let listener = listener.unwrap();
    let to = SocketAddr::new(HOST[family].parse().unwrap(), 30080);
    let client = eventually("a connection is made", || {
        node.inside("client", move || TcpStream::connect_timeout(&to, PATIENCE).ok()).join().unwrap()
    });
    let (server, from) = listener.accept().unwrap();
    assert_eq!(from.ip().to_canonical().to_string(), HOST[family], "the backend sees the node");
    for end in [&client, &server] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
        end.set_nodelay(true).unwrap();
    }
    (client, server)
}

/// The packets that the node's stack forwarded, and that Weir counted, for so many messages there and back.
fn exchange(node: &Node, family: usize) -> (u64, u64) {
    let (client, server) = connect(node, family);
    let before = (forwarded(), counted(node));
    for message in 0..EXCHANGES {
        let mut bytes = [0; 8];
        for (mut from, mut to) in [(&client, &server), (&server, &client)] {
            from.write_all(&message.to_be_bytes()).unwrap();
            to.read_exact(&mut bytes).unwrap_or_else(|error| panic!("message {message}: {error}"));
            assert_eq!(u64::from_be_bytes(bytes), message);
        }
    }
    // Segments as long as the network takes them.
    let bulk = vec![7; 1 << 20];
    let sender = std::thread::spawn(move || {
        (&client).write_all(&bulk).unwrap();
        client
    });
    let mut received = vec![0; 1 << 20];
    (&server).read_exact(&mut received).unwrap();
    assert!(received.iter().all(|byte| *byte == 7));
    drop(sender.join().unwrap());
    (forwarded() - before.0, counted(node) - before.1)
}

fn accelerated(mode: &'static str) {
    Node::run(move |node| {
        network(node);
        node.write("service.yaml", &service());
        node.write("endpoints.yaml", &manifests("disabled"));
        node.apply();
        assert_eq!(kernel::xdp_on(UPLINK), None);
        for family in 0..2 {
            let (by_the_stack, counted) = exchange(node, family);
            assert!(by_the_stack >= 2 * EXCHANGES, "{by_the_stack} of IPv{}", 4 + 2 * family);
            assert!(counted >= 4 * EXCHANGES, "{counted}");
        }
        node.write("endpoints.yaml", &manifests(mode));
        node.apply();
        assert!(kernel::xdp_on(UPLINK).is_some());
        let status = node.expect(0, &["status", "-o", "json"]).json();
        let is_xdp = |one: &&serde_json::Value| one["program"] == "xdp_ingress";
        let attachment = status["attachments"].as_array().unwrap().iter().find(is_xdp).unwrap().clone();
        assert_eq!(attachment["mode"], format!("xdp {mode}"), "{attachment}");
        for family in 0..2 {
            let (by_the_stack, counted) = exchange(node, family);
            assert!(counted >= 4 * EXCHANGES, "{counted}");
            // The handshake's end, and one to each next hop in ten seconds.
            assert!(by_the_stack < EXCHANGES / 2, "{by_the_stack} of IPv{}", 4 + 2 * family);
        }
        node.expect(0, &["diff", "-f", "."]);
        node.write("endpoints.yaml", &manifests("disabled"));
        node.apply();
        assert_eq!(kernel::xdp_on(UPLINK), None);
        assert!(exchange(node, 0).0 >= 2 * EXCHANGES);
    });
}

#[test]
fn scenario_13_native_xdp_serves_a_backend_elsewhere() {
    accelerated("native");
}

/// The prefilter and the balancer are one program; a foreign one is a conflict, whichever is asked for.
#[test]
fn a_foreign_xdp_program_keeps_its_place() {
    Node::run(|node| {
        let foreign = ForeignProgram::xdp();
        foreign.attach_xdp(UPLINK);
        node.write("service.yaml", &service());
        node.write("endpoints.yaml", &manifests("auto"));
        node.expect(75, &["apply", "-f", "."]);
        assert_eq!(kernel::xdp_on(UPLINK), Some(foreign.id()));
    });
}
