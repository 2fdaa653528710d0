//! What the store holds, read once, and compiled where somebody needs it.
use std::sync::Arc;

use weir_compile::Input;
use weir_plan::{Commit, Datapath, Journal, Numbering, Observed, Phase, Store, Tables};
use weir_schema::Options;

use super::Engine;
use crate::{Error, Manifests, Snapshot, manifests::Parser};

/// What the store holds.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub head: Option<Commit>,
    pub numbering: Numbering,
    pub journal: Option<Journal>,
    /// The head, compiled; `None` also where its bytes are lost.
    pub applied: Option<Arc<Snapshot>>,
}

impl<D: Datapath, S: Store> Engine<D, S> {
    pub(super) fn remember(&mut self) -> Result<Arc<Memory>, Error> {
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
    pub(super) fn remember_head(&mut self, memory: &Arc<Memory>) -> Result<Arc<Memory>, Error> {
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
    pub(super) fn expected_standby(
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
}

/// Commits to look through for the one that the standby side holds; healings and changes without a flip lie between.
const HISTORY_FOR_STANDBY: usize = 64;
