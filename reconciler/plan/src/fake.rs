//! A kernel and a disk in memory: they keep the contracts of [`Datapath`] and [`Store`], note who breaks them, and
//! fail on command.
//!
//! Both are handles: a clone sees the same kernel or disk, so a test can drop whoever used it, as a crash would, and go
//! on with what is left.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use weir_abi::{Generation, Reason};

use crate::{
    Capacity, Commit, Datapath, DatapathError, Delta, HookKey, InterfaceName, Journal, NetnsFacts, NodeFacts,
    Numbering, Observed, Probe, ProbeStep, Session, Store, StoreError, Suspension, TableCopy, Tables, TablesDelta,
    Wiring, WiringDelta,
};

/// How far a call gets that is told to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happens.
    Before,
    /// Half of it happens, where halves exist.
    Midway,
    /// All of it happens, and the caller is not told.
    After,
}

impl Fault {
    pub const ALL: [Self; 3] = [Self::Before, Self::Midway, Self::After];
}

/// The calls through both doors, counted together, and which of them fails.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Schedule>>);

#[derive(Debug, Default)]
struct Schedule {
    calls: Vec<&'static str>,
    planned: BTreeMap<usize, Fault>,
}

impl Faults {
    /// The `call`-th call from now on (from 0) fails, once.
    pub fn plan(&self, call: usize, fault: Fault) {
        let mut schedule = lock(&self.0);
        let at = schedule.calls.len() + call;
        schedule.planned.insert(at, fault);
    }

    /// Every call so far, by name.
    pub fn calls(&self) -> Vec<&'static str> {
        lock(&self.0).calls.clone()
    }

    /// Forgets the calls so far, and the faults that nobody met.
    pub fn forget(&self) {
        *lock(&self.0) = Schedule::default();
    }

    fn call(&self, name: &'static str) -> Option<Fault> {
        let mut schedule = lock(&self.0);
        let at = schedule.calls.len();
        schedule.calls.push(name);
        schedule.planned.remove(&at)
    }
}

/// A panic in a test leaves plain values behind, which are as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the kernel holds.
#[derive(Clone, Debug, Default)]
pub struct FakeKernel {
    /// `None`: a cold start.
    pub live: Option<Live>,
    pub facts: NodeFacts,
    /// The network namespaces that exist.
    pub netns: BTreeSet<String>,
    pub sessions: Vec<Session>,
    pub flips: u64,
    /// Probes to these ports are dropped at their first hook, by the rule; all others pass.
    pub refused_ports: BTreeMap<u16, (Reason, u32)>,
    /// Probes to these addresses go to a backend, from their first hook on.
    pub backends: BTreeMap<IpAddr, (IpAddr, u16)>,
    /// Every probe, and on which copy it was.
    pub probed: Vec<(TableCopy, Probe)>,
    /// Entries that `stage` wrote.
    pub written: u64,
    /// Devices and hooks that `build` and `tear` touched.
    pub wired: u64,
    /// How the contract was broken.
    pub violations: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Live {
    pub generation: Generation,
    /// Indexed by [`weir_abi::Side::index`].
    pub sides: [Tables; 2],
    pub wiring: Wiring,
    pub capacity: Capacity,
    /// Made by `build`, not yet brought up by `tear`.
    pub down: BTreeSet<InterfaceName>,
    /// Whether the standby side is free of running programs.
    pub graced: bool,
}

#[derive(Clone, Debug, Default)]
pub struct FakeDatapath {
    kernel: Arc<Mutex<FakeKernel>>,
    faults: Faults,
}

impl FakeDatapath {
    pub fn new(facts: NodeFacts, faults: Faults) -> Self {
        Self { kernel: Arc::new(Mutex::new(FakeKernel { facts, ..FakeKernel::default() })), faults }
    }

    /// Looks at the kernel, or tampers with it, as somebody else would.
    pub fn kernel<T>(&self, look: impl FnOnce(&mut FakeKernel) -> T) -> T {
        look(&mut lock(&self.kernel))
    }

    fn call<T>(
        &self,
        name: &'static str,
        act: impl FnOnce(&mut FakeKernel, bool) -> Result<T, DatapathError>,
    ) -> Result<T, DatapathError> {
        let failed = || DatapathError::Failed {
            doing: name,
            what: "the fake kernel".to_owned(),
            cause: "planned fault".to_owned(),
        };
        let mut kernel = lock(&self.kernel);
        match self.faults.call(name) {
            Some(Fault::Before) => Err(failed()),
            Some(fault) => act(&mut kernel, fault == Fault::Midway).and_then(|_| Err(failed())),
            None => act(&mut kernel, false),
        }
    }
}

impl Live {
    fn observed(&self) -> Observed {
        let mut wiring = self.wiring.clone();
        for device in &self.down {
            wiring.devices.remove(device);
        }
        let sides = self.sides.clone().map(Arc::new);
        Observed { generation: self.generation, sides, wiring, capacity: self.capacity }
    }
}

impl FakeKernel {
    fn live(&mut self) -> Result<&mut Live, DatapathError> {
        self.live.as_mut().ok_or_else(|| DatapathError::Failed {
            doing: "use",
            what: "tables".to_owned(),
            cause: "`prepare` was never called".to_owned(),
        })
    }
}

/// The first half of the changes, as an interrupted write would leave it.
fn half(delta: &TablesDelta) -> TablesDelta {
    let mut half = Delta::default();
    delta.changes().take(delta.len().div_ceil(2)).for_each(|change| half.push(change));
    half.tables
}

impl Datapath for FakeDatapath {
    fn facts(&mut self, netns: &[String]) -> Result<NodeFacts, DatapathError> {
        self.call("facts", |kernel, _| {
            let exists = |name: &String| NetnsFacts { netns: name.clone(), exists: kernel.netns.contains(name) };
            Ok(NodeFacts { netns: netns.iter().map(exists).collect(), ..kernel.facts.clone() })
        })
    }

    fn sessions(&mut self) -> Vec<Session> {
        self.kernel(|kernel| kernel.sessions.clone())
    }

    fn observe(&mut self) -> Result<Option<Observed>, DatapathError> {
        self.call("observe", |kernel, _| Ok(kernel.live.as_ref().map(Live::observed)))
    }

    fn unchanged(&mut self, known: &Observed) -> Result<bool, DatapathError> {
        self.call("unchanged", |kernel, _| Ok(kernel.live.as_ref().map(Live::observed).as_ref() == Some(known)))
    }

    fn generation(&mut self) -> Result<Option<Generation>, DatapathError> {
        self.call("generation", |kernel, _| Ok(kernel.live.as_ref().map(|live| live.generation)))
    }

    fn prepare(&mut self, _: &Tables, capacity: &Capacity) -> Result<(), DatapathError> {
        self.call("prepare", |kernel, _| {
            let live = kernel.live.get_or_insert_with(|| Live {
                generation: Generation::FIRST,
                sides: [Tables::default(), Tables::default()],
                wiring: Wiring::default(),
                capacity: *capacity,
                down: BTreeSet::new(),
                graced: true,
            });
            live.capacity = *capacity;
            Ok(())
        })
    }

    fn build(&mut self, delta: &WiringDelta) -> Result<(), DatapathError> {
        self.call("build", |kernel, midway| {
            let live = kernel.live()?;
            let mut touched = 0;
            for change in delta.devices.iter().take(if midway { 1 } else { usize::MAX }) {
                if let Some(device) = &change.to {
                    live.wiring.devices.insert(change.key.clone(), device.clone());
                    live.down.insert(change.key.clone());
                    touched += 1;
                }
            }
            for change in delta.hooks.iter().take(if midway { 0 } else { usize::MAX }) {
                if let Some(state) = change.to {
                    live.wiring.hooks.insert(change.key.clone(), state);
                    touched += 1;
                }
            }
            kernel.wired += touched;
            Ok(())
        })
    }

    fn stage(&mut self, delta: &TablesDelta) -> Result<(), DatapathError> {
        self.call("stage", |kernel, midway| {
            let live = kernel.live()?;
            let graced = live.graced;
            let delta = if midway { half(delta) } else { delta.clone() };
            live.sides[live.generation.side.other().index() as usize].apply(&delta);
            kernel.written += delta.len() as u64;
            if !graced {
                kernel.violations.push("the standby side was written before `grace` had returned".to_owned());
            }
            Ok(())
        })
    }

    fn probe(&mut self, copy: TableCopy, probes: &[Probe]) -> Result<Vec<Vec<ProbeStep>>, DatapathError> {
        self.call("probe", |kernel, _| {
            kernel.probed.extend(probes.iter().map(|probe| (copy, probe.clone())));
            let refused = &kernel.refused_ports;
            let steps = |probe: &Probe| {
                let (reason, rule) = refused.get(&probe.port).copied().unwrap_or((Reason::Forwarded, 0));
                let destination = kernel.backends.get(&probe.destination).copied();
                let (mut way, mut back) = (probe.way.clone(), &probe.back);
                // By the first program that it meets.
                if let Some((backend, _)) = destination {
                    let onward = probe.onward(backend);
                    way.truncate(1);
                    way.extend(onward.way.iter().cloned());
                    back = &onward.back;
                }
                let step = |at: &HookKey, answer| ProbeStep { at: at.clone(), answer, reason, rule, destination: None };
                let mut steps: Vec<ProbeStep> = way.iter().map(|at| step(at, false)).collect();
                if let Some(first) = steps.first_mut() {
                    first.destination = destination;
                }
                match reason.is_drop() {
                    true => steps.truncate(1),
                    false => steps.extend(back.iter().map(|at| step(at, true))),
                }
                steps
            };
            Ok(probes.iter().map(steps).collect())
        })
    }

    fn flip(&mut self) -> Result<Generation, DatapathError> {
        self.call("flip", |kernel, _| {
            let live = kernel.live()?;
            live.generation = live.generation.flipped();
            live.graced = false;
            let generation = live.generation;
            kernel.flips += 1;
            Ok(generation)
        })
    }

    fn grace(&mut self) -> Result<(), DatapathError> {
        self.call("grace", |kernel, midway| {
            kernel.live()?.graced = !midway;
            Ok(())
        })
    }

    fn tear(&mut self, delta: &WiringDelta) -> Result<(), DatapathError> {
        self.call("tear", |kernel, midway| {
            let live = kernel.live()?;
            let mut touched = 0;
            for change in delta.hooks.iter().take(if midway { 1 } else { usize::MAX }) {
                if change.to.is_none() && live.wiring.hooks.remove(&change.key).is_some() {
                    touched += 1;
                }
            }
            for change in delta.devices.iter().take(if midway { 0 } else { usize::MAX }) {
                live.down.remove(&change.key);
                if change.to.is_none() && live.wiring.devices.remove(&change.key).is_some() {
                    touched += 1;
                }
            }
            kernel.wired += touched;
            Ok(())
        })
    }
}

/// What the disk holds.
#[derive(Clone, Debug, Default)]
pub struct FakeDisk {
    pub commits: BTreeMap<u64, Commit>,
    pub blobs: BTreeMap<[u8; 32], Arc<[u8]>>,
    pub numbering: Numbering,
    pub journal: Option<Journal>,
    pub suspension: Option<Suspension>,
    pub violations: Vec<String>,
    pub made: BTreeMap<[u8; 32], Vec<u8>>,
}

#[derive(Clone, Debug, Default)]
pub struct FakeStore {
    disk: Arc<Mutex<FakeDisk>>,
    faults: Faults,
}

impl FakeStore {
    pub fn new(faults: Faults) -> Self {
        Self { disk: Arc::default(), faults }
    }

    /// Looks at the disk, or tampers with it.
    pub fn disk<T>(&self, look: impl FnOnce(&mut FakeDisk) -> T) -> T {
        look(&mut lock(&self.disk))
    }

    fn call<T>(&self, name: &'static str, act: impl FnOnce(&mut FakeDisk) -> T) -> Result<T, StoreError> {
        let failed =
            || StoreError::Failed { doing: name, path: "the fake disk".to_owned(), cause: "planned fault".to_owned() };
        let mut disk = lock(&self.disk);
        match self.faults.call(name) {
            // Every call is atomic: there is no midway.
            Some(Fault::Before | Fault::Midway) => Err(failed()),
            Some(Fault::After) => {
                act(&mut disk);
                Err(failed())
            }
            None => Ok(act(&mut disk)),
        }
    }
}

impl Store for FakeStore {
    fn head(&self) -> Result<Option<Commit>, StoreError> {
        self.call("head", |disk| disk.commits.values().next_back().cloned())
    }

    fn history(&self, limit: usize) -> Result<Vec<Commit>, StoreError> {
        self.call("history", |disk| disk.commits.values().rev().take(limit).cloned().collect())
    }

    fn commit(&self, sequence: u64) -> Result<Option<Commit>, StoreError> {
        self.call("commit", |disk| disk.commits.get(&sequence).cloned())
    }

    fn blob(&self, hash: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        self.call("blob", |disk| disk.blobs.get(hash).map(|bytes| bytes.to_vec()))
    }

    fn numbering(&self) -> Result<Numbering, StoreError> {
        self.call("numbering", |disk| disk.numbering.clone())
    }

    fn journal(&self) -> Result<Option<Journal>, StoreError> {
        self.call("journal", |disk| disk.journal.clone())
    }

    fn note(&mut self, journal: &Journal) -> Result<(), StoreError> {
        self.call("note", |disk| disk.journal = Some(journal.clone()))
    }

    fn record(
        &mut self,
        commit: &Commit,
        blobs: &[([u8; 32], Arc<[u8]>)],
        numbering: &Numbering,
    ) -> Result<(), StoreError> {
        self.call("record", |disk| {
            disk.blobs.extend(blobs.iter().cloned());
            for file in &commit.files {
                if !disk.blobs.contains_key(&file.hash) {
                    disk.violations.push(format!("commit {} names {} without its bytes", commit.sequence, file.path));
                }
            }
            if disk.commits.last_key_value().is_some_and(|(last, _)| *last >= commit.sequence) {
                disk.violations.push(format!("commit {} came after a later one", commit.sequence));
            }
            disk.commits.insert(commit.sequence, commit.clone());
            disk.numbering = numbering.clone();
            disk.journal = None;
        })
    }

    fn cached(&self, content: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.disk(|disk| disk.made.get(content).cloned()))
    }

    fn cache(&mut self, made: &[([u8; 32], Vec<u8>)]) -> Result<(), StoreError> {
        self.disk(|disk| disk.made.extend(made.iter().cloned()));
        Ok(())
    }

    fn suspension(&self) -> Result<Option<Suspension>, StoreError> {
        self.call("suspension", |disk| disk.suspension.clone())
    }

    fn set_suspension(&mut self, suspension: Option<&Suspension>) -> Result<(), StoreError> {
        self.call("set_suspension", |disk| disk.suspension = suspension.cloned())
    }
}
