//! Keeps a node as its source says: the decisions of the loop, one method per event. All of it runs on one thread.
mod scrape;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use weir_plan::{Commit, Plan, Provenance, Store};
use weir_source::{Revision, SourceError};

use crate::{
    AgentDocument, Allow, Applied, ApplyDocument, Engine, Error, Failure, Inspect, Look, Manifests, Planned, SHOWN,
    Snapshot, StatusDocument, SuspendDocument, SuspensionDocument, Timings, WorkDocument, clock,
    conditions::{Conditions, Knowledge},
    tally::Tally,
    waiting::Waiting,
};

#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// Compare every live table, and heal it.
    pub verify: Duration,
    /// After a flip, bring the standby side up.
    pub catch_up: Duration,
    /// After a failure: doubled each time, up to `retry_most`.
    pub retry: Duration,
    pub retry_most: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            verify: Duration::from_secs(60),
            catch_up: Duration::from_secs(60),
            retry: Duration::from_secs(1),
            retry_most: Duration::from_secs(60),
        }
    }
}

#[derive(Debug)]
pub struct Agent<D, S> {
    engine: Engine<D, S>,
    intervals: Intervals,
    source: Arc<str>,
    /// What the source delivered last.
    wanted: Option<Manifests>,
    /// It was applied.
    follows: bool,
    /// The source has said something, and what came of it is known.
    heard: bool,
    /// Why the source delivers nothing, as of its last word.
    source_failure: Option<Failure>,
    /// Of the first of its errors in a row.
    stale_since: Option<Instant>,
    /// Why what it delivered is not live.
    failure: Option<Failure>,
    attempts: u32,
    retry_at: Option<Instant>,
    verify_at: Instant,
    catch_up_at: Option<Instant>,
    waiting: Waiting,
    conditions: Conditions,
    /// Programs that are attached in another way than was wanted.
    attachments: Vec<String>,
    suspended: bool,
    /// Suspended by somebody who wants to be left alone: drift is shown, and nothing is written.
    hands_off: bool,
    /// What others changed is written again; else it is shown, and left as it is until somebody applies.
    heals: bool,
    drift: u64,
    /// All of it is of objects that are not healed.
    spared: bool,
    healed: u64,
    verified_unix_ms: Option<u64>,
    started_unix_ms: u64,
    timings: Timings,
    work: WorkDocument,
    idle_timings: Timings,
    tally: Tally,
    scrape_errors: u64,
    /// What is applied, for whoever explains events.
    snapshot: tokio::sync::watch::Sender<Option<Arc<Snapshot>>>,
}

impl<D: Inspect, S: Store> Agent<D, S> {
    pub fn new(engine: Engine<D, S>, source: &str, intervals: Intervals) -> Self {
        Self {
            engine,
            intervals,
            source: source.into(),
            wanted: None,
            follows: false,
            heard: false,
            source_failure: None,
            stale_since: None,
            failure: None,
            attempts: 0,
            retry_at: None,
            verify_at: Instant::now() + intervals.verify,
            catch_up_at: None,
            waiting: Waiting::default(),
            conditions: Conditions::default(),
            attachments: Vec::new(),
            suspended: false,
            hands_off: false,
            heals: true,
            drift: 0,
            spared: false,
            healed: 0,
            verified_unix_ms: None,
            started_unix_ms: clock::unix_ms(),
            timings: Timings::default(),
            work: WorkDocument::default(),
            idle_timings: Timings::default(),
            tally: Tally::default(),
            scrape_errors: 0,
            snapshot: tokio::sync::watch::channel(None).0,
        }
    }

    /// With `false`, drift is only reported.
    #[must_use]
    pub fn healing(self, heals: bool) -> Self {
        Self { heals, ..self }
    }

    pub fn engine(&mut self) -> &mut Engine<D, S> {
        &mut self.engine
    }

    /// What is applied, now and whenever it changes.
    pub fn snapshots(&self) -> tokio::sync::watch::Receiver<Option<Arc<Snapshot>>> {
        self.snapshot.subscribe()
    }

    /// The source said something.
    pub fn deliver(&mut self, outcome: Result<Arc<Revision>, Arc<SourceError>>) {
        match outcome {
            Ok(revision) => {
                let (files, stale) = (revision.files.len(), self.source_failure.take().is_some());
                self.stale_since = None;
                if stale {
                    tracing::info!(event = "source-back", revision = revision.id, "the source delivers again");
                }
                tracing::info!(event = "delivered", revision = revision.id, files, "the source delivered");
                self.wanted = Some(Manifests::new(&self.source, &revision));
                self.follows = false;
                self.attempts = 0;
                self.reconcile(Look::Known);
            }
            Err(error) => {
                let failure = Failure {
                    code: error.code().to_owned(),
                    message: error.to_string(),
                    help: Some(error.help().to_owned()),
                    exit: crate::Exit::SOURCE,
                    errors: Vec::new(),
                };
                tracing::warn!(
                    event = "source-stale",
                    code = failure.code,
                    %error,
                    "the source delivers nothing; the last good revision stays live"
                );
                self.source_failure = Some(failure);
                self.stale_since.get_or_insert_with(Instant::now);
                // A start without a source: what was live before is still to be kept so.
                if self.wanted.is_none() {
                    self.reconcile(Look::Known);
                }
            }
        }
        self.heard = true;
        self.take_note();
    }

    /// Devices, addresses or namespaces changed, or are about to.
    pub fn hint(&mut self) {
        self.waiting.hint(Instant::now());
        self.look_at_node();
        self.take_note();
    }

    fn look_at_node(&mut self) {
        match self.node_changed() {
            Ok(false) => {}
            // A device that was made anew has lost its programs: only the kernel knows.
            Ok(true) => {
                let heals = std::mem::replace(&mut self.heals, true);
                self.reconcile(Look::Kernel);
                self.heals = heals;
            }
            Err(error) => self.failed(&error),
        }
    }

    fn node_changed(&mut self) -> Result<bool, Error> {
        match self.engine.applied()? {
            Some(applied) => self.engine.facts_changed(&applied),
            None => Ok(false),
        }
    }

    /// Does what is due. Whether that may have taken much memory.
    pub fn tick(&mut self) -> bool {
        let mut acted = self.engine.warm();
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.reconcile(Look::Known);
            acted = true;
        }
        if self.verify_at <= now {
            self.reconcile(Look::Kernel);
            acted = true;
        }
        if self.failure.is_none() && self.waiting.is_due(now) {
            self.look_at_node();
            self.waiting.tried(Instant::now(), self.intervals.retry_most);
            acted = true;
        }
        if self.suspended && matches!(self.engine.suspension(), Ok(None)) {
            tracing::info!(event = "resumed", epoch = self.engine.epoch(), "the suspension is over");
            self.reconcile(Look::Kernel);
            acted = true;
        }
        // Never with what others wrote to the active side.
        if self.drift == 0 && self.catch_up_at.is_some_and(|at| at <= now) {
            self.catch_up_at = None;
            acted = true;
            match self.engine.catch_up() {
                Ok(true) => tracing::info!(event = "caught-up", "the standby side has caught up"),
                Ok(false) => {}
                Err(error) => self.failed(&error),
            }
        }
        if acted {
            self.take_note();
        }
        acted
    }

    /// Brings live what the source wants; where that cannot be, keeps live what is.
    fn reconcile(&mut self, look: Look) {
        self.retry_at = None;
        if look == Look::Kernel {
            self.verify_at = Instant::now() + self.intervals.verify;
        }
        let start = self.tally.begin();
        let outcome = self.try_reconcile(look);
        self.tally.end(start, outcome.is_ok());
        match outcome {
            Ok(()) => {
                self.failure = None;
                self.attempts = 0;
            }
            Err(error) => {
                self.failed(&error);
                if matches!(error, Error::Manifests(_) | Error::Compile(_) | Error::Guard(_) | Error::FlowTests(_))
                    && let Err(error) = self.keep(look)
                {
                    self.failed(&error);
                }
            }
        }
    }

    fn try_reconcile(&mut self, look: Look) -> Result<(), Error> {
        self.look_for_suspension()?;
        match &self.wanted {
            Some(wanted) if !self.suspended => {
                let wanted = wanted.clone();
                if !self.leaves_alone(&wanted, look)? {
                    self.bring_live(&wanted, look, Allow::default())?;
                }
                self.follows = true;
                Ok(())
            }
            _ => self.keep(look),
        }
    }

    fn look_for_suspension(&mut self) -> Result<(), Error> {
        let suspension = self.engine.suspension()?;
        self.suspended = suspension.is_some();
        self.hands_off = suspension.is_some_and(|suspension| !suspension.heals);
        Ok(())
    }

    /// Verifies, and unless it is to keep its hands off heals, what was applied last.
    fn keep(&mut self, look: Look) -> Result<(), Error> {
        let Some(applied) = self.engine.applied()? else { return Ok(()) };
        let manifests = applied.manifests.clone();
        if self.hands_off {
            let look = self.looks(look);
            let planned = self.engine.plan(&manifests, look)?;
            self.noticed(&planned, look);
            self.spared = planned.spared;
            return Ok(());
        }
        if !self.leaves_alone(&manifests, look)? {
            self.bring_live(&manifests, look, Allow::default())?;
        }
        Ok(())
    }

    /// Whether there is nothing but drift, and that is not to be healed: then it is reported. What the source changes
    /// is applied whole.
    fn leaves_alone(&mut self, manifests: &Manifests, look: Look) -> Result<bool, Error> {
        if self.heals {
            return Ok(false);
        }
        let look = self.looks(look);
        let planned = self.engine.plan(manifests, look)?;
        let alone = planned.plan.changes.is_empty() && planned.plan.summary.drift > 0;
        if alone {
            self.noticed(&planned, look);
        }
        Ok(alone)
    }

    fn bring_live(&mut self, manifests: &Manifests, look: Look, allow: Allow) -> Result<Applied, Error> {
        let look = self.looks(look);
        let applied = self.engine.bring_live(manifests, look, allow)?;
        self.applied(&applied, look);
        Ok(applied)
    }

    /// What is not known is looked at in any case; and so is what somebody's question for the status found before the
    /// first verification.
    fn looks(&self, look: Look) -> Look {
        if self.engine.knows_live() && self.verified_unix_ms.is_some() { look } else { Look::Kernel }
    }

    fn applied(&mut self, applied: &Applied, look: Look) {
        if look == Look::Kernel {
            self.verified_unix_ms = Some(clock::unix_ms());
        }
        // What is left as it is was there before, or is news.
        let drift = if applied.commit.is_none() { applied.plan.summary.drift } else { 0 };
        if drift > self.drift {
            tell_drift(&applied.plan, &applied.desired, None);
            tracing::warn!(
                event = "drift",
                epoch = self.engine.epoch(),
                entries = drift,
                "somebody else changed the live state; left as it is"
            );
        }
        self.tally.drifted(self.drift, drift, applied.commit.as_ref().map_or(0, |commit| commit.drift));
        (self.drift, self.spared) = (drift, drift > 0);
        match &applied.commit {
            Some(commit) => {
                self.tally.committed(commit.operation, applied.flipped);
                self.timings = applied.timings;
                self.work = applied.work;
                self.healed += commit.drift;
                tell_objects(applied, commit);
                if commit.drift > 0 {
                    tell_drift(&applied.plan, &applied.desired, Some(commit));
                    tracing::warn!(
                        event = "healed",
                        operation = %commit.operation,
                        sequence = commit.sequence,
                        epoch = commit.epoch,
                        entries = commit.drift,
                        "somebody else changed the live state; healed"
                    );
                }
            }
            None => {
                tracing::debug!(phases = applied.timings.phases(), "nothing to do");
                self.idle_timings = applied.timings;
            }
        }
        self.tell_waiting(applied);
        if applied.commit.is_some() || look == Look::Kernel {
            self.look_at_attachments();
        }
        let behind = self.catch_up_at.is_none() && self.engine.standby_is_behind();
        if applied.flipped || behind {
            // There is no way back from the first commit that the other side could hold.
            let wait = if applied.before.is_none() { Duration::ZERO } else { self.intervals.catch_up };
            self.catch_up_at = Some(Instant::now() + wait);
        }
        self.publish();
    }

    fn tell_waiting(&mut self, applied: &Applied) {
        let epoch = self.engine.epoch();
        let news = self.waiting.update(&applied.desired.compiled.pending, Instant::now());
        for (object, code) in news.waits {
            tracing::warn!(event = "pending", epoch, %object, code, "an object waits for something on the node");
        }
        for object in news.attached {
            // One that was taken out of the manifests waits no longer, either.
            if applied.desired.object(&object).is_some() {
                tracing::info!(event = "attached", epoch, %object, "what an object waited for is there");
            }
        }
    }

    fn look_at_attachments(&mut self) {
        // Told in the status when it is asked for, as well: there a failure is an answer.
        if let Ok(attachments) = self.engine.datapath().attachments() {
            let otherwise = |one: crate::Attachment| {
                let note = one.note?;
                Some(format!("{} on {}: {} ({note})", one.program, one.interface, one.mode))
            };
            self.attachments = attachments.into_iter().filter_map(otherwise).collect();
        }
    }

    fn noticed(&mut self, planned: &Planned, look: Look) {
        if look == Look::Kernel {
            self.verified_unix_ms = Some(clock::unix_ms());
        }
        if planned.plan.summary.drift > self.drift {
            tell_drift(&planned.plan, &planned.desired, None);
            tracing::warn!(
                event = "drift",
                epoch = self.engine.epoch(),
                entries = planned.plan.summary.drift,
                "somebody else changed the live state"
            );
        }
        self.tally.drifted(self.drift, planned.plan.summary.drift, 0);
        self.drift = planned.plan.summary.drift;
        self.publish();
    }

    fn publish(&self) {
        // The clone of an Arc; whoever explains events works with what is applied now.
        self.snapshot.send_replace(self.engine.snapshot());
    }

    fn failed(&mut self, error: &Error) {
        let wait = self.intervals.retry.saturating_mul(1 << self.attempts.min(16)).min(self.intervals.retry_most);
        self.attempts += 1;
        self.retry_at = Some(Instant::now() + wait);
        let failure = Failure::from(error);
        // The same failure again is not news.
        if self.failure.as_ref() != Some(&failure) {
            tracing::error!(event = "failed", code = failure.code, retry_in = ?wait, "{}", failure.line());
        }
        self.failure = Some(failure);
    }

    /// `weir apply` with the agent's own source, or with any while suspended.
    pub fn apply_now(&mut self, manifests: Manifests, allow: Allow) -> Result<ApplyDocument, Error> {
        let suspended = self.engine.suspension()?.is_some();
        let own = manifests.source == self.source;
        if !own && !suspended {
            return Err(Error::Follows { follows: self.source.to_string() });
        }
        if own {
            self.source_failure = None;
            self.stale_since = None;
            self.wanted = Some(manifests.clone());
        }
        self.follows = false;
        let start = self.tally.begin();
        let applied = self.bring_live(&manifests, Look::Known, allow);
        self.tally.end(start, applied.is_ok());
        match &applied {
            Ok(_) => {
                self.follows = own;
                self.failure = None;
                self.retry_at = None;
                self.attempts = 0;
            }
            Err(error) if own => self.failed(error),
            Err(_) => {}
        }
        self.take_note();
        Ok(applied?.document())
    }

    /// What the given manifests would change. Looks at the kernel: drift is shown as it is now.
    pub fn plan(&mut self, manifests: &Manifests) -> Result<Planned, Error> {
        let planned = self.engine.plan(manifests, Look::Kernel)?;
        if planned.plan.summary.drift > 0 && !planned.spared && !self.hands_off && self.heals {
            // Seen is soon healed.
            self.verify_at = self.verify_at.min(Instant::now() + self.intervals.retry);
        }
        Ok(planned)
    }

    pub fn rollback(&mut self, sequence: Option<u64>, allow: Allow) -> Result<ApplyDocument, Error> {
        // Nobody goes back in a hurry so great that drift of the side that is to go live may go live with it.
        let start = self.tally.begin();
        let outcome = self.engine.go_back(sequence, Look::Kernel, allow);
        if let Ok(applied) = &outcome {
            self.follows = false;
            self.failure = None;
            self.retry_at = None;
            self.applied(applied, Look::Kernel);
        }
        self.tally.end(start, outcome.is_ok());
        let applied = outcome?;
        self.look_for_suspension()?;
        self.take_note();
        Ok(applied.document())
    }

    pub fn suspend(&mut self, reason: &str, duration: Option<Duration>) -> Result<SuspendDocument, Error> {
        let suspension = self.engine.suspend(reason, duration)?;
        self.look_for_suspension()?;
        let until = suspension.until_unix_ms.map_or_else(|| "resume".to_owned(), clock::rfc3339);
        tracing::info!(event = "suspended", epoch = self.engine.epoch(), reason, until, "the source is not followed");
        self.take_note();
        self.engine.suspend_document()
    }

    pub fn resume(&mut self) -> Result<SuspendDocument, Error> {
        if self.engine.resume()? {
            tracing::info!(event = "resumed", epoch = self.engine.epoch(), "the source is followed again");
        }
        self.reconcile(Look::Kernel);
        self.take_note();
        self.engine.suspend_document()
    }

    /// Judges what is known now, and says what came to be otherwise.
    fn take_note(&mut self) {
        // What cannot be read now is told as the failure that it will be.
        let head = self.engine.head().ok().flatten();
        let suspension = self.engine.suspension().ok().flatten().as_ref().map(SuspensionDocument::from);
        let applied = self.engine.snapshot();
        let pending = applied.iter().flat_map(|applied| &applied.compiled.pending);
        let is_head = |wanted: &Manifests| head.as_ref().is_some_and(|head| wanted.are_source_of(&head.files));
        let knowledge = Knowledge {
            wanted: self.wanted.as_ref().map(|wanted| &*wanted.revision),
            wanted_is_applied: self.follows || self.wanted.as_ref().is_some_and(is_head),
            applied: head.as_ref().map(|head| head.revision.as_str()),
            source_failure: self.source_failure.as_ref(),
            failure: self.failure.as_ref(),
            suspended: suspension.as_ref(),
            verified: self.verified_unix_ms.is_some(),
            drift: self.drift,
            reports_only: !self.heals,
            spared: self.spared,
            pending: pending.map(|pending| (pending.object.to_string(), pending.message.as_str())).collect(),
            attachments: self.attachments.clone(),
        };
        let epoch = self.engine.epoch();
        for condition in self.conditions.update(&knowledge, clock::unix_ms()) {
            let crate::ConditionDocument { kind, status, reason, message, .. } = condition;
            tracing::info!(event = "condition", epoch, condition = kind, ?status, reason, "{message}");
        }
    }

    /// How things stand, in a line; `None` before the source said anything.
    pub fn word(&self) -> Option<String> {
        let ready = self.conditions.list().first().filter(|_| self.heard)?;
        let stale = self.source_failure.as_ref().map(|failure| format!("; the source is stale: {}", failure.message));
        Some(format!("{}: {}{}", ready.reason, ready.message, stale.unwrap_or_default()))
    }

    pub fn status(&mut self) -> Result<StatusDocument, Error> {
        let mut status = self.engine.status()?;
        self.take_note();
        status.conditions = self.conditions.list().to_vec();
        let now = Instant::now();
        if let Some(applied) = self.engine.snapshot() {
            for (pending, document) in applied.compiled.pending.iter().zip(&mut status.pending) {
                if let Some((attempts, wait)) = self.waiting.of(&pending.object, now) {
                    document.attempts = Some(attempts);
                    document.next_try_in_ms = Some(wait.as_millis() as u64);
                }
            }
        }
        let failure = self.source_failure.clone().or_else(|| self.failure.clone());
        status.drift = self.drift;
        // One that ran out a moment ago holds until the source was followed again.
        let suspended = status.suspended.is_some() || self.suspended;
        let state = match (suspended, &failure, self.drift, status.pending.is_empty()) {
            (true, ..) => "suspended",
            (false, Some(_), ..) => "failing",
            (false, None, 1.., _) => "drifted",
            // What it should be like is not known before the source was read.
            (false, None, 0, _) if self.wanted.is_none() => "starting",
            (false, None, 0, false) => "pending",
            (false, None, 0, true) if status.commit.is_none() => "idle",
            (false, None, 0, true) => "converged",
        };
        status.state = state.to_owned();
        status.agent = Some(AgentDocument {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_ms: self.started_unix_ms,
            source: self.source.to_string(),
            revision: self.wanted.as_ref().map(|wanted| wanted.revision.to_string()),
            failure,
            retry_in_ms: self.retry_at.map(|at| at.saturating_duration_since(Instant::now()).as_millis() as u64),
            verified_unix_ms: self.verified_unix_ms,
            healed: self.healed,
            timings: self.timings,
            work: self.work,
            parsed: self.engine.parsed(),
            idle_timings: self.idle_timings,
            written: self.engine.written(),
        });
        Ok(status)
    }

    /// The agent's own source.
    pub fn source(&self) -> &Arc<str> {
        &self.source
    }
}

/// What an apply changed, object by object.
fn tell_objects(applied: &Applied, commit: &Commit) {
    let Commit { operation, sequence, epoch, .. } = commit;
    let changes = || applied.plan.changes.iter().filter_map(|change| Some((change.object.as_ref()?, change.action)));
    for (object, action) in changes().take(SHOWN) {
        tracing::info!(event = "object", %operation, sequence, epoch, %object, ?action, "changed");
    }
    let more = changes().count().saturating_sub(SHOWN);
    if more > 0 {
        tracing::info!(event = "object", %operation, sequence, epoch, more, "changed");
    }
}

/// Whose entries somebody else changed. `snapshot`: what they should be.
fn tell_drift(plan: &Plan, snapshot: &Snapshot, healed_by: Option<&Commit>) {
    let (sequence, epoch) = (healed_by.map(|commit| commit.sequence), healed_by.map(|commit| commit.epoch));
    let changes = plan.drift.changes().chain(plan.standby_drift.changes());
    let mut told = BTreeSet::new();
    for change in changes.take(LOOKED_AT) {
        let owner = snapshot.compiled.provenance.owner(&change).map(weir_plan::Owner::reference);
        if told.len() < SHOWN
            && let Some(object) = owner
            && told.insert(object.clone())
        {
            tracing::warn!(event = "drift", sequence, epoch, %object, "somebody else changed what an object stands for");
        }
    }
}

/// Entries of a drift whose objects are looked for: all of a table may have gone.
const LOOKED_AT: usize = 1000;
