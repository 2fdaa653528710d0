use weir_abi::tree::{
    Cell, Guard, KIND_LEAF, Line, SKIP_DEFAULT, SKIP_GUARD, SKIP_NEXT, SKIP_POSITION, STRIDE_MIN, VALUE_MASK,
};

use super::{
    Node, Records, SKIP_OWN, Tree, TreeFull, TreePrefix, index_lines,
    lines::Lines,
    prefix::{HEADER_REMOVED, cell_bits, cell_of, common, length_value, masked, skip_bits, slot},
};

/// Where an index stands.
#[derive(Clone, Copy)]
struct Index {
    first: u32,
    stride: u32,
    position: u32,
}

impl<L: Lines> Tree<L> {
    /// Adds a prefix, or gives it another value.
    pub fn insert<P: TreePrefix>(&mut self, prefix: P, value: u32) -> Result<(), TreeFull> {
        let (root, default) = self.root::<P>();
        if prefix.length() == 0 {
            let new = self.lines.word(0, P::DEFAULT) == 0;
            self.lines.set_word(0, P::DEFAULT, length_value(0, value));
            let cell = self.reinherit::<P>(root, 0, 0, value)?;
            self.lines.set_word(0, P::ROOT, cell);
            self.add_count::<P>(i32::from(new));
            return Ok(());
        }
        let (cell, new) = self.insert_below(root, 0, default, prefix, value)?;
        self.lines.set_word(0, P::ROOT, cell);
        self.add_count::<P>(i32::from(new));
        Ok(())
    }

    /// Removes a prefix; one that is not there is fine.
    pub fn remove<P: TreePrefix>(&mut self, prefix: P) -> Result<(), TreeFull> {
        let (root, default) = self.root::<P>();
        let (cell, removed) = if prefix.length() == 0 {
            let there = self.lines.word(0, P::DEFAULT) != 0;
            self.lines.set_word(0, P::DEFAULT, 0);
            (self.reinherit::<P>(root, 0, 0, 0)?, there)
        } else {
            self.remove_below(root, 0, default, prefix)?
        };
        self.lines.set_word(0, P::ROOT, cell);
        self.add_count::<P>(-i32::from(removed));
        if removed {
            let before = self.lines.word(0, HEADER_REMOVED);
            self.lines.set_word(0, HEADER_REMOVED, before.saturating_add(1));
        }
        Ok(())
    }

    /// The value of exactly this prefix.
    pub fn get<P: TreePrefix>(&self, prefix: P) -> Option<u32> {
        let exact = |length_value: u32| (length_value != 0).then_some(length_value & VALUE_MASK);
        if prefix.length() == 0 {
            return exact(self.lines.word(0, P::DEFAULT));
        }
        let (mut cell, mut position) = (self.root::<P>().0, 0);
        loop {
            match Node::of(cell) {
                Node::Leaf(_) => return None,
                Node::Bucket(line) => {
                    return self.bucket::<P>(line).iter().find(|entry| entry.0 == prefix).map(|entry| entry.1);
                }
                Node::Index { first, stride } if prefix.length() > position + stride => {
                    cell = self.lines.cell(first, cell_of(prefix.bits(), position, stride));
                    position += stride;
                }
                Node::Index { .. } => return Records::open(&self.lines).get(&self.lines, prefix),
                Node::Skip(line) => {
                    let content = self.lines.line(line);
                    position = content.0[SKIP_POSITION];
                    if common(prefix.bits(), skip_bits::<P>(&content)).min(prefix.length()) < position {
                        return None;
                    }
                    if prefix.length() == position {
                        return exact(content.0[SKIP_OWN as usize]);
                    }
                    cell = content.0[SKIP_NEXT];
                }
            }
        }
    }

    fn root<P: TreePrefix>(&self) -> (u32, u32) {
        (self.lines.word(0, P::ROOT), self.lines.word(0, P::DEFAULT) & VALUE_MASK)
    }

    fn add_count<P: TreePrefix>(&mut self, by: i32) {
        let count = self.lines.word(0, P::COUNT).saturating_add_signed(by);
        self.lines.set_word(0, P::COUNT, count);
    }

    /// The cell that takes the place of `cell`, and whether the prefix is new.
    fn insert_below<P: TreePrefix>(
        &mut self,
        cell: u32,
        position: u32,
        inherited: u32,
        prefix: P,
        value: u32,
    ) -> Result<(u32, bool), TreeFull> {
        match Node::of(cell) {
            Node::Leaf(_) => {
                let line = self.alloc.take(1)?;
                self.write_bucket(line, &[(prefix, value)], inherited);
                Ok((Cell::bucket(line).0, true))
            }
            Node::Bucket(line) => {
                let mut set = self.bucket::<P>(line);
                let new = match set.binary_search_by(|entry| entry.0.cmp(&prefix)) {
                    Ok(at) => {
                        set[at].1 = value;
                        false
                    }
                    Err(at) => {
                        set.insert(at, (prefix, value));
                        true
                    }
                };
                Ok((self.refill(cell, line, &set, position, inherited)?, new))
            }
            Node::Index { first, stride } => {
                let index = Index { first, stride, position };
                if prefix.length() <= position + stride {
                    let mut records = Records::open(&self.lines);
                    records.reserve(&mut self.lines, &mut self.alloc, 1)?;
                    let former = records.insert(&mut self.lines, prefix, value);
                    if former.is_none() {
                        self.set_load(first, stride, self.load(first, stride) + 1);
                    }
                    if former != Some(value) {
                        self.refresh::<P>(index, prefix.bits(), prefix.length(), value)?;
                    }
                    return Ok((cell, former.is_none()));
                }
                let at = cell_of(prefix.bits(), position, stride);
                let child = self.lines.cell(first, at);
                let covered = self.covered::<P>(child, index, prefix.bits(), inherited);
                let (next, new) = self.insert_below(child, position + stride, covered, prefix, value)?;
                self.set_child(index, at, child, next);
                Ok((cell, new))
            }
            Node::Skip(line) => {
                let content = self.lines.line(line);
                let end = content.0[SKIP_POSITION];
                let shared = common(prefix.bits(), skip_bits::<P>(&content)).min(prefix.length());
                if shared < end {
                    let cell = self.split::<P>(line, position, inherited, prefix)?;
                    return self.insert_below(cell, position, inherited, prefix, value);
                }
                let own = content.0[SKIP_OWN as usize];
                if prefix.length() == end {
                    self.lines.set_word(line, SKIP_OWN, length_value(end, value));
                    self.set_cover(line, value);
                    let next = self.reinherit::<P>(content.0[SKIP_NEXT], end, masked(prefix.bits(), end), value)?;
                    self.lines.set_word(line, SKIP_NEXT as u32, next);
                    return Ok((cell, own == 0));
                }
                let covered = if own == 0 { inherited } else { own & VALUE_MASK };
                self.admit(Guard(content.0[SKIP_GUARD]), end, prefix);
                let (next, new) = self.insert_below(content.0[SKIP_NEXT], end, covered, prefix, value)?;
                self.lines.set_word(line, SKIP_NEXT as u32, next);
                Ok((cell, new))
            }
        }
    }

    fn remove_below<P: TreePrefix>(
        &mut self,
        cell: u32,
        position: u32,
        inherited: u32,
        prefix: P,
    ) -> Result<(u32, bool), TreeFull> {
        match Node::of(cell) {
            Node::Leaf(_) => Ok((cell, false)),
            Node::Bucket(line) => {
                let mut set = self.bucket::<P>(line);
                let Ok(at) = set.binary_search_by(|entry| entry.0.cmp(&prefix)) else { return Ok((cell, false)) };
                set.remove(at);
                if set.is_empty() {
                    self.alloc.free(line, 1);
                    return Ok((Cell::leaf(inherited).0, true));
                }
                self.write_bucket(line, &set, inherited);
                Ok((cell, true))
            }
            Node::Index { first, stride } => {
                let index = Index { first, stride, position };
                let removed = if prefix.length() <= position + stride {
                    let mut records = Records::open(&self.lines);
                    if records.remove(&mut self.lines, prefix).is_none() {
                        return Ok((cell, false));
                    }
                    let uncovered = self.governing(index, prefix.bits(), prefix.length() - 1, inherited, &records);
                    self.refresh::<P>(index, prefix.bits(), prefix.length(), uncovered)?;
                    self.set_load(first, stride, self.load(first, stride) - 1);
                    true
                } else {
                    let at = cell_of(prefix.bits(), position, stride);
                    let child = self.lines.cell(first, at);
                    let covered = self.covered::<P>(child, index, prefix.bits(), inherited);
                    let (next, removed) = self.remove_below(child, position + stride, covered, prefix)?;
                    self.set_child(index, at, child, next);
                    removed
                };
                if self.load(first, stride) == 0 {
                    self.alloc.free(first, index_lines(stride) + 1);
                    return Ok((Cell::leaf(inherited).0, removed));
                }
                Ok((cell, removed))
            }
            Node::Skip(line) => {
                let content = self.lines.line(line);
                let end = content.0[SKIP_POSITION];
                if common(prefix.bits(), skip_bits::<P>(&content)).min(prefix.length()) < end {
                    return Ok((cell, false));
                }
                let own = content.0[SKIP_OWN as usize];
                if prefix.length() == end {
                    if own == 0 {
                        return Ok((cell, false));
                    }
                    self.lines.set_word(line, SKIP_OWN, 0);
                    self.set_cover(line, inherited);
                    let next = self.reinherit::<P>(content.0[SKIP_NEXT], end, masked(prefix.bits(), end), inherited)?;
                    self.lines.set_word(line, SKIP_NEXT as u32, next);
                    return Ok((cell, true));
                }
                let covered = if own == 0 { inherited } else { own & VALUE_MASK };
                let (next, removed) = self.remove_below(content.0[SKIP_NEXT], end, covered, prefix)?;
                if Cell(next).kind() != KIND_LEAF {
                    self.lines.set_word(line, SKIP_NEXT as u32, next);
                    return Ok((cell, removed));
                }
                // Nothing is left below: the line becomes a bucket of the skip's own prefix, or is given back.
                self.free_guard(&content);
                if own == 0 {
                    self.alloc.free(line, 1);
                    return Ok((Cell::leaf(inherited).0, removed));
                }
                let own_prefix = P::from_bits(skip_bits::<P>(&content), end);
                self.write_bucket(line, &[(own_prefix, own & VALUE_MASK)], inherited);
                Ok((Cell::bucket(line).0, removed))
            }
        }
    }

    /// The prefixes that end in a bucket, sorted.
    fn bucket<P: TreePrefix>(&self, line: u32) -> Vec<(P, u32)> {
        let content = self.lines.line(line);
        let mut set: Vec<(P, u32)> =
            (0..P::BUCKET).map_while(|at| slot::<P>(&content, at)).filter(|(prefix, _)| prefix.length() != 0).collect();
        set.sort_unstable_by_key(|entry| entry.0);
        set
    }

    /// Writes a bucket's new set in place, or builds what it has outgrown into.
    fn refill<P: TreePrefix>(
        &mut self,
        cell: u32,
        line: u32,
        set: &[(P, u32)],
        position: u32,
        inherited: u32,
    ) -> Result<u32, TreeFull> {
        if set.len() + usize::from(inherited != 0) <= P::BUCKET {
            self.write_bucket(line, set, inherited);
            return Ok(cell);
        }
        let mut ended = Vec::new();
        let built = self.build(set, position, inherited, &mut ended)?;
        self.record(&ended)?;
        self.alloc.free(line, 1);
        Ok(built)
    }

    fn set_child(&mut self, index: Index, at: u32, former: u32, next: u32) {
        if former == next {
            return;
        }
        self.lines.set_cell(index.first, at, next);
        let (was, is) = (Cell(former).kind() != KIND_LEAF, Cell(next).kind() != KIND_LEAF);
        if was != is {
            let load = self.load(index.first, index.stride);
            self.set_load(index.first, index.stride, if is { load + 1 } else { load - 1 });
        }
    }

    /// What covers a child of an index: leaves, buckets and skips say it themselves.
    fn covered<P: TreePrefix>(&self, child: u32, index: Index, bits: u128, inherited: u32) -> u32 {
        match Node::of(child) {
            Node::Leaf(value) => value,
            Node::Skip(line) => self.lines.word(line, SKIP_DEFAULT as u32) & VALUE_MASK,
            Node::Bucket(_) | Node::Index { .. } => {
                let records = Records::<P>::open(&self.lines);
                self.governing(index, bits, index.position + index.stride, inherited, &records)
            }
        }
    }

    /// The value of the longest prefix of at most `length` that ends in this index and covers `bits`.
    fn governing<P: TreePrefix>(
        &self,
        index: Index,
        bits: u128,
        length: u32,
        inherited: u32,
        records: &Records<P>,
    ) -> u32 {
        (index.position + 1..=length.min(P::WIDTH))
            .rev()
            .find_map(|length| records.get(&self.lines, P::from_bits(masked(bits, length), length)))
            .unwrap_or(inherited)
    }

    /// Gives every cell below (`bits`, `length`) that no longer prefix of the index covers the value `value`.
    fn refresh<P: TreePrefix>(&mut self, index: Index, bits: u128, length: u32, value: u32) -> Result<(), TreeFull> {
        let end = index.position + index.stride;
        if length == end.min(P::WIDTH) {
            // One cell; more where the index reaches past the last bit.
            let from = cell_of(bits, index.position, index.stride);
            for at in from..from + (1 << (end - length)) {
                let child = self.lines.cell(index.first, at);
                let next = self.reinherit::<P>(child, length, bits, value)?;
                self.set_child(index, at, child, next);
            }
            return Ok(());
        }
        for half in 0..2 {
            let longer = cell_bits(bits, length, 1, half);
            let records = Records::<P>::open(&self.lines);
            if records.get(&self.lines, P::from_bits(longer, length + 1)).is_none() {
                self.refresh::<P>(index, longer, length + 1, value)?;
            }
        }
        Ok(())
    }

    /// The cell with another inherited value.
    fn reinherit<P: TreePrefix>(&mut self, cell: u32, position: u32, bits: u128, value: u32) -> Result<u32, TreeFull> {
        match Node::of(cell) {
            Node::Leaf(_) => Ok(Cell::leaf(value).0),
            Node::Bucket(line) => {
                let set = self.bucket::<P>(line);
                self.refill(cell, line, &set, position, value)
            }
            Node::Skip(line) => {
                let content = self.lines.line(line);
                self.lines.set_word(line, SKIP_DEFAULT as u32, Cell::leaf(value).0);
                if content.0[SKIP_OWN as usize] == 0 {
                    self.set_cover(line, value);
                    let (end, below) = (content.0[SKIP_POSITION], skip_bits::<P>(&content));
                    let next = self.reinherit::<P>(content.0[SKIP_NEXT], end, below, value)?;
                    self.lines.set_word(line, SKIP_NEXT as u32, next);
                }
                Ok(cell)
            }
            Node::Index { first, stride } => {
                self.refresh::<P>(Index { first, stride, position }, bits, position, value)?;
                Ok(cell)
            }
        }
    }

    /// Puts an index into the way of a skip, where `prefix` leaves it or ends on it. Every skip and every index stays
    /// at least four bits long, which bounds the depth.
    fn split<P: TreePrefix>(&mut self, line: u32, position: u32, inherited: u32, prefix: P) -> Result<u32, TreeFull> {
        let content = self.lines.line(line);
        let (end, bits, own) = (content.0[SKIP_POSITION], skip_bits::<P>(&content), content.0[SKIP_OWN as usize]);
        let shared = common(prefix.bits(), bits).min(prefix.length());
        let bit = if shared == prefix.length() { shared - 1 } else { shared };

        let mut start = bit.min(end.saturating_sub(STRIDE_MIN));
        if start < position + STRIDE_MIN {
            start = position;
        }
        let mut stop = (start + STRIDE_MIN).max(bit + 1);
        if end < stop + STRIDE_MIN {
            stop = end;
        }
        let stride = stop - start;
        debug_assert!(stop <= end && stride >= STRIDE_MIN && start <= bit && bit < stop);

        let covered = if own == 0 { inherited } else { own & VALUE_MASK };
        let first = self.alloc.take(index_lines(stride) + 1)?;
        let above = if start > position { Some(self.alloc.take(1)?) } else { None };
        let mut load = 0;
        let child = if stop < end {
            // The skip goes on below, from a line of its own only if this one is needed above: it is not.
            let guard = Guard(content.0[SKIP_GUARD]);
            self.write_skip::<P>(
                line,
                content.0[SKIP_NEXT],
                inherited,
                end,
                bits,
                (own != 0).then_some(covered),
                guard,
            );
            Cell::skip(line).0
        } else {
            if own != 0 {
                self.record(&[(P::from_bits(bits, end), covered)])?;
                load += 1;
            }
            let guard = Guard(content.0[SKIP_GUARD]);
            if guard == Guard::NONE {
                self.alloc.free(line, 1);
                content.0[SKIP_NEXT]
            } else {
                self.write_skip::<P>(line, content.0[SKIP_NEXT], covered, end, bits, None, guard);
                Cell::skip(line).0
            }
        };
        let leaf = Cell::leaf(inherited).0;
        (first..first + index_lines(stride)).for_each(|line| self.lines.set_line(line, Line([leaf; 16])));
        self.lines.set_cell(first, cell_of(bits, start, stride), child);
        load += u32::from(Cell(child).kind() != KIND_LEAF);
        self.set_load(first, stride, load);
        let index = Cell::index(first, stride).0;
        Ok(match above {
            Some(above) => {
                self.write_skip::<P>(above, index, inherited, start, bits, None, Guard::NONE);
                Cell::skip(above).0
            }
            None => index,
        })
    }
}
