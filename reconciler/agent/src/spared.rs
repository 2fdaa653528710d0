//! Drift that is told and not undone, because `weir/heal: "false"` says so.
use std::collections::HashMap;

use weir_plan::{AnyChange, Change, Owner, Plan, Provenance};

use crate::Snapshot;

/// Whether nothing is to be done but to undo what others did to objects that are not healed.
///
/// The tables go live as a whole: as soon as anything else has to be written, this is undone with it.
pub(crate) fn is_all(plan: &Plan, applied: &Snapshot) -> bool {
    let drifts = !plan.drift.is_empty() || !plan.standby_drift.is_empty();
    // Half a million entries have few owners.
    let mut met = HashMap::new();
    let mut spared = |change: AnyChange<'_>| {
        let Some(owner) = owner(applied, &change) else { return false };
        *met.entry(owner.token())
            .or_insert_with(|| applied.object(&owner.reference()).is_some_and(|object| !object.metadata.heals()))
    };
    drifts && plan.changes.is_empty() && plan.drift.changes().chain(plan.standby_drift.changes()).all(&mut spared)
}

/// Whose entry it was: what stands there now may name anybody's rule.
fn owner<'a>(applied: &'a Snapshot, change: &AnyChange<'_>) -> Option<&'a dyn Owner> {
    fn before<K: Clone, V: Clone>(change: &Change<K, V>) -> Change<K, V> {
        let to = if change.from.is_some() { None } else { change.to.clone() };
        Change { to, ..change.clone() }
    }
    let origins = &*applied.compiled.provenance;
    match change {
        AnyChange::Policy(change) => origins.owner(&AnyChange::Policy(&before(change))),
        AnyChange::Prefilter4(change) => origins.owner(&AnyChange::Prefilter4(&before(change))),
        AnyChange::Prefilter6(change) => origins.owner(&AnyChange::Prefilter6(&before(change))),
        change => origins.owner(change),
    }
}
