use std::{
    collections::{BTreeMap, HashMap},
    hash::{Hash, Hasher},
    sync::Arc,
};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{Delta, ObjectRef, Observed, Owner, Provenance, Tables, TablesDelta, Wiring, WiringDelta};

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
    pub drift: Delta,
    /// What somebody else did to the standby side: see [`Plan::expecting_standby`].
    pub standby_drift: TablesDelta,
    /// Sorted by object.
    pub changes: Vec<ObjectChange>,
    pub summary: Summary,
    /// SHA-256 of the canonical plan.
    pub digest: [u8; 32],
    /// What brings the standby side from what it holds now to what is desired; empty where there is nothing to stage.
    pub standby: Arc<TablesDelta>,
    /// What differs between the active side and what is desired: without any of it there is nothing to flip for.
    pub active: Arc<TablesDelta>,
    pub wiring: WiringDelta,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectChange {
    /// `None`: the node as a whole.
    pub object: Option<ObjectRef>,
    pub action: Action,
    pub file: Arc<str>,
    pub line: usize,
    pub entries: Delta,
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
    /// drift. `live` is `None` where the kernel holds nothing. `objects` are those that are not what they were, whether
    /// or not an entry tells of it.
    pub fn new(
        desired: Target<'_>,
        applied: Option<Target<'_>>,
        live: Option<&Observed>,
        objects: &[(ObjectRef, Action)],
    ) -> Self {
        let nothing = Tables::default();
        let active = Arc::new(live.map_or(&nothing, Observed::active).diff(desired.tables));
        Self::after(active, desired, applied, live, objects)
    }

    /// As [`Self::new`] where nothing is live and every entry, which `entries` are, has to be written.
    pub fn of_all(
        entries: Arc<TablesDelta>,
        desired: Target<'_>,
        applied: Option<Target<'_>>,
        objects: &[(ObjectRef, Action)],
    ) -> Self {
        Self::after(entries, desired, applied, None, objects)
    }

    fn after(
        active: Arc<TablesDelta>,
        desired: Target<'_>,
        applied: Option<Target<'_>>,
        live: Option<&Observed>,
        objects: &[(ObjectRef, Action)],
    ) -> Self {
        let nothing = (Tables::default(), Wiring::default());
        let live_active = live.map_or(&nothing.0, Observed::active);
        let live_standby = live.map_or(&nothing.0, Observed::standby);
        let live_wiring = live.map_or(&nothing.1, |observed| &observed.wiring);

        // Tables may have a million entries: what equals a difference that is known is not computed again, and what
        // nobody will stage not at all.
        let standby = if active.is_empty() {
            Arc::default()
        } else if std::ptr::eq(live_active, live_standby) || live.is_none() {
            Arc::clone(&active)
        } else {
            Arc::new(live_standby.diff(desired.tables))
        };
        let wiring = live_wiring.diff(desired.wiring);

        let drift = match (applied, live) {
            (Some(applied), Some(live)) => {
                Delta { tables: applied.tables.diff(live.active()), wiring: applied.wiring.diff(&live.wiring) }
            }
            _ => Delta::default(),
        };

        // Without a record of what was applied, live stands in for it.
        let (base_tables, base_wiring) =
            applied.map_or((live_active, live_wiring), |applied| (applied.tables, applied.wiring));
        let cold = live.is_none();
        let changed_tables = (!cold && !drift.tables.is_empty()).then(|| base_tables.diff(desired.tables));
        let changed_wiring = (!cold && !drift.wiring.is_empty()).then(|| base_wiring.diff(desired.wiring));
        let changes = object_changes(
            desired,
            applied,
            changed_tables.as_ref().unwrap_or(&active),
            changed_wiring.as_ref().unwrap_or(&wiring),
            objects,
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
        Self { drift, standby_drift: TablesDelta::default(), changes, summary, digest, standby, active, wiring }
    }

    /// Adds the drift of the standby side, where what it should hold is known: the commit before the applied one, or
    /// the applied one itself once it has caught up.
    pub fn expecting_standby(mut self, expected: &Tables, live: &Observed, desired: &Tables) -> Self {
        self.standby_drift = expected.diff(live.standby());
        if !self.standby_drift.is_empty() {
            self.summary.drift += self.standby_drift.len() as u64;
            if self.active.is_empty() {
                self.standby = Arc::new(live.standby().diff(desired));
                self.summary.writes += self.standby.len() as u64;
            }
            let mut hash = Canonical::new();
            hash.write(&self.digest);
            self.standby_drift.changes().for_each(|change| change.hash_into(&mut hash));
            self.digest = hash.digest();
        }
        self
    }

    /// Nothing to do: no flip, no write.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
            && self.wiring.is_empty()
            && self.drift.is_empty()
            && self.standby_drift.is_empty()
            && self.changes.is_empty()
    }
}

fn object_changes(
    desired: Target<'_>,
    applied: Option<Target<'_>>,
    tables: &TablesDelta,
    wiring: &WiringDelta,
    objects: &[(ObjectRef, Action)],
) -> Vec<ObjectChange> {
    let place = |object: &ObjectRef| {
        let former = || applied.and_then(|applied| applied.provenance.place(object));
        desired.provenance.place(object).or_else(former).unwrap_or(("".into(), 0))
    };
    let changed = |(object, action): &(ObjectRef, Action)| {
        let (file, line) = place(object);
        ObjectChange { object: Some(object.clone()), action: *action, file, line, entries: Delta::default() }
    };
    let mut changes: Vec<ObjectChange> = objects.iter().map(changed).collect();
    let mut by_object: BTreeMap<Option<ObjectRef>, usize> =
        changes.iter().enumerate().map(|(at, change)| (change.object.clone(), at)).collect();

    // Half a million entries have few owners: who was met before is not looked for again.
    let mut met: HashMap<(bool, Option<usize>), usize> = HashMap::new();
    // Neighbours mostly have one.
    let mut last = None;
    for change in tables.changes().chain(wiring.changes()) {
        // A deleted entry belonged to an object of the former revision.
        let gone = change.action() == Action::Delete;
        let target = if gone { applied } else { Some(desired) };
        let owner = target.and_then(|target| target.provenance.owner(&change));
        let token = (gone, owner.map(Owner::token));
        let mut meet = || {
            *met.entry(token).or_insert_with(|| {
                let object = owner.map(Owner::reference);
                *by_object.entry(object.clone()).or_insert_with(|| {
                    let (file, line) = object.as_ref().map_or(("".into(), 0), place);
                    changes.push(ObjectChange {
                        object,
                        action: Action::Update,
                        file,
                        line,
                        entries: Delta::default(),
                    });
                    changes.len() - 1
                })
            })
        };
        let at = match last {
            Some((former, at)) if former == token => at,
            _ => meet(),
        };
        last = Some((token, at));
        changes[at].entries.push(change);
    }
    changes.sort_by(|a, b| a.object.cmp(&b.object));
    changes
}

/// A hasher that keeps every byte's influence: the digest is over typed values, not over their text. Values are a few
/// bytes each, and there may be millions: they are gathered.
struct Canonical {
    hash: Sha256,
    gathered: Vec<u8>,
}

const GATHERED: usize = 4096;

impl Canonical {
    fn new() -> Self {
        Self { hash: Sha256::new(), gathered: Vec::with_capacity(GATHERED) }
    }

    fn digest(mut self) -> [u8; 32] {
        self.hash.update(&self.gathered);
        self.hash.finalize().into()
    }
}

impl Hasher for Canonical {
    fn write(&mut self, bytes: &[u8]) {
        if self.gathered.len() + bytes.len() > GATHERED {
            self.hash.update(&self.gathered);
            self.gathered.clear();
        }
        self.gathered.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

fn digest(drift: &Delta, changes: &[ObjectChange]) -> [u8; 32] {
    let mut hash = Canonical::new();
    drift.changes().for_each(|change| change.hash_into(&mut hash));
    for change in changes {
        change.object.hash(&mut hash);
        hash.write_u8(change.action as u8);
        change.entries.changes().for_each(|entry| entry.hash_into(&mut hash));
    }
    hash.digest()
}

#[cfg(test)]
mod tests {
    use weir_abi::{Generation, PolicyEntry, PolicyKey, Side, TupleClass, policy_verdict};

    use super::*;
    use crate::{AnyChange, Capacity, RuleRef};

    /// Rule `n` belongs to the n-th object.
    #[derive(Clone, Default)]
    struct Rules(Vec<Known>);

    #[derive(Clone, PartialEq)]
    struct Known {
        object: ObjectRef,
        hash: u8,
    }

    impl Owner for Known {
        fn token(&self) -> usize {
            std::ptr::from_ref(self).addr()
        }

        fn reference(&self) -> ObjectRef {
            self.object.clone()
        }
    }

    impl Provenance for Rules {
        fn owner(&self, change: &AnyChange<'_>) -> Option<&dyn Owner> {
            let AnyChange::Policy(change) = change else { return None };
            change.to.or(change.from).map(|entry| &self.0[entry.rule as usize] as &dyn Owner)
        }

        fn place(&self, object: &ObjectRef) -> Option<(Arc<str>, usize)> {
            self.0.iter().any(|known| known.object == *object).then(|| ("a.yaml".into(), 1))
        }

        fn rule(&self, _: u32) -> Option<&RuleRef> {
            None
        }
    }

    fn object(name: &str, hash: u8) -> Known {
        Known {
            object: ObjectRef {
                api_version: "weir/v1alpha1".into(),
                kind: "NetworkPolicy".into(),
                namespace: "default".into(),
                name: name.into(),
            },
            hash,
        }
    }

    fn changed(from: &Rules, to: &Rules) -> Vec<(ObjectRef, Action)> {
        let find = |rules: &Rules, object| rules.0.iter().find(|known| known.object == object).cloned();
        let gone = from.0.iter().filter(|known| find(to, known.object.clone()).is_none());
        let gone = gone.map(|known| (known.object.clone(), Action::Delete));
        let here = to.0.iter().filter_map(|known| match find(from, known.object.clone()) {
            None => Some((known.object.clone(), Action::Create)),
            Some(former) => (former.hash != known.hash).then(|| (known.object.clone(), Action::Update)),
        });
        gone.chain(here).collect()
    }

    fn tables(ports: &[(u16, u32)]) -> Tables {
        let policy = ports.iter().map(|&(port, rule)| {
            let key = PolicyKey::new(256, 257, 0, TupleClass::new(Some(16), false), 6, port);
            (key, PolicyEntry { rule, verdict: policy_verdict::ALLOW, ..PolicyEntry::default() })
        });
        Tables { policy: policy.collect(), ..Tables::default() }
    }

    fn live(active: &Tables, standby: &Tables) -> Observed {
        Observed {
            generation: Generation { side: Side::B, epoch: 7 },
            sides: [Arc::new(standby.clone()), Arc::new(active.clone())],
            wiring: Wiring::default(),
            capacity: Capacity::default(),
        }
    }

    fn plan(desired: (&Tables, &Rules), applied: (&Tables, &Rules), live: Option<&Observed>) -> Plan {
        let wiring = Wiring::default();
        let former = if live.is_some() { applied.1.clone() } else { Rules::default() };
        Plan::new(
            Target { tables: desired.0, wiring: &wiring, provenance: desired.1 },
            Some(Target { tables: applied.0, wiring: &wiring, provenance: applied.1 }),
            live,
            &changed(&former, desired.1),
        )
    }

    #[test]
    fn change_and_drift_are_told_apart() {
        let rules = Rules(vec![object("a", 1)]);
        let after = Rules(vec![object("a", 2)]);
        let applied = tables(&[(80, 0), (81, 0)]);
        let desired = tables(&[(80, 0), (81, 0), (82, 0)]);
        // Somebody took 81 away.
        let live = live(&tables(&[(80, 0)]), &applied);

        let plan = plan((&desired, &after), (&applied, &rules), Some(&live));

        assert_eq!(plan.drift.len(), 1);
        assert_eq!(plan.changes.len(), 1);
        assert_eq!((plan.changes[0].action, plan.changes[0].entries.len()), (Action::Update, 1));
        assert_eq!(plan.summary, Summary { update: 1, drift: 1, writes: 2, ..Summary::default() });
        assert_eq!(plan.standby.len(), 1, "the standby side lacks only what is new");
    }

    #[test]
    fn nothing_to_do_is_empty_even_when_the_standby_lags() {
        let rules = Rules(vec![object("a", 1)]);
        let state = tables(&[(80, 0)]);
        let live = live(&state, &Tables::default());
        let plan = plan((&state, &rules), (&state, &rules), Some(&live));
        assert!(plan.is_empty());
    }

    #[test]
    fn a_deleted_object_takes_its_entries_along() {
        let (before, after) = (Rules(vec![object("a", 1), object("b", 1)]), Rules(vec![object("a", 1)]));
        let (applied, desired) = (tables(&[(80, 0), (81, 1)]), tables(&[(80, 0)]));
        let live = live(&applied, &applied);
        let plan = plan((&desired, &after), (&applied, &before), Some(&live));
        assert_eq!(plan.changes.len(), 1);
        assert_eq!(plan.changes[0].object.as_ref().map(|object| &*object.name), Some("b"));
        assert_eq!((plan.changes[0].action, plan.changes[0].entries.len()), (Action::Delete, 1));
    }

    #[test]
    fn a_cold_start_is_change_not_drift() {
        let rules = Rules(vec![object("a", 1)]);
        let state = tables(&[(80, 0)]);
        let plan = plan((&state, &rules), (&state, &rules), None);
        assert!(plan.drift.is_empty());
        assert_eq!(plan.summary, Summary { create: 1, writes: 1, ..Summary::default() });
    }

    #[test]
    fn equal_plans_have_equal_digests_and_others_do_not() {
        let rules = Rules(vec![object("a", 1)]);
        let (one, two, three) = (tables(&[(80, 0)]), tables(&[(81, 0)]), tables(&[(82, 0)]));
        let live = live(&one, &one);
        let first = plan((&two, &rules), (&one, &rules), Some(&live));
        assert_eq!(first.digest, plan((&two, &rules), (&one, &rules), Some(&live)).digest);
        assert_ne!(first.digest, plan((&three, &rules), (&one, &rules), Some(&live)).digest);
    }
}
