//! Services for the node's own processes, between real sockets (scenario 20): what a process names is a frontend, what
//! it gets is a backend, and it is told of nothing but the frontend.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use weir_datapath::sys::{self, IdKind};
use weir_tests::node::{DB, ENDPOINTS, HOST, Node, WEB, eventually};

const VIP: [&str; 2] = ["10.96.0.10", "fd00:96::10"];
const EXTERNAL: [&str; 2] = ["203.0.113.80", "2001:db8:80::80"];
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];
const PATIENCE: Duration = Duration::from_secs(10);
const HOOKS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

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
    service(&format!("  backends: [{{address: {}}}, {{address: '{}'}}]\n", DB[0], DB[1]))
}

fn to_both() -> String {
    let backends: Vec<String> = DB.iter().chain(&WEB).map(|address| format!("{{address: '{address}'}}")).collect();
    service(&format!("  backends: [{}]\n", backends.join(", ")))
}

fn begin(node: &Node, service: &str) {
    node.write("endpoints.yaml", ENDPOINTS);
    node.write("service.yaml", service);
    node.apply();
}

/// Answers each connection and datagram with its own name and whom it came from, until it is dropped.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(node: &Node, netns: &'static str) -> Self {
        Self::at(node, netns, "[::]:8080".parse().unwrap())
    }

    fn at(node: &Node, netns: &'static str, place: SocketAddr) -> Self {
        let bound = node.inside(netns, move || {
            let tcp = TcpListener::bind(place).unwrap();
            tcp.set_nonblocking(true).unwrap();
            let udp = UdpSocket::bind(place).unwrap();
            udp.set_nonblocking(true).unwrap();
            (tcp, udp)
        });
        let (tcp, udp) = bound.join().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let serve = {
            let stop = stop.clone();
            move || {
                let mut buffer = [0; 64];
                let answer = |from| format!("{netns} {}", canonical(from)).into_bytes();
                while !stop.load(Ordering::Relaxed) {
                    let mut idle = true;
                    if let Ok((mut connection, from)) = tcp.accept() {
                        let _ = connection.write_all(&answer(from));
                        idle = false;
                    }
                    if let Ok((_, from)) = udp.recv_from(&mut buffer) {
                        let _ = udp.send_to(&answer(from), from);
                        idle = false;
                    }
                    if idle {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
            }
        };
        Self { stop, thread: Some(std::thread::spawn(serve)) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// The same address as a socket of IPv6 names it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Who answered, whom it takes the client for, and what the client takes for its own address.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    who: String,
    seen: SocketAddr,
    own: SocketAddr,
}

impl Answer {
    fn new(text: &str, own: SocketAddr) -> Self {
        let (who, seen) = text.split_once(' ').unwrap();
        Self { who: who.to_owned(), seen: seen.parse().unwrap(), own: canonical(own) }
    }
}

fn tcp(to: SocketAddr) -> io::Result<Answer> {
    let mut connection = TcpStream::connect_timeout(&to, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    assert_eq!(connection.peer_addr()?, to, "whom it is connected to is what it named");
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    Ok(Answer::new(&text, connection.local_addr()?))
}

fn unbound(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn hear(socket: &UdpSocket, to: SocketAddr) -> io::Result<Answer> {
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(from, to, "the answer comes from what it named");
    Ok(Answer::new(std::str::from_utf8(&buffer[..length]).unwrap(), socket.local_addr()?))
}

fn udp_connected(to: SocketAddr) -> io::Result<Answer> {
    let socket = unbound(to)?;
    socket.connect(to)?;
    assert_eq!(socket.peer_addr()?, to);
    socket.send(b"who am I?")?;
    hear(&socket, to)
}

fn udp(to: SocketAddr) -> io::Result<Answer> {
    let socket = unbound(to)?;
    socket.send_to(b"who am I?", to)?;
    let Answer { who, seen, own } = hear(&socket, to)?;
    // The socket has no address of its own: that of its answer's way is as good.
    assert_eq!(seen.port(), own.port());
    Ok(Answer { who, own: seen, seen })
}

const ASKS: [fn(SocketAddr) -> io::Result<Answer>; 3] = [tcp, udp_connected, udp];

/// What a request ends with that is refused.
fn refused(ask: fn(SocketAddr) -> io::Result<Answer>, to: SocketAddr) -> io::ErrorKind {
    ask(to).expect_err("it is refused").kind()
}

/// The links to the cgroup, by id.
fn links(node: &Node) -> Vec<Option<u32>> {
    let id = |hook: &&str| {
        let pin = node.pins().join("links").join(format!("cgroup={hook}"));
        let link = sys::pin_get(&pin).ok()?;
        Some(sys::link_info(link.as_fd()).unwrap().id)
    };
    HOOKS.iter().map(id).collect()
}

#[test]
fn scenario_20_the_host_reaches_a_service_by_every_address_of_its() {
    Node::run(|node| {
        begin(node, &to_db());
        let _server = Server::start(node, "db");
        for family in 0..2 {
            let frontends = [(VIP, 80), (EXTERNAL, 80), (HOST, 30080), (LOOPBACK, 30080)];
            for frontend in frontends.map(|(addresses, port)| at(addresses[family], port)) {
                for ask in ASKS {
                    for to in [frontend, mapped(frontend)] {
                        let Answer { who, seen, own } = eventually("the service answers", || {
                            ask(to).map_err(|error| eprintln!("{to}: {error}")).ok()
                        });
                        assert_eq!((&*who, seen), ("db", own), "{to}");
                        assert_eq!(seen.ip().to_string(), HOST[family], "{to}: the backend sees the node");
                    }
                }
            }
        }
    });
}

#[test]
fn scenario_20_the_host_is_refused_at_once_where_nothing_would_answer() {
    Node::run(|node| {
        let none = service("  backends: [{address: 10.10.0.77, state: maintenance}]\n");
        begin(node, &none);
        for family in 0..2 {
            for to in [at(VIP[family], 80), at(HOST[family], 30080), at(LOOPBACK[family], 30080)] {
                for ask in ASKS {
                    assert_eq!(refused(ask, to), io::ErrorKind::ConnectionRefused, "{to}");
                }
            }
            // An address of services answers on their ports only.
            for ask in ASKS {
                assert_eq!(refused(ask, at(VIP[family], 81)), io::ErrorKind::HostUnreachable);
            }
        }
        node.write("service.yaml", &(none + "  noBackends: drop\n"));
        node.apply();
        for ask in ASKS {
            assert_eq!(refused(ask, at(VIP[0], 80)), io::ErrorKind::HostUnreachable);
        }
    });
}

#[test]
fn a_socket_and_a_client_with_affinity_keep_their_backend() {
    Node::run(|node| {
        begin(node, &to_both());
        let _servers = ["db", "web"].map(|netns| Server::start(node, netns));
        for vip in VIP.map(|vip| at(vip, 80)) {
            // By chance: 64 of one kind in a row happen once in 2^63 runs.
            let mut all = BTreeSet::new();
            for _ in 0..64 {
                all.insert(eventually("a backend answers", || tcp(vip).ok()).who);
            }
            assert_eq!(all.len(), 2, "{all:?}");
            // Datagrams of one socket go one way.
            let socket = unbound(vip).unwrap();
            let ask = || {
                socket.send_to(b"who am I?", vip)?;
                hear(&socket, vip)
            };
            let first = eventually("a backend answers", || ask().ok()).who;
            for _ in 0..64 {
                assert_eq!(ask().unwrap().who, first);
            }
        }
        node.write("service.yaml", &(to_both() + "  sessionAffinity: {timeout: 1h}\n"));
        node.apply();
        for vip in VIP.map(|vip| at(vip, 80)) {
            let first = tcp(vip).unwrap().who;
            for _ in 0..64 {
                assert_eq!(tcp(vip).unwrap().who, first);
            }
        }
    });
}

#[test]
fn the_host_keeps_to_backends_of_its_own_where_it_must() {
    Node::run(|node| {
        let backends = format!(
            "  backends: [{{address: {}}}, {{address: '{}'}}, {{address: 192.0.2.10}}, {{address: '2001:db8:0:1::10'}}]\n",
            DB[0], DB[1]
        );
        begin(node, &(service(&backends) + "  internalTrafficPolicy: Local\n"));
        let _servers = ["db", "client"].map(|netns| Server::start(node, netns));
        let asked = |vip: &str| {
            let ask = |_| eventually("a backend answers", || tcp(at(vip, 80)).ok()).who;
            (0..64).map(ask).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        for vip in VIP {
            assert_eq!(asked(vip), ["db"]);
        }
        node.write("service.yaml", &service(&backends));
        node.apply();
        for vip in VIP {
            assert_eq!(asked(vip), ["client", "db"]);
        }
    });
}

#[test]
fn processes_of_other_network_namespaces_are_left_alone() {
    Node::run(|node| {
        begin(node, &to_db());
        let _server = Server::start(node, "db");
        // Somebody else's address, which happens to be the service's too.
        node.ip("netns add lone");
        node.ip("-netns lone link set lo up");
        for (address, length) in VIP.into_iter().zip([32, 128]) {
            node.ip(&format!("-netns lone address add {address}/{length} dev lo"));
        }
        for vip in VIP.map(|vip| at(vip, 80)) {
            let _lone = Server::at(node, "lone", vip);
            for ask in ASKS {
                assert_eq!(eventually("the service answers", || ask(vip).ok()).who, "db");
                assert_eq!(node.inside("lone", move || ask(vip)).join().unwrap().unwrap().who, "lone");
            }
        }
    });
}

/// What is sent at one end arrives at the other.
fn exchange(client: &mut TcpStream, server: &mut TcpStream) -> io::Result<()> {
    client.write_all(b"there")?;
    server.read_exact(&mut [0; 5])?;
    server.write_all(b"back")?;
    client.read_exact(&mut [0; 4])
}

#[test]
fn a_connection_to_a_draining_backend_goes_on_and_one_to_a_deleted_backend_ends() {
    Node::run(|node| {
        let backends = |state: &str| {
            let one = |address: &str, state: &str| format!("{{address: '{address}', state: {state}}}");
            let all: Vec<String> = DB.iter().map(|address| one(address, state)).collect();
            let others: Vec<String> = WEB.iter().map(|address| one(address, "active")).collect();
            let others = if state == "active" { Vec::new() } else { others };
            service(&format!("  backends: [{}]\n", [all, others].concat().join(", ")))
        };
        begin(node, &backends("active"));
        let listener = node.inside("db", || TcpListener::bind("[::]:8080").unwrap()).join().unwrap();
        let receiver = node.inside("db", || UdpSocket::bind("[::]:8080").unwrap()).join().unwrap();
        let mut connections = Vec::new();
        for to in [at(VIP[0], 80), at(VIP[1], 80), mapped(at(VIP[0], 80))] {
            let client = eventually("a connection is made", || TcpStream::connect_timeout(&to, PATIENCE).ok());
            let (server, _) = listener.accept().unwrap();
            let datagrams = unbound(to).unwrap();
            datagrams.connect(to).unwrap();
            for end in [&client, &server] {
                end.set_read_timeout(Some(PATIENCE)).unwrap();
            }
            connections.push((client, server, datagrams));
        }
        let direct = TcpStream::connect((DB[0], 8080)).unwrap();
        let (mut direct_server, _) = listener.accept().unwrap();
        let mut direct_client = direct;
        let mut all_go_on = |connections: &mut [(TcpStream, TcpStream, UdpSocket)]| {
            for (client, server, datagrams) in connections {
                exchange(client, server).unwrap();
                datagrams.send(b"there").unwrap();
                receiver.recv(&mut [0; 8]).unwrap();
            }
            exchange(&mut direct_client, &mut direct_server).unwrap();
        };
        all_go_on(&mut connections);
        node.write("service.yaml", &backends("draining"));
        node.apply();
        all_go_on(&mut connections);

        node.write("service.yaml", &backends("maintenance"));
        node.apply();
        for (mut client, _, datagrams) in connections {
            let error = client.read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{:?}", client.local_addr());
            assert_eq!(datagrams.recv(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        }
        // Who connected to the backend itself is none of the service's.
        exchange(&mut direct_client, &mut direct_server).unwrap();
    });
}

#[test]
fn links_to_the_cgroup_outlive_the_agent_are_healed_and_go_with_the_last_frontend() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        node.apply();
        assert!(links(node).iter().all(Option::is_none), "without a frontend, nothing is attached");
        node.write("service.yaml", &to_db());
        let _server = Server::start(node, "db");
        let vip = at(VIP[0], 80);
        let agent = node.agent(&[]);
        eventually("the service answers", || tcp(vip).ok());
        let begun = links(node);
        assert!(begun.iter().all(Option::is_some), "{begun:?}");
        assert!(agent.stop().success());
        tcp(vip).expect("without an agent as with it");
        let agent = node.agent(&[]);
        eventually("it converges", || (agent.status()["state"] == "converged").then_some(()));
        assert_eq!(links(node), begun);
        assert!(agent.stop().success());

        std::fs::remove_file(node.pins().join("links/cgroup=connect4")).unwrap();
        let plan = node.plan();
        let drifted = plan["drift"].to_string();
        assert!(drifted.contains("cgroup connect4"), "{plan}");
        node.apply();
        let healed = links(node);
        assert!(healed.iter().all(Option::is_some) && healed[0] != begun[0] && healed[1..] == begun[1..], "{healed:?}");
        tcp(vip).unwrap();

        // By the node's own word, and by that of the last service.
        let off = ENDPOINTS.replace("spec:\n  limits:", "spec:\n  socketLoadBalancing: false\n  limits:");
        for (name, text, back) in [("endpoints.yaml", Some(off), ENDPOINTS.to_owned()), ("service.yaml", None, to_db())]
        {
            match text {
                Some(text) => node.write(name, &text),
                None => node.remove(name),
            }
            node.expect(0, &["apply", "-f", ".", "--allow-mass-delete"]);
            assert!(links(node).iter().all(Option::is_none), "{name}");
            node.write(name, &back);
            node.apply();
            tcp(vip).unwrap();
        }
        let last: Vec<u32> = links(node).into_iter().flatten().collect();
        assert_eq!(last.len(), HOOKS.len());
        node.expect(0, &["uninstall"]);
        eventually("the kernel has let go of them", || {
            let there = sys::ids(IdKind::Link).unwrap();
            last.iter().all(|link| !there.contains(link)).then_some(())
        });
    });
}

#[test]
fn without_cgroup2_the_rest_is_applied_and_the_service_waits() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("service.yaml", &to_db());
        let mounts = std::fs::read_to_string("/proc/thread-self/mounts").unwrap();
        let cgroup2 = |line: &str| {
            let mut words = line.split(' ');
            let (place, kind) = (words.nth(1)?.to_owned(), words.next()?);
            (kind == "cgroup2").then_some(place)
        };
        let places: Vec<String> = mounts.lines().filter_map(cgroup2).collect();
        for place in &places {
            nix::mount::umount2(place.as_str(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
        let ran = node.expect(1, &["apply", "-f", "."]);
        assert!(ran.stderr.contains("pending[cgroup-missing]") && ran.stderr.contains("Service default/app"), "{ran}");
        assert!(links(node).iter().all(Option::is_none));
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("cgroup2"), places[0].as_str(), Some("cgroup2"), flags, None::<&str>).unwrap();
        node.apply();
        let _server = Server::start(node, "db");
        eventually("the service answers", || tcp(at(VIP[0], 80)).ok());
    });
}
