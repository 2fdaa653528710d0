//! Tables that exist twice, behind an `ARRAY_OF_MAPS[2]`.
use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use weir_abi::{KernelTable, Side, TableKind, tree::Line};
use weir_plan::{Prefix4, Prefix6, Table};

use crate::{
    digest::Known,
    mapped::Mapped,
    maps::{Map, spec},
    prefix_tree::{Tree, Walked, walk},
    sys::{self, MapSpec, Plain},
};

/// The outer map and its two inner ones.
#[derive(Debug)]
pub struct Sided {
    pub table: &'static KernelTable,
    pub outer: Map,
    pub inner: [Map; 2],
    /// What a hash's sides were read to hold, with what was staged since; `None`: not known.
    pub known: [Option<Known>; 2],
}

impl Sided {
    /// A new table; [`Self::connect`] comes next.
    pub fn create(table: &'static KernelTable, entries: u32) -> io::Result<Self> {
        let shape = spec(table, entries);
        let inner = [Map::create(table.name, &shape, None)?, Map::create(table.name, &shape, None)?];
        let outer = Map::create(table.name, &MapSpec::outer(2), Some(&inner[0]))?;
        Ok(Self { table, outer, inner, known: [Some(Known::default()); 2] })
    }

    /// Puts both inner maps of new tables into their outer ones. Each such update waits for RCU, about 10 ms: all
    /// tables wait together.
    pub fn connect(tables: &[&Self]) -> io::Result<()> {
        std::thread::scope(|scope| {
            let waiting: Vec<_> =
                tables.iter().flat_map(|table| Side::BOTH.map(|side| scope.spawn(move || table.point(side)))).collect();
            waiting.into_iter().try_for_each(|wait| {
                wait.join().unwrap_or_else(|_| Err(io::Error::other("the thread that waited for RCU ended early")))
            })
        })
    }

    /// Whether both sides are in the outer map.
    pub fn is_connected(&self) -> io::Result<bool> {
        for side in Side::BOTH {
            if sys::lookup::<u32, u32>(self.outer.as_fd(), &side.index())? != Some(self.side(side).id()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The table behind an outer map, if that is what it is.
    pub fn open(table: &'static KernelTable, outer: Map) -> io::Result<Option<Self>> {
        if *outer.spec() != MapSpec::outer(2) {
            return Ok(None);
        }
        let shape = spec(table, 0);
        let mut inner = Vec::with_capacity(2);
        for side in Side::BOTH {
            let Some(id) = sys::lookup::<u32, u32>(outer.as_fd(), &side.index())? else { return Ok(None) };
            let map = Map::by_id(id)?;
            if !map.fits(&shape) {
                return Ok(None);
            }
            inner.push(map);
        }
        let Ok(inner) = <[Map; 2]>::try_from(inner) else { return Ok(None) };
        let same_size = inner[0].entries() == inner[1].entries();
        Ok((same_size || table.kind == TableKind::Hash).then_some(Self { table, outer, inner, known: [None; 2] }))
    }

    pub fn side(&self, side: Side) -> &Map {
        &self.inner[side.index() as usize]
    }

    pub fn entries(&self, side: Side) -> u32 {
        self.side(side).entries()
    }

    /// Makes a side's inner map anew, empty. Waits for RCU; the side must not be the active one. Hashes only: an inner
    /// array must agree with the template in its size.
    pub fn replace(&mut self, side: Side, entries: u32) -> io::Result<()> {
        self.known[side.index() as usize] = None;
        self.inner[side.index() as usize] = Map::create(self.table.name, &spec(self.table, entries), None)?;
        self.point(side)
    }

    fn point(&self, side: Side) -> io::Result<()> {
        let fd = self.side(side).as_fd().as_raw_fd() as u32;
        sys::update(self.outer.as_fd(), &side.index(), sys::bytes_of(&fd))
    }
}

/// A table with two sides that are mapped.
pub trait MappedTable: Sized {
    fn of(sided: Sided) -> io::Result<Self>;
    fn sided(&self) -> &Sided;
    fn pending_stores(&self) -> u64;

    /// A new table; [`Sided::connect`] comes next.
    fn create(table: &'static KernelTable, entries: u32) -> io::Result<Self> {
        Self::of(Sided::create(table, entries)?)
    }

    /// The same content on both sides of a larger table. The old one stays as it is.
    fn grown(&self, entries: u32) -> io::Result<Self>;
}

/// An array of values, indexed by number.
#[derive(Debug)]
pub struct ArrayTable<T: Plain> {
    sided: Sided,
    sides: [Mapped<T>; 2],
}

impl<T: Plain + PartialEq> ArrayTable<T> {
    pub fn side(&self, side: Side) -> &Mapped<T> {
        &self.sides[side.index() as usize]
    }

    pub fn side_mut(&mut self, side: Side) -> &mut Mapped<T> {
        &mut self.sides[side.index() as usize]
    }
}

impl<T: Plain + PartialEq> MappedTable for ArrayTable<T> {
    fn of(sided: Sided) -> io::Result<Self> {
        let sides = [Mapped::new(&sided.inner[0])?, Mapped::new(&sided.inner[1])?];
        Ok(Self { sided, sides })
    }

    fn sided(&self) -> &Sided {
        &self.sided
    }

    fn pending_stores(&self) -> u64 {
        self.sides.iter().map(Mapped::pending_stores).sum()
    }

    fn grown(&self, entries: u32) -> io::Result<Self> {
        let mut new = Self::create(self.sided.table, entries)?;
        for side in Side::BOTH {
            new.side_mut(side).copy_from(self.side(side));
        }
        Sided::connect(&[new.sided()])?;
        Ok(new)
    }
}

/// What a tree holds.
pub type Sets = (Table<Prefix4, u32>, Table<Prefix6, u32>);

/// A prefix tree, both families in one array.
#[derive(Debug)]
pub struct TreeTable {
    sided: Sided,
    sides: [TreeSide; 2],
}

#[derive(Debug)]
pub enum TreeSide {
    /// Not looked at by this process yet.
    Unread(Mapped<Line>),
    Sound(Tree<Mapped<Line>>),
    /// Must be built anew: the sets are what could be read.
    Damaged {
        lines: Mapped<Line>,
        v4: Table<Prefix4, u32>,
        v6: Table<Prefix6, u32>,
    },
    /// Only while one is turned into another.
    Taken,
}

impl TreeTable {
    pub fn side(&self, side: Side) -> &TreeSide {
        &self.sides[side.index() as usize]
    }

    pub fn side_mut(&mut self, side: Side) -> &mut TreeSide {
        &mut self.sides[side.index() as usize]
    }

    /// Reads a side back, whole.
    pub fn read(&mut self, side: Side) -> Sets {
        let Some(lines) = std::mem::replace(self.side_mut(side), TreeSide::Taken).into_lines() else {
            return Default::default();
        };
        let (before, walked) = (lines.digest(), walk(&lines));
        self.accept(side, lines, before, &walked);
        (walked.v4, walked.v6)
    }

    /// Reads both sides back. Mostly they are the same, line by line, and are walked once.
    pub fn read_both(&mut self) -> [Sets; 2] {
        let both = self.sides.each_mut().map(|side| std::mem::replace(side, TreeSide::Taken).into_lines());
        let [Some(a), Some(b)] = both else { return Default::default() };
        let (before_a, before_b, walked) = (a.digest(), b.digest(), walk(&a));
        if a.same(&b) {
            self.accept(Side::A, a, before_a, &walked);
            self.accept(Side::B, b, before_b, &walked);
            let Walked { v4, v6, .. } = walked;
            return [(v4.clone(), v6.clone()), (v4, v6)];
        }
        let other = walk(&b);
        self.accept(Side::A, a, before_a, &walked);
        self.accept(Side::B, b, before_b, &other);
        [(walked.v4, walked.v6), (other.v4, other.v6)]
    }

    fn accept(&mut self, side: Side, mut lines: Mapped<Line>, before: u64, walked: &Walked) {
        lines.was_read(before);
        *self.side_mut(side) = if walked.damaged {
            TreeSide::Damaged { lines, v4: walked.v4.clone(), v6: walked.v6.clone() }
        } else {
            TreeSide::Sound(Tree::open(lines, walked))
        };
    }

    /// Prefixes on a side, by its header.
    pub fn count(&self, side: Side) -> u32 {
        self.side(side).lines().map_or(0, crate::prefix_tree::count)
    }
}

impl TreeSide {
    pub fn lines(&self) -> Option<&Mapped<Line>> {
        match self {
            Self::Unread(lines) | Self::Damaged { lines, .. } => Some(lines),
            Self::Sound(tree) => Some(tree.lines()),
            Self::Taken => None,
        }
    }

    pub fn into_lines(self) -> Option<Mapped<Line>> {
        match self {
            Self::Unread(lines) | Self::Damaged { lines, .. } => Some(lines),
            Self::Sound(tree) => Some(tree.into_lines()),
            Self::Taken => None,
        }
    }
}

impl MappedTable for TreeTable {
    fn of(sided: Sided) -> io::Result<Self> {
        let sides = [Mapped::new(&sided.inner[0])?, Mapped::new(&sided.inner[1])?].map(TreeSide::Unread);
        Ok(Self { sided, sides })
    }

    fn sided(&self) -> &Sided {
        &self.sided
    }

    fn pending_stores(&self) -> u64 {
        self.sides.iter().filter_map(TreeSide::lines).map(Mapped::pending_stores).sum()
    }

    fn grown(&self, entries: u32) -> io::Result<Self> {
        let sided = Sided::create(self.sided.table, entries)?;
        let mut sides = [Mapped::new(&sided.inner[0])?, Mapped::new(&sided.inner[1])?];
        for (new, old) in sides.iter_mut().zip(&self.sides) {
            if let Some(old) = old.lines() {
                new.copy_from(old);
            }
        }
        Sided::connect(&[&sided])?;
        Ok(Self { sided, sides: sides.map(TreeSide::Unread) })
    }
}
