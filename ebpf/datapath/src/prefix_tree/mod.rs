//! Builds, edits and reads back the prefix trees of `weir_abi::tree`.
//!
//! Both families share one array of lines. A tree is only ever written on the standby side, so that an edit may change
//! lines in place. The tree holds the *exact* set of prefixes, not just what they lead to: buckets keep the prefixes
//! that end in them, a skip the one that ends where it ends, and those that end inside an index stand in [`Records`].
//! So an edit needs no copy of the set, and reading back gives exactly what was put in.
//!
//! The shape depends on the history of edits; the answers never do.

mod alloc;
mod build;
mod edit;
mod guard;
mod lines;
mod prefix;
mod records;
#[cfg(test)]
mod tests;
mod walk;

pub use alloc::{Allocator, TreeFull};
pub use lines::Lines;
pub use prefix::TreePrefix;
pub use walk::{Walked, walk, walk_records};

use records::Records;
use weir_abi::tree::{Cell, KIND_BUCKET, KIND_INDEX, KIND_LEAF, Line};
use weir_plan::{Change, Prefix4, Prefix6, Table};

/// Words of a skip line that only user space reads: the prefix that ends where the skip ends, as `length_value`.
const SKIP_OWN: u32 = 8;
/// Edits that are not worth a thought.
const WORN: u32 = 1024;

/// A tree that can be changed.
#[derive(Debug)]
pub struct Tree<L> {
    lines: L,
    alloc: Allocator,
}

/// What a cell leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Leaf(u32),
    Bucket(u32),
    Index { first: u32, stride: u32 },
    Skip(u32),
}

impl Node {
    const fn of(cell: u32) -> Self {
        let cell = Cell(cell);
        match cell.kind() {
            KIND_LEAF => Self::Leaf(cell.value()),
            KIND_BUCKET => Self::Bucket(cell.line()),
            KIND_INDEX => Self::Index { first: cell.index_line(), stride: cell.stride() },
            _ => Self::Skip(cell.line()),
        }
    }
}

/// Lines of cells of an index; one more after them belongs to user space, its first word is the index's load: prefixes
/// that end in it plus cells that are no leaves. An index without load is given back.
const fn index_lines(stride: u32) -> u32 {
    1 << (stride - 4)
}

impl<L: Lines> Tree<L> {
    /// Takes over the lines as `walked` found them.
    pub fn open(lines: L, walked: &Walked) -> Self {
        let alloc = Allocator::from_used(&walked.used, lines.len());
        Self { lines, alloc }
    }

    /// Replaces everything by these two sets.
    pub fn rebuild(lines: L, v4: &Table<Prefix4, u32>, v6: &Table<Prefix6, u32>) -> Result<Self, (L, TreeFull)> {
        let alloc = Allocator::new(lines.len());
        let mut tree = Self { lines, alloc };
        match tree.rebuild_both(v4, v6) {
            Ok(()) => Ok(tree),
            Err(full) => Err((tree.lines, full)),
        }
    }

    fn rebuild_both(&mut self, v4: &Table<Prefix4, u32>, v6: &Table<Prefix6, u32>) -> Result<(), TreeFull> {
        let mut header = Line::ZERO;
        header.0[prefix::HEADER_FORMAT as usize] = prefix::FORMAT;
        header.0[prefix::HEADER_BUILT as usize] = (v4.len() + v6.len()) as u32;
        self.lines.set_line(0, header);
        self.build_family(&v4.iter().copied().collect::<Vec<_>>())?;
        self.build_family(&v6.iter().copied().collect::<Vec<_>>())
    }

    /// Applies changes; on [`TreeFull`] some are made, and making all of them again elsewhere is fine.
    pub fn apply<P: TreePrefix>(&mut self, changes: &[Change<P, u32>]) -> Result<(), TreeFull> {
        // A side that was never written has no header; reading it writes none.
        self.lines.set_word(0, prefix::HEADER_FORMAT, prefix::FORMAT);
        for change in changes.iter().filter(|change| change.to.is_none()) {
            self.remove(change.key)?;
        }
        for change in changes {
            if let Some(value) = change.to {
                self.insert(change.key, value)?;
            }
        }
        Ok(())
    }

    /// Whether it has become so much larger than it was built for, or lost so much, that it is slower than one built
    /// anew: strides fit the former size, and guards let through what has gone.
    pub fn is_worn(&self) -> bool {
        let (built, removed) = (self.lines.word(0, prefix::HEADER_BUILT), self.lines.word(0, prefix::HEADER_REMOVED));
        self.count() / 4 > built + WORN || removed > built / 2 + WORN
    }

    /// Lines in use.
    pub const fn used(&self) -> u32 {
        self.alloc.used()
    }

    pub const fn lines(&self) -> &L {
        &self.lines
    }

    pub fn into_lines(self) -> L {
        self.lines
    }

    /// Prefixes of both families.
    pub fn count(&self) -> u32 {
        count(&self.lines)
    }
}

/// Prefixes of both families that the header of these lines says the tree has.
pub fn count(lines: &impl Lines) -> u32 {
    lines.word(0, Prefix4::COUNT).saturating_add(lines.word(0, Prefix6::COUNT))
}

/// Lines that sets of these sizes will hardly exceed; where they do, the table grows once more.
pub const fn lines_estimate(v4: usize, v6: usize) -> usize {
    64 + v4 + v4 / 8 + v6 + v6 / 4 + v6 / 8
}
