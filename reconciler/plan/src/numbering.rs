use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Numbers that tables need for things that manifests name, kept in the store so that they survive restarts: the same
/// manifests then give the same tables.
///
/// A key that is no longer used keeps its number until [`Numbering::retire`] has been called with a sequence two
/// commits later: both sides may still speak of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbering {
    spaces: BTreeMap<Space, NumberSpace>,
}

/// What is numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Space {
    /// Label sets and CIDRs; from `identity::FIRST_LOCAL`.
    Identity,
    /// (object, rule path); from 1, dense: counters are arrays.
    Rule,
    /// Prefilter classes by content; from 1.
    Class,
    /// Endpoints by object; from 1.
    Endpoint,
    /// Incarnations of endpoints by object and attachment; from 1, never used twice.
    Incarnation,
}

impl Space {
    pub const ALL: [Self; 5] = [Self::Identity, Self::Rule, Self::Class, Self::Endpoint, Self::Incarnation];

    const fn range(self) -> (u32, u32) {
        match self {
            Self::Identity => (weir_abi::identity::FIRST_LOCAL, weir_abi::identity::MAX),
            Self::Rule => (1, (1 << weir_abi::RULE_BITS) - 1),
            Self::Class => (1, weir_abi::tree::VALUE_MASK),
            Self::Endpoint | Self::Incarnation => (1, u32::MAX - 1),
        }
    }

    const fn reuses(self) -> bool {
        !matches!(self, Self::Incarnation)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberSpace {
    numbers: BTreeMap<Arc<str>, Assigned>,
    /// Returned numbers, ascending.
    free: std::collections::BTreeSet<u32>,
    /// One past the highest number that was ever given out, 0 when none was.
    next: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Assigned {
    number: u32,
    /// The last commit that used it.
    used: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfNumbers(pub Space);

impl fmt::Display for OutOfNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no number is left for {:?}", self.0)
    }
}

impl std::error::Error for OutOfNumbers {}

impl Numbering {
    /// The number of `key`, given out now if it has none; marks it as used by commit `sequence`.
    pub fn assign(&mut self, space: Space, key: &str, sequence: u64) -> Result<u32, OutOfNumbers> {
        let (first, last) = space.range();
        let numbers = self.spaces.entry(space).or_default();
        if let Some(assigned) = numbers.numbers.get_mut(key) {
            assigned.used = assigned.used.max(sequence);
            return Ok(assigned.number);
        }
        let number = match numbers.free.pop_first() {
            Some(number) => number,
            None => {
                let number = numbers.next.max(first);
                if number > last {
                    return Err(OutOfNumbers(space));
                }
                numbers.next = number + 1;
                number
            }
        };
        numbers.numbers.insert(key.into(), Assigned { number, used: sequence });
        Ok(number)
    }

    pub fn get(&self, space: Space, key: &str) -> Option<u32> {
        self.spaces.get(&space)?.numbers.get(key).map(|assigned| assigned.number)
    }

    /// One past the highest number in use, for tables that are indexed by it.
    pub fn bound(&self, space: Space) -> u32 {
        self.spaces.get(&space).map_or(0, |numbers| numbers.next)
    }

    pub fn iter(&self, space: Space) -> impl Iterator<Item = (&str, u32)> {
        self.spaces
            .get(&space)
            .into_iter()
            .flat_map(|numbers| numbers.numbers.iter().map(|(key, a)| (&**key, a.number)))
    }

    /// Takes back what a store kept of one space: the numbers, and what [`Self::bound`] said. Which commit used a key
    /// last is not kept, so all count as used by commit `sequence`.
    pub fn restore(
        &mut self,
        space: Space,
        bound: u32,
        numbers: impl IntoIterator<Item = (Arc<str>, u32)>,
        sequence: u64,
    ) {
        let numbers: BTreeMap<Arc<str>, Assigned> =
            numbers.into_iter().map(|(key, number)| (key, Assigned { number, used: sequence })).collect();
        let mut free = std::collections::BTreeSet::new();
        if space.reuses() && bound > 0 {
            free.extend(space.range().0..bound);
            numbers.values().for_each(|assigned| {
                free.remove(&assigned.number);
            });
        }
        self.spaces.insert(space, NumberSpace { numbers, free, next: bound });
    }

    /// Frees what no commit from `oldest` on has used.
    pub fn retire(&mut self, oldest: u64) {
        for (space, numbers) in &mut self.spaces {
            let free = &mut numbers.free;
            numbers.numbers.retain(|_, assigned| {
                let keep = assigned.used >= oldest;
                if !keep && space.reuses() {
                    free.insert(assigned.number);
                }
                keep
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_kept_until_both_sides_forgot_it() -> Result<(), OutOfNumbers> {
        let mut numbering = Numbering::default();
        let web = numbering.assign(Space::Identity, "app=web", 1)?;
        assert_eq!(web, 256);
        numbering.retire(1);
        assert_eq!(numbering.get(Space::Identity, "app=web"), Some(web));
        assert_ne!(numbering.assign(Space::Identity, "app=db", 2)?, web);
        numbering.retire(2);
        assert_eq!(numbering.get(Space::Identity, "app=web"), None);
        assert_eq!(numbering.assign(Space::Identity, "app=new", 3)?, web, "the freed number is used again");
        Ok(())
    }

    #[test]
    fn a_restored_numbering_goes_on_where_it_was() -> Result<(), OutOfNumbers> {
        let mut before = Numbering::default();
        for key in ["a", "b", "c"] {
            before.assign(Space::Identity, key, 1)?;
            before.assign(Space::Incarnation, key, 1)?;
        }
        before.assign(Space::Identity, "c", 2)?;
        before.assign(Space::Identity, "a", 2)?;
        before.retire(2);
        let mut after = Numbering::default();
        for space in [Space::Identity, Space::Incarnation] {
            let numbers: Vec<_> = before.iter(space).map(|(key, number)| (key.into(), number)).collect();
            after.restore(space, before.bound(space), numbers, 2);
        }
        assert_eq!(after, before);
        assert_eq!(after.assign(Space::Identity, "d", 3)?, 257, "the number that b gave back");
        assert_eq!(after.assign(Space::Incarnation, "a", 3)?, 4);
        Ok(())
    }

    #[test]
    fn an_incarnation_is_never_used_twice() -> Result<(), OutOfNumbers> {
        let mut numbering = Numbering::default();
        let first = numbering.assign(Space::Incarnation, "a", 1)?;
        numbering.retire(2);
        assert_ne!(numbering.assign(Space::Incarnation, "a", 3)?, first);
        Ok(())
    }
}
