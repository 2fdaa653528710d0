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

/// The client may reach web on port 80, and web may send nothing of its own: a reply passes where the flow is known.
const POLICY: &str = r"
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromCIDR: [192.0.2.0/24]
    toPorts: [{ports: [{port: 80, protocol: ANY}]}]
  egress:
  - {}
";

const ALLOWED: Way<'_> = Way { from: "client", to: "web", address: WEB[0], port: 80 };

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

#[test]
fn scenario_24_a_connection_of_an_hour_survives_everything_that_does_not_concern_it() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("policy.yaml", POLICY);
        node.write("elsewhere.yaml", &elsewhere(0));
        let agent = node.agent(&[]);
        eventually("the policy is live", || (agent.status()["state"] == "converged").then_some(()));
        let mut connection = Connection::open(node, ALLOWED);
        let stream = Stream::start(node, ALLOWED, Duration::from_millis(2), true);
        let hz = u64::from(jiffies_per_second().unwrap());
        let mut clock = Kernel::open(Options::new(node.pins())).unwrap();
        let mut minutes = 0;
        let mut a_minute_later = |connection: &mut Connection, clock: &mut Kernel| {
            minutes += 1;
            clock.set_clock_offset(minutes * 60 * hz).unwrap();
            connection.exchange();
            minutes
        };

        // The agent restarts.
        for _ in 0..10 {
            a_minute_later(&mut connection, &mut clock);
        }
        assert!(agent.stop().success());
        a_minute_later(&mut connection, &mut clock);
        let agent = node.agent(&[]);
        a_minute_later(&mut connection, &mut clock);
        agent.murder();
        a_minute_later(&mut connection, &mut clock);

        // The programs are another build's, and are replaced.
        let programs = table_pin(node, "RUNTIME").with_file_name("programs");
        let [set] =
            fs::read_dir(&programs).unwrap().map(|set| set.unwrap().path()).collect::<Vec<_>>().try_into().unwrap();
        fs::rename(&set, set.with_file_name("00000100-0123456789abcdef")).unwrap();
        node.apply();
        assert!(!programs.join("00000100-0123456789abcdef").exists(), "they were replaced");
        a_minute_later(&mut connection, &mut clock);

        // Commits that concern somebody else; the rest of the hour passes meanwhile.
        let mut engine = engine(node);
        let file = |name: &str, text: &str| SourceFile::new(name, text.as_bytes().to_vec());
        let commits = rounds(60, 1000, 1000);
        for round in 1..=commits {
            let files = vec![
                file("elsewhere.yaml", &elsewhere(round)),
                file("endpoints.yaml", ENDPOINTS),
                file("policy.yaml", POLICY),
            ];
            let manifests = Manifests::new("dir:/run/test/manifests", &Revision::new(files));
            assert!(engine.bring_live(&manifests, Look::Known, Allow::default()).unwrap().flipped);
            if round % (commits / 50) == 0 {
                a_minute_later(&mut connection, &mut clock);
            } else {
                connection.exchange();
            }
        }
        assert!(a_minute_later(&mut connection, &mut clock) >= 60, "an hour");
        let account = stream.finish();
        println!("{commits} commits, {} messages, {} datagrams", connection.messages(), account.sent);
        assert_eq!(connection.lost(), 0);
        assert!(
            account.sent > 500 && account.lost.is_empty(),
            "of {} sent, {:?} were lost",
            account.sent,
            account.lost
        );
    });
}

/// Sends what is denied as fast as the kernel takes it, from two threads.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Flood {
    fn start(node: &Node) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..2).map(|_| {
            let (stop, sent) = (stop.clone(), sent.clone());
            node.inside("client", move || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                let peer = SocketAddr::new(WEB[0].parse().unwrap(), 81);
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
fn scenario_25_a_flood_of_drops_loses_events_and_never_a_packet() {
    Node::run(|node| {
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
        let stream = Stream::start(node, ALLOWED, Duration::from_millis(1), true);
        let before = denied(&mut kernel);
        let flood = Flood::start(node);
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
