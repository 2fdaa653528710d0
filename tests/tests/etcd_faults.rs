//! Random schedules of what happens to an etcd: killed, frozen, compacted, restored from a backup, behind a slow network
//! or none, full. A writer publishes numbered revisions through all of it. Every state of the live tables that is seen,
//! polled each 10 ms, is one published revision, and after each fault the node converges on the latest.
//!
//! A revision carries its number in three objects, in the prefilter, the policy and the ipcache: a mixture shows.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use etcd_client::{Client, Txn, TxnOp};
use weir_datapath::{Kernel, Options};
use weir_plan::{Datapath, Tables};
use weir_source::{EtcdOptions, EtcdSource, Revision, SourceFile};
use weir_tests::{
    etcd::{Etcd, PREFIX},
    node::{Agent, Node, UPLINK, rounds, tool},
};

/// etcd has a network of its own, away from the traffic.
const STORE: &str = "10.99.0.2";
const BOUND: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(10);
/// So that a few junk values fill it.
const QUOTA: &str = "16777216";

const BASE: &str = r"
apiVersion: weir/v1alpha1
kind: NodeConfig
metadata: {name: small}
spec:
  devices: [uplink0]
  limits: {conntrackTcp: 8192, conntrackOther: 8192}
---
apiVersion: weir/v1alpha1
kind: Node
metadata: {name: node1}
spec:
  addresses: [192.0.2.1, '2001:db8:0:1::1']
  endpointCIDRs: [10.10.0.0/24, 'fd00:10::/64']
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: web, labels: {app: web}}
spec: {node: node1, addresses: [10.10.0.2, 'fd00:10::2'], attach: {netns: web}}
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: db, labels: {app: db}}
spec: {node: node1, addresses: [10.10.0.3, 'fd00:10::3'], attach: {netns: db}}
";

/// The number's mark in the prefilter, in the ipcache, and in the policy of two endpoints.
fn files(numbers: [u32; 3]) -> Vec<(String, String)> {
    let [filter, web, db] = numbers;
    let policy = |name: &str, number: u32| {
        format!(
            "apiVersion: weir/v1alpha1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n  endpointSelector: \
             {{matchLabels: {{app: {name}}}}}\n  ingress:\n  - fromCIDR: [{}/32]\n    toPorts: [{{ports: [{{port: {}, \
             protocol: TCP}}]}}]\n",
            mark(20, number),
            number + 1
        )
    };
    vec![
        ("base.yaml".to_owned(), BASE.to_owned()),
        (
            "filter.yaml".to_owned(),
            format!(
                "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: drop}}\nspec: {{interfaces: [{UPLINK}], \
                 cidrs: [{}/32]}}\n",
                mark(30, filter)
            ),
        ),
        ("policies/db.yaml".to_owned(), policy("db", db)),
        ("policies/web.yaml".to_owned(), policy("web", web)),
    ]
}

fn mark(first: u8, number: u32) -> String {
    let [_, high, middle, low] = number.to_be_bytes();
    format!("{first}.{high}.{middle}.{low}")
}

/// In a state that lacks one of the objects.
const LACKING: u32 = u32::MAX;

/// Every number that a side of the live tables shows; one that is whole shows one.
fn numbers(tables: &Tables) -> BTreeSet<u32> {
    let marked = |bits: u32, length: u8, first: u32| (length == 32 && bits >> 24 == first).then_some(bits & 0xff_ffff);
    let filter = tables.prefilter4.iter().filter_map(|(prefix, _)| marked(prefix.bits, prefix.length, 30));
    let cache = tables.ipcache4.iter().filter_map(|(prefix, _)| marked(prefix.bits, prefix.length, 20));
    let policy: BTreeSet<(u32, u16)> = tables
        .policy
        .iter()
        .filter(|(key, _)| key.protocol == 6 && key.port > 0)
        .map(|(key, _)| (key.subject, key.port))
        .collect();
    let (filter, cache): (BTreeSet<u32>, BTreeSet<u32>) = (filter.collect(), cache.collect());
    let mut numbers: BTreeSet<u32> = policy.iter().map(|(_, port)| u32::from(*port) - 1).collect();
    // Two endpoints have a policy.
    let lacks = filter.is_empty() || cache.is_empty() || policy.len() < 2;
    numbers.extend(filter);
    numbers.extend(cache);
    if lacks && !numbers.is_empty() {
        numbers.insert(LACKING);
    }
    numbers
}

/// Looks at the live tables again and again.
struct Checker {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    polls: u64,
    /// Looks during which the tables changed, or were swapped.
    discarded: u64,
    /// The numbers of the last look.
    last: BTreeSet<u32>,
    states: BTreeMap<BTreeSet<u32>, u64>,
}

impl Checker {
    fn start(node: &Node) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let (stopped, noted, pins) = (stop.clone(), seen.clone(), node.pins());
        let thread = node.inside("node", move || {
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let look = look(&pins);
                let mut seen = noted.lock().unwrap();
                seen.polls += 1;
                match look {
                    Some(numbers) => {
                        *seen.states.entry(numbers.clone()).or_default() += 1;
                        seen.last = numbers;
                    }
                    None => seen.discarded += 1,
                }
                drop(seen);
                thread::sleep(POLL.saturating_sub(begun.elapsed()));
            }
        });
        Self { stop, seen, thread }
    }

    fn last(&self) -> BTreeSet<u32> {
        self.seen.lock().unwrap().last.clone()
    }

    /// Panics with every state that is no published revision.
    fn finish(self, published: &BTreeSet<u32>) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        let whole = |state: &BTreeSet<u32>| state.len() <= 1 && state.iter().all(|number| published.contains(number));
        let mixed: Vec<_> = seen.states.iter().filter(|(state, _)| !whole(state)).collect();
        assert!(mixed.is_empty(), "states that nobody published: {mixed:?}");
        seen
    }
}

/// What is live, if it was live from the beginning of the look to its end.
fn look(pins: &PathBuf) -> Option<BTreeSet<u32>> {
    let mut kernel = Kernel::open(Options::new(pins)).ok()?;
    let before = kernel.generation().ok()?;
    let observed = kernel.observe().ok()?;
    if kernel.generation().ok()? != before {
        return None;
    }
    Some(observed.map(|observed| numbers(observed.active())).unwrap_or_default())
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Kill,
    Freeze,
    Compact,
    Restore,
    Slow,
    Cut,
    Full,
}

const FAULTS: [Fault; 7] =
    [Fault::Kill, Fault::Freeze, Fault::Compact, Fault::Restore, Fault::Slow, Fault::Cut, Fault::Full];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A node that follows an etcd in another network namespace.
struct World<'a> {
    node: &'a Node,
    etcd: Etcd,
    random: fastrand::Rng,
    /// Numbers are never used twice, so that an old state cannot be taken for a new one.
    next: Arc<AtomicU32>,
    published: BTreeSet<u32>,
    backup: Option<PathBuf>,
}

impl<'a> World<'a> {
    fn new(node: &'a Node, seed: u64) -> Self {
        node.ip("netns add store");
        node.ip("link add store0 type veth peer name eth0 netns store");
        node.ip("address add 10.99.0.1/24 dev store0");
        node.ip("link set store0 up");
        for line in ["link set lo up", "address add 10.99.0.2/24 dev eth0", "link set eth0 up"] {
            node.ip(&format!("-netns store {line}"));
        }
        let etcd = Etcd::inside("store", STORE, &["--quota-backend-bytes", QUOTA]);
        let random = fastrand::Rng::with_seed(seed);
        Self { node, etcd, random, next: Arc::new(AtomicU32::new(1)), published: BTreeSet::new(), backup: None }
    }

    /// Publishes the next number; whether etcd says that it did. Where it does not say so, it may have.
    fn publish(&mut self) -> (u32, bool) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.published.insert(number);
        let (files, spec, push) = (files([number; 3]), self.etcd.source(), self.random.bool());
        let options = EtcdOptions { timeout: Duration::from_secs(1), ..EtcdOptions::default() };
        let written = self.node.inside("store", move || {
            if push {
                let files = files.into_iter().map(|(path, text)| SourceFile::new(path, text.into_bytes()));
                let pushed = EtcdSource::new(&spec, &options).unwrap().push(&Revision::new(files.collect()));
                return pushed.is_ok();
            }
            let put = |(path, text): (String, String)| TxnOp::put(format!("{PREFIX}{path}"), text, None);
            let mut operations: Vec<TxnOp> = files.into_iter().map(put).collect();
            operations.push(TxnOp::delete(format!("{PREFIX}revision"), None));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let write = async {
                    let mut client = Client::connect([format!("{STORE}:2379")], None).await?;
                    client.txn(Txn::new().and_then(operations)).await
                };
                matches!(tokio::time::timeout(Duration::from_secs(1), write).await, Ok(Ok(_)))
            })
        });
        (number, written.join().unwrap())
    }

    /// A few in a row, as they come.
    fn burst(&mut self) {
        for _ in 0..self.random.usize(1..4) {
            self.publish();
            self.pause(60);
        }
    }

    fn pause(&mut self, most: u64) {
        thread::sleep(Duration::from_millis(self.random.u64(0..most)));
    }

    /// Until one is in force for certain.
    fn publish_surely(&mut self) -> u32 {
        let start = Instant::now();
        loop {
            if let (number, true) = self.publish() {
                return number;
            }
            assert!(start.elapsed() < BOUND, "etcd takes nothing:\n{}", self.etcd.log());
        }
    }

    fn befall(&mut self, fault: Fault) {
        match fault {
            Fault::Kill => {
                if self.random.bool() {
                    self.burst();
                }
                self.etcd.kill();
                self.pause(300);
                self.etcd.restart();
                self.burst();
            }
            Fault::Freeze => {
                self.etcd.freeze();
                self.pause(1500);
                self.etcd.thaw();
                self.burst();
            }
            Fault::Compact => {
                self.burst();
                self.etcd.compact();
                self.burst();
            }
            Fault::Restore => {
                let backup = match self.backup.take() {
                    Some(backup) if self.random.bool() => backup,
                    _ => self.etcd.backup(),
                };
                self.burst();
                // Sometimes the node learns of the other history only when that has gone past what it saw.
                let unseen = self.random.bool();
                if unseen {
                    self.cut(true);
                }
                self.etcd.restore(&backup);
                self.burst();
                if unseen {
                    self.cut(false);
                }
                self.backup = Some(backup);
            }
            Fault::Slow => {
                let rate = self.random.u32(300..3000);
                let shape = format!("qdisc add dev eth0 root tbf rate {rate}kbit burst 3kb latency 300ms");
                self.inside_store("tc", &shape);
                self.burst();
                self.pause(400);
                self.burst();
                self.inside_store("tc", "qdisc del dev eth0 root");
            }
            Fault::Cut => {
                self.cut(true);
                self.burst();
                self.pause(1500);
                self.cut(false);
            }
            Fault::Full => {
                for junk in 0..24 {
                    let value = "x".repeat(120_000);
                    if !self.etcd.try_ctl(&["put", &format!("/junk/{junk}"), &value]).0 {
                        break;
                    }
                }
                // What is refused was not published; a few may still fit.
                self.burst();
                self.etcd.try_ctl(&["del", "--prefix", "/junk/"]);
                self.etcd.compact();
                self.etcd.ctl(&["alarm", "disarm"]);
            }
        }
    }

    /// Silently: no end of a connection is told.
    fn cut(&self, cut: bool) {
        let words = if cut { "-I" } else { "-D" };
        self.inside_store("iptables", &format!("{words} INPUT -i eth0 -j DROP"));
    }

    fn inside_store(&self, program: &str, words: &str) {
        let ran = tool("ip", &format!("netns exec store {program} {words}"));
        assert!(ran.status.success(), "{ran}");
    }

    fn follow(&self) -> Agent {
        let source = self.etcd.source();
        Agent::following(self.node, &["--source", &source, "--etcd-timeout", "300ms", "--resync", "2s"], &[])
    }

    fn converges(&self, checker: &Checker, number: u32, after: &str) -> Duration {
        let start = Instant::now();
        while checker.last() != BTreeSet::from([number]) {
            assert!(
                start.elapsed() < BOUND,
                "{after}: the node has {:?}, not {number}\n{}",
                checker.last(),
                self.node.weir(&["status"])
            );
            thread::sleep(POLL);
        }
        start.elapsed()
    }
}

fn first_seed() -> u64 {
    match std::env::var("WEIR_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(),
    }
}

fn schedules(part: u64) {
    Node::run(move |node| {
        let count = rounds(2, 20, 250);
        let seed = first_seed().wrapping_mul(2).wrapping_add(part);
        println!("campaign: {count} schedules, seed {seed}");
        let mut world = World::new(node, seed);
        let first = world.publish_surely();
        let agent = world.follow();
        let checker = Checker::start(node);
        world.converges(&checker, first, "at first");
        let mut times: BTreeMap<Fault, Vec<Duration>> = BTreeMap::new();
        for schedule in 0..count {
            for step in 0..world.random.usize(1..4) {
                let fault = FAULTS[world.random.usize(..FAULTS.len())];
                world.befall(fault);
                let number = world.publish_surely();
                let took = world.converges(&checker, number, &format!("schedule {schedule}, step {step}, {fault}"));
                times.entry(fault).or_default().push(took);
            }
        }
        let published = world.published.clone();
        let seen = checker.finish(&published);
        for (fault, times) in &mut times {
            times.sort();
            println!(
                "{fault}: {} times, converged after {:?} median, {:?} at most",
                times.len(),
                times[times.len() / 2],
                times[times.len() - 1]
            );
        }
        println!(
            "{} polls, {} discarded, {} of {} published revisions seen",
            seen.polls,
            seen.discarded,
            seen.states.len(),
            published.len()
        );
        assert!(seen.polls > u64::from(count) * 20 && seen.discarded * 4 < seen.polls, "the checker looked away");
        assert!(seen.states.len() > count as usize, "it saw what was published");
        drop(agent);
    });
}

#[test]
fn every_state_is_a_published_one_first_half() {
    schedules(0);
}

#[test]
fn every_state_is_a_published_one_second_half() {
    schedules(1);
}

/// The checker sees a mixture, and a state that was never published.
#[test]
fn a_mixture_is_noticed() {
    Node::run(|node| {
        for (numbers, published) in [([7, 7, 8], vec![7, 8]), ([7, 8, 8], vec![7, 8]), ([9, 9, 9], vec![7, 8])] {
            for (path, text) in files(numbers) {
                node.write(&path, &text);
            }
            node.apply();
            let checker = Checker::start(node);
            let wanted: BTreeSet<u32> = numbers.into_iter().collect();
            let start = Instant::now();
            while checker.last() != wanted && start.elapsed() < BOUND {
                thread::sleep(POLL);
            }
            let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                checker.finish(&published.into_iter().collect())
            }));
            let message = judged.err().and_then(|panic| panic.downcast::<String>().ok()).expect("it was not noticed");
            assert!(message.contains("nobody published"), "{message}");
        }
    });
}
