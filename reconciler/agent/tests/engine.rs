//! The engine against a kernel and a disk in memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::sync::Arc;

use weir_abi::{Generation, PolicyEntry, Reason, Side};
use weir_agent::{Allow, Applied, Engine, EngineOptions, Error, Look, Manifests, Planned};
use weir_plan::{
    Commit, Delivery, InterfaceFacts, InterfaceName, NodeFacts, Operation, Phase, Store, TableCopy, Wiring,
    fake::{FakeDatapath, FakeStore, Fault, Faults, Live},
};
use weir_source::{Revision, SourceFile};

type TestEngine = Engine<FakeDatapath, FakeStore>;

struct World {
    datapath: FakeDatapath,
    store: FakeStore,
    faults: Faults,
}

impl World {
    fn new() -> Self {
        let faults = Faults::default();
        let interface = |name: &str, ifindex, kind: &str| InterfaceFacts {
            name: name.into(),
            ifindex,
            kind: kind.into(),
            loopback: name == "lo",
            addresses: Vec::new(),
            ours: false,
            delivery: Delivery::Stack,
        };
        let facts = NodeFacts {
            interfaces: vec![interface("eth0", 2, ""), interface("lo", 1, ""), interface("vweb", 3, "veth")],
            addresses: vec!["192.0.2.1".parse().unwrap()],
            netns: vec![],
            tcx: true,
            cgroup2: true,
        };
        let datapath = FakeDatapath::new(facts, faults.clone());
        datapath.kernel(|kernel| kernel.netns.insert("db".to_owned()));
        Self { datapath, store: FakeStore::new(faults.clone()), faults }
    }

    /// One whose kernel drops probes to a port.
    fn refusing() -> Self {
        let world = Self::new();
        world.datapath.kernel(|kernel| kernel.refused_ports.insert(REFUSED, (Reason::PolicyDeny, 1)));
        world
    }

    /// A new process: everything that was only in memory is gone.
    fn engine(&self) -> TestEngine {
        let options = EngineOptions { node: "n1".into(), boot_id: "boot".to_owned(), ignore_foreign: false };
        Engine::new(self.datapath.clone(), self.store.clone(), options)
    }

    fn live(&self) -> Live {
        self.datapath.kernel(|kernel| kernel.live.clone()).expect("nothing is live")
    }

    /// (flips, entries written, wiring touched, commits)
    fn effort(&self) -> (u64, u64, u64, usize) {
        let (flips, written, wired) = self.datapath.kernel(|kernel| (kernel.flips, kernel.written, kernel.wired));
        (flips, written, wired, self.store.disk(|disk| disk.commits.len()))
    }

    fn assert_contract(&self) {
        assert_eq!(self.datapath.kernel(|kernel| kernel.violations.clone()), Vec::<String>::new());
        assert_eq!(self.store.disk(|disk| disk.violations.clone()), Vec::<String>::new());
    }
}

fn manifests(files: &[(&str, &str)]) -> Manifests {
    let files = files.iter().map(|(path, text)| SourceFile::new(*path, text.as_bytes())).collect();
    Manifests::new("dir:/etc/weir", &Revision::new(files))
}

const NODE: &str = "\
apiVersion: weir/v1alpha1
kind: Node
metadata: {name: n1}
spec: {addresses: [192.0.2.1]}
---
apiVersion: weir/v1alpha1
kind: NodeConfig
metadata: {name: all}
spec: {devices: [eth0]}
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: web, labels: {app: web}}
spec: {node: n1, addresses: [10.0.0.1], attach: {interface: vweb}}
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: db, labels: {app: db}}
spec: {node: n1, addresses: [10.0.0.2], attach: {netns: db}}
";

fn filter(cidrs: &[&str]) -> String {
    format!(
        "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: drop}}\nspec: {{cidrs: [{}]}}\n",
        cidrs.join(", ")
    )
}

fn policy(port: u16) -> String {
    format!(
        "apiVersion: weir/v1alpha1\nkind: NetworkPolicy\nmetadata: {{name: db}}\nspec:\n  endpointSelector: {{matchLabels: {{app: db}}}}\n  ingress:\n  - fromEndpoints: [{{matchLabels: {{app: web}}}}]\n    toPorts: [{{ports: [{{port: \"{port}\", protocol: TCP}}]}}]\n"
    )
}

/// The fake kernel refuses what it is told to, whatever the policy says.
fn flow_test(port: u16) -> String {
    format!(
        "apiVersion: weir/v1alpha1\nkind: FlowTest\nmetadata: {{name: db}}\nspec:\n  from: {{endpoint: web}}\n  to: {{endpoint: db}}\n  protocol: TCP\n  port: {port}\n  expect: {{verdict: allow}}\n"
    )
}

fn first() -> Manifests {
    let filter = filter(&["198.51.100.0/24"]);
    let (policy, test) = (policy(5432), flow_test(5432));
    manifests(&[("node.yaml", NODE), ("filter.yaml", &filter), ("policy.yaml", &policy), ("test.yaml", &test)])
}

fn second() -> Manifests {
    let filter = filter(&["198.51.100.0/24", "203.0.113.0/24"]);
    let (policy, test) = (policy(5433), flow_test(5433));
    manifests(&[("node.yaml", NODE), ("filter.yaml", &filter), ("policy.yaml", &policy), ("test.yaml", &test)])
}

/// As `second`, with a test that the fake kernel of [`World::refusing`] lets nobody pass.
fn refused() -> Manifests {
    let (policy, test) = (policy(5433), flow_test(REFUSED));
    manifests(&[
        ("node.yaml", NODE),
        ("policy.yaml", &policy),
        ("test.yaml", &test),
        ("filter.yaml", &filter(&["192.0.2.0/24"])),
    ])
}

const REFUSED: u16 = 7777;

fn plan(engine: &mut TestEngine, manifests: &Manifests) -> Planned {
    engine.plan(manifests, Look::Kernel).unwrap_or_else(|error| panic!("{error}"))
}

fn apply(engine: &mut TestEngine, manifests: &Manifests) -> Result<Applied, Error> {
    let planned = engine.plan_to_apply(manifests, Look::Known, Allow::default())?;
    engine.apply(planned, Allow::default(), Operation::Apply)
}

fn applied(engine: &mut TestEngine, manifests: &Manifests) -> Applied {
    apply(engine, manifests).unwrap_or_else(|error| panic!("{error}"))
}

fn go_back(engine: &mut TestEngine, target: &Commit, look: Look) -> Result<Applied, Error> {
    let planned = engine.plan_rollback(target, look)?;
    engine.rollback(target, planned, Allow::default())
}

#[test]
fn a_second_apply_writes_nothing() {
    let world = World::new();
    let mut engine = world.engine();
    let outcome = applied(&mut engine, &first());
    assert!(outcome.flipped);
    assert_eq!(outcome.commit.map(|commit| (commit.sequence, commit.epoch, commit.side)), Some((1, 2, 1)));
    let effort = world.effort();
    assert_eq!((effort.0, effort.3), (1, 1));

    for mut engine in [engine, world.engine()] {
        world.faults.forget();
        let outcome = applied(&mut engine, &first());
        assert!(outcome.commit.is_none() && !outcome.flipped);
        let calls = world.faults.calls();
        for writing in ["note", "record", "prepare", "build", "stage", "flip", "grace", "tear", "set_suspension"] {
            assert!(!calls.contains(&writing), "{writing} in {calls:?}");
        }
    }
    assert_eq!(world.effort(), effort);
    world.assert_contract();
}

#[test]
fn a_comment_changes_nothing() {
    let world = World::new();
    let mut engine = world.engine();
    applied(&mut engine, &first());
    let effort = world.effort();
    let commented = format!("# a comment\n\n{}", policy(5432));
    let (filter, test) = (filter(&["198.51.100.0/24"]), flow_test(5432));
    let files = [("node.yaml", NODE), ("filter.yaml", &filter), ("renamed.yaml", &commented), ("test.yaml", &test)];
    let commented = manifests(&files);
    for mut engine in [engine, world.engine()] {
        let planned = plan(&mut engine, &commented);
        assert!(planned.plan.is_empty(), "{:?}", planned.plan);
        assert!(applied(&mut engine, &commented).commit.is_none());
    }
    assert_eq!(world.effort(), effort);
}

#[test]
fn only_what_differs_is_written() {
    let world = World::new();
    let mut engine = world.engine();
    applied(&mut engine, &first());
    assert!(engine.catch_up().unwrap());
    assert!(!engine.catch_up().unwrap(), "caught up already");
    let before = world.effort();
    let planned = plan(&mut engine, &second());
    // The new prefix, and the policy entry under its new port in place of the old.
    assert_eq!(planned.plan.active.len(), 3, "{:?}", planned.plan.active);
    assert_eq!(planned.plan.standby, planned.plan.active);
    // With its test.
    assert_eq!(planned.plan.summary.update, 3);
    engine.apply(planned, Allow::default(), Operation::Apply).unwrap();
    let after = world.effort();
    assert_eq!((after.0 - before.0, after.1 - before.1, after.2 - before.2), (1, 3, 0));
    world.assert_contract();
}

#[test]
fn a_cold_start_prepares_once_beside_its_plan() {
    let world = World::new();
    let mut engine = world.engine();
    let planned = engine.plan_to_apply(&first(), Look::Kernel, Allow::default()).unwrap();
    let plan = plan(&mut World::new().engine(), &first());
    assert_eq!(planned.plan, plan.plan);
    assert_eq!(world.effort(), (0, 0, 0, 0));
    assert_eq!(world.store.disk(|disk| disk.journal.clone()).map(|journal| journal.phase), Some(Phase::Stage));
    engine.apply(planned, Allow::default(), Operation::Apply).unwrap();
    let calls = world.faults.calls();
    assert_eq!(calls.iter().filter(|call| **call == "prepare").count(), 1, "{calls:?}");

    world.faults.forget();
    engine.plan_to_apply(&second(), Look::Known, Allow::default()).unwrap();
    let calls = world.faults.calls();
    assert!(!calls.contains(&"prepare"), "{calls:?}");
    world.assert_contract();
}

#[test]
fn a_first_apply_that_a_guard_refuses_leaves_the_kernel_empty() {
    let world = World::new();
    let mut engine = world.engine();
    let refused = engine.plan_to_apply(&manifests(&[]), Look::Kernel, Allow::default());
    assert!(matches!(refused, Err(Error::Guard(_))), "{refused:?}");
    assert!(world.datapath.kernel(|kernel| kernel.live.is_none()));
    assert!(world.store.disk(|disk| disk.journal.is_none()));
}

#[test]
fn a_plan_changes_nothing() {
    let world = World::new();
    let mut engine = world.engine();
    plan(&mut engine, &first());
    assert!(world.datapath.kernel(|kernel| kernel.live.is_none()));
    applied(&mut engine, &first());
    let (live, disk) = (format!("{:?}", world.live()), world.store.disk(|disk| format!("{disk:?}")));
    plan(&mut engine, &second());
    assert_eq!(format!("{:?}", world.live()), live);
    assert_eq!(world.store.disk(|disk| format!("{disk:?}")), disk);
}

/// What the kernel and the disk must show once `manifests` is applied: compared with a world that nothing happened to.
fn assert_converged(world: &World, manifests: &Manifests, context: &str) {
    let fresh = World::new();
    applied(&mut fresh.engine(), manifests);
    let (live, expected) = (world.live(), fresh.live());
    let active = |live: &Live| live.sides[live.generation.side.index() as usize].clone();
    // Numbers depend on what was there before: compare what they stand for only by size, and all else exactly.
    assert_eq!(active(&live).lengths(), active(&expected).lengths(), "{context}");
    assert_eq!(active(&live).prefilter4.len(), active(&expected).prefilter4.len(), "{context}");
    assert_eq!(live.wiring, expected.wiring, "{context}");
    assert!(live.down.is_empty(), "{context}: {:?} stayed down", live.down);
    world.assert_contract();
}

/// The property that everything else rests on: whatever call fails, however far it got, whether or not the process
/// dies of it, the next apply converges and the one after it writes nothing.
#[test]
fn any_fault_converges() {
    let count = {
        let world = World::new();
        let mut engine = world.engine();
        applied(&mut engine, &first());
        engine.catch_up().unwrap();
        applied(&mut engine, &second());
        world.faults.calls().len()
    };
    assert!(count > 20, "the sequence has only {count} calls");
    let mut met = 0;
    for call in 0..count {
        for fault in Fault::ALL {
            for dies in [false, true] {
                let world = World::new();
                world.faults.plan(call, fault);
                let mut engine = world.engine();
                let mut failed = false;
                for step in [first(), second()] {
                    failed |= apply(&mut engine, &step).is_err();
                    if !failed {
                        failed |= engine.catch_up().is_err();
                    }
                    if failed {
                        break;
                    }
                }
                let context = format!("call {call}, {fault:?}, dies {dies}, {:?}", world.faults.calls());
                met += usize::from(failed);
                world.assert_contract();

                if dies {
                    engine = world.engine();
                }
                world.faults.forget();
                let outcome = apply(&mut engine, &second());
                assert!(outcome.is_ok(), "{context}: {:?}", outcome.err());
                assert_converged(&world, &second(), &context);

                let effort = world.effort();
                for mut engine in [engine, world.engine()] {
                    let planned = plan(&mut engine, &second());
                    assert!(planned.is_settled(), "{context}: {:?}", planned.plan);
                    assert!(applied(&mut engine, &second()).commit.is_none(), "{context}");
                }
                assert_eq!(world.effort(), effort, "{context}");
                assert!(world.store.disk(|disk| disk.journal.as_ref().is_none_or(|j| j.phase == Phase::Settled)));
            }
        }
    }
    assert!(met >= count * 2, "only {met} of the faults were felt");
}

/// As above, for going back: the next look either shows the old revision or the new one, whole, and `rollback` can
/// be asked for again.
#[test]
fn any_fault_in_a_rollback_can_be_repeated() {
    let prepare = |caught_up: bool| {
        let world = World::new();
        let mut engine = world.engine();
        applied(&mut engine, &first());
        applied(&mut engine, &second());
        if caught_up {
            engine.catch_up().unwrap();
        }
        world.faults.forget();
        (world, engine)
    };
    for caught_up in [false, true] {
        let (world, mut engine) = prepare(caught_up);
        let target = engine.rollback_target(None).unwrap();
        assert_eq!(target.sequence, 1);
        go_back(&mut engine, &target, Look::Known).unwrap();
        for call in 0..world.faults.calls().len() {
            for fault in Fault::ALL {
                let (world, mut engine) = prepare(caught_up);
                world.faults.plan(call, fault);
                let context = format!("caught up {caught_up}, call {call}, {fault:?}");
                let result =
                    engine.rollback_target(Some(1)).and_then(|target| go_back(&mut engine, &target, Look::Known));
                world.faults.forget();
                let mut engine = world.engine();
                if result.is_err() {
                    let target = engine.rollback_target(Some(1)).unwrap();
                    go_back(&mut engine, &target, Look::Kernel).unwrap_or_else(|error| panic!("{context}: {error}"));
                }
                assert_converged(&world, &first(), &context);
                assert!(engine.suspension().unwrap().is_some(), "{context}");
                let head = world.store.head().unwrap().unwrap();
                assert_eq!((head.operation, head.restores), (Operation::Rollback, Some(1)), "{context}");
                assert!(plan(&mut engine, &first()).is_settled(), "{context}");
            }
        }
    }
}

#[test]
fn a_commit_that_fails_its_tests_leaves_everything_as_it_was() {
    let world = World::refusing();
    let mut engine = world.engine();
    applied(&mut engine, &first());
    engine.catch_up().unwrap();
    let (before, effort) = (world.live(), world.effort());
    world.faults.forget();
    let Err(Error::FlowTests(tests)) = apply(&mut engine, &refused()) else { panic!("it was not refused") };
    assert_eq!((tests.summary.passed, tests.summary.failed), (0, 1));
    let probed = world.datapath.kernel(|kernel| kernel.probed.clone());
    assert_eq!(probed.last().map(|(copy, probe)| (*copy, probe.port)), Some((TableCopy::Standby, REFUSED)));
    let after = world.live();
    assert_eq!((after.sides, after.generation, after.wiring), (before.sides, before.generation, before.wiring));
    assert_eq!((world.effort().0, world.effort().3), (effort.0, effort.3), "no flip, no commit");
    assert!(world.store.disk(|disk| disk.journal.as_ref().is_some_and(|journal| journal.phase == Phase::Settled)));

    // What the engine knows is still right: it need not look again.
    world.faults.forget();
    assert!(applied(&mut engine, &second()).flipped);
    assert!(!world.faults.calls().contains(&"observe"), "{:?}", world.faults.calls());
    assert_converged(&world, &second(), "after a refusal");

    // Whoever means it says so.
    let allow = Allow { failed_tests: true, ..Allow::default() };
    let planned = engine.plan_to_apply(&refused(), Look::Known, allow).unwrap();
    assert!(engine.apply(planned, allow, Operation::Apply).unwrap().flipped);
}

#[test]
fn a_refusal_that_is_interrupted_anywhere_harms_nothing() {
    let prepare = || {
        let world = World::refusing();
        let mut engine = world.engine();
        applied(&mut engine, &first());
        world.faults.forget();
        (world, engine)
    };
    let (world, mut engine) = prepare();
    apply(&mut engine, &refused()).unwrap_err();
    let count = world.faults.calls().len();
    assert!(world.faults.calls().contains(&"probe"));
    for call in 0..count {
        for fault in Fault::ALL {
            for dies in [false, true] {
                let (world, mut engine) = prepare();
                world.faults.plan(call, fault);
                let context = format!("call {call}, {fault:?}, dies {dies}");
                assert!(apply(&mut engine, &refused()).is_err(), "{context}");
                assert_eq!(world.effort().0, 1, "{context}: nothing went live");
                world.faults.forget();
                if dies {
                    engine = world.engine();
                }
                // What was live stays so, and is nobody's drift.
                let outcome = apply(&mut engine, &first()).unwrap_or_else(|error| panic!("{context}: {error}"));
                assert!(outcome.commit.is_none_or(|commit| commit.drift == 0), "{context}");
                assert_converged(&world, &first(), &context);
                applied(&mut engine, &second());
                assert_converged(&world, &second(), &context);
            }
        }
    }
}

#[test]
fn what_is_only_healed_was_proven_before() {
    let world = World::new();
    let mut engine = world.engine();
    applied(&mut engine, &first());
    let probed = world.datapath.kernel(|kernel| kernel.probed.len());
    // By now the test would fail, and the drift is healed all the same.
    world.datapath.kernel(|kernel| {
        kernel.refused_ports.insert(5432, (Reason::PolicyDeny, 1));
        let live = kernel.live.as_mut().unwrap();
        let side = live.generation.side.index() as usize;
        live.sides[side].policy = Default::default();
    });
    let planned = engine.plan_to_apply(&first(), Look::Kernel, Allow::default()).unwrap();
    assert!(planned.plan.summary.drift > 0);
    assert!(engine.apply(planned, Allow::default(), Operation::Heal).unwrap().flipped);
    assert_eq!(world.datapath.kernel(|kernel| kernel.probed.len()), probed);
}

#[test]
fn a_rollback_is_one_flip_back_until_the_standby_has_caught_up() {
    for fresh in [false, true] {
        let world = World::new();
        let mut engine = world.engine();
        applied(&mut engine, &first());
        applied(&mut engine, &second());
        let before = world.effort();
        if fresh {
            engine = world.engine();
        }
        let target = engine.rollback_target(None).unwrap();
        let outcome = go_back(&mut engine, &target, Look::Known).unwrap();
        assert!(outcome.flipped);
        let after = world.effort();
        assert_eq!((after.0 - before.0, after.1 - before.1, after.3 - before.3), (1, 0, 1), "fresh {fresh}");
        assert_eq!(world.live().generation, Generation { side: Side::B, epoch: 4 });

        // And forth again, by the same way.
        let target = engine.rollback_target(None).unwrap();
        assert_eq!(target.sequence, 2);
        go_back(&mut engine, &target, Look::Known).unwrap();
        assert_eq!(world.effort().1, before.1);
        assert_converged(&world, &second(), "forth");

        engine.catch_up().unwrap();
        let written = world.effort().1;
        let target = engine.rollback_target(Some(1)).unwrap();
        go_back(&mut engine, &target, Look::Known).unwrap();
        assert!(world.effort().1 > written, "the former tables had to be written again");
        assert_converged(&world, &first(), "caught up");
    }
}

#[test]
fn rolling_back_suspends_until_resume() {
    let world = World::new();
    let mut engine = world.engine();
    assert!(matches!(engine.rollback_target(None), Err(Error::NothingEarlier)));
    applied(&mut engine, &first());
    assert!(matches!(engine.rollback_target(None), Err(Error::NothingEarlier)));
    assert!(matches!(engine.rollback_target(Some(7)), Err(Error::NoCommit { sequence: 7 })));
    applied(&mut engine, &second());
    assert!(engine.suspension().unwrap().is_none());
    let target = engine.rollback_target(None).unwrap();
    go_back(&mut engine, &target, Look::Known).unwrap();
    assert_eq!(world.engine().suspension().unwrap().unwrap().reason, "rolled back to commit 1");
    assert!(engine.resume().unwrap());
    assert!(!engine.resume().unwrap());
    assert!(engine.suspension().unwrap().is_none());
    let expired = engine.suspend("a minute", Some(std::time::Duration::ZERO)).unwrap();
    assert_eq!(expired.until_unix_ms, Some(expired.since_unix_ms));
    assert!(engine.suspension().unwrap().is_none(), "it has expired");
}

#[test]
fn drift_of_either_side_is_shown_and_healed() {
    for fresh in [false, true] {
        for active in [true, false] {
            for caught_up in [true, false] {
                let world = World::new();
                let mut engine = world.engine();
                applied(&mut engine, &first());
                applied(&mut engine, &second());
                if caught_up {
                    engine.catch_up().unwrap();
                }
                world.datapath.kernel(|kernel| {
                    let live = kernel.live.as_mut().unwrap();
                    let side = if active { live.generation.side } else { live.generation.side.other() };
                    let tables = &mut live.sides[side.index() as usize];
                    let (key, entry) = *tables.policy.iter().next().unwrap();
                    tables.policy.insert(key, PolicyEntry { verdict: 2, ..entry });
                    let endpoint = *tables.endpoints.iter().next().unwrap();
                    tables.endpoints.remove(&endpoint.0);
                    tables.ipcache4.insert(weir_plan::Prefix4 { bits: 0, length: 1 }, 999);
                });
                if fresh {
                    engine = world.engine();
                }
                let context = format!("fresh {fresh}, active {active}, caught up {caught_up}");
                let before = world.effort();
                let planned = plan(&mut engine, &second());
                let (drift, standby) = (planned.plan.drift.len(), planned.plan.standby_drift.len());
                assert_eq!((drift, standby), if active { (3, 0) } else { (0, 3) }, "{context}");
                assert!(planned.plan.changes.is_empty(), "{context}");
                let epoch = world.live().generation.epoch;
                let outcome = engine.apply(planned, Allow::default(), Operation::Heal).unwrap();
                assert_eq!(outcome.flipped, active, "{context}");
                assert_eq!(world.live().generation.epoch, epoch + u64::from(active), "{context}");
                assert_converged(&world, &second(), &context);
                assert!(plan(&mut engine, &second()).is_settled(), "{context}");
                assert!(plan(&mut world.engine(), &second()).is_settled(), "{context}");
                assert_eq!(world.effort().3, before.3 + 1, "{context}: healing is history");
            }
        }
    }
}

#[test]
fn lost_wiring_is_drift_and_needs_no_flip() {
    let world = World::new();
    let mut engine = world.engine();
    applied(&mut engine, &first());
    let wiring = world.live().wiring;
    assert!(!wiring.hooks.is_empty() && !wiring.devices.is_empty(), "{wiring:?}");
    world.datapath.kernel(|kernel| kernel.live.as_mut().unwrap().wiring = Wiring::default());
    let planned = plan(&mut engine, &first());
    assert_eq!(planned.plan.drift.len(), wiring.hooks.len() + wiring.devices.len());
    let outcome = engine.apply(planned, Allow::default(), Operation::Heal).unwrap();
    assert!(!outcome.flipped);
    assert_eq!(world.live().wiring, wiring);
    assert!(world.live().down.is_empty());
    assert!(plan(&mut engine, &first()).is_settled());
}

#[test]
fn what_an_apply_built_is_removed_when_it_fails_and_nothing_else_is() {
    let world = World::new();
    let mut engine = world.engine();
    let empty =
        manifests(&[("node.yaml", &NODE[..NODE.find("---\napiVersion: weir/v1alpha1\nkind: Endpoint").unwrap()])]);
    applied(&mut engine, &empty);
    let before = world.live().wiring;
    world.faults.forget();
    let planned = engine.plan(&first(), Look::Known).unwrap();
    let at = {
        let other = World::new();
        let mut engine = other.engine();
        applied(&mut engine, &empty);
        let planned = engine.plan(&first(), Look::Known).unwrap();
        other.faults.forget();
        engine.apply(planned, Allow::default(), Operation::Apply).unwrap();
        other.faults.calls().iter().position(|call| *call == "stage").unwrap()
    };
    world.faults.forget();
    world.faults.plan(at, Fault::Midway);
    engine.apply(planned, Allow::default(), Operation::Apply).unwrap_err();
    assert_eq!(world.live().wiring, before);
    assert_eq!(world.live().generation.epoch, 2, "nothing went live");
}

#[test]
fn an_invalid_set_changes_nothing() {
    let world = World::new();
    let mut engine = world.engine();
    applied(&mut engine, &first());
    let effort = world.effort();
    let bad = manifests(&[("node.yaml", NODE), ("bad.yaml", &policy(5432).replace("ingress:", "ingres:"))]);
    let error = apply(&mut engine, &bad).unwrap_err();
    assert_eq!((error.code(), error.exit().0), ("invalid-manifests", 65));
    assert!(error.to_string().contains("bad.yaml:6:"), "{error}");
    assert_eq!(world.effort(), effort);
    assert!(plan(&mut engine, &first()).is_settled());
}

#[test]
fn mass_deletion_must_be_meant() {
    let world = World::new();
    let mut engine = world.engine();
    let error = apply(&mut engine, &manifests(&[])).unwrap_err();
    assert_eq!((error.code(), error.exit().0), ("no-objects", 65));
    assert_eq!(error.to_string(), "dir:/etc/weir has no manifests");
    applied(&mut engine, &first());
    let effort = world.effort();
    let without_policy = manifests(&[("node.yaml", NODE), ("filter.yaml", &filter(&["198.51.100.0/24"]))]);
    for (manifests, text) in [
        (
            manifests(&[]),
            "every CidrFilter (1), every Endpoint (2), every FlowTest (1), every NetworkPolicy (1), every Node (1), every NodeConfig (1)",
        ),
        (without_policy, "every FlowTest (1), every NetworkPolicy (1)"),
    ] {
        let error = apply(&mut engine, &manifests).unwrap_err();
        assert_eq!((error.code(), error.exit().0), ("mass-delete", 65));
        assert_eq!(error.to_string(), format!("this would delete {text}"));
        assert_eq!(world.effort(), effort);
    }
    let planned = engine.plan(&manifests(&[]), Look::Known).unwrap();
    engine.apply(planned, Allow { mass_delete: true, ..Allow::default() }, Operation::Apply).unwrap();
    assert!(world.live().wiring.hooks.is_empty());
}

#[test]
fn a_session_to_the_host_is_not_cut_unless_that_is_meant() {
    let world = World::new();
    let session =
        |remote: &str| weir_plan::Session { local: "192.0.2.1:22".parse().unwrap(), remote: remote.parse().unwrap() };
    world.datapath.kernel(|kernel| kernel.sessions = vec![session("10.9.9.9:50001"), session("198.51.100.7:50000")]);
    let mut engine = world.engine();
    let open = manifests(&[("node.yaml", NODE), ("filter.yaml", &filter(&["203.0.113.0/24"]))]);
    applied(&mut engine, &open);
    let effort = world.effort();
    let closed = manifests(&[("node.yaml", NODE), ("filter.yaml", &filter(&["198.51.100.0/24"]))]);
    let error = apply(&mut engine, &closed).unwrap_err();
    assert_eq!((error.code(), error.exit().0), ("lockout", 65));
    assert_eq!(
        error.to_string(),
        "this would cut established TCP sessions to this host: 198.51.100.7:50000 -> 192.0.2.1:22"
    );
    assert_eq!(world.effort(), effort);
    let planned = engine.plan(&closed, Look::Known).unwrap();
    engine.apply(planned, Allow { lockout: true, ..Allow::default() }, Operation::Apply).unwrap();
    // Cut already: no reason to refuse what comes next.
    let more = manifests(&[("node.yaml", NODE), ("filter.yaml", &filter(&["198.51.100.0/24", "192.0.2.0/25"]))]);
    applied(&mut engine, &more);
}

#[test]
fn losing_the_store_deletes_nothing() {
    let world = World::new();
    applied(&mut world.engine(), &first());
    applied(&mut world.engine(), &second());
    let before = world.live();
    world.store.disk(|disk| *disk = Default::default());
    let mut engine = world.engine();
    let planned = plan(&mut engine, &second());
    assert!(planned.plan.drift.is_empty(), "nobody knows what was applied");
    engine.apply(planned, Allow::default(), Operation::Apply).unwrap();
    assert_converged(&world, &second(), "store lost");
    assert_eq!(world.live().wiring, before.wiring);
    assert!(world.live().generation.epoch >= before.generation.epoch);
    assert!(plan(&mut world.engine(), &second()).is_settled());
}

#[test]
fn a_reboot_is_a_cold_start_not_drift() {
    let world = World::new();
    applied(&mut world.engine(), &first());
    world.datapath.kernel(|kernel| kernel.live = None);
    let mut engine = world.engine();
    let planned = plan(&mut engine, &first());
    assert!(planned.plan.drift.is_empty());
    assert_eq!(planned.plan.summary.create, 7);
    engine.apply(planned, Allow::default(), Operation::Apply).unwrap();
    assert_converged(&world, &first(), "rebooted");
    assert!(plan(&mut world.engine(), &first()).is_settled());
}

#[test]
fn a_missing_interface_waits_and_the_rest_is_applied() {
    let world = World::new();
    world.datapath.kernel(|kernel| {
        kernel.facts.interfaces.retain(|interface| &*interface.name.0 != "vweb");
        kernel.netns.clear();
    });
    let mut engine = world.engine();
    let outcome = applied(&mut engine, &first());
    let pending: Vec<_> = outcome.desired.compiled.pending.iter().map(|p| (&*p.object.name, p.code)).collect();
    assert_eq!(pending, [("db", "netns-missing"), ("web", "interface-missing")]);
    assert!(!engine.facts_changed(&outcome.desired).unwrap());

    world.datapath.kernel(|kernel| {
        let vweb = InterfaceFacts {
            name: "vweb".into(),
            ifindex: 9,
            kind: "veth".into(),
            loopback: false,
            addresses: Vec::new(),
            ours: false,
            delivery: Delivery::Stack,
        };
        kernel.facts.interfaces.push(vweb);
    });
    assert!(engine.facts_changed(&outcome.desired).unwrap());
    let outcome = applied(&mut engine, &first());
    assert!(outcome.flipped);
    assert_eq!(outcome.desired.compiled.pending.len(), 1);
    assert!(world.live().wiring.hooks.iter().any(|(key, _)| key.interface() == Some(&InterfaceName::from("vweb"))));
}

#[test]
fn history_tells_what_happened() {
    let world = World::new();
    let mut engine = world.engine();
    applied(&mut engine, &first());
    applied(&mut engine, &second());
    let target = engine.rollback_target(None).unwrap();
    go_back(&mut engine, &target, Look::Known).unwrap();
    let history = world.store.history(10).unwrap();
    let told: Vec<_> = history
        .iter()
        .map(|commit| (commit.sequence, commit.operation, commit.epoch, commit.side, commit.restores))
        .collect();
    assert_eq!(
        told,
        [(3, Operation::Rollback, 4, 1, Some(1)), (2, Operation::Apply, 3, 0, None), (1, Operation::Apply, 2, 1, None),]
    );
    assert_eq!(history[0].files, history[2].files);
    assert_eq!((&*history[1].node, &*history[1].source), ("n1", "dir:/etc/weir"));
    let numbering = engine.numbering().unwrap();
    assert_eq!(numbering, world.store.disk(|disk| disk.numbering.clone()));
    let _: Arc<str> = engine.node().clone();
}

const KEPT: &str = ".weir-kept/weir/endpoint.default.db.yaml";

fn without_db() -> String {
    let at = NODE.find("---\napiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata: {name: db").unwrap();
    NODE[..at].to_owned()
}

/// The endpoint `db` with an annotation.
fn annotated(annotation: &str) -> String {
    NODE.replace("{name: db, ", &format!("{{name: db, annotations: {{{annotation}}}, "))
}

fn set(node: &str, port: u16) -> Manifests {
    manifests(&[("node.yaml", node), ("filter.yaml", &filter(&["198.51.100.0/24"])), ("policy.yaml", &policy(port))])
}

fn kept(applied: &Applied) -> Vec<String> {
    applied.desired.kept().iter().map(ToString::to_string).collect()
}

fn has_db(world: &World) -> bool {
    let live = world.live();
    live.active_side().endpoints.get(&"10.0.0.2".parse().unwrap()).is_some()
}

trait ActiveSide {
    fn active_side(&self) -> &weir_plan::Tables;
}

impl ActiveSide for Live {
    fn active_side(&self) -> &weir_plan::Tables {
        &self.sides[self.generation.side.index() as usize]
    }
}

#[test]
fn what_is_not_to_be_pruned_stays_over_revisions_and_restarts() {
    let world = World::new();
    let mut engine = world.engine();
    applied(&mut engine, &set(&annotated(r#"weir/prune: "false""#), 5432));
    let before = world.effort();
    // It goes from the source: nothing is to be done.
    for mut engine in [engine, world.engine()] {
        let planned = plan(&mut engine, &set(&without_db(), 5432));
        assert!(planned.is_settled(), "{:?}", planned.plan);
        let outcome = applied(&mut engine, &set(&without_db(), 5432));
        assert_eq!(kept(&outcome), ["Endpoint default/db"]);
        assert_eq!(world.effort(), before);
    }
    // Each later revision keeps it again, and is recorded with it.
    let mut engine = world.engine();
    for (port, fresh) in [(5433, false), (5434, true), (5435, false)] {
        if fresh {
            engine = world.engine();
        }
        let outcome = applied(&mut engine, &set(&without_db(), port));
        assert!(outcome.flipped && has_db(&world));
        assert_eq!(kept(&outcome), ["Endpoint default/db"]);
        assert_eq!(outcome.plan.summary.delete, 0);
        let files = &world.store.head().unwrap().unwrap().files;
        assert_eq!(files.iter().filter(|file| &*file.path == KEPT).count(), 1);
        for mut engine in [world.engine(), world.engine()] {
            assert!(plan(&mut engine, &set(&without_db(), port)).is_settled());
            assert_eq!(engine.applied().unwrap().unwrap().kept().len(), 1);
        }
    }
    // Back in the source, without its annotation: from now on it can go.
    let outcome = applied(&mut engine, &set(NODE, 5435));
    assert_eq!((kept(&outcome), outcome.plan.summary.update), (vec![], 1));
    assert!(!outcome.flipped, "an annotation is no entry");
    assert!(world.store.head().unwrap().unwrap().files.iter().all(|file| &*file.path != KEPT));
    let outcome = applied(&mut engine, &set(&without_db(), 5435));
    assert_eq!((kept(&outcome), outcome.plan.summary.delete), (vec![], 1));
    assert!(!has_db(&world));
    world.assert_contract();
}

#[test]
fn a_rollback_keeps_what_is_not_to_be_pruned() {
    let world = World::new();
    let mut engine = world.engine();
    applied(&mut engine, &set(&without_db(), 5432));
    applied(&mut engine, &set(&annotated(r#"weir/prune: "false""#), 5433));
    let target = engine.rollback_target(None).unwrap();
    let outcome = go_back(&mut engine, &target, Look::Known).unwrap();
    assert_eq!(
        (outcome.commit.as_ref().unwrap().restores, kept(&outcome)),
        (Some(1), vec!["Endpoint default/db".to_owned()])
    );
    assert!(has_db(&world));
    // And a commit that kept something brings it back.
    applied(&mut engine, &set(NODE, 5434));
    applied(&mut engine, &set(&without_db(), 5434));
    assert!(!has_db(&world));
    let target = engine.rollback_target(Some(3)).unwrap();
    let outcome = go_back(&mut engine, &target, Look::Known).unwrap();
    assert_eq!(kept(&outcome), ["Endpoint default/db"]);
    assert!(has_db(&world));
    world.assert_contract();
}

#[test]
fn what_is_kept_is_no_mass_deletion_and_what_is_not_is() {
    let world = World::new();
    let mut engine = world.engine();
    let keep = policy(5432).replace("{name: db}", r#"{name: db, annotations: {weir/prune: "false"}}"#);
    let filter = filter(&["198.51.100.0/24"]);
    applied(&mut engine, &manifests(&[("node.yaml", NODE), ("filter.yaml", &filter), ("policy.yaml", &keep)]));
    let outcome = applied(&mut engine, &manifests(&[("node.yaml", NODE), ("filter.yaml", &filter)]));
    assert_eq!(kept(&outcome), ["NetworkPolicy default/db"]);
    let error = apply(&mut engine, &manifests(&[("node.yaml", NODE)])).unwrap_err();
    assert_eq!(error.to_string(), "this would delete every CidrFilter (1)");
}

#[test]
fn a_kept_object_in_the_way_is_named() {
    let world = World::new();
    let mut engine = world.engine();
    applied(&mut engine, &set(&annotated(r#"weir/prune: "false""#), 5432));
    let live = world.effort();
    let heir = set(&NODE.replace("{name: db, ", "{name: heir, "), 5432);
    for mut engine in [engine, world.engine()] {
        let error = apply(&mut engine, &heir).unwrap_err();
        assert_eq!(error.code(), "invalid-manifests");
        let text = error.to_string();
        assert!(text.contains(KEPT) && text.contains("10.0.0.2"), "{text}");
        assert!(
            text.contains("Endpoint default/db is no longer in the source, and kept because of its `weir/prune"),
            "{text}"
        );
        assert_eq!(world.effort(), live);
    }
}

/// Lists that other files hold are kept with it.
#[test]
fn a_kept_filter_keeps_its_lists() {
    let world = World::new();
    let mut engine = world.engine();
    let listed = "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {name: drop, annotations: {weir/prune: \"false\"}}\nspec: {cidrs: [198.51.100.0/24], fromFiles: [drop.txt]}\n";
    applied(&mut engine, &manifests(&[("node.yaml", NODE), ("filter.yaml", listed), ("drop.txt", "203.0.113.0/24\n")]));
    let before = world.live().active_side().prefilter4.len();
    assert_eq!(before, 2);
    let outcome = applied(&mut engine, &manifests(&[("node.yaml", NODE)]));
    assert_eq!(kept(&outcome), ["CidrFilter default/drop"]);
    assert_eq!(world.live().active_side().prefilter4.len(), before);
    assert!(plan(&mut world.engine(), &manifests(&[("node.yaml", NODE)])).is_settled());
}

#[test]
fn drift_of_what_is_not_healed_is_told_and_left() {
    for active in [true, false] {
        for fresh in [false, true] {
            let context = format!("active {active}, fresh {fresh}");
            let world = World::new();
            let mut engine = world.engine();
            let spared = set(&annotated(r#"weir/heal: "false""#), 5432);
            applied(&mut engine, &spared);
            engine.catch_up().unwrap();
            let db = "10.0.0.2".parse().unwrap();
            let change = |key: std::net::IpAddr| {
                world.datapath.kernel(|kernel| {
                    let live = kernel.live.as_mut().unwrap();
                    let side = if active { live.generation.side } else { live.generation.side.other() };
                    live.sides[side.index() as usize].endpoints.remove(&key);
                });
            };
            change(db);
            if fresh {
                engine = world.engine();
            }
            let before = world.effort();
            let planned = plan(&mut engine, &spared);
            assert_eq!(planned.plan.summary.drift, 1, "{context}");
            assert!(planned.spared && planned.is_settled(), "{context}");
            let outcome = engine.apply(planned, Allow::default(), Operation::Heal).unwrap();
            assert!(outcome.commit.is_none() && outcome.plan.summary.drift == 1, "{context}");
            assert_eq!(world.effort(), before, "{context}");
            assert_eq!(has_db(&world), !active, "{context}");

            // Another object's drift is undone, and that writes the whole.
            change("10.0.0.1".parse().unwrap());
            let planned = plan(&mut engine, &spared);
            assert!(!planned.spared && planned.plan.summary.drift == 2, "{context}");
            engine.apply(planned, Allow::default(), Operation::Heal).unwrap();
            assert!(has_db(&world) && plan(&mut engine, &spared).plan.is_empty(), "{context}");
            world.assert_contract();
        }
    }
}

/// The standby side is what a later flip begins with.
#[test]
fn what_is_left_on_the_active_side_is_not_copied_to_the_standby() {
    let world = World::new();
    let mut engine = world.engine();
    applied(&mut engine, &set(&annotated(r#"weir/heal: "false""#), 5432));
    let spared = set(&annotated(r#"weir/heal: "false""#), 5433);
    applied(&mut engine, &spared);
    world.datapath.kernel(|kernel| {
        let live = kernel.live.as_mut().unwrap();
        live.sides[live.generation.side.index() as usize].endpoints.remove(&"10.0.0.2".parse().unwrap());
    });
    assert!(plan(&mut engine, &spared).spared);
    assert!(engine.catch_up().unwrap());
    assert!(!engine.catch_up().unwrap());
    let planned = plan(&mut engine, &spared);
    assert_eq!((planned.plan.drift.len(), planned.plan.standby_drift.len()), (1, 0));
    // The next apply that changes something writes the whole.
    applied(&mut engine, &set(&annotated(r#"weir/heal: "false""#), 5434));
    assert!(has_db(&world));
    assert!(plan(&mut engine, &set(&annotated(r#"weir/heal: "false""#), 5434)).is_settled());
    world.assert_contract();
}
