//! A plan becomes a flip, and what follows it.
use std::sync::Arc;

use weir_abi::Generation;
use weir_compile::{TraceFlow, Who};
use weir_plan::{
    Action, Change, Commit, Datapath, Journal, Numbering, ObjectRef, Observed, Operation, Phase, Plan, Session, Store,
    TablesDelta, Wiring, WiringDelta,
};

use super::{Applied, Engine, Planned, interrupted_at_flip, memory::Memory, stage_journal};
use crate::{Allow, Error, Manifests, Snapshot, Timings, WrittenDocument, clock, guard, timings::Stopwatch};

impl<D: Datapath, S: Store> Engine<D, S> {
    /// Executes a plan that this engine made, or does nothing where there is nothing to do.
    pub fn apply(&mut self, planned: Planned, allow: Allow, operation: Operation) -> Result<Applied, Error> {
        self.apply_restoring(planned, allow, operation, None)
    }

    pub(super) fn apply_restoring(
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
        let applied = self.execute(planned, allow, operation, restores);
        match &applied {
            // Nothing of it is left.
            Err(Error::FlowTests(_)) => {}
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

    pub(super) fn guard_planned(&mut self, planned: &Planned, allow: Allow) -> Result<(), Error> {
        let Planned { desired, applied, objects, plan, .. } = planned;
        self.guard(desired, applied.as_deref(), objects, !plan.active.is_empty(), allow)
    }

    pub(super) fn guard(
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

    fn execute(
        &mut self,
        planned: Planned,
        allow: Allow,
        operation: Operation,
        restores: Option<u64>,
    ) -> Result<Applied, Error> {
        let Planned { desired, applied, live, plan, sequence, unfinished, mut timings, work, mut numbering, .. } =
            planned;
        let mut watch = Stopwatch::start();
        let flips = !plan.active.is_empty();

        let mut journal = match planned.prepared {
            true => stage_journal(&desired, sequence, unfinished),
            false => self.prepare(&desired, sequence, unfinished)?,
        };
        timings.prepare_us += watch.lap();
        // What was proven already, and is only healed, is not held up.
        let proven = planned.objects.is_empty();
        let staged = self.stage(&plan, live.is_some(), planned.prepared).and_then(|()| match proven {
            true => Ok(()),
            false => self.check(&desired, flips, allow.failed_tests),
        });
        if let Err(error) = staged {
            let kept = applied.as_ref().map(|applied| &applied.compiled.wiring);
            let torn = self.datapath.tear(&undo(&plan.wiring, kept));
            if let Err(error) = &torn {
                tracing::warn!(%error, "what was built for an apply that failed is left behind; the next plan sees it");
            }
            let as_before = match (&error, &live) {
                (Error::FlowTests(_), Some(live)) if torn.is_ok() && unfinished.is_none() => {
                    self.unstage(live, &plan, &desired, journal)
                }
                _ => false,
            };
            if !as_before {
                self.forget();
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

    /// Takes back what was staged: nothing of a commit that was refused is to be found by the next. Whether all is as it
    /// was before.
    fn unstage(&mut self, live: &Observed, plan: &Plan, refused: &Snapshot, mut journal: Journal) -> bool {
        if refused.compiled.capacity != live.capacity || !plan.standby_drift.is_empty() {
            return false;
        }
        let mut staged = live.standby().clone();
        staged.apply(&plan.standby);
        let back = if plan.active.is_empty() { TablesDelta::default() } else { staged.diff(live.standby()) };
        journal.sequence = journal.sequence.saturating_sub(1);
        journal.phase = Phase::Settled;
        let settled = self.write_standby(&back, true).and_then(|()| Ok(self.store.note(&journal)?));
        if let Err(error) = &settled {
            tracing::warn!(%error, "what was staged for a commit that was refused is left behind; the next plan sees it");
        }
        settled.is_ok()
    }

    pub(super) fn write_standby(&mut self, delta: &TablesDelta, warm: bool) -> Result<(), Error> {
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
