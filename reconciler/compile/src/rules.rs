//! Rules: what entries are counted under and explained by.
use std::sync::Arc;

use weir_plan::{Numbering, OutOfNumbers, RuleRef, Space};

use crate::objects::{ObjectId, Objects, numbering_key};

/// A rule before it has a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RuleKey {
    pub object: ObjectId,
    pub path: Arc<str>,
}

/// Place of a rule in the order of (object, path): of two rules that decide alike, the lower explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RuleRank(pub u32);

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
        let mut prefix: Option<(ObjectId, String)> = None;
        for key in &keys {
            if prefix.as_ref().is_none_or(|(object, _)| *object != key.object) {
                prefix = Some((key.object, numbering_key(objects.reference(key.object))));
            }
            let object = prefix.as_ref().map_or("", |(_, text)| text);
            numbers.push(numbering.assign(Space::Rule, &format!("{object}|{}", key.path), sequence)?);
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

    /// (number, rule, object), sorted by number.
    pub fn by_number(&self, objects: &Objects<'_>) -> Vec<(u32, RuleRef, ObjectId)> {
        let rules = self.numbers.iter().zip(&self.sorted);
        let mut list: Vec<_> = rules
            .map(|(number, key)| {
                let rule = RuleRef { object: objects.reference(key.object).clone(), path: Arc::clone(&key.path) };
                (*number, rule, key.object)
            })
            .collect();
        list.sort_unstable_by_key(|(number, ..)| *number);
        list
    }
}
