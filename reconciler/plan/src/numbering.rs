use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::Table;

/// Numbers that tables need for things that manifests name, kept in the store so that they survive restarts: the same
/// manifests then give the same tables. Cheap to clone.
///
/// A key that is no longer used keeps its number until [`Numbering::retire`] has been called with a sequence two
/// commits later: both sides may still speak of it.
#[derive(Clone, Debug, Default)]
pub struct Numbering {
    spaces: [NumberSpace; Space::ALL.len()],
}

/// Every key has the same number, and the next ones will be the same. Which commit used a key last does not matter.
impl PartialEq for Numbering {
    fn eq(&self, other: &Self) -> bool {
        let same = |space| self.bound(space) == other.bound(space) && self.changes_since(other, space).is_empty();
        Space::ALL.into_iter().all(same)
    }
}

impl Eq for Numbering {}

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
    /// Incarnations of endpoints by object and attachment, and of backends; from 1, never used twice.
    Incarnation,
    /// Services by object and what tells those of one object apart; from 1, dense.
    Service,
    /// Backends by service, address and port; from 1, dense.
    Backend,
}

impl Space {
    pub const ALL: [Self; 7] =
        [Self::Identity, Self::Rule, Self::Class, Self::Endpoint, Self::Incarnation, Self::Service, Self::Backend];

    const fn range(self) -> (u32, u32) {
        match self {
            Self::Identity => (weir_abi::identity::FIRST_LOCAL, weir_abi::identity::MAX),
            Self::Rule => (1, (1 << weir_abi::RULE_BITS) - 1),
            Self::Class => (1, weir_abi::tree::VALUE_MASK),
            Self::Endpoint | Self::Incarnation | Self::Service | Self::Backend => (1, u32::MAX - 1),
        }
    }

    const fn reuses(self) -> bool {
        !matches!(self, Self::Incarnation)
    }
}

#[derive(Clone, Debug, Default)]
struct NumberSpace {
    numbers: Table<Arc<str>, Assigned>,
    /// Keys that no set uses any more, by the last commit that did.
    idle: Table<(u64, Arc<str>), ()>,
    /// Returned numbers.
    free: Table<u32, ()>,
    /// One past the highest number that was ever given out, 0 when none was.
    next: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Assigned {
    number: u32,
    /// `IN_USE`, or the last commit that used it.
    used: u64,
    /// The last compilation of a whole set that asked for it.
    seen: u64,
}

const IN_USE: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfNumbers(pub Space);

impl fmt::Display for OutOfNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no number is left for {:?}", self.0)
    }
}

impl std::error::Error for OutOfNumbers {}

impl Numbering {
    /// The number of `key`, given out now if it has none; marks it as used, by commit `sequence` and until
    /// [`Self::release`] or [`Self::release_unseen`].
    pub fn assign(&mut self, space: Space, key: &str, sequence: u64) -> Result<u32, OutOfNumbers> {
        let (first, last) = space.range();
        let numbers = &mut self.spaces[space as usize];
        let key: Arc<str> = key.into();
        if let Some(assigned) = numbers.numbers.get(&key).copied() {
            if assigned.used != IN_USE || assigned.seen != sequence {
                if assigned.used != IN_USE {
                    numbers.idle.remove(&(assigned.used, key.clone()));
                }
                numbers.numbers.insert(key, Assigned { used: IN_USE, seen: sequence, ..assigned });
            }
            return Ok(assigned.number);
        }
        let number = match numbers.free.first() {
            Some((number, ())) => *number,
            None => {
                let number = numbers.next.max(first);
                if number > last {
                    return Err(OutOfNumbers(space));
                }
                numbers.next = number + 1;
                number
            }
        };
        numbers.free.remove(&number);
        numbers.numbers.insert(key, Assigned { number, used: IN_USE, seen: sequence });
        Ok(number)
    }

    /// As [`Self::assign`], for what must not be taken for what it was: a key that was released gets another number.
    pub fn assign_anew(&mut self, space: Space, key: &str, sequence: u64) -> Result<u32, OutOfNumbers> {
        debug_assert!(!space.reuses(), "the former number may still be spoken of");
        let numbers = &mut self.spaces[space as usize];
        let shared: Arc<str> = key.into();
        if let Some(assigned) = numbers.numbers.get(&shared).copied().filter(|assigned| assigned.used != IN_USE) {
            numbers.idle.remove(&(assigned.used, shared.clone()));
            numbers.numbers.remove(&shared);
        }
        self.assign(space, key, sequence)
    }

    /// As [`Self::assign`], for an edit of a set: what is in use is left as it is.
    pub fn hold(&mut self, space: Space, key: &str, sequence: u64) -> Result<u32, OutOfNumbers> {
        match self.spaces[space as usize].numbers.get(&Arc::from(key)) {
            Some(assigned) if assigned.used == IN_USE => Ok(assigned.number),
            _ => self.assign(space, key, sequence),
        }
    }

    /// The set of commit `sequence` does not use `key` any more.
    pub fn release(&mut self, space: Space, key: &str, sequence: u64) {
        let numbers = &mut self.spaces[space as usize];
        let key: Arc<str> = key.into();
        let Some(assigned) = numbers.numbers.get(&key).copied().filter(|assigned| assigned.used == IN_USE) else {
            return;
        };
        let used = sequence.saturating_sub(1);
        numbers.numbers.insert(key.clone(), Assigned { used, ..assigned });
        numbers.idle.insert((used, key), ());
    }

    /// After a whole set was compiled as commit `sequence`: what it did not ask for is not used any more.
    pub fn release_unseen(&mut self, sequence: u64) {
        for space in Space::ALL {
            let unseen: Vec<Arc<str>> = self.spaces[space as usize]
                .numbers
                .iter()
                .filter(|(_, assigned)| assigned.used == IN_USE && assigned.seen != sequence)
                .map(|(key, _)| key.clone())
                .collect();
            unseen.iter().for_each(|key| self.release(space, key, sequence));
        }
    }

    pub fn get(&self, space: Space, key: &str) -> Option<u32> {
        self.spaces[space as usize].numbers.get(&Arc::from(key)).map(|assigned| assigned.number)
    }

    /// One past the highest number in use, for tables that are indexed by it.
    pub fn bound(&self, space: Space) -> u32 {
        self.spaces[space as usize].next
    }

    pub fn iter(&self, space: Space) -> impl Iterator<Item = (&str, u32)> {
        self.spaces[space as usize].numbers.iter().map(|(key, assigned)| (&**key, assigned.number))
    }

    /// What was given out (`Some`), changed or freed (`None`) in `space` since `former`.
    pub fn changes_since(&self, former: &Self, space: Space) -> Vec<(Arc<str>, Option<u32>, Option<u32>)> {
        let diff = former.spaces[space as usize].numbers.diff(&self.spaces[space as usize].numbers);
        let number = |assigned: Option<Assigned>| assigned.map(|assigned| assigned.number);
        let changes = diff.into_iter().map(|change| (change.key, number(change.from), number(change.to)));
        changes.filter(|(_, from, to)| from != to).collect()
    }

    /// Takes back what a store kept of one space: the numbers, and what [`Self::bound`] said. Which commit used a key
    /// last is not kept: all count as used until a set was compiled.
    pub fn restore(&mut self, space: Space, bound: u32, numbers: impl IntoIterator<Item = (Arc<str>, u32)>) {
        let numbers: Table<Arc<str>, Assigned> =
            numbers.into_iter().map(|(key, number)| (key, Assigned { number, used: IN_USE, seen: 0 })).collect();
        let mut free = std::collections::BTreeSet::new();
        if space.reuses() && bound > 0 {
            free.extend(space.range().0..bound);
            for (_, assigned) in &numbers {
                free.remove(&assigned.number);
            }
        }
        let free = free.into_iter().map(|number| (number, ())).collect();
        self.spaces[space as usize] = NumberSpace { numbers, idle: Table::new(), free, next: bound };
    }

    /// Frees what no commit from `oldest` on has used.
    pub fn retire(&mut self, oldest: u64) {
        for space in Space::ALL {
            let numbers = &mut self.spaces[space as usize];
            let due: Vec<(u64, Arc<str>)> =
                numbers.idle.iter().map(|(key, ())| key).take_while(|(used, _)| *used < oldest).cloned().collect();
            for key in due {
                numbers.idle.remove(&key);
                let Some(assigned) = numbers.numbers.remove(&key.1) else { continue };
                if space.reuses() {
                    numbers.free.insert(assigned.number, ());
                }
            }
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
        numbering.release_unseen(1);
        numbering.retire(1);
        assert_ne!(numbering.assign(Space::Identity, "app=db", 2)?, web);
        numbering.release_unseen(2);
        numbering.retire(1);
        assert_eq!(numbering.get(Space::Identity, "app=web"), Some(web));
        numbering.retire(2);
        assert_eq!(numbering.get(Space::Identity, "app=web"), None);
        assert_eq!(numbering.assign(Space::Identity, "app=new", 3)?, web, "the freed number is used again");
        Ok(())
    }

    #[test]
    fn what_is_released_and_asked_for_again_keeps_its_number() -> Result<(), OutOfNumbers> {
        let mut numbering = Numbering::default();
        let web = numbering.assign(Space::Identity, "app=web", 1)?;
        numbering.release(Space::Identity, "app=web", 2);
        assert_eq!(numbering.assign(Space::Identity, "app=web", 3)?, web);
        numbering.retire(100);
        assert_eq!(numbering.get(Space::Identity, "app=web"), Some(web), "it is in use");
        Ok(())
    }

    #[test]
    fn a_restored_numbering_goes_on_where_it_was() -> Result<(), OutOfNumbers> {
        let mut before = Numbering::default();
        for key in ["a", "b", "c"] {
            before.assign(Space::Identity, key, 1)?;
            before.assign(Space::Incarnation, key, 1)?;
        }
        before.release(Space::Identity, "b", 2);
        before.release(Space::Incarnation, "b", 2);
        before.retire(2);
        let mut after = Numbering::default();
        for space in [Space::Identity, Space::Incarnation] {
            let numbers: Vec<_> = before.iter(space).map(|(key, number)| (key.into(), number)).collect();
            after.restore(space, before.bound(space), numbers);
        }
        for space in [Space::Identity, Space::Incarnation] {
            assert!(after.changes_since(&before, space).is_empty());
        }
        assert_eq!(after.assign(Space::Identity, "d", 3)?, 257, "the number that b gave back");
        assert_eq!(after.assign(Space::Incarnation, "a", 3)?, 1);
        assert_eq!(after.assign(Space::Incarnation, "b", 3)?, 4, "never used twice");
        Ok(())
    }

    #[test]
    fn what_came_back_is_not_what_it_was() -> Result<(), OutOfNumbers> {
        let mut numbering = Numbering::default();
        let first = numbering.assign_anew(Space::Incarnation, "a", 1)?;
        assert_eq!(numbering.assign_anew(Space::Incarnation, "a", 2)?, first, "it was there all the time");
        numbering.release(Space::Incarnation, "a", 3);
        assert_ne!(numbering.assign_anew(Space::Incarnation, "a", 3)?, first);
        Ok(())
    }

    #[test]
    fn an_incarnation_is_never_used_twice() -> Result<(), OutOfNumbers> {
        let mut numbering = Numbering::default();
        let first = numbering.assign(Space::Incarnation, "a", 1)?;
        numbering.release(Space::Incarnation, "a", 2);
        numbering.retire(2);
        assert_ne!(numbering.assign(Space::Incarnation, "a", 3)?, first);
        Ok(())
    }
}
