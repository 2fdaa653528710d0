use std::{cmp::Ordering, fmt};

/// One table as a value: entries sorted by key, no key twice.
#[derive(Clone, PartialEq, Eq)]
pub struct Table<K, V>(Vec<(K, V)>);

/// One entry's difference. Never both `None`, never two equal values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change<K, V> {
    pub key: K,
    pub from: Option<V>,
    pub to: Option<V>,
}

impl<K: Ord + Clone, V: Clone + PartialEq> Table<K, V> {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Sorts; of entries with equal keys the last wins.
    pub fn from_unsorted(mut entries: Vec<(K, V)>) -> Self {
        entries.reverse();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.dedup_by(|later, first| later.0 == first.0);
        Self(entries)
    }

    /// `None` unless the keys ascend strictly.
    pub fn from_sorted(entries: Vec<(K, V)>) -> Option<Self> {
        entries.is_sorted_by(|a, b| a.0 < b.0).then_some(Self(entries))
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.binary_search_by(|entry| entry.0.cmp(key)).ok().map(|at| &self.0[at].1)
    }

    /// For tests, fakes and single edits; building goes through [`Self::from_unsorted`].
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.0.binary_search_by(|entry| entry.0.cmp(&key)) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (key, value));
                None
            }
        }
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.0.binary_search_by(|entry| entry.0.cmp(key)).ok()?;
        Some(self.0.remove(at).1)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, (K, V)> {
        self.0.iter()
    }

    pub fn as_slice(&self) -> &[(K, V)] {
        &self.0
    }

    /// What turns `self` into `to`, sorted by key; one pass, none when both are one.
    pub fn diff(&self, to: &Self) -> Vec<Change<K, V>> {
        let mut changes = Vec::new();
        if std::ptr::eq(self, to) {
            return changes;
        }
        let (mut old, mut new) = (self.0.iter().peekable(), to.0.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return changes,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.0.cmp(&b.0),
            };
            match order {
                Ordering::Less => {
                    changes.extend(old.next().map(|(key, value)| Change {
                        key: key.clone(),
                        from: Some(value.clone()),
                        to: None,
                    }));
                }
                Ordering::Greater => {
                    changes.extend(new.next().map(|(key, value)| Change {
                        key: key.clone(),
                        from: None,
                        to: Some(value.clone()),
                    }));
                }
                Ordering::Equal => {
                    if let (Some((key, from)), Some((_, to))) = (old.next(), new.next())
                        && from != to
                    {
                        changes.push(Change { key: key.clone(), from: Some(from.clone()), to: Some(to.clone()) });
                    }
                }
            }
        }
    }

    /// Applies changes that are sorted by key. What a change says of the former value is not checked.
    pub fn apply(&mut self, changes: &[Change<K, V>]) {
        // Few changes in a large table: in place. Many: one merge.
        if changes.len() < 64 {
            for change in changes {
                match &change.to {
                    Some(value) => drop(self.insert(change.key.clone(), value.clone())),
                    None => drop(self.remove(&change.key)),
                }
            }
            return;
        }
        let mut merged = Vec::with_capacity(self.0.len() + changes.len());
        let mut changes = changes.iter().peekable();
        for (key, value) in self.0.drain(..) {
            while let Some(change) = changes.next_if(|change| change.key < key) {
                merged.extend(change.to.clone().map(|to| (change.key.clone(), to)));
            }
            match changes.next_if(|change| change.key == key) {
                Some(change) => merged.extend(change.to.clone().map(|to| (key, to))),
                None => merged.push((key, value)),
            }
        }
        merged.extend(changes.filter_map(|change| Some((change.key.clone(), change.to.clone()?))));
        self.0 = merged;
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> Default for Table<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(key, value)| (key, value))).finish()
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self::from_unsorted(entries.into_iter().collect())
    }
}

impl<'a, K, V> IntoIterator for &'a Table<K, V> {
    type Item = &'a (K, V);
    type IntoIter = std::slice::Iter<'a, (K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn applying_a_diff_gives_the_other_table(
            a in proptest::collection::btree_map(0u16..300, 0u8..3, 0..200),
            b in proptest::collection::btree_map(0u16..300, 0u8..3, 0..200),
        ) {
            let (a, b): (Table<_, _>, Table<_, _>) = (a.into_iter().collect(), b.into_iter().collect());
            let changes = a.diff(&b);
            let mut c = a.clone();
            c.apply(&changes);
            prop_assert_eq!(&c, &b);
            prop_assert!(b.diff(&c).is_empty());
        }
    }

    #[test]
    fn of_equal_keys_the_last_wins() {
        let table = Table::from_unsorted(vec![(2, 'a'), (1, 'b'), (2, 'c')]);
        assert_eq!(table.as_slice(), &[(1, 'b'), (2, 'c')]);
    }
}
