//! Long lives and floods: what a connection must survive, and what drops must not cost.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use weir_abi::{Direction, Reason};
use weir_agent::{Allow, Engine, EngineOptions, Look, Manifests};
use weir_datapath::{Kernel, Options, jiffies_per_second};
use weir_source::{Revision, SourceFile};
use weir_state::SledStore;
use weir_tests::node::{
    ENDPOINTS, NODE, Node, WEB,
    connection::Connection,
    eventually,
    kernel::table_pin,
    rounds,
    traffic::{Stream, Way},
};

/// The client may reach web on ports 80 to 89, and web may send nothing of its own: a reply passes where the flow is known.
const POLICY: &str = r"
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromCIDR: [192.0.2.0/24, '2001:db8:0:1::/64']
    toPorts: [{ports: [{port: 80, endPort: 89, protocol: ANY}]}]
  egress:
  - {}
";

/// By these addresses the client reaches web, too.
const EXTERNAL: [&str; 2] = ["203.0.113.80", "2001:db8:80::80"];

fn service() -> String {
    let mut text = "apiVersion: weir/v1alpha1\nkind: Service\nmetadata: {name: app}\nspec:\n  frontends:\n".to_owned();
    for (address, port) in EXTERNAL.iter().flat_map(|address| (84..88).map(move |port| (address, port))) {
        for protocol in ["TCP", "UDP"] {
            text += &format!("  - {{address: '{address}', port: {port}, protocol: {protocol}, type: external}}\n");
        }
    }
    text + &format!("  backends: [{{address: {}}}, {{address: '{}'}}]\n", WEB[0], WEB[1])
}

const fn from_client(address: &str, port: u16) -> Way<'_> {
    Way { from: "client", to: "web", address, port }
}

const ALLOWED: [Way<'_>; 2] = [from_client(WEB[0], 80), from_client(WEB[1], 81)];

/// Something that changes, and that is none of web's business.
fn elsewhere(round: u32) -> String {
    format!(
        "apiVersion: weir/v1alpha1\nkind: NetworkPolicy\nmetadata: {{name: db}}\nspec:\n  endpointSelector: \
         {{matchLabels: {{app: db}}}}\n  ingress:\n  - fromCIDR: [198.51.{}.0/24]\n    toPorts: [{{ports: [{{port: {}, \
         protocol: TCP}}]}}]\n",
        round % 250,
        1000 + round % 5000
    )
}

fn engine(node: &Node) -> Engine<Kernel, SledStore> {
    let options = EngineOptions {
        node: NODE.into(),
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned(),
        ignore_foreign: false,
    };
    let (store, _) = SledStore::open_within(&node.state(), Duration::from_secs(3)).unwrap();
    Engine::new(Kernel::open(Options::new(node.pins())).unwrap(), store, options)
}

/// Directly and by a service, in both families.
#[test]
fn scenario_24_a_connection_of_an_hour_survives_everything_that_does_not_concern_it() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("policy.yaml", POLICY);
        node.write("service.yaml", &service());
        node.write("elsewhere.yaml", &elsewhere(0));
        let agent = node.agent(&[]);
        eventually("the policy is live", || (agent.status()["state"] == "converged").then_some(()));
        let ways = [ALLOWED[0], ALLOWED[1], from_client(EXTERNAL[0], 84), from_client(EXTERNAL[1], 85)];
        let mut connections = ways.map(|way| Connection::open(node, way));
        let ways = [from_client(WEB[1], 82), from_client(EXTERNAL[0], 86)];
        let streams = ways.map(|way| Stream::start(node, way, Duration::from_millis(2), true));
        let hz = u64::from(jiffies_per_second().unwrap());
        let mut clock = Kernel::open(Options::new(node.pins())).unwrap();
        let mut minutes = 0;
        let mut a_minute_later = |connections: &mut [Connection], clock: &mut Kernel| {
            minutes += 1;
            clock.set_clock_offset(minutes * 60 * hz).unwrap();
            connections.iter_mut().for_each(Connection::exchange);
            minutes
        };

        // The agent restarts.
        for _ in 0..10 {
            a_minute_later(&mut connections, &mut clock);
        }
        assert!(agent.stop().success());
        a_minute_later(&mut connections, &mut clock);
        let agent = node.agent(&[]);
        a_minute_later(&mut connections, &mut clock);
        agent.murder();
        a_minute_later(&mut connections, &mut clock);

        // The programs are another build's, and are replaced.
        let programs = table_pin(node, "RUNTIME").with_file_name("programs");
        let [set] =
            fs::read_dir(&programs).unwrap().map(|set| set.unwrap().path()).collect::<Vec<_>>().try_into().unwrap();
        fs::rename(&set, set.with_file_name("00000100-0123456789abcdef")).unwrap();
        node.apply();
        assert!(!programs.join("00000100-0123456789abcdef").exists(), "they were replaced");
        a_minute_later(&mut connections, &mut clock);

        // Tables and programs are another version's, and are replaced.
        let tables = programs.parent().unwrap();
        let other = tables.with_file_name("0123456789abcdef");
        fs::rename(tables, &other).unwrap();
        node.apply();
        assert!(tables.exists() && !other.exists(), "they were replaced");
        let mut clock = Kernel::open(Options::new(node.pins())).unwrap();
        a_minute_later(&mut connections, &mut clock);

        // Commits that concern somebody else; the rest of the hour passes meanwhile.
        let mut engine = engine(node);
        let file = |name: &str, text: &str| SourceFile::new(name, text.as_bytes().to_vec());
        let commits = rounds(60, 1000, 1000);
        for round in 1..=commits {
            let files = vec![
                file("elsewhere.yaml", &elsewhere(round)),
                file("endpoints.yaml", ENDPOINTS),
                file("policy.yaml", POLICY),
                file("service.yaml", &service()),
            ];
            let manifests = Manifests::new("dir:/run/test/manifests", &Revision::new(files));
            assert!(engine.bring_live(&manifests, Look::Known, Allow::default()).unwrap().flipped);
            if round % (commits / 50) == 0 {
                a_minute_later(&mut connections, &mut clock);
            } else {
                connections.iter_mut().for_each(Connection::exchange);
            }
        }
        assert!(a_minute_later(&mut connections, &mut clock) >= 60, "an hour");
        println!("{commits} commits, {} messages each", connections[0].messages());
        assert_eq!(connections.each_ref().map(Connection::lost), [0; 4]);
        for account in streams.map(Stream::finish) {
            let (sent, lost) = (account.sent, account.lost);
            assert!(sent > 500 && lost.is_empty(), "of {sent} sent, {lost:?} were lost");
        }
    });
}

/// Sends what is denied as fast as the kernel takes it, from two threads.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Flood {
    fn start(node: &Node, address: &'static str) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..2).map(|_| {
            let (stop, sent) = (stop.clone(), sent.clone());
            node.inside("client", move || {
                let peer = SocketAddr::new(address.parse().unwrap(), 90);
                let own = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(own).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    // Through the programs, to the end, before it returns.
                    sent.fetch_add(u64::from(socket.send_to(b"nobody wants this", peer).is_ok()), Ordering::Relaxed);
                }
            })
        });
        let threads = threads.collect();
        Self { stop, sent, threads }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.sent.load(Ordering::Relaxed)
    }
}

/// Every drop is counted, and every event was either reported or counted as lost; nothing waits for a reader.
#[test]
fn scenario_25_a_flood_of_drops_loses_events_and_never_a_packet_v4() {
    flood(0);
}

#[test]
fn scenario_25_a_flood_of_drops_loses_events_and_never_a_packet_v6() {
    flood(1);
}

fn flood(family: usize) {
    Node::run(move |node| {
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("policy.yaml", POLICY);
        node.apply();
        let mut kernel = Kernel::open(Options::new(node.pins())).unwrap();
        let dropped = |kernel: &mut Kernel| -> u64 {
            let metrics = kernel.metrics().unwrap();
            metrics.iter().filter(|(reason, ..)| reason.is_drop()).map(|(_, _, counter)| counter.packets).sum()
        };
        let denied =
            |kernel: &mut Kernel| kernel.metrics().unwrap().get(Reason::PolicyDefaultDeny, Direction::Egress).packets;
        let stream = Stream::start(node, ALLOWED[family], Duration::from_millis(1), true);
        let before = denied(&mut kernel);
        let flood = Flood::start(node, WEB[family]);
        let goal = u64::from(rounds(200_000, 1_000_000, 10_000_000));
        while flood.sent() < goal {
            thread::sleep(Duration::from_millis(10));
        }
        let sent = flood.finish();
        let lost = kernel.metrics().unwrap().lost_events();
        assert!(lost > 0, "nobody read, and {sent} events fitted in");
        let denied = denied(&mut kernel) - before;
        assert!(denied >= sent, "{sent} were sent, {denied} were counted as denied");
        let account = stream.finish();
        assert!(account.lost.is_empty(), "of {} sent, {:?} were lost", account.sent, account.lost);

        // The first reader there ever was: what it does not get was counted as lost.
        let (mut events, mut seen) = (kernel.events().unwrap(), 0u64);
        eventually("every event is reported or was counted as lost", || {
            while events.take().is_some() {
                seen += 1;
            }
            (seen + kernel.metrics().unwrap().lost_events() == dropped(&mut kernel)).then_some(())
        });
        println!("{sent} drops, {seen} reported, {lost} lost, {} datagrams beside", account.sent);
        assert!(seen > 1000, "the buffer holds more than {seen}");
    });
}
