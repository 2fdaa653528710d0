use weir_abi::tree::Line;

use super::{
    alloc::{Allocator, TreeFull},
    lines::Lines,
    prefix::{TreePrefix, put_slot, slot},
};

/// The prefixes that end inside an index, exactly: its cells only show what they lead to. An open-addressed hash in
/// lines of the same array, in bucket format, that programs never read. Linear probing over slots, at most half full,
/// deletes by shifting back.
pub struct Records<P> {
    first: u32,
    slots: u32,
    count: u32,
    prefix: std::marker::PhantomData<P>,
}

impl<P: TreePrefix> Records<P> {
    pub fn open(lines: &impl Lines) -> Self {
        Self {
            first: lines.word(0, P::RECORDS_LINE),
            slots: lines.word(0, P::RECORDS_LINES) * P::BUCKET as u32,
            count: lines.word(0, P::RECORDS_COUNT),
            prefix: std::marker::PhantomData,
        }
    }

    fn at(&self, lines: &impl Lines, index: u32) -> Option<(P, u32)> {
        let (line, at) = (self.first + index / P::BUCKET as u32, index as usize % P::BUCKET);
        let length_value = lines.word(line, (at * P::SLOT_WORDS + P::SLOT_WORDS - 1) as u32);
        if length_value == 0 { None } else { slot(&lines.line(line), at) }
    }

    fn set(&self, lines: &mut impl Lines, index: u32, record: Option<(P, u32)>) {
        let (line, at) = (self.first + index / P::BUCKET as u32, index as usize % P::BUCKET);
        let mut content = lines.line(line);
        match record {
            Some((prefix, value)) => put_slot(&mut content, at, prefix, value),
            None => content.0[at * P::SLOT_WORDS..][..P::SLOT_WORDS].fill(0),
        }
        lines.set_line(line, content);
    }

    fn home(&self, prefix: P) -> u32 {
        let bits = prefix.bits();
        let mut hash = ((bits >> 64) as u64 ^ (bits as u64).rotate_left(29)) ^ (u64::from(prefix.length()) << 7);
        hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (((hash >> 32) * u64::from(self.slots)) >> 32) as u32
    }

    const fn next(&self, index: u32) -> u32 {
        if index + 1 == self.slots { 0 } else { index + 1 }
    }

    /// The slot that has `prefix`, or the empty one where it would go.
    fn find(&self, lines: &impl Lines, prefix: P) -> Result<(u32, u32), u32> {
        let mut index = self.home(prefix);
        // Bounded, in case that damage has left no slot empty.
        for _ in 0..self.slots {
            match self.at(lines, index) {
                None => return Err(index),
                Some((there, value)) if there == prefix => return Ok((index, value)),
                Some(_) => index = self.next(index),
            }
        }
        Err(index)
    }

    pub fn get(&self, lines: &impl Lines, prefix: P) -> Option<u32> {
        if self.count == 0 { None } else { self.find(lines, prefix).ok().map(|found| found.1) }
    }

    /// Makes room for `more`, so that as many inserts cannot fail.
    pub fn reserve(&mut self, lines: &mut impl Lines, alloc: &mut Allocator, more: u32) -> Result<(), TreeFull> {
        let needed = (self.count + more) * 2;
        if needed <= self.slots {
            return Ok(());
        }
        let run = (needed * 3 / 2).div_ceil(P::BUCKET as u32).max(4);
        let first = alloc.take(run)?;
        (first..first + run).for_each(|line| lines.set_line(line, Line::ZERO));
        let old = Self { ..*self };
        (self.first, self.slots) = (first, run * P::BUCKET as u32);
        for index in 0..old.slots {
            if let Some((prefix, value)) = old.at(lines, index)
                && let Err(empty) = self.find(lines, prefix)
            {
                self.set(lines, empty, Some((prefix, value)));
            }
        }
        if old.slots != 0 {
            alloc.free(old.first, old.slots / P::BUCKET as u32);
        }
        lines.set_word(0, P::RECORDS_LINE, first);
        lines.set_word(0, P::RECORDS_LINES, run);
        Ok(())
    }

    /// The former value. [`Self::reserve`] comes first.
    pub fn insert(&mut self, lines: &mut impl Lines, prefix: P, value: u32) -> Option<u32> {
        match self.find(lines, prefix) {
            Ok((index, former)) => {
                if former != value {
                    self.set(lines, index, Some((prefix, value)));
                }
                Some(former)
            }
            Err(index) => {
                self.set(lines, index, Some((prefix, value)));
                self.set_count(lines, self.count + 1);
                None
            }
        }
    }

    pub fn remove(&mut self, lines: &mut impl Lines, prefix: P) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        let (mut hole, former) = self.find(lines, prefix).ok()?;
        let mut index = hole;
        loop {
            index = self.next(index);
            let Some(record) = self.at(lines, index) else { break };
            // A record may move into the hole unless its home lies behind the hole (on the ring, up to where it is).
            let home = self.home(record.0);
            let behind = if hole <= index { hole < home && home <= index } else { hole < home || home <= index };
            if !behind {
                self.set(lines, hole, Some(record));
                hole = index;
            }
        }
        self.set(lines, hole, None);
        self.set_count(lines, self.count - 1);
        Some(former)
    }

    fn set_count(&mut self, lines: &mut impl Lines, count: u32) {
        self.count = count;
        lines.set_word(0, P::RECORDS_COUNT, count);
    }
}
