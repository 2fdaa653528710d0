//! A sorted list that shares what did not change with the lists it was made from.
use std::{cmp::Ordering, sync::Arc};

/// The order of a list's elements.
pub(crate) trait Sorted {
    /// How many are copied for the sake of one. Their number times the number of chunks is what there is, and a change
    /// copies a pointer for every chunk: a million small elements are best held in a few hundred chunks.
    const CHUNK: usize;

    fn order(&self, other: &Self) -> Ordering;

    /// Whether both are one and the same, as far as that can be told without a look at them.
    fn is_one(&self, _other: &Self) -> bool {
        false
    }
}

impl<T: Ord> Sorted for T {
    const CHUNK: usize = 2048;

    fn order(&self, other: &Self) -> Ordering {
        self.cmp(other)
    }
}

/// Elements in order, in pieces that are shared between versions. Equal ones may stand side by side.
#[derive(Debug)]
pub(crate) struct Chunks<T> {
    /// None is empty.
    chunks: Vec<Arc<[T]>>,
    len: usize,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T> Clone for Chunks<T> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<T> Chunks<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// The elements from the first that `before` does not hold for.
    pub fn from(&self, before: impl Fn(&T) -> bool) -> impl Iterator<Item = &T> {
        // The chunk before the first that begins too late may hold the place.
        let at = self.chunks.partition_point(|chunk| before(&chunk[0])).saturating_sub(1);
        let within = self.chunks.get(at).map_or(0, |chunk| chunk.partition_point(&before));
        self.chunks[at.min(self.chunks.len())..].iter().flat_map(|chunk| chunk.iter()).skip(within)
    }

    pub fn find(&self, order: impl Fn(&T) -> Ordering) -> Option<&T> {
        self.from(|element| order(element).is_lt()).next().filter(|element| order(element).is_eq())
    }
}

impl<T: Sorted + Clone> Chunks<T> {
    /// The elements that are not the same in `to`, each with what stands there instead. What both share is not looked
    /// at. Of equal elements of one list only the first counts.
    pub fn difference(&self, to: &Self, same: impl Fn(&T, &T) -> bool) -> Vec<(Option<T>, Option<T>)> {
        let mut found = Vec::new();
        let (mut old, mut new) = (Cursor::new(self), Cursor::new(to));
        loop {
            while let (0, 0, Some(a), Some(b)) = (old.at, new.at, old.chunks.first(), new.chunks.first())
                && Arc::ptr_eq(a, b)
            {
                (old.chunks, new.chunks) = (&old.chunks[1..], &new.chunks[1..]);
            }
            match (old.peek(), new.peek()) {
                (None, None) => return found,
                (Some(a), Some(b)) if a.is_one(b) => {
                    old.step();
                    new.step();
                }
                (Some(a), Some(b)) if a.order(b).is_eq() => {
                    if !same(a, b) {
                        found.push((Some(a.clone()), Some(b.clone())));
                    }
                    old.step();
                    new.step();
                }
                (Some(a), b) if b.is_none_or(|b| a.order(b).is_lt()) => {
                    found.push((Some(a.clone()), None));
                    old.step();
                }
                (_, b) => {
                    found.push((None, b.cloned()));
                    new.step();
                }
            }
        }
    }

    /// Without `removed`, and with `added`, both sorted; `true` when an added element was there already, or twice.
    pub fn edit(&self, removed: &[T], added: Vec<T>) -> (Self, bool) {
        let mut edited =
            Edited { chunks: Vec::with_capacity(self.chunks.len() + added.len() / T::CHUNK + 1), clash: false };
        let mut removed = removed.iter().peekable();
        let mut added = added.into_iter().peekable();
        let mut at = 0;
        while at < self.chunks.len() {
            let next = match (removed.peek(), added.peek()) {
                (None, None) => break,
                (Some(one), None) => one,
                (None, Some(one)) => one,
                (Some(gone), Some(new)) if gone.order(new).is_lt() => gone,
                (_, Some(new)) => new,
            };
            let target = at + self.chunks[at + 1..].partition_point(|chunk| chunk[0].order(next).is_le());
            edited.chunks.extend(self.chunks[at..target].iter().cloned());
            let end = self.chunks.get(target + 1).map(|chunk| &chunk[0]);
            let here = |one: &&T| end.is_none_or(|end| one.order(end).is_lt());
            let mut rest = &self.chunks[target][..];
            let mut merged = Vec::with_capacity(rest.len() + 1);
            loop {
                let (gone, new) = (removed.peek().copied().filter(here), added.peek().filter(here));
                let goes = match (gone, new) {
                    (None, None) => break,
                    (Some(gone), Some(new)) => gone.order(new).is_le(),
                    (gone, _) => gone.is_some(),
                };
                // Looked for, and not come by: a look at an element is a cache miss.
                let stays = rest.partition_point(|element| {
                    if goes {
                        gone.is_some_and(|gone| element.order(gone).is_lt())
                    } else {
                        new.is_some_and(|new| element.order(new).is_lt())
                    }
                });
                edited.extend(&mut merged, &rest[..stays]);
                rest = &rest[stays..];
                if goes {
                    let is_there =
                        rest.first().zip(removed.next()).is_some_and(|(element, gone)| element.order(gone).is_eq());
                    rest = &rest[usize::from(is_there)..];
                } else if let Some(new) = added.next() {
                    let is_there = rest.first().is_some_and(|element| element.order(&new).is_eq());
                    edited.extend(&mut merged, &rest[..usize::from(is_there)]);
                    rest = &rest[usize::from(is_there)..];
                    edited.push(&mut merged, new);
                }
            }
            edited.extend(&mut merged, rest);
            edited.finish(merged);
            at = target + 1;
        }
        edited.chunks.extend(self.chunks[at.min(self.chunks.len())..].iter().cloned());
        let mut merged = Vec::new();
        for new in added {
            edited.push(&mut merged, new);
        }
        edited.finish(merged);
        let len = edited.chunks.iter().map(|chunk| chunk.len()).sum();
        (Self { chunks: edited.chunks, len }, edited.clash)
    }
}

/// A place in a list.
struct Cursor<'a, T> {
    chunks: &'a [Arc<[T]>],
    /// Inside the first of `chunks`.
    at: usize,
}

impl<'a, T> Cursor<'a, T> {
    fn new(list: &'a Chunks<T>) -> Self {
        Self { chunks: &list.chunks, at: 0 }
    }

    fn peek(&self) -> Option<&'a T> {
        self.chunks.first().map(|chunk| &chunk[self.at])
    }

    fn step(&mut self) {
        self.at += 1;
        if self.chunks.first().is_some_and(|chunk| self.at == chunk.len()) {
            (self.chunks, self.at) = (&self.chunks[1..], 0);
        }
    }
}

struct Edited<T> {
    chunks: Vec<Arc<[T]>>,
    clash: bool,
}

impl<T: Sorted + Clone> Edited<T> {
    fn push(&mut self, merged: &mut Vec<T>, element: T) {
        if merged.last().is_some_and(|last| last.order(&element).is_eq()) {
            self.clash = true;
        } else {
            merged.push(element);
        }
    }

    /// Adds elements of one chunk.
    fn extend(&mut self, merged: &mut Vec<T>, elements: &[T]) {
        let Some((first, others)) = elements.split_first() else { return };
        self.push(merged, first.clone());
        merged.extend_from_slice(others);
    }

    /// Adds what became of a chunk.
    fn finish(&mut self, mut merged: Vec<T>) {
        if merged.is_empty() {
            return;
        }
        if merged.len() < T::CHUNK / 4
            && let Some(before) = self.chunks.pop()
        {
            merged.splice(0..0, before.iter().cloned());
        }
        if merged.len() <= 2 * T::CHUNK {
            self.chunks.push(merged.into());
        } else {
            let size = merged.len().div_ceil(merged.len().div_ceil(T::CHUNK));
            self.chunks.extend(merged.chunks(size).map(Arc::from));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_set(steps in proptest::collection::vec(
            (proptest::collection::btree_set(0u32..30_000, 0..3000), proptest::collection::btree_set(0u32..30_000, 0..3000)),
            1..12,
        )) {
            let (mut chunks, mut set) = (Chunks::<u32>::default(), BTreeSet::new());
            for (removed, added) in steps {
                let removed: Vec<u32> = removed.into_iter().filter(|one| set.contains(one)).collect();
                removed.iter().for_each(|one| { set.remove(one); });
                let clash = added.iter().any(|one| set.contains(one));
                set.extend(&added);
                let (next, clashed) = chunks.edit(&removed, added.into_iter().collect());
                prop_assert_eq!(clashed, clash);
                prop_assert!(next.iter().eq(&set));
                prop_assert_eq!(next.len(), set.len());
                prop_assert!(next.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= 2 * u32::CHUNK));
                for probe in [0, 1, 7, 15_000, 29_999] {
                    prop_assert_eq!(next.find(|one| one.cmp(&probe)), set.get(&probe));
                    prop_assert!(next.from(|one| *one < probe).eq(set.range(probe..)));
                }
                chunks = next;
            }
        }

        #[test]
        fn what_did_not_change_is_shared(at in 0u32..100_000) {
            let all = Chunks::default().edit(&[], (0..100_000).map(|one| one * 2).collect()).0;
            let (next, clash) = all.edit(&[at * 2], vec![at * 2 + 1]);
            prop_assert!(!clash);
            let own = next.chunks.iter().filter(|chunk| !all.chunks.iter().any(|old| Arc::ptr_eq(old, chunk)));
            prop_assert!(own.count() <= 2);
        }
    }

    #[test]
    fn the_same_twice_is_a_clash() {
        assert!(Chunks::default().edit(&[], vec![1, 1]).1);
        let one = Chunks::default().edit(&[], vec![1]).0;
        assert!(one.edit(&[], vec![1]).1);
        assert!(!one.edit(&[1], vec![1]).1);
    }
}
