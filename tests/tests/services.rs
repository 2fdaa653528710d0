//! Services and masquerade between real sockets: an endpoint, the outside, and what either sees of the other
//! (scenarios 13, 14, 17, 20 and 21).
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use weir_tests::node::{CLIENT, DB, ENDPOINTS, HOST, Node, WEB, eventually, rounds};

const VIP: [&str; 2] = ["10.96.0.10", "fd00:96::10"];
const EXTERNAL: [&str; 2] = ["203.0.113.80", "2001:db8:80::80"];
const PATIENCE: Duration = Duration::from_secs(10);

/// TCP and UDP port 80 of the cluster address and of an external one, and node port 30080, to these backends.
fn service(backends: &str) -> String {
    let mut text = "apiVersion: weir/v1alpha1\nkind: Service\nmetadata: {name: app}\nspec:\n  frontends:\n".to_owned();
    for protocol in ["TCP", "UDP"] {
        for address in VIP {
            text += &format!("  - {{address: '{address}', port: 80, protocol: {protocol}, targetPort: 8080}}\n");
        }
        for address in EXTERNAL {
            text += &format!(
                "  - {{address: '{address}', port: 80, protocol: {protocol}, type: external, targetPort: 8080}}\n"
            );
        }
        text += &format!("  - {{port: 30080, protocol: {protocol}, type: node-port, targetPort: 8080}}\n");
    }
    text + backends
}

fn to_db() -> String {
    format!("  backends: [{{address: {}}}, {{address: '{}'}}]\n", DB[0], DB[1])
}

fn node(service: &str) -> impl FnOnce(&Node) + use<> {
    let service = service.to_owned();
    move |node| {
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("service.yaml", &service);
        node.apply();
    }
}

/// Answers each connection and datagram with whom it came from, until it is dropped.
struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start(node: &Node, netns: &str, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let bound = node.inside(netns, move || {
            let tcp = TcpListener::bind(("::", port)).unwrap();
            tcp.set_nonblocking(true).unwrap();
            let udp = UdpSocket::bind(("::", port)).unwrap();
            udp.set_nonblocking(true).unwrap();
            (tcp, udp)
        });
        let (tcp, udp) = bound.join().unwrap();
        let serve = {
            let stop = stop.clone();
            move || {
                let mut buffer = [0; 64];
                while !stop.load(Ordering::Relaxed) {
                    let mut idle = true;
                    if let Ok((mut connection, from)) = tcp.accept() {
                        let _ = connection.write_all(canonical(from).to_string().as_bytes());
                        idle = false;
                    }
                    if let Ok((_, from)) = udp.recv_from(&mut buffer) {
                        let _ = udp.send_to(canonical(from).to_string().as_bytes(), from);
                        idle = false;
                    }
                    if idle {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
            }
        };
        Self { stop, threads: vec![std::thread::spawn(serve)] }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What a server at the other end of a connection takes the client for, and what the client took for its own address.
fn ask_tcp(node: &Node, netns: &str, to: SocketAddr) -> io::Result<(SocketAddr, SocketAddr)> {
    let asked = node.inside(netns, move || {
        let mut connection = TcpStream::connect_timeout(&to, PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        assert_eq!(connection.peer_addr()?, to);
        let mut text = String::new();
        connection.read_to_string(&mut text)?;
        Ok((text.parse().unwrap(), connection.local_addr()?))
    });
    asked.join().unwrap()
}

fn ask_udp(node: &Node, netns: &str, to: SocketAddr) -> io::Result<(SocketAddr, SocketAddr)> {
    let asked = node.inside(netns, move || {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0))?;
        // Only answers from there are taken, and errors are told.
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(b"who am I?")?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        Ok((std::str::from_utf8(&buffer[..length]).unwrap().parse().unwrap(), socket.local_addr()?))
    });
    asked.join().unwrap()
}

type Ask = fn(&Node, &str, SocketAddr) -> io::Result<(SocketAddr, SocketAddr)>;

const ASKS: [Ask; 2] = [ask_tcp, ask_udp];

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

#[test]
fn scenario_13_an_endpoint_reaches_a_local_backend_by_its_service() {
    Node::run(|node| {
        self::node(&service(&to_db()))(node);
        let _server = Server::start(node, "db", 8080);
        for (family, vip) in VIP.into_iter().enumerate() {
            for ask in ASKS {
                let (seen, own) = eventually("the service answers", || ask(node, "web", at(vip, 80)).ok());
                assert_eq!(seen, own, "the backend sees the client itself");
                assert_eq!(seen.ip().to_string(), WEB[family]);
            }
        }
        let flows = node.expect(0, &["get", "flows", "-o", "json", "--address", VIP[0]]).json();
        let flow = &flows["items"][0];
        assert_eq!(flow["frontend"], format!("{}:80", VIP[0]), "{flow}");
        assert_eq!(flow["destination"], DB[0]);
    });
}

#[test]
fn scenario_19_an_endpoint_reaches_its_own_service() {
    Node::run(|node| {
        self::node(&service(&to_db()))(node);
        let _server = Server::start(node, "db", 8080);
        for (vip, loopback) in VIP.into_iter().zip(["169.254.42.1", "fd57:6569:7200::1"]) {
            for ask in ASKS {
                let (seen, own) = eventually("the service answers", || ask(node, "db", at(vip, 80)).ok());
                assert_eq!((seen.ip().to_string(), seen.port()), (loopback.to_owned(), own.port()));
            }
        }
    });
}

#[test]
fn scenario_20_a_client_outside_reaches_node_port_and_external_address() {
    Node::run(|node| {
        self::node(&service(&to_db()))(node);
        let _server = Server::start(node, "db", 8080);
        for family in 0..2 {
            for frontend in [at(HOST[family], 30080), at(EXTERNAL[family], 80)] {
                for ask in ASKS {
                    let (seen, own) = eventually("the service answers", || ask(node, "client", frontend).ok());
                    assert_eq!(seen, own, "{frontend}: the backend sees the client itself");
                }
            }
            // The cluster's own address is nobody's outside, and other ports are closed.
            for closed in [at(VIP[family], 80), at(EXTERNAL[family], 81)] {
                let refused = node.inside("client", move || {
                    TcpStream::connect_timeout(&closed, Duration::from_millis(300)).map(drop)
                });
                assert!(refused.join().unwrap().is_err(), "{closed}");
            }
        }
    });
}

/// What a prefilter passes is served as without it, however it is attached.
#[test]
fn scenario_20_a_prefilter_leaves_services_to_tc() {
    for mode in ["generic", "native"] {
        Node::run(move |node| {
            node.write(
                "filter.yaml",
                &format!(
                    "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: drop}}\nspec:\n  \
                     interfaces: [uplink0]\n  cidrs: [198.51.100.0/24]\n  mode: {mode}\n"
                ),
            );
            self::node(&service(&to_db()))(node);
            let _server = Server::start(node, "db", 8080);
            for family in 0..2 {
                for frontend in [at(HOST[family], 30080), at(EXTERNAL[family], 80)] {
                    for ask in ASKS {
                        let (seen, own) = eventually("the service answers", || ask(node, "client", frontend).ok());
                        assert_eq!(seen, own, "{mode}, {frontend}");
                    }
                }
            }
        });
    }
}

#[test]
fn scenario_14_without_a_backend_a_client_is_refused_at_once() {
    Node::run(|node| {
        self::node(&service("  backends: [{address: 10.10.0.77, state: maintenance}]\n"))(node);
        for (family, vip) in VIP.into_iter().enumerate() {
            for ask in ASKS {
                for (netns, to) in [("web", at(vip, 80)), ("client", at(HOST[family], 30080))] {
                    let error = eventually("it is refused", || match ask(node, netns, to) {
                        // Neighbours are being resolved.
                        Err(error) if error.kind() == io::ErrorKind::HostUnreachable => None,
                        outcome => Some(outcome.unwrap_err()),
                    });
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{netns} to {to}: {error}");
                }
            }
        }
    });
}

#[test]
fn trace_and_diff_look_behind_a_frontend() {
    Node::run(|node| {
        let both =
            format!("  sourceRanges: [192.0.2.0/24]\n  backends: [{{address: {}}}, {{address: {}}}]\n", DB[0], WEB[0]);
        self::node(&service(&both))(node);
        let shut = "apiVersion: weir/v1alpha1\nkind: NetworkPolicy\nmetadata: {name: shut}\nspec: {endpointSelector: \
            {matchLabels: {app: db}}, ingressDeny: [{toPorts: [{ports: [{port: 8080, protocol: TCP}]}]}]}\n";
        node.write("shut.yaml", shut);
        let text = node.expect(1, &["diff", "-f", ".", "--flows"]).stdout;
        for line in [
            "  world -> 203.0.113.80 tcp/80  (Service default/app)\n    - deny (source_range)",
            "  default/app=db (10.10.0.3) -> 10.96.0.10 tcp/80  (Service default/app)\n",
        ] {
            assert!(!text.contains(line), "{line}: {text}");
        }
        let web = "  default/app=web (10.10.0.2) -> 10.96.0.10 tcp/80  (Service default/app)\n    - allow via \
            10.10.0.2:8080, 10.10.0.3:8080 by no rule\n    + allow via 10.10.0.2:8080 by no rule; deny via \
            10.10.0.3:8080 by NetworkPolicy default/shut spec.ingressDeny[0].toPorts[0].ports[0] (shut.yaml:4)\n";
        assert!(text.contains(web), "{text}");
        node.apply();
        let trace = |from: &str, to: &str, port: &str| node.expect(0, &["trace", from, to, port]).stdout;
        let text = trace("web", VIP[0], "tcp/80");
        for needle in [
            "service  Service default/app  one of 2 backends  service.yaml:1\n",
            "backend  port 8080 of Endpoint default/web (10.10.0.2)",
            ", the client itself: nobody is asked\n  allowed\n",
            "  ingress  deny          NetworkPolicy default/shut",
            "  dropped\nvaries, by the backend\n",
        ] {
            assert!(text.contains(needle), "{needle}: {text}");
        }
        for (from, to, port, reason) in [
            ("198.51.100.7", EXTERNAL[0], "tcp/80", "source_range"),
            ("web", VIP[0], "tcp/81", "no_service"),
            ("web", VIP[1], "tcp/80", "no_backend"),
            ("192.0.2.10", VIP[0], "tcp/80", "no_service"),
        ] {
            let text = trace(from, to, port);
            let service = format!("service  Service default/app  {reason}  service.yaml:1\ndropped\n");
            assert!(text.ends_with(&service), "{text}");
        }
        let agent = node.agent(&[]);
        eventually("the agent converges", || {
            node.weir(&["status", "-o", "json"]).stdout.contains("\"converged\"").then_some(())
        });
        let json = node.expect(0, &["trace", "192.0.2.10", HOST[0], "tcp/30080", "-o", "json"]).json();
        assert_eq!((&json["verdict"], &json["service"]["object"]["name"]), (&"varies".into(), &"app".into()), "{json}");
        let verdict = |at: usize| json["service"]["backends"][at]["verdict"].as_str();
        assert_eq!((verdict(0), verdict(1)), (Some("allowed"), Some("dropped")), "{json}");
        assert!(agent.stop().success());
        node.write("service.yaml", &service("  selector: {matchLabels: {app: nobody}}\n"));
        let json = node.expect(1, &["diff", "-f", ".", "--flows", "-o", "json"]).json();
        let flows = json["flows"].as_array().unwrap();
        let to_vip = |flow: &&serde_json::Value| {
            flow["to"] == VIP[0] && flow["protocol"] == "udp" && flow["from"] == "default/app=web (10.10.0.2)"
        };
        let flow = flows.iter().find(to_vip).unwrap_or_else(|| panic!("{json}"));
        assert_eq!((&flow["before"]["verdict"], &flow["after"]["reason"]), (&"varies".into(), &"no_backend".into()));
    });
}

#[test]
fn scenario_21_endpoints_leave_under_the_nodes_address_but_to_exempt_networks() {
    Node::run(|node| {
        let masquerading = |more: &str| {
            ENDPOINTS.replace("spec:\n  limits:", &format!("spec:\n  masquerade: {{enabled: true{more}}}\n  limits:"))
        };
        node.write("endpoints.yaml", &masquerading(""));
        node.apply();
        let _server = Server::start(node, "client", 9000);
        for family in 0..2 {
            for ask in ASKS {
                let (seen, own) = eventually("it answers", || ask(node, "web", at(CLIENT[family], 9000)).ok());
                assert_eq!((seen.ip().to_string(), own.ip().to_string()), (HOST[family].into(), WEB[family].into()));
                assert!(seen.port() >= 61_000, "{seen}");
            }
        }
        node.write("endpoints.yaml", &masquerading(", exclude: [192.0.2.0/24, '2001:db8:0:1::/64']"));
        node.apply();
        node.ip("-netns client route add 10.10.0.0/24 via 192.0.2.1");
        for client in CLIENT {
            for ask in ASKS {
                let (seen, own) = eventually("it answers", || ask(node, "web", at(client, 9000)).ok());
                assert_eq!(seen, own);
            }
        }
    });
}

#[test]
fn scenario_13_a_backend_elsewhere_answers_to_the_node() {
    Node::run(|node| {
        // Another machine on the client's network, by another device of the node's.
        node.ip("netns add far");
        node.ip("link add uplink1 type veth peer name eth0 netns far");
        node.ip("address add 198.51.100.1/24 dev uplink1");
        node.ip("-6 address add 2001:db8:0:2::1/64 dev uplink1 nodad");
        node.ip("link set uplink1 up");
        node.ip("-netns far link set lo up");
        node.ip("-netns far address add 198.51.100.9/24 dev eth0");
        node.ip("-netns far -6 address add 2001:db8:0:2::9/64 dev eth0 nodad");
        node.ip("-netns far link set eth0 up");
        let far = ["198.51.100.9", "2001:db8:0:2::9"];
        self::node(&service(&format!("  backends: [{{address: {}}}, {{address: '{}'}}]\n", far[0], far[1])))(node);
        let _server = Server::start(node, "far", 8080);
        let lent = ["198.51.100.1", "2001:db8:0:2::1"];
        for family in 0..2 {
            for ask in ASKS {
                // It has no way to the client but by the node.
                let (seen, _) =
                    eventually("the service answers", || ask(node, "client", at(EXTERNAL[family], 80)).ok());
                assert_eq!(seen.ip().to_string(), lent[family]);
            }
        }
    });
}

#[test]
fn scenario_17_a_connection_to_a_draining_backend_goes_on() {
    Node::run(|node| {
        let backends = |state: &str| {
            service(&format!(
                "  backends: [{{address: {}, state: {state}}}, {{address: '{}'}}, {{address: {}}}]\n",
                DB[0], DB[1], WEB[0]
            ))
        };
        self::node(&backends("active").replace(&format!(", {{address: {}}}", WEB[0]), ""))(node);
        let accept = node.inside("db", || TcpListener::bind("0.0.0.0:8080").unwrap()).join().unwrap();
        let to = at(EXTERNAL[0], 80);
        let mut client = eventually("a connection is made", || {
            node.inside("client", move || TcpStream::connect_timeout(&to, PATIENCE).ok()).join().unwrap()
        });
        let (mut server, _) = accept.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let mut exchange = || {
            client.write_all(b"there")?;
            server.write_all(b"back")?;
            server.read_exact(&mut [0; 5])?;
            client.read_exact(&mut [0; 4])
        };
        exchange().unwrap();
        node.write("service.yaml", &backends("draining"));
        node.apply();
        exchange().expect("a draining backend keeps its connections");
        let _other = Server::start(node, "web", 8080);
        for _ in 0..16 {
            eventually("the other answers", || ask_tcp(node, "client", at(EXTERNAL[0], 80)).ok());
        }
        node.write("service.yaml", &backends("maintenance"));
        node.apply();
        assert!(exchange().is_err(), "a backend that is gone has none");
    });
}

/// With an agent and without one: frontends, backends, the flows of each, and what is skipped.
#[test]
fn get_services_and_backends_count_live_flows() {
    Node::run(|node| {
        let more = "---\napiVersion: v1\nkind: Service\nmetadata: {name: headless}\nspec: {clusterIP: None}\n";
        let away = format!(
            "  backends: [{{address: {}}}, {{address: '{}'}}, {{address: 10.10.0.77, state: draining}}]\n",
            DB[0], DB[1]
        );
        // Flows that none of the looks outlives.
        node.write(
            "endpoints.yaml",
            &ENDPOINTS.replace("spec:\n  limits:", "spec:\n  timeouts: {other: 1h}\n  limits:"),
        );
        node.write("service.yaml", &(service(&away) + more));
        node.apply();
        let _server = Server::start(node, "db", 8080);
        for to in [at(VIP[0], 80), at(VIP[0], 80), at(VIP[1], 80)] {
            eventually("the service answers", || ask_udp(node, "web", to).ok());
        }
        eventually("the service answers", || ask_udp(node, "client", at(HOST[0], 30080)).ok());
        let listed = || {
            let flows = node.expect(0, &["get", "flows", "-o", "json", "--protocol", "udp"]).json();
            let flows: Vec<_> = flows["items"].as_array().unwrap().iter().map(|f| f["frontend"].clone()).collect();
            let came_by = |frontend: &str| flows.iter().filter(|one| **one == *frontend).count() as u64;
            assert!(came_by("10.96.0.10:80") >= 2 && came_by("[fd00:96::10]:80") >= 1, "{flows:?}");

            let services = node.expect(0, &["get", "services", "-o", "json"]).json();
            let [one] = &services["items"].as_array().unwrap()[..] else { panic!("{services}") };
            assert_eq!((&one["name"], &one["algorithm"], &one["line"]), (&"app".into(), &"random".into(), &1.into()));
            assert_eq!(one["flows"], flows.iter().filter(|frontend| frontend.is_string()).count());
            assert_eq!(one["frontends"].as_array().unwrap().len(), 12, "{one}");
            for (frontend, kind) in [
                ("10.96.0.10:80", "cluster"),
                ("[fd00:96::10]:80", "cluster"),
                ("203.0.113.80:80", "external"),
                ("192.0.2.1:30080", "node-port"),
            ] {
                let is_it = |found: &&serde_json::Value| found["frontend"] == frontend && found["protocol"] == "udp";
                let found = one["frontends"].as_array().unwrap().iter().find(is_it).unwrap();
                assert_eq!((&found["type"], &found["flows"]), (&kind.into(), &came_by(frontend).into()), "{found}");
            }
            assert_eq!(services["skipped"][0]["object"]["name"], "headless", "{services}");

            let backends = node.expect(0, &["get", "backends", "app", "-o", "json"]).json();
            let of = |name: &str| {
                let all = backends["items"].as_array().unwrap();
                let found = all.iter().find(|one| one["name"] == name && one["protocol"] == "udp").unwrap();
                (found["state"].clone(), found["local"].clone(), found["weight"].clone(), found["flows"].clone())
            };
            let v4 = came_by("10.96.0.10:80") + came_by("192.0.2.1:30080");
            assert_eq!(of("10.10.0.3:8080"), ("active".into(), true.into(), 1.into(), v4.into()));
            let v6 = came_by("[fd00:96::10]:80");
            assert_eq!(of("[fd00:10::3]:8080"), ("active".into(), true.into(), 1.into(), v6.into()));
            assert_eq!(of("10.10.0.77:8080"), ("draining".into(), false.into(), 1.into(), 0.into()));

            let text = node.expect(0, &["get", "services"]).stdout;
            let is_it = |line: &&str| line.contains(" udp ") && line.contains("192.0.2.1:30080");
            let line = text.lines().find(is_it).unwrap_or_default();
            assert!(line.contains("node-port") && line.contains(" 1/2 ") && line.ends_with("service.yaml:1"), "{text}");
            let last = text.lines().last().unwrap();
            assert!(last.starts_with("skipped: Service default/headless: it is headless"), "{text}");
            let names = |what: &str| node.expect(0, &["get", what, "-o", "name"]).stdout;
            assert_eq!(names("services"), "services/app\n");
            assert!(names("backends").lines().any(|line| line == "backends/[fd00:10::3]:8080"));
            let none = node.expect(0, &["get", "backends", "other", "-o", "json"]).json();
            assert_eq!(none["items"].as_array().unwrap().len(), 0);
        };
        listed();
        let agent = node.agent(&[]);
        eventually("it converges", || (agent.status()["state"] == "converged").then_some(()));
        listed();
        assert!(agent.stop().success());
    });
}

/// Every connection is made while its service changes from one backend to the next: the former drains for some commits,
/// and is gone after them. On a busy machine a client may sleep through all of that between two packets of a handshake:
/// its connection, which was made, is then one of a backend that is gone.
#[test]
fn a_client_in_a_loop_is_never_refused_while_backends_are_swapped() {
    Node::run(|node| {
        let ports = [8080, 8081, 8082, 8083, 8084];
        let swapped = |swap: usize| {
            let to = |age: usize, state| {
                let port = ports[(swap + ports.len() - age) % ports.len()];
                format!("{{address: {}, port: {port}, state: {state}}}", DB[0])
            };
            let former: Vec<String> = (1..4).map(|age| to(age, "draining")).collect();
            service(&format!("  backends: [{}, {}]\n", to(0, "active"), former.join(", ")))
                .replace(", targetPort: 8080", "")
        };
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("service.yaml", &swapped(0));
        let _servers = ports.map(|port| Server::start(node, "db", port));
        let agent = node.agent(&[]);
        eventually("the service answers", || ask_tcp(node, "web", at(VIP[0], 80)).ok());
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = node.inside("web", {
            let (stop, made) = (stop.clone(), made.clone());
            move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match TcpStream::connect_timeout(&at(VIP[0], 80), PATIENCE) {
                        Ok(_) => drop(made.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failures.push(error.kind()),
                    }
                }
                failures
            }
        });
        let swaps = rounds(20, 1000, 5000);
        for swap in 1..=swaps as usize {
            node.write("service.yaml", &swapped(swap));
            node.apply();
        }
        stop.store(true, Ordering::Relaxed);
        let mut failures = client.join().unwrap();
        let asleep = failures.iter().filter(|kind| **kind == io::ErrorKind::ConnectionReset).count() as u32;
        assert!(asleep <= swaps / 100, "{asleep} connections ended as they began");
        failures.retain(|kind| *kind != io::ErrorKind::ConnectionReset);
        assert!(failures.is_empty(), "{} of {} failed: {failures:?}", failures.len(), made.load(Ordering::Relaxed));
        assert!(made.load(Ordering::Relaxed) > u64::from(swaps), "{made:?} connections in {swaps} swaps");
        drop(agent);
    });
}
