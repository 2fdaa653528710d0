//! What is desired, what was applied and what is live become a plan. Changes nothing, but where all that there is will be
//! written anyway.
use std::{
    cell::RefCell,
    collections::HashSet,
    sync::{Arc, mpsc},
    thread,
};

use weir_compile::{Effort, Input};
use weir_plan::{Datapath, InterfaceFacts, InterfaceName, Journal, Phase, Plan, Store, Tables, TablesDelta};
use weir_schema::Inventory;

use super::{Engine, Look, Planned, interrupted_at_flip, memory::Memory, stage_journal};
use crate::{Allow, Error, Manifests, Snapshot, Timings, WorkDocument, kept, spared, timings::Stopwatch};

impl<D: Datapath, S: Store> Engine<D, S> {
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
            flows: None,
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
    pub(super) fn prepare(
        &mut self,
        desired: &Snapshot,
        sequence: u64,
        unfinished: Option<Phase>,
    ) -> Result<Journal, Error> {
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
            let hooks = live.wiring.hooks.iter().filter_map(|(key, _)| key.interface());
            let mut named = tables.chain(hooks).chain(live.wiring.devices.iter().map(|(name, _)| name));
            named.all(|name| index(&self.devices, name) == index(now, name))
        })
    }
}
