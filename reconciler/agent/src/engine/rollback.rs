//! Going back, and not following for a while.
use weir_plan::{Commit, Datapath, Operation, Store, Suspension};
use weir_schema::Options;

use super::{Applied, Engine, Look, Planned};
use crate::{Allow, Error, Manifests, clock, manifests::Parser};

impl<D: Datapath, S: Store> Engine<D, S> {
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
}
