//! A thousand agents on one etcd: one push reaches all of them. Prints what that costs, in steps, so that it can be seen
//! what would break first with ten times as many.
//!
//! The agents are whole but for the kernel and the disk, which are in memory; all share this machine's cores with etcd.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{sync::oneshot, task::JoinHandle};
use weir_agent::{Engine, EngineOptions, Error, FleetDocument, FleetOptions, Intervals, RunOptions};
use weir_plan::{
    Delivery, InterfaceFacts, NodeFacts,
    fake::{FakeDatapath, FakeStore, Faults},
};
use weir_source::{Access, EtcdSource, Revision, SourceFile, SourceSpec, WatchOptions};
use weir_tests::{
    etcd::Etcd,
    node::{Node, rounds},
};

const STATUS: &str = "/weir/status/";
/// How long the fleet is left alone to see what rest costs.
const REST: Duration = Duration::from_secs(10);
const BOUND: Duration = Duration::from_secs(180);

/// Fifty files, one of which carries the number.
fn set(number: u32) -> Revision {
    let mut files = vec![SourceFile::new(
        "node.yaml",
        *b"apiVersion: weir/v1alpha1\nkind: NodeConfig\nmetadata: {name: all}\nspec: {devices: [eth0]}\n",
    )];
    for n in 0..50u32 {
        let [_, _, high, low] = if n == 7 { number } else { n }.to_be_bytes();
        let cidrs: String = (0..100).map(|last| format!("  - 10.{n}.{last}.0/24\n")).collect();
        let text = format!(
            "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: drop{n}}}\nspec:\n  cidrs:\n  - \
             172.{n}.{high}.{low}/32\n{cidrs}"
        );
        files.push(SourceFile::new(format!("filters/{n:02}.yaml"), text.into_bytes()));
    }
    Revision::new(files)
}

struct Member {
    datapath: FakeDatapath,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
}

impl Member {
    fn start(number: usize, source: &str, directory: &Path) -> Self {
        let faults = Faults::default();
        let eth0 = InterfaceFacts {
            name: "eth0".into(),
            ifindex: 2,
            kind: String::new(),
            loopback: false,
            addresses: Vec::new(),
            ours: false,
            delivery: Delivery::Stack,
        };
        let facts = NodeFacts { interfaces: vec![eth0], tcx: true, ..NodeFacts::default() };
        let (datapath, store) = (FakeDatapath::new(facts, faults.clone()), FakeStore::new(faults));
        let options = RunOptions {
            metrics: None,
            relieve: || {},
            specs: vec![SourceSpec::parse(source).unwrap()],
            access: Access::default(),
            source: source.to_owned(),
            socket: directory.join(format!("{number}.sock")),
            watch: WatchOptions { rest: Duration::from_millis(10), ..WatchOptions::default() },
            intervals: Intervals::default(),
            heals: true,
            fleet: FleetOptions { prefix: STATUS.to_owned(), ..FleetOptions::default() },
        };
        let engine = EngineOptions {
            node: format!("node{number:05}").into(),
            boot_id: "boot".to_owned(),
            ignore_foreign: false,
        };
        let (stop, stopped) = oneshot::channel();
        let opened = datapath.clone();
        let open = move || Ok(Engine::new(opened, store, engine));
        let task = tokio::spawn(weir_agent::run(open, options, async move {
            let _ = stopped.await;
        }));
        Self { datapath, stop, task }
    }

    /// Whether the revision of that number is live.
    fn has(&self, number: u32) -> bool {
        let wanted = (172 << 24) | (7 << 16) | number;
        self.datapath.kernel(|kernel| {
            kernel.live.as_ref().is_some_and(|live| {
                let side = &live.sides[live.generation.side.index() as usize];
                side.prefilter4.iter().any(|(prefix, _)| prefix.bits == wanted && prefix.length == 32)
            })
        })
    }
}

/// What etcd has done so far, by its own account and the kernel's.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    requests: f64,
    sent: f64,
    received: f64,
    watchers: f64,
    cpu: Duration,
    memory_kib: u64,
    descriptors: usize,
}

impl Load {
    fn of(etcd: &Etcd) -> Self {
        let metrics = etcd.http("/metrics").unwrap();
        let sum = |name: &str| -> f64 {
            let lines = metrics.lines().filter(|line| {
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
            });
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        let pid = etcd.pid();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        Self {
            requests: sum("grpc_server_msg_received_total"),
            sent: sum("etcd_network_client_grpc_sent_bytes_total"),
            received: sum("etcd_network_client_grpc_received_bytes_total"),
            watchers: sum("etcd_debugging_mvcc_watcher_total"),
            cpu: Duration::from_millis(ticks * 10),
            memory_kib: memory.split_whitespace().next().unwrap().parse().unwrap(),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
        }
    }

    fn since(self, before: Self) -> String {
        format!(
            "{:.0} messages in, {:.1} KB out, {:.1} KB in, {:?} CPU",
            self.requests - before.requests,
            (self.sent - before.sent) / 1e3,
            (self.received - before.received) / 1e3,
            self.cpu - before.cpu
        )
    }
}

/// Waits until every member has it: when the first, the middle one and the last had.
fn until_all_have(members: &[Member], number: u32, start: Instant) -> [Duration; 3] {
    let mut times = Vec::with_capacity(members.len());
    let mut missing: Vec<&Member> = members.iter().collect();
    while !missing.is_empty() {
        assert!(start.elapsed() < BOUND, "{} of {} do not have revision {number}", missing.len(), members.len());
        missing.retain(|member| {
            let has = member.has(number);
            if has {
                times.push(start.elapsed());
            }
            !has
        });
        std::thread::sleep(Duration::from_millis(2));
    }
    [times[0], times[times.len() / 2], times[times.len() - 1]]
}

#[test]
fn one_push_reaches_a_thousand_agents() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    Node::run(|node| {
        node.ip("link set lo up");
        let etcd = Etcd::start();
        let pusher = EtcdSource::new(&etcd.source(), &weir_source::EtcdOptions::default()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (mut members, mut number) = (Vec::new(), 0);
        pusher.push(&set(number)).unwrap();
        let alone = Load::of(&etcd);
        let all = rounds(40, 1000, 1000) as usize;
        for count in [all / 4, all / 2, all] {
            let start = Instant::now();
            {
                let _inside = runtime.enter();
                while members.len() < count {
                    members.push(Member::start(members.len(), &etcd.source(), directory.path()));
                }
            }
            let [_, _, joined] = until_all_have(&members, number, start);
            let told = || FleetDocument::read(&pusher, STATUS, []).unwrap().nodes;
            let start = Instant::now();
            while told().iter().filter(|node| node.state == "converged").count() < count {
                assert!(start.elapsed() < BOUND, "{} of {count} have told that they converged", told().len());
                std::thread::sleep(Duration::from_millis(100));
            }
            println!("\n{count} agents, joined within {joined:?}");

            let before = Load::of(&etcd);
            std::thread::sleep(REST);
            let rest = Load::of(&etcd);
            println!("  at rest, in {REST:?}: {}", rest.since(before));
            println!(
                "  etcd holds {} watchers, {} descriptors, {} MiB anonymous ({:.0} KiB an agent)",
                rest.watchers,
                rest.descriptors,
                rest.memory_kib / 1024,
                (rest.memory_kib.saturating_sub(alone.memory_kib)) as f64 / count as f64
            );

            number += 1;
            let before = Load::of(&etcd);
            let start = Instant::now();
            let pushed = pusher.push(&set(number)).unwrap();
            let took = start.elapsed();
            let [first, middle, last] = until_all_have(&members, number, start);
            println!(
                "  one file of 51 pushed in {took:?}; live at the first {first:?}, the middle {middle:?}, the last {last:?}"
            );
            println!("  for that: {}", Load::of(&etcd).since(before));

            let start = Instant::now();
            let followed = |node: &weir_agent::NodeDocument| node.revision.applied.as_ref() == Some(&pushed.digest);
            while !told().iter().all(followed) {
                assert!(start.elapsed() < BOUND, "some have not told that they follow");
                std::thread::sleep(Duration::from_millis(100));
            }
            println!("  all told so {:?} later; with that: {}", start.elapsed(), Load::of(&etcd).since(before));
            assert_eq!(told().len(), count);
        }
        runtime.block_on(async {
            let tasks: Vec<_> = members
                .into_iter()
                .map(|member| {
                    member.stop.send(()).unwrap();
                    member.task
                })
                .collect();
            for task in tasks {
                task.await.unwrap().unwrap();
            }
        });
        assert_eq!(FleetDocument::read(&pusher, STATUS, []).unwrap().nodes.len(), 0, "each took its word back");
    });
}
