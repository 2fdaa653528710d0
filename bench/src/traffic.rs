//! Real traffic: a client and a server in network namespaces, a node between them, all of it on one CPU. The node only
//! routes, or runs Weir, or has iptables rules for the same services.
use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::{
    Options, cpu,
    flows::Random,
    generator::{self, ECHO, Ports, SINK, Server},
    measure::{BenchError, Doing, Rounds},
    netns::Netns,
    programs::Redirect,
    report::Report,
    weir::Weir,
};

/// Of one sample. Short ones in turn, and three times as many, suffer less from what else the machine does.
const TIME: Duration = Duration::from_millis(1500);
const SAMPLES: u32 = 1;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 10, 2, 1);
/// So many that no connection has the ports of one that somebody still remembers.
const CLIENTS: u8 = 16;
const FEW: u16 = 10;
const MANY: u16 = 10_000;
/// The service of streams, and the port of all others.
const STREAMS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 255, 1), 81);
const PORT: u16 = 80;
/// Where the next hop of both is.
const GATEWAY: &str = "169.254.1.1";

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    // In a thread of its own: what is measured later may run anywhere.
    let joined = thread::scope(|scope| scope.spawn(|| on_one_cpu(options, report)).join());
    joined.unwrap_or_else(|_| Err(BenchError::Wrong { what: "the traffic's thread panicked".to_owned() }))
}

fn on_one_cpu(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    cpu::stay_on_first()?;
    let work = tempfile::tempdir().doing("making a directory")?;
    let ways = [Way::Routing, Way::Weir(FEW), Way::Iptables(FEW), Way::Redirect, Way::Weir(MANY), Way::Iptables(MANY)];
    let mut sites: Vec<Site> =
        ways.into_iter().map(|way| Site::new(way, work.path())).collect::<Result<_, BenchError>>()?;
    let names: Vec<String> = ways.iter().map(|way| way.name()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let rounds = options.rounds * SAMPLES;

    let streams = Rounds::interleaved(rounds, &names[..4], |index| sites[index].stream())?;
    streams.figures("TCP stream, 64 KiB writes:", "Gbit/s").into_iter().for_each(|figure| report.figure(figure));
    report.at_least("TCP stream: weir / routing".to_owned(), streams.per_round(|rate| rate[1] / rate[0]), 1.2);

    let requests = Rounds::interleaved(rounds, &names[..4], |index| sites[index].requests())?;
    requests.figures("request and answer, 64 B:", "/s").into_iter().for_each(|figure| report.figure(figure));
    report.at_least("request and answer: weir / routing".to_owned(), requests.per_round(|rate| rate[1] / rate[0]), 1.1);

    let connections = Rounds::interleaved(rounds, &names, |index| sites[index].connections())?;
    connections.figures("connections, one request each:", "/s").into_iter().for_each(|figure| report.figure(figure));
    let ratio = |one: usize, other: usize| connections.per_round(|rate| rate[one] / rate[other]);
    report.at_least(format!("connections, {MANY} services: weir / iptables"), ratio(4, 5), 1.7);
    report.at_least(format!("connections, weir: {MANY} services / {FEW}"), ratio(4, 1), 0.9);
    Ok(())
}

/// What the node does, and for how many services.
#[derive(Clone, Copy, Debug)]
enum Way {
    Routing,
    /// By a program that does nothing else.
    Redirect,
    Weir(u16),
    Iptables(u16),
}

impl Way {
    fn name(self) -> String {
        match self {
            Self::Routing => "routing only".to_owned(),
            Self::Redirect => "bare redirect".to_owned(),
            Self::Weir(services) => format!("weir, {services} services"),
            Self::Iptables(services) => format!("iptables, {services} services"),
        }
    }

    /// Of its namespaces and directories.
    fn label(self) -> String {
        match self {
            Self::Routing => "routing".to_owned(),
            Self::Redirect => "redirect".to_owned(),
            Self::Weir(services) => format!("weir-{services}"),
            Self::Iptables(services) => format!("iptables-{services}"),
        }
    }

    const fn services(self) -> u16 {
        match self {
            Self::Routing | Self::Redirect => 0,
            Self::Weir(services) | Self::Iptables(services) => services,
        }
    }
}

fn frontend(service: u16) -> Ipv4Addr {
    let [high, low] = service.to_be_bytes();
    Ipv4Addr::new(10, 96, high, low)
}

fn clients() -> Vec<Ipv4Addr> {
    (1..=CLIENTS).map(|client| Ipv4Addr::new(10, 10, 1, client)).collect()
}

/// Three namespaces, and who is in them.
struct Site {
    way: Way,
    ports: Ports,
    random: Random,
    // Dropped in this order, in the node's namespace where that matters.
    weir: Option<Weir>,
    _redirect: Option<Redirect>,
    _server: Server,
    client: Netns,
    _servers: Netns,
    node: Netns,
}

impl Site {
    fn new(way: Way, work: &Path) -> Result<Self, BenchError> {
        let label = way.label();
        let netns = |role: &str| Netns::new(&format!("{label}-{role}"));
        let (node, client, servers) = (netns("node")?, netns("client")?, netns("server")?);
        node.set("ipv4/ip_forward", "1")?;
        for end in [&client, &servers] {
            // What paces itself measures its pacing; there is nothing here to be congested.
            end.set("ipv4/tcp_congestion_control", "reno")?;
        }
        let weir = match way {
            Way::Weir(services) => {
                let source = work.join(format!("{label}-source"));
                manifests(&source, services, client.name(), servers.name())?;
                let weir = Weir::new(work.join(&label), &source)?;
                node.within(|| weir.apply().map(drop))??;
                Some(weir)
            }
            Way::Routing | Way::Redirect | Way::Iptables(_) => {
                link(&node, &client, "client0", &clients())?;
                link(&node, &servers, "server0", &[SERVER])?;
                None
            }
        };
        if let Way::Iptables(services) = way {
            node.within(|| rules(services))??;
            // As soon as Weir forgets it.
            node.set("netfilter/nf_conntrack_tcp_timeout_time_wait", "10")?;
        }
        let redirect = match way {
            Way::Redirect => Some(node.within(|| Redirect::between(["client0", "server0"]))??),
            _ => None,
        };
        let server = servers.within(Server::start)??;
        let ports = Ports::new(clients());
        let random = Random::new(u64::from(way.services()));
        Ok(Self { way, ports, random, weir, _redirect: redirect, _server: server, client, _servers: servers, node })
    }

    fn stream(&mut self) -> Result<f64, BenchError> {
        let to = if self.way.services() == 0 { SocketAddrV4::new(SERVER, SINK) } else { STREAMS };
        let Self { client, ports, .. } = self;
        client.within(|| generator::stream(ports, to, TIME))?
    }

    fn requests(&mut self) -> Result<f64, BenchError> {
        let Self { way, client, ports, random, .. } = self;
        let to = pick(*way, random);
        client.within(|| generator::requests(ports, to, TIME))?
    }

    fn connections(&mut self) -> Result<f64, BenchError> {
        let Self { way, client, ports, random, .. } = self;
        client.within(|| generator::connections(ports, || pick(*way, random), TIME))?
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(weir) = self.weir.take()
            && let Err(cause) = self.node.within(|| drop(weir))
        {
            eprintln!("weir-bench: {cause}");
        }
    }
}

/// Any of the services; without any, the server itself.
fn pick(way: Way, random: &mut Random) -> SocketAddrV4 {
    match way.services() {
        0 => SocketAddrV4::new(SERVER, ECHO),
        services => SocketAddrV4::new(frontend(random.below(services.into()) as u16), PORT),
    }
}

/// A veth pair with addresses and routes as Weir makes them.
fn link(node: &Netns, other: &Netns, device: &str, addresses: &[Ipv4Addr]) -> Result<(), BenchError> {
    node.ip(&format!("link add {device} type veth peer name eth0 netns {}", other.name()))?;
    node.ip(&format!("address add {GATEWAY}/32 dev {device}"))?;
    node.ip(&format!("link set {device} up"))?;
    other.ip("link set eth0 up")?;
    for address in addresses {
        other.ip(&format!("address add {address}/32 dev eth0"))?;
        node.ip(&format!("route add {address}/32 dev {device}"))?;
    }
    other.ip(&format!("route add default via {GATEWAY} dev eth0 onlink"))
}

/// One rule a service, in one chain that every new connection goes through, as kube-proxy's `KUBE-SERVICES`; without its
/// chains of each service.
fn rules(services: u16) -> Result<(), BenchError> {
    let mut text = "*nat\n:SERVICES - [0:0]\n-A PREROUTING -j SERVICES\n".to_owned();
    let mut rule = |address, port, to| {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "-A SERVICES -d {address}/32 -p tcp -m tcp --dport {port} -j DNAT --to-destination {SERVER}:{to}"
        );
    };
    rule(*STREAMS.ip(), STREAMS.port(), SINK);
    (0..services).for_each(|service| rule(frontend(service), PORT, ECHO));
    text.push_str("COMMIT\n");
    let mut child =
        Command::new("iptables-legacy-restore").stdin(Stdio::piped()).spawn().doing("iptables-legacy-restore")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).doing("writing rules")?;
    }
    let status = child.wait().doing("iptables-legacy-restore")?;
    if status.success() { Ok(()) } else { Err(status).doing("iptables-legacy-restore") }
}

/// Node, endpoints, policies of both, services.
fn manifests(directory: &Path, services: u16, client: &str, server: &str) -> Result<(), BenchError> {
    fs::create_dir_all(directory).doing("making a directory")?;
    let addresses: Vec<String> = clients().iter().map(ToString::to_string).collect();
    let mut text = format!(
        r"apiVersion: weir/v1alpha1
kind: NodeConfig
metadata: {{name: node}}
spec:
  limits: {{conntrackTcp: 1048576, conntrackOther: 8192, affinity: 1024, nat: 1024}}
---
apiVersion: weir/v1alpha1
kind: Node
metadata: {{name: {node}}}
spec:
  addresses: [192.0.2.1]
  endpointCIDRs: [10.10.0.0/16]
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {{name: client, labels: {{app: client}}}}
spec: {{node: {node}, addresses: [{addresses}], attach: {{netns: {client}}}}}
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {{name: server, labels: {{app: server}}}}
spec: {{node: {node}, addresses: [{SERVER}], attach: {{netns: {server}}}}}
---
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {{name: client}}
spec:
  endpointSelector: {{matchLabels: {{app: client}}}}
  ingress:
  - fromEndpoints: [{{}}]
    toPorts: [{{ports: [{{port: 1, protocol: TCP}}]}}]
  egress:
  - toEndpoints: [{{matchLabels: {{app: server}}}}]
    toPorts: [{{ports: [{{port: {SINK}, protocol: TCP}}, {{port: {ECHO}, protocol: TCP}}]}}]
---
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {{name: server}}
spec:
  endpointSelector: {{matchLabels: {{app: server}}}}
  ingress:
  - fromEndpoints: [{{matchLabels: {{app: client}}}}]
    toPorts: [{{ports: [{{port: {SINK}, protocol: TCP}}, {{port: {ECHO}, protocol: TCP}}]}}]
  egress:
  - toEndpoints: [{{}}]
    toPorts: [{{ports: [{{port: 1, protocol: TCP}}]}}]
",
        node = crate::weir::NODE,
        addresses = addresses.join(", "),
    );
    let mut service = |name: &str, address: &Ipv4Addr, port: u16, to: u16| {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            r"---
apiVersion: weir/v1alpha1
kind: Service
metadata: {{name: {name}}}
spec:
  frontends: [{{address: {address}, port: {port}}}]
  backends: [{{address: {SERVER}, port: {to}}}]
"
        );
    };
    service("streams", STREAMS.ip(), STREAMS.port(), SINK);
    (0..services).for_each(|number| service(&format!("service-{number}"), &frontend(number), PORT, ECHO));
    fs::write(directory.join("all.yaml"), text).doing("writing manifests")
}
