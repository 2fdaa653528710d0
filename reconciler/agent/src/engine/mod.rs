//! Fetch, compute, execute: what is desired, what was applied and what is live become a plan; a plan becomes a flip.
//!
//! Everything that decides is in [`Engine::plan`] and changes nothing; everything that acts is in [`Engine::apply`].
//! After any failure the engine forgets what it believed and looks again.
mod apply;
mod check;
mod memory;
mod plan;
mod rollback;

use std::{
    collections::HashSet,
    sync::{Arc, Weak},
};

use weir_plan::{
    Action, Commit, Datapath, InterfaceFacts, Journal, Numbering, ObjectRef, Observed, Phase, Plan, Store,
};
use weir_schema::Options;

use self::memory::Memory;
use crate::{
    Error, FlowChangeDocument, FlowSummary, Manifests, Snapshot, Timings, WorkDocument, WrittenDocument,
    manifests::Parser,
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
    /// By [`Planned::show_flows`].
    pub flows: Option<Vec<FlowChangeDocument>>,
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
    /// Flow tests of the last commit that had any, refused or not.
    tested: FlowSummary,
    /// Since this process began.
    tested_in_all: FlowSummary,
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
            tested: FlowSummary::default(),
            tested_in_all: FlowSummary::default(),
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
