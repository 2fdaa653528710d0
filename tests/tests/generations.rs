//! Two tables that must change together do, in one instruction: under traffic on both cores, no run of a program sees
//! one table of before and another of after.
//!
//! The client's network is called 192.0.2.0/24 on one side and 192.0.2.0/25 on the other: another prefix in the ipcache,
//! another identity behind it, and another identity in the policy that lets it in. Under either side alone every packet
//! passes; under a mixture none does.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use weir_abi::{Direction, Reason, Side};
use weir_datapath::{Events, Kernel, Options};
use weir_plan::Datapath;
use weir_tests::node::{
    ENDPOINTS, Node, WEB,
    kernel::{RawMap, side_map, table_pin},
    rounds,
    traffic::{Way, reaches},
};

fn flips() -> u32 {
    rounds(100, 1000, 10_000)
}

/// Each core's packets between two flips.
const PACKETS: u64 = 50;
/// Each core's flows, in turn: the first packet of a flow under a new epoch is judged afresh.
const FLOWS: usize = 64;

fn policy(cidr: &str) -> String {
    format!(
        "apiVersion: weir/v1alpha1\nkind: NetworkPolicy\nmetadata: {{name: web}}\nspec:\n  endpointSelector: \
         {{matchLabels: {{app: web}}}}\n  ingress:\n  - fromCIDR: [{cidr}]\n    toPorts: [{{ports: [{{port: 80, protocol: \
         UDP}}]}}]\n"
    )
}

/// A sender on each of two cores, without a pause.
struct Senders {
    sent: [Arc<AtomicU64>; 2],
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Senders {
    fn start(node: &Node) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
        let threads = (0..2).map(|core| {
            let (stop, sent) = (stop.clone(), sent[core].clone());
            node.inside("client", move || {
                let mut cores = CpuSet::new();
                cores.set(core).unwrap();
                sched_setaffinity(Pid::from_raw(0), &cores).expect("two cores");
                let peer = SocketAddr::new(WEB[0].parse().unwrap(), 80);
                let flows: Vec<UdpSocket> = (0..FLOWS).map(|_| UdpSocket::bind(("0.0.0.0", 0)).unwrap()).collect();
                for flow in flows.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Through both programs, to the end, on this core, before it returns.
                    let _ = flow.send_to(b"which side am I on?", peer);
                    sent.fetch_add(1, Ordering::Release);
                }
            })
        });
        let threads = threads.collect();
        Self { sent, stop, threads }
    }

    fn counts(&self) -> [u64; 2] {
        [0, 1].map(|core| self.sent[core].load(Ordering::Acquire))
    }

    /// Returns when each core has sent so many more.
    fn wait(&self, packets: u64) {
        let before = self.counts();
        while self.counts().iter().zip(before).any(|(now, before)| now - before < packets) {
            thread::yield_now();
        }
    }

    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.sent.iter().map(|sent| sent.load(Ordering::Relaxed)).sum()
    }
}

/// Drops of the senders' packets. The kernel's own multicast reports are dropped as well, rightly under either side.
#[derive(Debug)]
struct Drops {
    events: Events,
    lost: u64,
    seen: u64,
}

impl Drops {
    fn new(kernel: &mut Kernel) -> Self {
        let mut events = kernel.events().unwrap();
        while events.take().is_some() {}
        Self { events, lost: kernel.metrics().unwrap().lost_events(), seen: 0 }
    }

    fn take(&mut self) {
        while let Some(event) = self.events.take() {
            self.seen += u64::from(event.protocol == 17 && event.destination_port_be == 80u16.to_be());
        }
    }

    /// What found the buffer full was a sender's packet: nothing else comes that often.
    fn finish(mut self, kernel: &mut Kernel) -> u64 {
        self.take();
        self.seen + kernel.metrics().unwrap().lost_events() - self.lost
    }
}

fn packets(kernel: &mut Kernel, reason: Reason) -> u64 {
    let metrics = kernel.metrics().unwrap();
    [Direction::Ingress, Direction::Egress].map(|direction| metrics.get(reason, direction).packets).iter().sum()
}

/// Flips under traffic; how many packets were judged by a mixture, and how many there were.
fn mixtures(node: &Node, flips: u32, mut flip: impl FnMut(&mut Kernel)) -> (u64, u64) {
    let mut kernel = Kernel::open(Options::new(node.pins())).unwrap();
    // Nobody answers, and nobody says that nobody does.
    let _silent = node.inside("web", || UdpSocket::bind(("0.0.0.0", 80)).unwrap()).join().unwrap();
    assert!(_silent.as_raw_fd() >= 0);
    let passed = packets(&mut kernel, Reason::Forwarded);
    let mut drops = Drops::new(&mut kernel);
    let senders = Senders::start(node);
    let start = kernel.generation().unwrap().unwrap().epoch;
    for _ in 0..flips {
        senders.wait(PACKETS);
        flip(&mut kernel);
        drops.take();
    }
    senders.wait(PACKETS);
    let sent = senders.finish();
    assert_eq!(kernel.generation().unwrap().unwrap().epoch, start + u64::from(flips), "every flip has its epoch");
    let (dropped, passed) = (drops.finish(&mut kernel), packets(&mut kernel, Reason::Forwarded) - passed);
    assert!(sent >= u64::from(flips) * PACKETS * 2);
    assert!(dropped + passed >= sent, "{sent} were sent, {passed} passed and {dropped} did not");
    println!("{flips} flips, {sent} packets, {dropped} judged by a mixture");
    (dropped, sent)
}

/// One side knows the client as /24, the other as /25.
fn two_sides(node: &Node) {
    node.write("endpoints.yaml", ENDPOINTS);
    for cidr in ["192.0.2.0/24", "192.0.2.0/25"] {
        node.write("policy.yaml", &policy(cidr));
        node.apply();
        // Neighbours are resolved; nothing but packets of interest follows.
        assert!(reaches(node, Way { from: "client", to: "web", address: WEB[0], port: 80 }));
    }
}

#[test]
fn a_thousand_flips_and_no_packet_sees_a_mixture() {
    Node::run(|node| {
        two_sides(node);
        let (mixed, _) = mixtures(node, flips(), |kernel| {
            kernel.flip().unwrap();
        });
        assert_eq!(mixed, 0);
    });
}

/// The same measurement sees it when everything is switched by one word, and then the ipcache by another.
#[test]
fn a_torn_flip_is_noticed() {
    Node::run(|node| {
        two_sides(node);
        let outer = RawMap::pinned(&table_pin(node, "IPCACHE"));
        let inner = Side::BOTH.map(|side| RawMap::by_id(side_map(node, "IPCACHE", side)));
        let torn = |kernel: &mut Kernel| {
            let active = kernel.generation().unwrap().unwrap().side;
            let point = |side: Side, to: Side| {
                let fd = inner[to.index() as usize].fd().to_ne_bytes();
                outer.update(&side.index().to_ne_bytes(), &fd);
            };
            // The standby side's ipcache is the active one's until the second word is written.
            point(active.other(), active);
            kernel.flip().unwrap();
            point(active.other(), active.other());
        };
        // Microseconds lie between the two words: on a busy machine no packet may come in between for a while.
        let noticed = (0..flips() / 20).any(|_| mixtures(node, 20, torn).0 > 0);
        assert!(noticed, "a flip in two words was not noticed");
    });
}

/// Policy and addresses change in the same commit, through the binary itself: nothing that is allowed before and after
/// is lost in between.
#[test]
fn scenario_09_a_commit_that_renames_a_peer_loses_nothing() {
    use std::time::Duration;
    use weir_tests::node::traffic::Stream;
    Node::run(|node| {
        two_sides(node);
        let way = Way { from: "client", to: "web", address: WEB[0], port: 80 };
        let stream = Stream::start(node, way, Duration::from_millis(1), true);
        for round in 0..20 {
            node.write("policy.yaml", &policy(["192.0.2.0/24", "192.0.2.0/25", "192.0.2.0/26"][round % 3]));
            node.apply();
        }
        for _ in 0..4 {
            node.expect(0, &["rollback"]);
        }
        let account = stream.finish();
        assert!(account.sent > 500);
        assert!(account.lost.is_empty(), "of {} sent", account.sent);
    });
}
