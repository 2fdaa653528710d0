use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{AnyChange, Change, ObjectRef, Observed, Provenance, Tables, TablesDelta, Wiring, WiringDelta};

/// A state to compare: the tables and the wiring of one revision, and where its entries come from.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "a view, with a trait object in it")]
pub struct Target<'a> {
    pub tables: &'a Tables,
    pub wiring: &'a Wiring,
    pub provenance: &'a dyn Provenance,
}

/// What `diff` prints and `apply` executes.
///
/// *Drift* is where live differs from applied: somebody else did it. *Changes* are where desired differs from applied:
/// you did it. An entry that drifted and is changed as well is in both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub drift: Vec<AnyChange>,
    /// Sorted by object.
    pub changes: Vec<ObjectChange>,
    pub summary: Summary,
    /// SHA-256 of the canonical plan.
    pub digest: [u8; 32],
    /// What brings the standby side from what it holds now to what is desired.
    pub standby: TablesDelta,
    /// What differs between the active side and what is desired: without any of it there is nothing to flip for.
    pub active: TablesDelta,
    pub wiring: WiringDelta,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectChange {
    /// `None`: the node as a whole.
    pub object: Option<ObjectRef>,
    pub action: Action,
    pub file: Arc<str>,
    pub line: usize,
    pub entries: Vec<AnyChange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Create,
    Update,
    Delete,
}

impl Action {
    pub const fn sign(self) -> char {
        match self {
            Self::Create => '+',
            Self::Update => '~',
            Self::Delete => '-',
        }
    }
}

/// Create, update and delete count objects; drift and writes count entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub create: u32,
    pub update: u32,
    pub delete: u32,
    pub drift: u64,
    pub writes: u64,
}

impl Plan {
    /// The three-way difference. `applied` is `None` on a cold start or after the store was lost: then nothing is
    /// drift. `live` is `None` where the kernel holds nothing.
    pub fn new(desired: Target<'_>, applied: Option<Target<'_>>, live: Option<&Observed>) -> Self {
        let nothing = (Tables::default(), Wiring::default());
        let live_active = live.map_or(&nothing.0, Observed::active);
        let live_standby = live.map_or(&nothing.0, Observed::standby);
        let live_wiring = live.map_or(&nothing.1, |observed| &observed.wiring);

        let active = live_active.diff(desired.tables);
        let standby = live_standby.diff(desired.tables);
        let wiring = live_wiring.diff(desired.wiring);

        let drift = match (applied, live) {
            (Some(applied), Some(live)) => {
                let mut drift: Vec<AnyChange> = applied.tables.diff(live.active()).changes().collect();
                drift.extend(wiring_changes(&applied.wiring.diff(&live.wiring)));
                drift
            }
            _ => Vec::new(),
        };

        // Without a record of what was applied, live stands in for it.
        let (base_tables, base_wiring) =
            applied.map_or((live_active, live_wiring), |applied| (applied.tables, applied.wiring));
        let cold = live.is_none();
        let changes = object_changes(
            desired,
            applied,
            if cold { &nothing.0 } else { base_tables }.diff(desired.tables),
            &if cold { &nothing.1 } else { base_wiring }.diff(desired.wiring),
            cold,
        );

        let mut summary =
            Summary { drift: drift.len() as u64, writes: (active.len() + wiring.len()) as u64, ..Summary::default() };
        for change in changes.iter().filter(|change| change.object.is_some()) {
            match change.action {
                Action::Create => summary.create += 1,
                Action::Update => summary.update += 1,
                Action::Delete => summary.delete += 1,
            }
        }
        let digest = digest(&drift, &changes);
        Self { drift, changes, summary, digest, standby, active, wiring }
    }

    /// Nothing to do: no flip, no write.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.wiring.is_empty() && self.drift.is_empty() && self.changes.is_empty()
    }
}

fn wiring_changes(delta: &WiringDelta) -> impl Iterator<Item = AnyChange> + '_ {
    let devices = delta.devices.iter().map(|change| AnyChange::Device(Box::new(change.clone())));
    devices.chain(delta.hooks.iter().map(|change| AnyChange::Hook(Box::new(change.clone()))))
}

fn object_changes(
    desired: Target<'_>,
    applied: Option<Target<'_>>,
    tables: TablesDelta,
    wiring: &WiringDelta,
    cold: bool,
) -> Vec<ObjectChange> {
    let mut by_object: BTreeMap<Option<ObjectRef>, ObjectChange> = BTreeMap::new();

    let old = applied.filter(|_| !cold).map_or(&[][..], |applied| applied.provenance.objects());
    let new = desired.provenance.objects();
    let table = |objects: &[crate::ObjectInfo]| -> crate::Table<ObjectRef, (Arc<str>, usize, [u8; 32])> {
        objects.iter().map(|info| (info.object.clone(), (info.file.clone(), info.line, info.hash))).collect()
    };
    let (old, new) = (table(old), table(new));
    // A move to another line or file is no change of the object.
    let meaning = |table: &crate::Table<ObjectRef, (Arc<str>, usize, [u8; 32])>| -> crate::Table<ObjectRef, [u8; 32]> {
        table.iter().map(|(object, place)| (object.clone(), place.2)).collect()
    };
    let place = |object: &ObjectRef| {
        new.get(object).or_else(|| old.get(object)).map_or(("".into(), 0), |(file, line, _)| (file.clone(), *line))
    };
    if applied.is_some() || cold {
        for Change { key, from, to } in meaning(&old).diff(&meaning(&new)) {
            let action = match (from, to) {
                (None, _) => Action::Create,
                (_, None) => Action::Delete,
                _ => Action::Update,
            };
            let (file, line) = place(&key);
            by_object
                .insert(Some(key.clone()), ObjectChange { object: Some(key), action, file, line, entries: Vec::new() });
        }
    }

    for change in tables.changes().chain(wiring_changes(wiring)) {
        let owner = |target: Target<'_>| {
            target.provenance.owner(&change).map(|index| target.provenance.objects()[index].object.clone())
        };
        let object = match change.action() {
            Action::Delete => applied.and_then(owner),
            Action::Create | Action::Update => owner(desired),
        };
        let entry = by_object.entry(object.clone()).or_insert_with(|| {
            let (file, line) = object.as_ref().map_or(("".into(), 0), place);
            ObjectChange { object, action: Action::Update, file, line, entries: Vec::new() }
        });
        entry.entries.push(change);
    }
    by_object.into_values().collect()
}

fn digest(drift: &[AnyChange], changes: &[ObjectChange]) -> [u8; 32] {
    fn entry(hash: &mut Sha256, change: &AnyChange) {
        let (key, from, to) = change.show();
        for part in [change.table(), &key, from.as_deref().unwrap_or("\0"), to.as_deref().unwrap_or("\0")] {
            hash.update(part.as_bytes());
            hash.update([0x1f]);
        }
        hash.update([0x1e]);
    }
    let mut hash = Sha256::new();
    drift.iter().for_each(|change| entry(&mut hash, change));
    hash.update([0x1d]);
    for change in changes {
        hash.update(change.object.as_ref().map_or_else(String::new, ToString::to_string).as_bytes());
        hash.update([0x1f, change.action as u8]);
        change.entries.iter().for_each(|change| entry(&mut hash, change));
        hash.update([0x1d]);
    }
    hash.finalize().into()
}
