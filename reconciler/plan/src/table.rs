use std::{cmp::Ordering, fmt, sync::Arc};

/// One table as a value: entries sorted by key, no key twice.
///
/// A clone costs nothing, and an edit costs one chunk: versions share what they have in common, so that comparing two
/// of half a million entries that differ in one takes microseconds.
#[derive(Clone)]
pub struct Table<K, V> {
    /// None is empty, and their keys ascend.
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

/// Entries that stand together.
type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// One entry's difference. Never both `None`, never two equal values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change<K, V> {
    pub key: K,
    pub from: Option<V>,
    pub to: Option<V>,
}

/// Entries of a chunk that was just made; one that grows to twice as many is split.
const CHUNK: usize = 2048;

impl<K: Ord + Clone, V: Clone + PartialEq> Table<K, V> {
    pub fn new() -> Self {
        Self { chunks: Arc::new(Vec::new()), len: 0 }
    }

    /// Sorts; of entries with equal keys the last wins.
    pub fn from_unsorted(mut entries: Vec<(K, V)>) -> Self {
        if !entries.is_sorted_by(|a, b| a.0 < b.0) {
            entries.reverse();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            entries.dedup_by(|later, first| later.0 == first.0);
        }
        Self::of_sorted(entries)
    }

    /// `None` unless the keys ascend strictly.
    pub fn from_sorted(entries: Vec<(K, V)>) -> Option<Self> {
        entries.is_sorted_by(|a, b| a.0 < b.0).then(|| Self::of_sorted(entries))
    }

    fn of_sorted(entries: Vec<(K, V)>) -> Self {
        let len = entries.len();
        let mut chunks = Vec::with_capacity(len.div_ceil(CHUNK));
        push_chunks(entries, &mut chunks);
        Self { chunks: Arc::new(chunks), len }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        let chunk = self.chunks.get(self.chunk_of(key)?)?;
        chunk.binary_search_by(|entry| entry.0.cmp(key)).ok().map(|at| &chunk[at].1)
    }

    /// Of the chunk that has `key` if any does.
    fn chunk_of(&self, key: &K) -> Option<usize> {
        self.chunks.partition_point(|chunk| chunk[0].0 <= *key).checked_sub(1)
    }

    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some(at) = self.chunk_of(&key).or(if self.chunks.is_empty() { None } else { Some(0) }) else {
            self.chunks = Arc::new(vec![Arc::new(vec![(key, value)])]);
            self.len = 1;
            return None;
        };
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[at]);
        match chunk.binary_search_by(|entry| entry.0.cmp(&key)) {
            Ok(at) => Some(std::mem::replace(&mut chunk[at].1, value)),
            Err(place) => {
                chunk.insert(place, (key, value));
                self.len += 1;
                if chunk.len() >= 2 * CHUNK {
                    let upper = chunk.split_off(CHUNK);
                    chunk.shrink_to_fit();
                    chunks.insert(at + 1, Arc::new(upper));
                }
                None
            }
        }
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.chunk_of(key)?;
        let place = self.chunks[at].binary_search_by(|entry| entry.0.cmp(key)).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[at]);
        let (_, value) = chunk.remove(place);
        self.len -= 1;
        if chunk.is_empty() {
            chunks.remove(at);
        } else if chunk.len() < CHUNK / 4 && at + 1 < chunks.len() && chunks[at + 1].len() < CHUNK {
            let upper = chunks.remove(at + 1);
            Arc::make_mut(&mut chunks[at]).extend(upper.iter().cloned());
        }
        Some(value)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter { chunks: self.chunks.iter(), entries: [].iter(), left: self.len }
    }

    /// From the first key that is not below `key`.
    pub fn from_key(&self, key: &K) -> impl Iterator<Item = &(K, V)> + use<'_, K, V> {
        let at = self.chunk_of(key).unwrap_or(0);
        let place = self.chunks.get(at).map_or(0, |chunk| chunk.partition_point(|entry| entry.0 < *key));
        // How many are left would have to be counted.
        let entries = self.chunks.get(at).map_or(&[][..], |chunk| &chunk[place..]).iter();
        entries.chain(self.chunks.get(at + 1..).unwrap_or_default().iter().flat_map(|chunk| chunk.iter()))
    }

    pub fn first(&self) -> Option<&(K, V)> {
        self.chunks.first()?.first()
    }

    pub fn last(&self) -> Option<&(K, V)> {
        self.chunks.last()?.last()
    }

    /// What turns `self` into `to`, sorted by key. What both share is not looked at.
    pub fn diff(&self, to: &Self) -> Vec<Change<K, V>> {
        let mut changes = Vec::new();
        if Arc::ptr_eq(&self.chunks, &to.chunks) {
            return changes;
        }
        let (mut old, mut new) = (Cursor::new(self), Cursor::new(to));
        loop {
            old.skip_shared(&mut new);
            let order = match (old.peek(), new.peek()) {
                (None, None) => return changes,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.0.cmp(&b.0),
            };
            match order {
                Ordering::Less => changes.extend(old.next().map(|(key, value)| Change {
                    key: key.clone(),
                    from: Some(value.clone()),
                    to: None,
                })),
                Ordering::Greater => changes.extend(new.next().map(|(key, value)| Change {
                    key: key.clone(),
                    from: None,
                    to: Some(value.clone()),
                })),
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
        if changes.len() < CHUNK / 4 {
            for change in changes {
                match &change.to {
                    Some(value) => drop(self.insert(change.key.clone(), value.clone())),
                    None => drop(self.remove(&change.key)),
                }
            }
            return;
        }
        let mut rest = changes;
        let mut chunks = Vec::with_capacity(self.chunks.len());
        for (at, chunk) in self.chunks.iter().enumerate() {
            let here = match self.chunks.get(at + 1) {
                Some(next) => rest.partition_point(|change| change.key < next[0].0),
                None => rest.len(),
            };
            let (now, later) = rest.split_at(here);
            rest = later;
            if now.is_empty() {
                chunks.push(chunk.clone());
            } else {
                push_chunks(merged(chunk, now), &mut chunks);
            }
        }
        push_chunks(merged(&[], rest), &mut chunks);
        self.len = chunks.iter().map(|chunk| chunk.len()).sum();
        self.chunks = Arc::new(chunks);
    }

    /// Whether both are one and the same, so that nothing need be compared.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }
}

fn merged<K: Ord + Clone, V: Clone>(entries: &[(K, V)], changes: &[Change<K, V>]) -> Vec<(K, V)> {
    let mut merged = Vec::with_capacity(entries.len() + changes.len());
    let mut changes = changes.iter().peekable();
    for (key, value) in entries {
        while let Some(change) = changes.next_if(|change| change.key < *key) {
            merged.extend(change.to.clone().map(|to| (change.key.clone(), to)));
        }
        match changes.next_if(|change| change.key == *key) {
            Some(change) => merged.extend(change.to.clone().map(|to| (key.clone(), to))),
            None => merged.push((key.clone(), value.clone())),
        }
    }
    merged.extend(changes.filter_map(|change| Some((change.key.clone(), change.to.clone()?))));
    merged
}

fn push_chunks<T>(mut entries: Vec<T>, chunks: &mut Vec<Arc<Vec<T>>>) {
    if entries.len() < 2 * CHUNK {
        if !entries.is_empty() {
            entries.shrink_to_fit();
            chunks.push(Arc::new(entries));
        }
        return;
    }
    let mut entries = entries.into_iter();
    while entries.len() > 0 {
        // The last chunk is not to be a crumb.
        let take = if entries.len() < 2 * CHUNK { entries.len() } else { CHUNK };
        chunks.push(Arc::new(entries.by_ref().take(take).collect()));
    }
}

/// A place in a table, for going through two of them at once.
struct Cursor<'a, K, V> {
    chunks: &'a [Chunk<K, V>],
    /// Inside the first of `chunks`.
    at: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn new(table: &'a Table<K, V>) -> Self {
        Self { chunks: &table.chunks, at: 0 }
    }

    fn peek(&self) -> Option<&'a (K, V)> {
        self.chunks.first().map(|chunk| &chunk[self.at])
    }

    fn next(&mut self) -> Option<&'a (K, V)> {
        let (chunk, rest) = self.chunks.split_first()?;
        let entry = &chunk[self.at];
        self.at += 1;
        if self.at == chunk.len() {
            (self.chunks, self.at) = (rest, 0);
        }
        Some(entry)
    }

    fn skip_shared(&mut self, other: &mut Self) {
        while let (0, 0, [a, rest @ ..], [b, other_rest @ ..]) = (self.at, other.at, self.chunks, other.chunks)
            && Arc::ptr_eq(a, b)
        {
            (self.chunks, other.chunks) = (rest, other_rest);
        }
    }
}

/// The entries of a [`Table`], by key.
#[derive(Clone, Debug)]
pub struct Iter<'a, K, V> {
    chunks: std::slice::Iter<'a, Chunk<K, V>>,
    entries: std::slice::Iter<'a, (K, V)>,
    left: usize,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = &'a (K, V);

    #[inline]
    fn next(&mut self) -> Option<&'a (K, V)> {
        loop {
            if let Some(entry) = self.entries.next() {
                self.left -= 1;
                return Some(entry);
            }
            self.entries = self.chunks.next()?.iter();
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}

impl<K: Ord + Clone, V: Clone + PartialEq> Default for Table<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Self) -> bool {
        if self.len != other.len {
            return false;
        }
        let (mut a, mut b) = (Cursor::new(self), Cursor::new(other));
        loop {
            a.skip_shared(&mut b);
            match (a.next(), b.next()) {
                (None, None) => return true,
                (a, b) if a == b => {}
                _ => return false,
            }
        }
    }
}

impl<K: Eq, V: Eq> Eq for Table<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.into_iter().map(|(key, value)| (key, value))).finish()
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self::from_unsorted(entries.into_iter().collect())
    }
}

impl<'a, K, V> IntoIterator for &'a Table<K, V> {
    type Item = &'a (K, V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        Iter { chunks: self.chunks.iter(), entries: [].iter(), left: self.len }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn sound(table: &Table<u16, u8>) {
        assert_eq!(table.chunks.iter().map(|chunk| chunk.len()).sum::<usize>(), table.len);
        assert!(table.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() < 2 * CHUNK));
        assert!(table.iter().is_sorted_by(|a, b| a.0 < b.0));
    }

    proptest! {
        #[test]
        fn applying_a_diff_gives_the_other_table(
            a in proptest::collection::btree_map(0u16..3000, 0u8..3, 0..2000),
            b in proptest::collection::btree_map(0u16..3000, 0u8..3, 0..2000),
        ) {
            let (a, b): (Table<_, _>, Table<_, _>) = (a.into_iter().collect(), b.into_iter().collect());
            let changes = a.diff(&b);
            let mut c = a.clone();
            c.apply(&changes);
            sound(&c);
            prop_assert_eq!(&c, &b);
            prop_assert!(b.diff(&c).is_empty());
        }

        #[test]
        fn edits_are_those_of_a_map_and_leave_other_versions_alone(
            start in proptest::collection::btree_map(0u16..3000, 0u8..3, 0..2500),
            edits in proptest::collection::vec((0u16..3000, proptest::option::of(0u8..3)), 0..600),
        ) {
            let mut map: BTreeMap<u16, u8> = start.clone();
            let first: Table<u16, u8> = start.clone().into_iter().collect();
            let mut table = first.clone();
            for (key, value) in &edits {
                let former = match value {
                    Some(value) => (table.insert(*key, *value), map.insert(*key, *value)),
                    None => (table.remove(key), map.remove(key)),
                };
                prop_assert_eq!(former.0, former.1);
            }
            sound(&table);
            let entries: Vec<(u16, u8)> = map.clone().into_iter().collect();
            prop_assert!(table.iter().eq(entries.iter()));
            prop_assert!(first.iter().copied().eq(start));
            let mut again = first.clone();
            again.apply(&first.diff(&table));
            prop_assert_eq!(&again, &table);
            for key in (0u16..3000).step_by(97) {
                prop_assert_eq!(table.get(&key), map.get(&key));
                let from = table.from_key(&key);
                prop_assert!(from.map(|(key, _)| key).eq(map.range(key..).map(|(key, _)| key)));
            }
        }
    }

    #[test]
    fn of_equal_keys_the_last_wins() {
        let table = Table::from_unsorted(vec![(2, 'a'), (1, 'b'), (2, 'c')]);
        assert!(table.iter().eq([(1, 'b'), (2, 'c')].iter()));
    }

    #[test]
    fn an_edit_shares_all_but_one_chunk() {
        let first: Table<u32, u32> = (0..10_000).map(|n| (n, n)).collect();
        let mut second = first.clone();
        second.insert(5000, 1);
        let shared = first.chunks.iter().zip(second.chunks.iter()).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(shared, first.chunks.len() - 1);
    }
}
