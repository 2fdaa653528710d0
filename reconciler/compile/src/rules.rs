//! Rules: what entries are counted under and explained by.
use std::{collections::BTreeMap, sync::Arc};

use weir_plan::{Numbering, ObjectRef, OutOfNumbers, RuleRef, Space, Table};

use crate::{
    objects::{ObjectId, Objects, numbering_key},
    provenance::RuleOrigin,
};

/// A rule before it has a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RuleKey {
    pub object: ObjectId,
    pub path: Arc<str>,
}

/// Place of a rule in the order of (object, path): of two rules that decide alike, the lower explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RuleRank(pub u32);

/// What a rule is numbered by.
pub(crate) fn rule_key(object: &ObjectRef, path: &str) -> String {
    format!("{}|{path}", numbering_key(object))
}

/// Every rule of this node, ranked and numbered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    sorted: Vec<RuleKey>,
    numbers: Vec<u32>,
}

impl Rules {
    pub fn number(
        mut keys: Vec<RuleKey>,
        objects: &Objects<'_>,
        numbering: &mut Numbering,
        sequence: u64,
    ) -> Result<Self, OutOfNumbers> {
        keys.sort_unstable();
        keys.dedup();
        let mut numbers = Vec::with_capacity(keys.len());
        for key in &keys {
            numbers.push(numbering.assign(
                Space::Rule,
                &rule_key(objects.reference(key.object), &key.path),
                sequence,
            )?);
        }
        Ok(Self { sorted: keys, numbers })
    }

    /// Every key that is asked for was given to [`Self::number`]; one that was not has the last rank, number 0.
    pub fn rank(&self, object: ObjectId, path: &str) -> RuleRank {
        let found = self.sorted.binary_search_by(|key| (key.object, &*key.path).cmp(&(object, path)));
        debug_assert!(found.is_ok(), "a rule without a number: {path}");
        RuleRank(found.unwrap_or(self.sorted.len()) as u32)
    }

    pub fn number_of(&self, rank: RuleRank) -> u32 {
        self.numbers.get(rank.0 as usize).copied().unwrap_or(weir_abi::RULE_NONE)
    }

    /// The object behind each number.
    pub fn owners(&self) -> BTreeMap<u32, ObjectId> {
        self.numbers.iter().copied().zip(self.sorted.iter().map(|key| key.object)).collect()
    }

    pub fn by_number(&self, objects: &Objects<'_>) -> Table<u32, RuleOrigin> {
        let rules = self.numbers.iter().zip(&self.sorted);
        let origin = |key: &RuleKey| RuleOrigin {
            rule: RuleRef { object: objects.reference(key.object).clone(), path: Arc::clone(&key.path) },
            owner: objects.owner(key.object),
        };
        rules.map(|(number, key)| (*number, origin(key))).collect()
    }
}
