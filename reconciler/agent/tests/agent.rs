//! The agent, whole, on its socket, against a kernel and a disk in memory and a real directory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, task::JoinHandle};
use weir_agent::{
    Agent, Allow, ApplyDocument, Client, ConditionDocument, ConditionStatus, Engine, EngineOptions, Error, Intervals,
    Manifests, PlanDocument, Resource, RunOptions, StatusDocument,
};
use weir_plan::{
    Delivery, InterfaceFacts, NodeFacts, Store,
    fake::{FakeDatapath, FakeStore, Fault, Faults},
};
use weir_source::{Revision, SourceFile, WatchOptions};

struct World {
    datapath: FakeDatapath,
    store: FakeStore,
    faults: Faults,
    dir: tempfile::TempDir,
}

struct Running {
    client: Client,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Error>>,
}

const NODE: &str = "\
apiVersion: weir/v1alpha1
kind: NodeConfig
metadata: {name: all}
spec: {devices: [eth0]}
";

fn filter(cidrs: &[&str]) -> String {
    format!(
        "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: drop}}\nspec: {{cidrs: [{}]}}\n",
        cidrs.join(", ")
    )
}

impl World {
    fn new() -> Self {
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
        let world = Self {
            datapath: FakeDatapath::new(facts, faults.clone()),
            store: FakeStore::new(faults.clone()),
            faults,
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(world.dir.path().join("etc")).unwrap();
        world.write("node.yaml", NODE);
        world.write("filter.yaml", &filter(&["198.51.100.0/24"]));
        world
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("etc")
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/agent.sock")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.root().join(name), text).unwrap();
    }

    fn flips(&self) -> u64 {
        self.datapath.kernel(|kernel| kernel.flips)
    }

    fn prefixes(&self) -> usize {
        self.datapath.kernel(|kernel| {
            kernel.live.as_ref().map_or(0, |live| live.sides[live.generation.side.index() as usize].prefilter4.len())
        })
    }

    async fn run(&self, intervals: Intervals) -> Running {
        let options = RunOptions {
            metrics: None,
            relieve: || {},
            specs: vec![weir_source::SourceSpec::Dir(self.root())],
            access: weir_source::Access::default(),
            source: format!("dir:{}", self.root().display()),
            socket: self.socket(),
            watch: WatchOptions { rest: Duration::from_millis(5), ..WatchOptions::default() },
            intervals,
            heals: true,
            fleet: weir_agent::FleetOptions::default(),
        };
        let engine_options = EngineOptions { node: "n1".into(), boot_id: "boot".to_owned(), ignore_foreign: false };
        let (datapath, store) = (self.datapath.clone(), self.store.clone());
        let (stop, stopped) = oneshot::channel();
        let open = move || Ok(Engine::new(datapath, store, engine_options));
        let task = tokio::spawn(weir_agent::run(open, options, async move {
            let _ = stopped.await;
        }));
        let client = until("the agent listens", || async {
            Client::find(&self.socket(), Duration::from_secs(20)).await.unwrap()
        })
        .await;
        Running { client, stop: Some(stop), task }
    }
}

impl Running {
    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }

    async fn status_where(&self, what: &str, holds: impl Fn(&StatusDocument) -> bool) -> StatusDocument {
        until(what, || async {
            let status = self.client.status().await.unwrap();
            holds(&status).then_some(status)
        })
        .await
    }
}

/// Asks again and again until there is an answer; gives up after a time that only a hung agent needs.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn quiet() -> Intervals {
    let hour = Duration::from_secs(3600);
    Intervals { verify: hour, catch_up: hour, retry: Duration::from_millis(20), retry_most: Duration::from_millis(50) }
}

fn foreign(files: &[(&str, &str)]) -> Manifests {
    let files = files.iter().map(|(path, text)| SourceFile::new(*path, text.as_bytes())).collect();
    Manifests::new("dir:/elsewhere", &Revision::new(files))
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_its_directory() {
    let world = World::new();
    let agent = world.run(quiet()).await;
    let status = agent.status_where("it converged", |status| status.state == "converged").await;
    assert_eq!(status.generation.unwrap().epoch, 2);
    let mode = fs::metadata(world.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);

    world.write("filter.yaml", &filter(&["198.51.100.0/24", "203.0.113.0/24"]));
    agent.status_where("the change is live", |status| status.generation.unwrap().epoch == 3).await;
    assert_eq!(world.prefixes(), 2);
    let history = agent.client.history(10).await.unwrap();
    assert_eq!(history.commits.iter().map(|commit| commit.sequence).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(history.commits[0].source, format!("dir:{}", world.root().display()));
    agent.stop().await;
    assert!(!world.socket().exists());
    assert_eq!(world.prefixes(), 2, "what is live stays live");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_writes_nothing() {
    let world = World::new();
    let agent = world.run(quiet()).await;
    agent.status_where("it converged", |status| status.state == "converged").await;
    agent.stop().await;
    world.faults.forget();
    let agent = world.run(quiet()).await;
    agent.status_where("it has looked", |status| status.agent.as_ref().unwrap().revision.is_some()).await;
    agent.stop().await;
    let calls = world.faults.calls();
    for writing in ["note", "record", "prepare", "build", "stage", "flip", "tear", "set_suspension"] {
        assert!(!calls.contains(&writing), "{writing} in {calls:?}");
    }
    assert_eq!(world.flips(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_revision_stays_live() {
    let world = World::new();
    let agent = world.run(quiet()).await;
    agent.status_where("it converged", |status| status.state == "converged").await;
    world.write(
        "filter.yaml",
        "kind: CidrFilter\napiVersion: weir/v1alpha1\nmetadata: {name: drop}\nspec: {cidr: []}\n",
    );
    let status = agent.status_where("it failed", |status| status.state == "failing").await;
    let failure = status.agent.unwrap().failure.unwrap();
    assert_eq!(failure.code, "invalid-manifests");
    assert_eq!((failure.errors[0].file.as_deref(), failure.errors[0].line), (Some("filter.yaml"), Some(4)));
    assert_eq!((world.flips(), world.prefixes()), (1, 1));

    fs::rename(world.root(), world.dir.path().join("away")).unwrap();
    agent
        .status_where("the source is missed", |status| {
            let failure = status.agent.as_ref().unwrap().failure.as_ref();
            failure.is_some_and(|failure| failure.code == "source-missing")
        })
        .await;
    assert_eq!((world.flips(), world.prefixes()), (1, 1), "a missing directory is no empty set");

    fs::rename(world.dir.path().join("away"), world.root()).unwrap();
    world.write("filter.yaml", &filter(&["203.0.113.0/24", "198.51.100.0/24"]));
    agent.status_where("it is mended", |status| status.state == "converged" && world.prefixes() == 2).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mass_deletion_waits_for_somebody_who_means_it() {
    let world = World::new();
    let agent = world.run(quiet()).await;
    agent.status_where("it converged", |status| status.state == "converged").await;
    fs::remove_file(world.root().join("filter.yaml")).unwrap();
    let status = agent.status_where("it refused", |status| status.state == "failing").await;
    assert_eq!(status.agent.unwrap().failure.unwrap().code, "mass-delete");
    assert_eq!(world.prefixes(), 1);
    let error = agent.client.apply(None, Allow::default()).await.unwrap_err();
    assert_eq!((error.code(), error.exit().0), ("mass-delete", 65));
    agent.client.apply(None, Allow { mass_delete: true, ..Allow::default() }).await.unwrap();
    assert_eq!(world.prefixes(), 0);
    agent.status_where("it converged", |status| status.state == "converged").await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_shown_then_healed_and_while_suspended_only_shown() {
    let tamper = |world: &World| {
        world.datapath.kernel(|kernel| {
            let live = kernel.live.as_mut().unwrap();
            let side = live.generation.side.index() as usize;
            live.sides[side].prefilter4 = weir_plan::Table::new();
        });
    };
    let world = World::new();
    let agent = world.run(Intervals { verify: Duration::from_millis(300), ..quiet() }).await;
    agent.status_where("it converged", |status| status.state == "converged").await;
    tamper(&world);
    agent.status_where("it healed", |status| status.agent.as_ref().unwrap().healed == 1).await;
    assert_eq!((world.prefixes(), world.flips()), (1, 2));

    agent.client.suspend("looking around", None).await.unwrap();
    tamper(&world);
    let status = agent.status_where("the drift is seen", |status| status.drift > 0).await;
    assert_eq!(status.state, "suspended");
    assert_eq!(status.suspended.unwrap().reason, "looking around");
    assert_eq!((world.prefixes(), world.flips()), (0, 2));
    let plan = agent.client.plan(&own(&world), 10, false).await.unwrap();
    assert_eq!((plan.drift.len(), plan.drift[0].action.as_str()), (1, "delete"));

    agent.client.resume().await.unwrap();
    assert_eq!((world.prefixes(), world.flips()), (1, 3));
    agent.stop().await;
}

fn own(world: &World) -> Manifests {
    let files =
        ["filter.yaml", "node.yaml"].map(|name| SourceFile::new(name, fs::read(world.root().join(name)).unwrap()));
    Manifests::new(&format!("dir:{}", world.root().display()), &Revision::new(files.into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_through_the_socket_is_whole_and_changes_nothing() {
    let world = World::new();
    let agent = world.run(quiet()).await;
    agent.status_where("it converged", |status| status.state == "converged").await;
    let many: Vec<String> = (0..5000).map(|n| format!("100.{}.{}.0/24", n / 256, n % 256)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let manifests = foreign(&[("node.yaml", NODE), ("filter.yaml", &filter(&many))]);
    let short = agent.client.plan(&manifests, 10, false).await.unwrap();
    let change = short.changes.iter().find(|change| &*change.object.kind == "CidrFilter").unwrap();
    assert_eq!((change.entries.len(), change.more), (10, 4991), "5000 new ones and the one that goes");
    let placed = change.entries.iter().filter(|entry| entry.line.is_some()).count();
    assert_eq!(placed, 10, "{:?}", change.entries);

    let mut whole = [Vec::new(), Vec::new()];
    for bytes in &mut whole {
        agent
            .client
            .plan_json(&manifests, false, |chunk| {
                bytes.extend_from_slice(chunk);
                Ok(())
            })
            .await
            .unwrap();
    }
    assert_eq!(whole[0], whole[1], "two runs give identical bytes");
    let document: PlanDocument = serde_json::from_slice(&whole[0]).unwrap();
    assert_eq!(document.digest, short.digest);
    let change = document.changes.iter().find(|change| &*change.object.kind == "CidrFilter").unwrap();
    assert_eq!(change.entries.len(), 5001);
    assert_eq!((world.flips(), world.store.head().unwrap().unwrap().sequence), (1, 1));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_manifests_only_while_suspended() {
    let world = World::new();
    let agent = world.run(quiet()).await;
    agent.status_where("it converged", |status| status.state == "converged").await;
    let other = foreign(&[("node.yaml", NODE), ("filter.yaml", &filter(&["203.0.113.0/24", "192.0.2.0/24"]))]);
    let error = agent.client.apply(Some(&other), Allow::default()).await.unwrap_err();
    assert_eq!((error.code(), error.exit().0), ("other-source", 75));
    assert!(error.to_string().contains(&format!("dir:{}", world.root().display())), "{error}");
    assert_eq!(world.prefixes(), 1);

    agent.client.suspend("trying something", None).await.unwrap();
    let applied = agent.client.apply(Some(&other), Allow::default()).await.unwrap();
    assert_eq!((applied.result.as_str(), applied.flipped, world.prefixes()), ("applied", true, 2));
    // Events of its own source change nothing meanwhile.
    world.write("filter.yaml", &filter(&["198.51.100.0/25"]));
    let before = agent.client.status().await.unwrap().agent.unwrap().revision;
    agent.status_where("it read the change", |status| status.agent.as_ref().unwrap().revision != before).await;
    assert_eq!(world.prefixes(), 2);

    agent.client.resume().await.unwrap();
    assert_eq!(world.prefixes(), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_back_holds_until_resume_and_over_a_restart() {
    let world = World::new();
    let agent = world.run(quiet()).await;
    agent.status_where("it converged", |status| status.state == "converged").await;
    world.write("filter.yaml", &filter(&["198.51.100.0/24", "203.0.113.0/24"]));
    agent.status_where("the change is live", |_| world.prefixes() == 2).await;
    let written = world.datapath.kernel(|kernel| kernel.written);
    let back: ApplyDocument = agent.client.rollback(None, Allow::default()).await.unwrap();
    assert_eq!((back.commit.unwrap().restores, world.prefixes()), (Some(1), 1));
    assert_eq!(world.datapath.kernel(|kernel| kernel.written), written, "one flip back");
    agent.stop().await;

    let agent = world.run(quiet()).await;
    let status = agent.status_where("it has looked", |s| s.agent.as_ref().unwrap().revision.is_some()).await;
    assert_eq!((status.state.as_str(), world.prefixes()), ("suspended", 1));
    agent.client.resume().await.unwrap();
    assert_eq!(world.prefixes(), 2);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_tried_again() {
    let world = World::new();
    // The first apply fails three times, each time somewhere else.
    for call in [3, 12, 24] {
        world.faults.plan(call, Fault::Midway);
    }
    let agent = world.run(quiet()).await;
    // Asking the agent would meet the faults in its place.
    let recorded = || !world.store.disk(|disk| disk.commits.is_empty());
    until("it is recorded", || async { recorded().then_some(()) }).await;
    agent.status_where("it converged", |status| status.state == "converged").await;
    assert_eq!(world.prefixes(), 1);
    assert_eq!(world.datapath.kernel(|kernel| kernel.violations.clone()), Vec::<String>::new());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standby_catches_up_after_a_while() {
    let world = World::new();
    let agent = world.run(Intervals { catch_up: Duration::from_millis(50), ..quiet() }).await;
    let equal =
        || world.datapath.kernel(|kernel| kernel.live.as_ref().is_some_and(|live| live.sides[0] == live.sides[1]));
    // Before the flip both are, too: empty.
    until("both sides are equal", || async { (world.flips() == 1 && equal()).then_some(()) }).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_traces() {
    let world = World::new();
    let agent = world.run(quiet()).await;
    agent.status_where("it converged", |status| status.state == "converged").await;
    for resource in Resource::ALL {
        let list = agent.client.list(resource, None).await.unwrap();
        assert_eq!(list.resource, resource.name());
    }
    let filters = agent.client.list(Resource::Filters, Some("drop")).await.unwrap();
    assert_eq!((filters.items[0]["file"].as_str(), filters.items[0]["rules"].as_u64()), (Some("filter.yaml"), Some(1)));
    assert!(agent.client.list(Resource::Filters, Some("nothing")).await.unwrap().items.is_empty());

    let trace = agent.client.trace("198.51.100.7", "192.0.2.1", "tcp/80").await.unwrap();
    assert_eq!(trace.verdict, "dropped");
    let rule = trace.steps[0].rule.clone().unwrap();
    assert_eq!((rule.file.as_deref(), rule.line), (Some("filter.yaml"), Some(4)));
    assert_eq!(agent.client.trace("203.0.113.1", "192.0.2.1", "tcp/80").await.unwrap().verdict, "allowed");
    let error = agent.client.trace("nobody", "host", "tcp/80").await.unwrap_err();
    assert_eq!(error.exit().0, 64);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agent_nobody_answers() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    assert!(Client::find(&socket, Duration::from_secs(1)).await.unwrap().is_none());
    let error = Client::connect(&socket, Duration::from_secs(1)).await.unwrap_err();
    assert_eq!((error.code(), error.exit().0), ("agent-unreachable", 69));
    // Left behind by one that was killed.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(Client::find(&socket, Duration::from_secs(1)).await.unwrap().is_none());
    let _: Option<Agent<FakeDatapath, FakeStore>> = None;
}

fn condition(status: &StatusDocument, kind: &str) -> ConditionDocument {
    status.conditions.iter().find(|condition| condition.kind == kind).unwrap().clone()
}

/// `Ready=False/InvalidManifests`, for those that are given.
fn conditions(status: &StatusDocument, kinds: &[&str]) -> Vec<String> {
    let told = |kind: &&str| {
        let ConditionDocument { kind, status, reason, .. } = condition(status, kind);
        format!("{kind}={status:?}/{reason}")
    };
    kinds.iter().map(told).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_tell_how_things_stand() {
    let world = World::new();
    let agent = world.run(quiet()).await;
    let status = agent.status_where("it converged", |status| status.state == "converged").await;
    let kinds: Vec<_> = status.conditions.iter().map(|condition| condition.kind.as_str()).collect();
    assert_eq!(kinds, ["Ready", "Reconciling", "Stalled", "Drifted", "Degraded", "SourceStale", "Suspended"]);
    let lively = ["Ready=True/Live", "Stalled=False/NothingWrong", "SourceStale=False/Delivered"];
    assert_eq!(conditions(&status, &["Ready", "Stalled", "SourceStale"]), lively);
    let since = condition(&status, "Ready").last_transition_time;

    // What changes nothing is no transition.
    world.write("node.yaml", &format!("# a comment\n{NODE}"));
    let revision = status.agent.unwrap().revision;
    let status =
        agent.status_where("the comment was read", |status| status.agent.as_ref().unwrap().revision != revision).await;
    assert_eq!(condition(&status, "Ready").last_transition_time, since);

    world.write(
        "filter.yaml",
        "kind: CidrFilter\napiVersion: weir/v1alpha1\nmetadata: {name: drop}\nspec: {cidr: []}\n",
    );
    let status = agent.status_where("it stalled", |status| status.state == "failing").await;
    let stalled = ["Ready=False/InvalidManifests", "Stalled=True/InvalidManifests", "Reconciling=False/Stalled"];
    assert_eq!(conditions(&status, &["Ready", "Stalled", "Reconciling"]), stalled);
    assert!(condition(&status, "Ready").last_transition_time > since);

    fs::rename(world.root(), world.dir.path().join("away")).unwrap();
    let is_stale = |status: &StatusDocument| condition(status, "SourceStale").status == ConditionStatus::True;
    let status = agent.status_where("the source is stale", is_stale).await;
    assert_eq!(conditions(&status, &["SourceStale"]), ["SourceStale=True/SourceMissing"]);

    fs::rename(world.dir.path().join("away"), world.root()).unwrap();
    world.write("filter.yaml", &filter(&["203.0.113.0/24"]));
    let status = agent.status_where("it is mended", |status| status.state == "converged").await;
    assert_eq!(conditions(&status, &["Ready", "Stalled", "SourceStale"]), lively);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_survives_a_restart() {
    let world = World::new();
    let agent = world.run(quiet()).await;
    agent.status_where("it converged", |status| status.state == "converged").await;
    agent.client.suspend("a busy evening", Some(Duration::from_secs(3600))).await.unwrap();
    agent.stop().await;

    world.write("filter.yaml", &filter(&["198.51.100.0/24", "203.0.113.0/24"]));
    let agent = world.run(quiet()).await;
    let read = |status: &StatusDocument| status.agent.as_ref().unwrap().revision.is_some();
    let status = agent.status_where("it has read its source", read).await;
    assert_eq!(conditions(&status, &["Ready", "Suspended"]), ["Ready=False/Suspended", "Suspended=True/Suspended"]);
    assert_eq!(condition(&status, "Suspended").message, "a busy evening");
    assert_eq!((world.flips(), world.prefixes()), (1, 1));
    agent.client.resume().await.unwrap();
    let status = agent.status_where("it follows again", |status| status.state == "converged").await;
    assert_eq!(conditions(&status, &["Ready", "Suspended"]), ["Ready=True/Live", "Suspended=False/Following"]);
    assert_eq!(world.prefixes(), 2);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_ends_by_itself() {
    let world = World::new();
    let agent = world.run(quiet()).await;
    agent.status_where("it converged", |status| status.state == "converged").await;
    let suspended = agent.client.suspend("for a moment", Some(Duration::from_millis(700))).await.unwrap();
    let suspended = suspended.suspended.unwrap();
    assert_eq!(suspended.until_unix_ms.unwrap() - suspended.since_unix_ms, 700);
    world.write("filter.yaml", &filter(&["198.51.100.0/24", "203.0.113.0/24"]));
    let status = agent.status_where("it follows again", |_| world.prefixes() == 2).await;
    assert!(status.suspended.is_none());
    agent.status_where("it converged", |status| status.state == "converged").await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_waits_is_looked_for_again() {
    let world = World::new();
    world.write(
        "endpoint.yaml",
        "apiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata: {name: web}\nspec: {node: n1, addresses: [10.0.0.1], attach: {interface: w0}}\n",
    );
    let agent = world.run(quiet()).await;
    let tried = |status: &StatusDocument| status.pending.first().is_some_and(|pending| pending.attempts >= Some(2));
    let status = agent.status_where("it was looked for twice", tried).await;
    assert!(status.pending[0].next_try_in_ms.is_some());
    assert_eq!(status.pending[0].object.to_string(), "Endpoint default/web");
    assert_eq!(
        conditions(&status, &["Ready", "Degraded"]),
        ["Ready=False/ObjectsPending", "Degraded=True/ObjectsPending"]
    );
    world.datapath.kernel(|kernel| {
        let w0 = InterfaceFacts {
            name: "w0".into(),
            ifindex: 7,
            kind: "veth".to_owned(),
            loopback: false,
            addresses: Vec::new(),
            ours: false,
            delivery: Delivery::Stack,
        };
        kernel.facts.interfaces.push(w0);
    });
    let status = agent.status_where("it is attached", |status| status.pending.is_empty()).await;
    assert_eq!(conditions(&status, &["Ready", "Degraded"]), ["Ready=True/Live", "Degraded=False/AsWanted"]);
    agent.stop().await;
}
