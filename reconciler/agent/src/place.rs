//! Where in the manifests something stands: looked up only for what is shown.
use std::{net::IpAddr, sync::Arc};

use weir_abi::ACTION_NONE;
use weir_plan::{AnyChange, Change, ObjectRef, Provenance, RuleRef};
use weir_schema::Object;

use crate::Snapshot;

/// A line of a manifest or list, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    pub line: usize,
}

impl Snapshot {
    pub fn object(&self, object: &ObjectRef) -> Option<Arc<Object>> {
        self.inventory.get(&weir_compile::key(object))
    }

    /// Where an object begins.
    pub fn place_of_object(&self, object: &ObjectRef) -> Option<Place> {
        let object = self.object(object)?;
        Some(Place { file: object.origin.path.clone(), line: object.origin.line })
    }

    /// Where a rule stands; of a list, the entry that covers `address`.
    pub fn place_of_rule(&self, rule: &RuleRef, address: Option<IpAddr>) -> Option<Place> {
        let object = self.object(&rule.object)?;
        let in_list = || {
            let file_of = |path: &str| self.manifests.file(path);
            weir_schema::locate_list_entry(&object, &rule.path, address?, file_of)
        };
        if let Some((file, position)) = in_list() {
            return Some(Place { file, line: position.line });
        }
        let origin = &object.origin;
        let located = weir_schema::locate(self.manifests.file(&origin.path)?, origin.document, &rule.path);
        let line = located.map_or(origin.line, |position| position.line);
        Some(Place { file: origin.path.clone(), line })
    }

    /// Where the rule behind an entry stands.
    pub fn place_of_entry(&self, change: &AnyChange<'_>) -> Option<Place> {
        fn value<K, V: Copy>(change: &Change<K, V>) -> Option<V> {
            change.to.or(change.from)
        }
        let class_rule = |class: Option<u32>| {
            let class = self.compiled.tables.classes.get(&class?)?;
            class.cells.iter().find(|cell| cell.action() != ACTION_NONE).map(|cell| cell.rule())
        };
        let (rule, address) = match change {
            AnyChange::Policy(change) => (value(change)?.rule, None),
            AnyChange::Prefilter4(change) => (class_rule(value(change))?, Some(change.key.to_ip_net().addr())),
            AnyChange::Prefilter6(change) => (class_rule(value(change))?, Some(change.key.to_ip_net().addr())),
            _ => return None,
        };
        let rule = self.compiled.provenance.rule(rule)?;
        // Finding one of half a million lines costs tens of milliseconds, and a plan shows many entries.
        let left = |left: usize, file: &weir_schema::File| left.checked_sub(file.bytes.len());
        if address.is_some() && self.manifests.files.iter().try_fold(LONG_LISTS, left).is_none() {
            return None;
        }
        self.place_of_rule(rule, address)
    }
}

/// Bytes of manifests and lists that are not searched for the sake of a plan; `trace` and `monitor` search any.
const LONG_LISTS: usize = 1 << 20;
