use weir_abi::tree::{
    Cell, Guard, Line, SKIP_BITS, SKIP_COVER, SKIP_DEFAULT, SKIP_GUARD, SKIP_NEXT, SKIP_POSITION, STRIDE_MAX,
    STRIDE_MIN,
};

use super::{
    Records, SKIP_OWN, Tree, TreeFull, TreePrefix, index_lines,
    lines::Lines,
    prefix::{cell_of, common, length_value, masked, put_slot},
};

/// A stride, and whether the set spreads over it: then what nothing covers can be told by a guard right here.
pub(super) struct Spread {
    stride: u32,
    pub(super) even: bool,
}

/// Strides as wide as the entries need, and no wider: with twice as many cells as entries most misses end at an empty
/// cell. Where prefixes come in clusters, more bits stop telling them apart long before that: there the index ends, and
/// each cluster has a skip, an index and a guard of its own.
pub(super) fn spread_of<P: TreePrefix>(set: &[(P, u32)], position: u32) -> Spread {
    // How many pairs of neighbours each further bit parts.
    let mut parted = [0usize; (STRIDE_MAX + AHEAD) as usize];
    for pair in set.windows(2) {
        let bit = common(pair[0].0.bits(), pair[1].0.bits()).saturating_sub(position);
        if let Some(count) = parted.get_mut(bit as usize) {
            *count += 1;
        }
    }
    let cells = |stride: u32| 1 + parted[..stride as usize].iter().sum::<usize>();
    let wide = (usize::BITS - (set.len() - 1).leading_zeros() + 1).clamp(STRIDE_MIN, STRIDE_MAX);
    let stride = (STRIDE_MIN..wide).find(|&stride| cells(stride) * 4 >= cells(stride + AHEAD) * 3).unwrap_or(wide);
    let even = stride + AHEAD >= wide;
    // A little wider, and most prefixes end in the index: their answers need no bucket.
    let ends = |stride: u32| set.iter().filter(|(prefix, _)| prefix.length() <= position + stride).count();
    let wider = (stride..=(stride + WIDER).min(STRIDE_MAX)).find(|&stride| ends(stride) * 4 >= set.len() * 3);
    Spread { stride: wider.unwrap_or(stride), even }
}

/// Bits that an index may have beyond what its entries need.
const WIDER: u32 = 2;
/// Bits that are looked ahead, to see whether they tell more prefixes apart.
const AHEAD: u32 = 4;

impl<L: Lines> Tree<L> {
    /// Builds one family from a sorted set, below a header that has none of it yet.
    pub(super) fn build_family<P: TreePrefix>(&mut self, set: &[(P, u32)]) -> Result<(), TreeFull> {
        let (default, below) = match set.first() {
            Some(&(first, value)) if first.length() == 0 => (Some(value), &set[1..]),
            _ => (None, set),
        };
        let mut ended = Vec::new();
        let root = self.build(below, 0, default.unwrap_or(0), &mut ended)?;
        self.record(&ended)?;
        self.lines.set_word(0, P::DEFAULT, default.map_or(0, |value| length_value(0, value)));
        self.lines.set_word(0, P::COUNT, set.len() as u32);
        self.lines.set_word(0, P::ROOT, root);
        Ok(())
    }

    /// Enters the prefixes that end inside an index.
    pub(super) fn record<P: TreePrefix>(&mut self, ended: &[(P, u32)]) -> Result<(), TreeFull> {
        let mut records = Records::open(&self.lines);
        records.reserve(&mut self.lines, &mut self.alloc, ended.len() as u32)?;
        for &(prefix, value) in ended {
            records.insert(&mut self.lines, prefix, value);
        }
        Ok(())
    }

    /// The cell for a sorted set of prefixes, all longer than `position` and with the same bits before it. What ends
    /// inside an index is appended to `ended`.
    pub(super) fn build<P: TreePrefix>(
        &mut self,
        set: &[(P, u32)],
        position: u32,
        inherited: u32,
        ended: &mut Vec<(P, u32)>,
    ) -> Result<u32, TreeFull> {
        let (Some(&(first, first_value)), Some(&(last, _))) = (set.first(), set.last()) else {
            return Ok(Cell::leaf(inherited).0);
        };
        if set.len() + usize::from(inherited != 0) <= P::BUCKET {
            let line = self.alloc.take(1)?;
            self.write_bucket(line, set, inherited);
            return Ok(Cell::bucket(line).0);
        }
        // A prefix that is shorter than what all share would cover all, and so stand first: none but the first can
        // end here.
        let shared = common(first.bits(), last.bits()).min(first.length());
        if shared >= position + STRIDE_MIN {
            let line = self.alloc.take(1)?;
            let own = (first.length() == shared).then_some(first_value);
            let below = if own.is_some() { &set[1..] } else { set };
            let guard = self.build_guard(below, shared)?;
            let covered = own.unwrap_or(inherited);
            let next = if guard == Guard::NONE {
                self.build(below, shared, covered, ended)?
            } else {
                self.build_index(below, shared, covered, ended)?
            };
            self.write_skip::<P>(line, next, inherited, shared, first.bits(), own, guard);
            return Ok(Cell::skip(line).0);
        }
        let guard = self.build_guard(set, position)?;
        let index = self.build_index(set, position, inherited, ended)?;
        if guard == Guard::NONE {
            return Ok(index);
        }
        // A skip of no bits, for its guard.
        let line = self.alloc.take(1)?;
        self.write_skip::<P>(line, index, inherited, position, first.bits(), None, guard);
        Ok(Cell::skip(line).0)
    }

    fn build_index<P: TreePrefix>(
        &mut self,
        set: &[(P, u32)],
        position: u32,
        inherited: u32,
        ended: &mut Vec<(P, u32)>,
    ) -> Result<u32, TreeFull> {
        let stride = spread_of(set, position).stride;
        let end = position + stride;
        let first = self.alloc.take(index_lines(stride) + 1)?;
        // Prefixes that cover the cell at the cursor, shortest first, each with the cell where it ends.
        let mut covering: Vec<(u32, u32)> = Vec::new();
        let (mut cursor, mut load, mut at) = (0u32, 0u32, 0usize);
        while let Some(&(prefix, value)) = set.get(at) {
            let cell = cell_of(prefix.bits(), position, stride);
            self.fill(first, &mut cursor, cell, &mut covering, inherited);
            load += 1;
            if prefix.length() <= end {
                covering.push((cell + (1 << (end - prefix.length())), value));
                ended.push((prefix, value));
                at += 1;
            } else {
                let below = set[at..].iter().take_while(|(p, _)| cell_of(p.bits(), position, stride) == cell).count();
                let covered = covering.last().map_or(inherited, |&(_, value)| value);
                let child = self.build(&set[at..at + below], end, covered, ended)?;
                self.lines.set_cell(first, cell, child);
                cursor = cell + 1;
                at += below;
            }
        }
        self.fill(first, &mut cursor, 1 << stride, &mut covering, inherited);
        self.set_load(first, stride, load);
        Ok(Cell::index(first, stride).0)
    }

    /// Leaves from the cursor up to `to`, and forgets what ends there.
    fn fill(&mut self, first: u32, cursor: &mut u32, to: u32, covering: &mut Vec<(u32, u32)>, inherited: u32) {
        loop {
            while covering.last().is_some_and(|&(end, _)| end <= *cursor) {
                covering.pop();
            }
            if *cursor >= to {
                return;
            }
            let (end, value) = covering.last().map_or((to, inherited), |&(end, value)| (end.min(to), value));
            let leaf = Cell::leaf(value).0;
            while *cursor < end {
                if *cursor & 15 == 0 && end - *cursor >= 16 {
                    self.lines.set_line(first + (*cursor >> 4), Line([leaf; 16]));
                    *cursor += 16;
                } else {
                    self.lines.set_cell(first, *cursor, leaf);
                    *cursor += 1;
                }
            }
        }
    }

    /// The set is sorted; what is inherited comes last, as a prefix of length 0.
    pub(super) fn write_bucket<P: TreePrefix>(&mut self, line: u32, set: &[(P, u32)], inherited: u32) {
        let mut order: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
        let order = &mut order[..set.len()];
        order.sort_by_key(|&at| std::cmp::Reverse(set[at].0.length()));
        let mut content = Line::ZERO;
        for (slot, &at) in order.iter().enumerate() {
            put_slot(&mut content, slot, set[at].0, set[at].1);
        }
        if inherited != 0 {
            put_slot(&mut content, set.len(), P::from_bits(0, 0), inherited);
        }
        self.lines.set_line(line, content);
    }

    #[allow(clippy::too_many_arguments, reason = "the words of the line, each once")]
    pub(super) fn write_skip<P: TreePrefix>(
        &mut self,
        line: u32,
        next: u32,
        default: u32,
        position: u32,
        bits: u128,
        own: Option<u32>,
        guard: Guard,
    ) {
        let mut content = Line::ZERO;
        if guard != Guard::NONE {
            content.0[SKIP_GUARD] = guard.0;
            content.0[SKIP_COVER] = Cell::leaf(own.unwrap_or(default)).0;
        }
        content.0[SKIP_NEXT] = next;
        content.0[SKIP_DEFAULT] = Cell::leaf(default).0;
        content.0[SKIP_POSITION] = position;
        P::put_bits(&mut content.0[SKIP_BITS..], masked(bits, position));
        content.0[SKIP_OWN as usize] = own.map_or(0, |value| length_value(position, value));
        self.lines.set_line(line, content);
    }

    pub(super) fn load(&self, first: u32, stride: u32) -> u32 {
        self.lines.word(first + index_lines(stride), 0)
    }

    pub(super) fn set_load(&mut self, first: u32, stride: u32, load: u32) {
        self.lines.set_word(first + index_lines(stride), 0, load);
    }
}
