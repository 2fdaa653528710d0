//! Fetch, compute, execute: what is desired, what was applied and what is live become a plan; a plan becomes a flip.
//!
//! Everything that decides is in [`Engine::plan`] and changes nothing; everything that acts is in [`Engine::apply`].
//! After any failure the engine forgets what it believed and looks again.
use std::{
    cell::RefCell,
    collections::HashSet,
    sync::{Arc, Weak, mpsc},
    thread,
};

use weir_abi::Generation;
use weir_compile::{Effort, Input, TraceFlow, Who};
use weir_plan::{
    Action, Change, Commit, Datapath, InterfaceFacts, InterfaceName, Journal, Numbering, ObjectRef, Observed,
    Operation, Phase, Plan, Session, Store, Suspension, Tables, TablesDelta, Wiring, WiringDelta,
};
use weir_schema::{Inventory, Options};

use crate::{
    Allow, Error, Manifests, Snapshot, Timings, WorkDocument, WrittenDocument, clock, guard, kept, manifests::Parser,
    spared, timings::Stopwatch,
};

#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// What `--node` names.
    pub node: Arc<str>,
    pub boot_id: String,
    pub ignore_foreign: bool,
}

/// Whether what the engine knows of the live tables is good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// What this process wrote and read earlier; the kernel where that is not known.
    Known,
    /// The kernel: a full verification.
    Kernel,
}

/// A plan, and all that is needed to execute it.
#[derive(Debug)]
pub struct Planned {
    pub desired: Arc<Snapshot>,
    pub applied: Option<Arc<Snapshot>>,
    pub live: Option<Observed>,
    pub plan: Plan,
    pub sequence: u64,
    /// An apply was interrupted: there is something to record even if nothing is left to write.
    pub unfinished: Option<Phase>,
    /// All that differs is what others did to objects that are not healed: it is left as it is.
    pub spared: bool,
    pub timings: Timings,
    pub work: WorkDocument,
    numbering: Numbering,
    /// Objects that are not what they were.
    objects: Vec<(ObjectRef, Action)>,
    /// The tables are made already: see [`Engine::plan_to_apply`].
    prepared: bool,
}

impl Planned {
    /// Nothing that has to be written, flipped or recorded.
    pub fn is_settled(&self) -> bool {
        (self.plan.is_empty() || self.spared) && !interrupted_at_flip(self.unfinished) && !self.is_unrecorded()
    }

    /// What is live is as wanted, and the store that knew of it is lost: history begins anew.
    fn is_unrecorded(&self) -> bool {
        self.live.is_some() && self.applied.is_none()
    }
}

/// What an apply came to.
#[derive(Clone, Debug)]
pub struct Applied {
    /// `None`: there was nothing to do.
    pub commit: Option<Commit>,
    pub flipped: bool,
    pub desired: Arc<Snapshot>,
    /// What was applied before.
    pub before: Option<Arc<Snapshot>>,
    /// What was executed.
    pub plan: Plan,
    pub timings: Timings,
    pub work: WorkDocument,
    /// By plan and apply together.
    pub written: WrittenDocument,
}

#[derive(Debug)]
pub struct Engine<D, S> {
    datapath: D,
    store: S,
    options: EngineOptions,
    parser: Parser,
    memory: Option<Arc<Memory>>,
    /// What is live as far as this process wrote or read it; outer `None`: look.
    live: Option<Option<Observed>>,
    /// The devices that `live` speaks of by name.
    devices: Vec<InterfaceFacts>,
    /// No program can still run on the standby side.
    graced: bool,
    /// Contents of which the store was given what they were parsed into.
    cached: HashSet<[u8; 32]>,
    /// Documents so far.
    parsed: u64,
    warmed: Option<Weak<Snapshot>>,
}

/// What the store holds.
#[derive(Clone, Debug)]
struct Memory {
    head: Option<Commit>,
    numbering: Numbering,
    journal: Option<Journal>,
    /// The head, compiled; `None` also where its bytes are lost.
    applied: Option<Arc<Snapshot>>,
}

impl<D: Datapath, S: Store> Engine<D, S> {
    pub fn new(datapath: D, store: S, options: EngineOptions) -> Self {
        let parser = Parser::new(Options { ignore_foreign: options.ignore_foreign });
        Self {
            datapath,
            store,
            options,
            parser,
            memory: None,
            live: None,
            devices: Vec::new(),
            graced: false,
            cached: HashSet::new(),
            parsed: 0,
            warmed: None,
        }
    }

    pub fn node(&self) -> &Arc<str> {
        &self.options.node
    }

    pub fn store(&self) -> &S {
        &self.store
    }

    pub fn datapath(&mut self) -> &mut D {
        &mut self.datapath
    }

    /// Makes ready for the next change, in a moment when nobody waits. Whether that was much.
    pub fn warm(&mut self) -> bool {
        self.parser.tidy();
        let Some(snapshot) = self.snapshot() else { return false };
        if self.warmed.as_ref().is_some_and(|warmed| warmed.as_ptr() == Arc::as_ptr(&snapshot)) {
            return false;
        }
        self.warmed = Some(Arc::downgrade(&snapshot));
        let whole = snapshot.compiled.warm();
        let mut made = Vec::new();
        for (file, parsed) in snapshot.manifests.files.iter().zip(self.parser.parsed()) {
            let known = || self.cached.contains(&file.hash.0);
            if parsed.hash() == file.hash
                && !known()
                && let Some(bytes) = parsed.encode(file)
            {
                made.push((file.hash.0, bytes));
            }
        }
        self.cached = snapshot.manifests.files.iter().map(|file| file.hash.0).collect();
        // Without it the next start takes longer.
        if let Err(error) = self.store.cache(&made) {
            tracing::debug!(%error, "what was parsed is not kept");
        }
        whole
    }

    /// The next plan looks at the kernel and the store again.
    pub fn forget(&mut self) {
        self.memory = None;
        self.live = None;
        self.graced = false;
    }

    /// What would have to be done for `manifests` to be live. Changes nothing.
    pub fn plan(&mut self, manifests: &Manifests, look: Look) -> Result<Planned, Error> {
        self.plan_and(manifests, look, None)
    }

    /// As [`Self::plan`], of what will be applied at once if `allow` does: where the kernel holds nothing, its tables
    /// are made and programs loaded while the plan is.
    pub fn plan_to_apply(&mut self, manifests: &Manifests, look: Look, allow: Allow) -> Result<Planned, Error> {
        self.plan_and(manifests, look, Some(allow))
    }

    fn plan_and(&mut self, manifests: &Manifests, look: Look, apply: Option<Allow>) -> Result<Planned, Error> {
        let planned = self.try_plan(manifests, look, apply);
        if planned.is_err() && apply.is_some() {
            self.datapath.foresee(None);
        }
        if matches!(planned, Err(Error::Datapath(_) | Error::Store(_))) {
            self.forget();
        }
        planned
    }

    fn try_plan(&mut self, manifests: &Manifests, look: Look, apply: Option<Allow>) -> Result<Planned, Error> {
        let mut timings = Timings::default();
        let mut watch = Stopwatch::start();
        // Only the first set of a process is large and known to the store.
        let first = self.parser.parsed().is_empty();
        let found = RefCell::new(HashSet::new());
        let cached = |file: &weir_schema::File| {
            if !first {
                return None;
            }
            let made = self.store.cached(&file.hash.0).ok().flatten()?;
            found.borrow_mut().insert(file.hash.0);
            Some(made)
        };
        let parsed = self.parser.parse(manifests, cached);
        let (mut inventory, documents) = parsed.map_err(Error::Manifests)?;
        // What was found and was no good is kept anew.
        let found = found.into_inner();
        if !found.is_empty() {
            let good = self.parser.parsed().iter().filter(|file| file.counts().parsed == 0).map(|file| file.hash().0);
            self.cached.extend(good.filter(|hash| found.contains(hash)));
        }
        self.parsed += documents as u64;
        let mut work = WorkDocument { documents, ..WorkDocument::default() };
        timings.parse_us = watch.lap();

        let node = self.options.node.clone();
        let mut memory = self.remember()?;
        let has_former =
            memory.applied.is_none() && memory.head.as_ref().is_some_and(|head| !manifests.is(&head.files));
        if has_former {
            // It may hold what is not in these manifests and has to stay.
            memory = self.remember_head(&memory)?;
            timings.compile_us = watch.lap();
        }
        let keeping = self.keep(manifests, &mut inventory, &memory, &mut work)?;
        let manifests = keeping.as_ref().unwrap_or(manifests);
        if apply.is_some() && self.datapath.generation()?.is_none() {
            self.datapath.foresee(Some(&weir_compile::capacity(&inventory, &node)));
        }
        timings.parse_us += watch.lap();

        let netns = match &memory.applied {
            Some(applied) if applied.node == node => applied.compiled.netns_after(&inventory),
            _ => weir_compile::netns_needed(&inventory, &node),
        };
        let facts = self.datapath.facts(&netns)?;
        timings.facts_us = watch.lap();

        let sequence = memory.head.as_ref().map_or(1, |head| head.sequence + 1);
        let mut numbering = memory.numbering.clone();
        let input = Input { inventory: &inventory, node: &node, facts: &facts, sequence };
        let same = memory
            .applied
            .as_ref()
            .filter(|applied| manifests.are(&applied.manifests) && facts == applied.facts && applied.node == node);
        let looks = look == Look::Kernel || !self.still_knows(&facts.interfaces);
        let mut looked = false;
        let desired = match same {
            Some(applied) => applied.clone(),
            None => {
                let former = memory.applied.as_ref();
                let mut compile = || match former {
                    Some(applied) => weir_compile::compile_after(&applied.compiled, &input, &mut numbering),
                    None => weir_compile::compile(&input, &mut numbering)
                        .map(|compiled| (compiled, Effort { objects: inventory.len(), whole: true })),
                };
                let (compiled, observed) = if looks && self.live.is_none() {
                    // The first look at the kernel takes as long as the first compile.
                    thread::scope(|scope| {
                        let compiling = scope.spawn(compile);
                        let observed = self.datapath.observe();
                        (compiling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), Some(observed))
                    })
                } else {
                    (compile(), None)
                };
                let (compiled, effort) = compiled.map_err(Error::Compile)?;
                if let Some(observed) = observed {
                    self.live = Some(observed?);
                    self.devices.clone_from(&facts.interfaces);
                    looked = true;
                }
                work.objects = effort.objects;
                work.whole = effort.whole;
                let snapshot = Snapshot {
                    manifests: manifests.clone(),
                    node: node.clone(),
                    facts: facts.clone(),
                    inventory: inventory.clone(),
                    compiled: Arc::new(compiled),
                };
                Arc::new(snapshot)
            }
        };
        if memory.applied.is_none() && memory.head.is_some() && !has_former {
            memory = match memory.head.as_ref().is_some_and(|head| head.node == *node) {
                true => Arc::new(Memory { applied: Some(desired.clone()), ..Memory::clone(&memory) }),
                false => self.remember_head(&memory)?,
            };
            self.memory = Some(memory.clone());
        }
        let applied = memory.applied.clone();
        timings.compile_us += watch.lap();

        if looks && !looked {
            let unchanged = match &self.live {
                Some(Some(known)) if self.still_knows(&facts.interfaces) => self.datapath.unchanged(known)?,
                _ => false,
            };
            if !unchanged {
                self.live = Some(self.datapath.observe()?);
            }
            self.devices = facts.interfaces.clone();
            timings.observe_us = watch.lap();
        }
        let live = self.live.clone().flatten();
        let unfinished = memory.journal.as_ref().map(|journal| journal.phase).filter(|phase| *phase != Phase::Settled);
        // What an interrupted flip left behind is nobody's drift.
        let baseline = applied.as_ref().filter(|_| !interrupted_at_flip(unfinished));
        let nothing = Inventory::default();
        let objects =
            weir_compile::changed(applied.as_ref().map_or(&nothing, |one| &one.inventory), &desired.inventory);
        let told = match (&live, baseline) {
            (None, _) if applied.is_none() => objects.clone(),
            (None, _) => weir_compile::changed(&nothing, &desired.inventory),
            (Some(_), Some(_)) => objects.clone(),
            // Without a record of what was applied, live stands in for it.
            (Some(_), None) => Vec::new(),
        };
        let baseline = || baseline.map(|applied| applied.target());
        let early = apply.filter(|_| live.is_none());
        let mut plan = match early {
            None => Plan::new(desired.target(), baseline(), live.as_ref(), &told),
            Some(allow) => {
                self.guard(&desired, applied.as_deref(), &objects, true, allow)?;
                let decide = |entries| Plan::of_all(entries, desired.target(), baseline(), &told);
                let (plan, took) = self.write_beside(&desired, sequence, unfinished, decide)?;
                timings.prepare_us = watch.lap().saturating_sub(took);
                timings.plan_us = took;
                plan
            }
        };
        if let (true, Some(live), Some(applied), None) = (looks, &live, &applied, unfinished)
            && let Some(expected) = self.expected_standby(&memory, applied, live)?
        {
            plan = plan.expecting_standby(&expected, live, &desired.compiled.tables);
        }
        let spared = applied.as_ref().is_some_and(|applied| spared::is_all(&plan, applied));
        work.entries = plan.active.len();
        timings.plan_us += watch.lap();
        timings.live_us = watch.total();
        let prepared = early.is_some();
        Ok(Planned {
            desired,
            applied,
            live,
            plan,
            sequence,
            unfinished,
            spared,
            timings,
            work,
            numbering,
            objects,
            prepared,
        })
    }

    /// Prepares a kernel that holds nothing and writes the entries, which are all that there are, while `decide` makes
    /// the plan of them; gives that, and how long it took.
    fn write_beside(
        &mut self,
        desired: &Snapshot,
        sequence: u64,
        unfinished: Option<Phase>,
        decide: impl FnOnce(Arc<TablesDelta>) -> Plan + Send,
    ) -> Result<(Plan, u64), Error> {
        thread::scope(|scope| {
            let (give, take) = mpsc::sync_channel(1);
            let deciding = scope.spawn(move || {
                let mut watch = Stopwatch::start();
                let entries = Arc::new(Tables::default().diff(&desired.compiled.tables));
                // Nobody takes them where the kernel could not be prepared.
                let _ = give.send(Arc::clone(&entries));
                (decide(entries), watch.lap())
            });
            let prepared = self.prepare(desired, sequence, unfinished);
            let written = prepared.and_then(|_| match take.recv() {
                // The tables name devices by index: what is to be made comes first.
                Ok(entries) if desired.compiled.wiring.devices.is_empty() => self.write_standby(&entries, false),
                _ => Ok(()),
            });
            let decided = deciding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            written.map(|()| decided)
        })
    }

    /// Makes sure that the tables have room; from here on, an interruption is found in the journal.
    fn prepare(&mut self, desired: &Snapshot, sequence: u64, unfinished: Option<Phase>) -> Result<Journal, Error> {
        let journal = stage_journal(desired, sequence, unfinished);
        self.store.note(&journal)?;
        self.datapath.prepare(&desired.compiled.tables, &desired.compiled.capacity)?;
        Ok(journal)
    }

    /// Adds to `inventory` what was applied and may not go; gives the manifests with it, if there is any.
    fn keep(
        &mut self,
        manifests: &Manifests,
        inventory: &mut Inventory,
        memory: &Memory,
        work: &mut WorkDocument,
    ) -> Result<Option<Manifests>, Error> {
        let Some(applied) = &memory.applied else { return Ok(None) };
        let missing = kept::missing(&applied.inventory, inventory);
        if missing.is_empty() {
            return Ok(None);
        }
        let keeping = manifests.keeping(&missing);
        let parsed = self.parser.parse_more(&keeping);
        let (whole, documents) = parsed.map_err(|errors| Error::Manifests(kept::explain(errors, &missing)))?;
        *inventory = whole;
        work.documents += documents;
        Ok(Some(keeping))
    }

    /// Whether what is known of the live tables still means the same devices. One that was made anew under its name has
    /// another index: the kernel's tables do not know it, and its programs went with the former.
    fn still_knows(&self, now: &[InterfaceFacts]) -> bool {
        let Some(live) = &self.live else { return false };
        let index = |devices: &[InterfaceFacts], name: &InterfaceName| {
            let at = devices.binary_search_by(|device| device.name.cmp(name)).ok()?;
            Some(devices[at].ifindex)
        };
        live.iter().all(|live| {
            let tables = live.sides.iter().flat_map(|side| side.interfaces.iter()).map(|(name, _)| name);
            let hooks = live.wiring.hooks.iter().map(|(key, _)| &key.interface);
            let mut named = tables.chain(hooks).chain(live.wiring.devices.iter().map(|(name, _)| name));
            named.all(|name| index(&self.devices, name) == index(now, name))
        })
    }

    fn remember(&mut self) -> Result<Arc<Memory>, Error> {
        if let Some(memory) = &self.memory {
            return Ok(memory.clone());
        }
        let memory = Arc::new(Memory {
            head: self.store.head()?,
            numbering: self.store.numbering()?,
            journal: self.store.journal()?,
            applied: None,
        });
        if let Some(journal) = memory.journal.as_ref().filter(|journal| journal.phase != Phase::Settled) {
            let Journal { sequence, phase, pid, .. } = journal;
            tracing::warn!(sequence, ?phase, pid, "an apply was interrupted; what the kernel holds decides");
        }
        self.memory = Some(memory.clone());
        Ok(memory)
    }

    /// Compiles the applied commit from its stored bytes. What cannot be read or compiled any more is as if nothing had
    /// been applied: the live tables then stand in for it.
    fn remember_head(&mut self, memory: &Arc<Memory>) -> Result<Arc<Memory>, Error> {
        let Some(head) = &memory.head else { return Ok(memory.clone()) };
        let snapshot = match Manifests::from_commit(head, &self.store) {
            Ok(manifests) => self.compile_former(head, manifests, &memory.numbering)?,
            Err(error @ Error::BytesLost { .. }) => {
                tracing::warn!(%error, "the applied commit is compared by its live tables alone");
                None
            }
            Err(error) => return Err(error),
        };
        let memory = Arc::new(Memory { applied: snapshot.map(Arc::new), ..Memory::clone(memory) });
        self.memory = Some(memory.clone());
        Ok(memory)
    }

    fn compile_former(
        &mut self,
        commit: &Commit,
        manifests: Manifests,
        numbering: &Numbering,
    ) -> Result<Option<Snapshot>, Error> {
        // What was let through then is let through now.
        let cached = |file: &weir_schema::File| self.store.cached(&file.hash.0).ok().flatten();
        let inventory = match Parser::new(Options { ignore_foreign: true }).parse(&manifests, cached) {
            Ok((inventory, documents)) => {
                self.parsed += documents as u64;
                inventory
            }
            Err(error) => {
                tracing::warn!(commit = commit.sequence, %error, "a stored commit can no longer be read");
                return Ok(None);
            }
        };
        let facts = self.datapath.facts(&weir_compile::netns_needed(&inventory, &commit.node))?;
        let input = Input { inventory: &inventory, node: &commit.node, facts: &facts, sequence: commit.sequence };
        match weir_compile::compile(&input, &mut numbering.clone()) {
            Ok(compiled) => Ok(Some(Snapshot {
                node: commit.node.as_str().into(),
                manifests,
                facts,
                inventory,
                compiled: Arc::new(compiled),
            })),
            Err(errors) => {
                let error = Error::Compile(errors);
                tracing::warn!(commit = commit.sequence, %error, "a stored commit can no longer be compiled");
                Ok(None)
            }
        }
    }

    /// What the standby side should hold: the tables of the flip before, or the applied ones once it has caught up,
    /// whichever it is closer to. `None`: not known.
    fn expected_standby(
        &mut self,
        memory: &Memory,
        applied: &Snapshot,
        live: &Observed,
    ) -> Result<Option<Arc<Tables>>, Error> {
        let Some(head) = memory.head.as_ref().filter(|head| head.boot_id == self.options.boot_id) else {
            return Ok(None);
        };
        let caught_up = applied.compiled.tables.clone();
        if head.epoch != live.generation.epoch {
            return Ok(None);
        }
        if *live.standby() == *caught_up {
            return Ok(Some(caught_up));
        }
        let Some(before) = self.tables_before(head, memory, applied)? else { return Ok(None) };
        let distance = |tables: &Tables| tables.diff(live.standby()).len();
        Ok(Some(if distance(&before) <= distance(&caught_up) { before } else { caught_up }))
    }

    /// The tables that were live before the last flip.
    fn tables_before(
        &mut self,
        head: &Commit,
        memory: &Memory,
        applied: &Snapshot,
    ) -> Result<Option<Arc<Tables>>, Error> {
        // Newest first, as far back as epochs are of the same generation word.
        let mut same_word = Vec::new();
        for commit in self.store.history(HISTORY_FOR_STANDBY)? {
            let cold = commit.cold;
            same_word.push(commit);
            if cold {
                break;
            }
        }
        let began = same_word.last().is_some_and(|oldest| oldest.cold);
        let Some(before) = same_word.into_iter().find(|commit| commit.epoch < head.epoch) else {
            // The first flip since the kernel was empty.
            return Ok(began.then(Arc::default));
        };
        if before.epoch + 1 != head.epoch {
            return Ok(None);
        }
        if before.files == head.files && before.node == head.node {
            return Ok(Some(applied.compiled.tables.clone()));
        }
        let manifests = match Manifests::from_commit(&before, &self.store) {
            Ok(manifests) => manifests,
            Err(Error::BytesLost { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let snapshot = self.compile_former(&before, manifests, &memory.numbering)?;
        Ok(snapshot.map(|snapshot| snapshot.compiled.tables.clone()))
    }

    /// Executes a plan that this engine made, or does nothing where there is nothing to do.
    pub fn apply(&mut self, planned: Planned, allow: Allow, operation: Operation) -> Result<Applied, Error> {
        self.apply_restoring(planned, allow, operation, None)
    }

    fn apply_restoring(
        &mut self,
        planned: Planned,
        allow: Allow,
        operation: Operation,
        restores: Option<u64>,
    ) -> Result<Applied, Error> {
        if planned.is_settled() {
            // Comments may have moved: from now on places are told from these bytes.
            if let Some(memory) = self.memory.take() {
                let applied = Some(planned.desired.clone());
                let numbering = planned.numbering.clone();
                self.memory = Some(Arc::new(Memory { applied, numbering, ..Memory::clone(&memory) }));
            }
            let timings = Timings { total_us: planned.timings.live_us, ..planned.timings };
            let Planned { desired, applied: before, plan, work, .. } = planned;
            let written = WrittenDocument::default();
            return Ok(Applied { commit: None, flipped: false, desired, before, plan, timings, work, written });
        }
        self.guard_planned(&planned, allow)?;
        let nobody_wants_back = !planned.plan.drift.is_empty() || interrupted_at_flip(planned.unfinished);
        let applied = self.execute(planned, operation, restores);
        match &applied {
            Err(_) => self.forget(),
            // The standby side now holds what somebody else wrote, or what no commit tells of.
            Ok(applied) if nobody_wants_back && applied.flipped => {
                if let Err(error) = self.catch_up() {
                    tracing::warn!(%error, "applied, and the standby side is left as it was; the next plan sees it");
                }
            }
            Ok(_) => {}
        }
        applied
    }

    fn guard_planned(&mut self, planned: &Planned, allow: Allow) -> Result<(), Error> {
        let Planned { desired, applied, objects, plan, .. } = planned;
        self.guard(desired, applied.as_deref(), objects, !plan.active.is_empty(), allow)
    }

    fn guard(
        &mut self,
        desired: &Snapshot,
        applied: Option<&Snapshot>,
        objects: &[(ObjectRef, Action)],
        flips: bool,
        allow: Allow,
    ) -> Result<(), Error> {
        if let (false, Some(applied)) = (allow.mass_delete, applied) {
            let refusal = guard::mass_delete(objects, &applied.inventory, &desired.inventory);
            if let Some(refusal) = refusal {
                return Err(Error::Guard(refusal));
            }
        }
        if !allow.mass_delete && desired.inventory.is_empty() {
            let source = match &*desired.manifests.source {
                "" => "standard input",
                source => source,
            };
            return Err(Error::Guard(guard::Refusal::NoObjects { source: source.to_owned() }));
        }
        let Some(applied) = applied else { return Ok(()) };
        if !allow.lockout && flips {
            let refusal = guard::lockout(
                &self.datapath.sessions(),
                |session| passes(applied, session),
                |session| passes(desired, session),
            );
            if let Some(refusal) = refusal {
                return Err(Error::Guard(refusal));
            }
        }
        Ok(())
    }

    fn execute(&mut self, planned: Planned, operation: Operation, restores: Option<u64>) -> Result<Applied, Error> {
        let Planned { desired, applied, live, plan, sequence, unfinished, mut timings, work, mut numbering, .. } =
            planned;
        let mut watch = Stopwatch::start();
        let flips = !plan.active.is_empty();

        let mut journal = match planned.prepared {
            true => stage_journal(&desired, sequence, unfinished),
            false => self.prepare(&desired, sequence, unfinished)?,
        };
        timings.prepare_us += watch.lap();
        if let Err(error) = self.stage(&plan, live.is_some(), planned.prepared) {
            let kept = applied.as_ref().map(|applied| &applied.compiled.wiring);
            if let Err(error) = self.datapath.tear(&undo(&plan.wiring, kept)) {
                tracing::warn!(%error, "what was built for an apply that failed is left behind; the next plan sees it");
            }
            return Err(error);
        }
        timings.stage_us = watch.lap();

        let generation = if flips {
            journal.phase = Phase::Flip;
            self.store.note(&journal)?;
            self.graced = false;
            self.datapath.flip()?
        } else {
            self.datapath.generation()?.unwrap_or(Generation::FIRST)
        };
        timings.flip_us = watch.lap();
        timings.live_us += watch.total();

        journal.phase = Phase::Record;
        let commit = Commit {
            sequence,
            time_unix_ms: clock::unix_ms(),
            operation,
            node: self.options.node.to_string(),
            source: desired.manifests.source.to_string(),
            revision: desired.manifests.revision.to_string(),
            authorship: desired.manifests.authorship.clone().map(|by| (by.author, by.subject)),
            files: desired.manifests.refs(),
            boot_id: self.options.boot_id.clone(),
            epoch: generation.epoch,
            side: generation.side.index(),
            created: plan.summary.create,
            updated: plan.summary.update,
            deleted: plan.summary.delete,
            drift: plan.summary.drift,
            writes: plan.summary.writes,
            digest: crate::hexadecimal(&plan.digest),
            duration_us: timings.live_us,
            restores,
            cold: live.is_none(),
        };
        // A number is free once neither side can speak of it: the side that is standby now still speaks of the head.
        if flips {
            numbering.retire(sequence - 1);
        }
        let recorded = self.record(&journal, &commit, &desired.manifests, &numbering);
        timings.record_us = watch.lap();

        // What is live stays live, recorded or not: finish what belongs to it.
        if flips {
            self.datapath.grace()?;
            self.graced = true;
        }
        if !plan.wiring.is_empty() {
            self.datapath.tear(&plan.wiring)?;
        }
        timings.grace_us = watch.lap();
        timings.total_us = timings.live_us + timings.record_us + timings.grace_us;
        recorded?;

        self.remember_apply(&commit, numbering, &desired, live, &plan, generation);
        tracing::info!(
            event = "applied",
            %operation,
            sequence,
            epoch = generation.epoch,
            flips,
            writes = plan.summary.writes,
            drift = plan.summary.drift,
            phases = timings.phases(),
            "applied"
        );
        let written = WrittenDocument::default();
        Ok(Applied { commit: Some(commit), flipped: flips, desired, before: applied, plan, timings, work, written })
    }

    /// `prepared`: by [`Self::write_beside`].
    fn stage(&mut self, plan: &Plan, warm: bool, prepared: bool) -> Result<(), Error> {
        let WiringDelta { devices, hooks } = &plan.wiring;
        // The tables name devices by index. Programs come last: the verifier may still be at work on them.
        if !devices.is_empty() {
            self.datapath.build(&WiringDelta { devices: devices.clone(), hooks: Vec::new() })?;
        }
        let written = prepared && devices.is_empty();
        if !written && (!plan.active.is_empty() || !plan.standby_drift.is_empty()) {
            self.write_standby(&plan.standby, warm)?;
        }
        if !hooks.is_empty() {
            self.datapath.build(&WiringDelta { devices: Vec::new(), hooks: hooks.clone() })?;
        }
        Ok(())
    }

    fn write_standby(&mut self, delta: &TablesDelta, warm: bool) -> Result<(), Error> {
        if delta.is_empty() {
            return Ok(());
        }
        if warm && !self.graced {
            // Whoever flipped last may have died before the grace period was over.
            self.datapath.grace()?;
        }
        self.graced = true;
        Ok(self.datapath.stage(delta)?)
    }

    fn record(
        &mut self,
        journal: &Journal,
        commit: &Commit,
        manifests: &Manifests,
        numbering: &Numbering,
    ) -> Result<(), Error> {
        self.store.note(journal)?;
        let blobs: Vec<_> = manifests.files.iter().map(|file| (file.hash.0, file.bytes.clone())).collect();
        Ok(self.store.record(commit, &blobs, numbering)?)
    }

    fn remember_apply(
        &mut self,
        commit: &Commit,
        numbering: Numbering,
        desired: &Arc<Snapshot>,
        live: Option<Observed>,
        plan: &Plan,
        generation: Generation,
    ) {
        let compiled = &desired.compiled;
        self.memory = Some(Arc::new(Memory {
            head: Some(commit.clone()),
            numbering,
            journal: None,
            applied: Some(desired.clone()),
        }));
        let (active, standby) = match live {
            Some(live) => {
                let [a, b] = live.sides;
                if live.generation.side == weir_abi::Side::A { (a, b) } else { (b, a) }
            }
            None => Default::default(),
        };
        let standby = match (plan.active.is_empty(), plan.standby_drift.is_empty()) {
            // Flipped: what was active is standby now.
            (false, _) => active,
            (true, false) => compiled.tables.clone(),
            (true, true) => standby,
        };
        let mut sides = [standby.clone(), standby];
        sides[generation.side.index() as usize] = compiled.tables.clone();
        self.live =
            Some(Some(Observed { generation, sides, wiring: compiled.wiring.clone(), capacity: compiled.capacity }));
    }

    /// Whether the standby side, as far as this process knows it, may hold something else than the active one.
    pub fn standby_is_behind(&self) -> bool {
        matches!(&self.live, Some(Some(live)) if !Arc::ptr_eq(&live.sides[0], &live.sides[1]))
    }

    /// Brings the standby side up to the active one, so that the next commit's delta is its own. From then on a
    /// rollback is an apply.
    pub fn catch_up(&mut self) -> Result<bool, Error> {
        let Some(Some(live)) = self.live.clone() else { return Ok(false) };
        // The active side may hold what others wrote and nobody undoes.
        let active = live.sides[live.generation.side.index() as usize].clone();
        let wanted = self.snapshot().map_or_else(|| active.clone(), |applied| applied.compiled.tables.clone());
        let delta = live.standby().diff(&wanted);
        if delta.is_empty() {
            return Ok(false);
        }
        let caught_up = self.write_catch_up(&delta);
        if caught_up.is_err() {
            self.forget();
            caught_up?;
        }
        let active = if *active == *wanted { wanted.clone() } else { active };
        let mut sides = [wanted.clone(), wanted];
        sides[live.generation.side.index() as usize] = active;
        self.live = Some(Some(Observed { sides, ..live }));
        Ok(true)
    }

    fn write_catch_up(&mut self, delta: &weir_plan::TablesDelta) -> Result<(), Error> {
        let memory = self.remember()?;
        let head = memory.head.as_ref();
        let mut journal = Journal {
            sequence: head.map_or(0, |head| head.sequence),
            phase: Phase::CatchUp,
            revision: head.map_or_else(String::new, |head| head.revision.clone()),
            pid: std::process::id(),
        };
        self.store.note(&journal)?;
        self.write_standby(delta, true)?;
        journal.phase = Phase::Settled;
        self.store.note(&journal)?;
        self.memory = Some(Arc::new(Memory { journal: Some(journal), ..Memory::clone(&memory) }));
        Ok(())
    }

    /// The commit to go back to: `sequence`, or the newest whose manifests differ from the head's.
    pub fn rollback_target(&self, sequence: Option<u64>) -> Result<Commit, Error> {
        if let Some(sequence) = sequence {
            return self.store.commit(sequence)?.ok_or(Error::NoCommit { sequence });
        }
        let head = self.store.head()?.ok_or(Error::NothingEarlier)?;
        let differs = |commit: &Commit| commit.files != head.files || commit.node != head.node;
        self.store.history(usize::MAX)?.into_iter().find(differs).ok_or(Error::NothingEarlier)
    }

    /// What a rollback to `target` would do. Where the standby side still holds it, that is a flip and nothing else.
    pub fn plan_rollback(&mut self, target: &Commit, look: Look) -> Result<Planned, Error> {
        let manifests = Manifests::from_commit(target, &self.store)?;
        let foreign = std::mem::replace(&mut self.parser, Parser::new(Options { ignore_foreign: true }));
        let planned = self.plan(&manifests, look);
        self.parser = foreign;
        planned
    }

    /// Goes back to `target`, as planned by [`Self::plan_rollback`], and stays there until somebody resumes: the source
    /// is not followed, and what was applied is kept as it is.
    pub fn rollback(&mut self, target: &Commit, planned: Planned, allow: Allow) -> Result<Applied, Error> {
        if !planned.is_settled() {
            self.guard_planned(&planned, allow)?;
        }
        let before = self.store.suspension()?;
        let reason = format!("rolled back to commit {}", target.sequence);
        // First, so that a crash in between cannot bring the bad revision back.
        let suspension = Suspension { since_unix_ms: clock::unix_ms(), until_unix_ms: None, reason, heals: true };
        self.store.set_suspension(Some(&suspension))?;
        let applied = self.apply_restoring(planned, allow, Operation::Rollback, Some(target.sequence));
        if applied.is_err() {
            self.store.set_suspension(before.as_ref())?;
        }
        applied
    }

    /// The suspension that holds now.
    pub fn suspension(&self) -> Result<Option<Suspension>, Error> {
        let now = clock::unix_ms();
        let suspension = self.store.suspension()?;
        Ok(suspension.filter(|suspension| suspension.until_unix_ms.is_none_or(|until| now < until)))
    }

    pub fn suspend(&mut self, reason: &str, duration: Option<std::time::Duration>) -> Result<Suspension, Error> {
        let since_unix_ms = clock::unix_ms();
        let suspension = Suspension {
            since_unix_ms,
            until_unix_ms: duration.map(|duration| since_unix_ms.saturating_add(duration.as_millis() as u64)),
            reason: reason.to_owned(),
            heals: false,
        };
        self.store.set_suspension(Some(&suspension))?;
        Ok(suspension)
    }

    pub fn resume(&mut self) -> Result<bool, Error> {
        let suspended = self.suspension()?.is_some();
        self.store.set_suspension(None)?;
        Ok(suspended)
    }

    /// The head's snapshot, compiled if need be.
    pub fn applied(&mut self) -> Result<Option<Arc<Snapshot>>, Error> {
        let mut memory = self.remember()?;
        if memory.head.is_some() && memory.applied.is_none() {
            memory = self.remember_head(&memory)?;
        }
        Ok(memory.applied.clone())
    }

    /// The applied snapshot, if this process has compiled it.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.memory.as_ref()?.applied.clone()
    }

    pub fn head(&mut self) -> Result<Option<Commit>, Error> {
        Ok(self.remember()?.head.clone())
    }

    pub fn numbering(&mut self) -> Result<Numbering, Error> {
        Ok(self.remember()?.numbering.clone())
    }

    /// Documents that this process has parsed.
    pub const fn parsed(&self) -> u64 {
        self.parsed
    }

    /// Of the live generation, as far as this process knows it.
    pub fn epoch(&self) -> Option<u64> {
        self.live.as_ref()?.as_ref().map(|live| live.generation.epoch)
    }

    /// Whether a plan can do without looking at the kernel.
    pub const fn knows_live(&self) -> bool {
        self.live.is_some()
    }

    /// What is live, read now or as far as this process knows.
    pub fn live(&mut self, look: Look) -> Result<Option<Observed>, Error> {
        if let (Look::Known, Some(live)) = (look, &self.live) {
            return Ok(live.clone());
        }
        let live = self.datapath.observe()?;
        self.live = Some(live.clone());
        Ok(live)
    }

    /// Files of the last good revision, from the store.
    pub fn last_good(&mut self) -> Result<Option<Manifests>, Error> {
        match self.head()? {
            Some(head) => Manifests::from_commit(&head, &self.store).map(Some),
            None => Ok(None),
        }
    }

    /// Whether the node still looks as it did when the head was compiled. Cheap: asks rtnetlink, reads no table.
    pub fn facts_changed(&mut self, snapshot: &Snapshot) -> Result<bool, Error> {
        let netns = weir_compile::netns_needed(&snapshot.inventory, &self.options.node);
        Ok(self.datapath.facts(&netns)? != snapshot.facts)
    }
}

/// Commits to look through for the one that the standby side holds; healings and changes without a flip lie between.
const HISTORY_FOR_STANDBY: usize = 64;

/// Then the active side may hold what no commit tells of.
const fn interrupted_at_flip(unfinished: Option<Phase>) -> bool {
    matches!(unfinished, Some(Phase::Flip | Phase::Record))
}

fn stage_journal(desired: &Snapshot, sequence: u64, unfinished: Option<Phase>) -> Journal {
    Journal {
        sequence,
        // Until it is recorded, what is live may not be what the head says: a second crash must not forget that.
        phase: if interrupted_at_flip(unfinished) { Phase::Flip } else { Phase::Stage },
        revision: desired.manifests.revision.to_string(),
        pid: std::process::id(),
    }
}

/// What takes back the additions of `delta` that `kept` does not have as well.
fn undo(delta: &WiringDelta, kept: Option<&Wiring>) -> WiringDelta {
    fn additions<K: Ord + Clone, V: Clone + PartialEq>(
        changes: &[Change<K, V>],
        kept: Option<&weir_plan::Table<K, V>>,
    ) -> Vec<Change<K, V>> {
        changes
            .iter()
            .filter(|change| change.from.is_none() && kept.is_none_or(|kept| kept.get(&change.key).is_none()))
            .map(|change| Change { key: change.key.clone(), from: change.to.clone(), to: None })
            .collect()
    }
    WiringDelta {
        devices: additions(&delta.devices, kept.map(|kept| &kept.devices)),
        hooks: additions(&delta.hooks, kept.map(|kept| &kept.hooks)),
    }
}

/// Whether the session's own packets get in; its replies need no rule of their own.
fn passes(snapshot: &Snapshot, session: &Session) -> bool {
    let flow = TraceFlow {
        source: Who::Addresses(vec![session.remote.ip()]),
        destination: Who::Addresses(vec![session.local.ip()]),
        protocol: libc::IPPROTO_TCP as u8,
        port: session.local.port(),
    };
    // What cannot be traced (two families that do not meet) is no reason to refuse anything.
    snapshot.compiled.trace(&flow).map_or(true, |trace| trace.passes())
}
