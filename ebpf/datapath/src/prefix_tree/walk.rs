use weir_abi::tree::{
    Guard, LEVELS_V6, SKIP_COVER, SKIP_DEFAULT, SKIP_GUARD, SKIP_NEXT, SKIP_POSITION, STRIDE_MAX, STRIDE_MIN,
    VALUE_BITS, VALUE_MASK,
};
use weir_plan::{Change, Prefix4, Prefix6, Table};

use super::{
    Node, Records, SKIP_OWN, TreePrefix,
    alloc::Bitmap,
    guard, index_lines,
    lines::Lines,
    prefix::{FORMAT, HEADER_FORMAT, cell_bits, cell_of, common, masked, skip_bits, slot},
};

/// A tree as it was read back, whole.
#[derive(Debug)]
pub struct Walked {
    pub v4: Table<Prefix4, u32>,
    pub v6: Table<Prefix6, u32>,
    /// Something is not as we would have written it. The sets are what packets would see, as far as that can be said
    /// in prefixes; such a tree must be built anew, never edited.
    pub damaged: bool,
    pub(super) used: Bitmap,
}

/// Reads a tree back and checks every line of it.
pub fn walk(lines: &impl Lines) -> Walked {
    walk_as(lines, true)
}

/// As [`walk`], but the sets are what was recorded, whatever the cells lead to: after an edit that was cut short by
/// [`super::TreeFull`] these are right, and the cells may not be.
pub fn walk_records(lines: &impl Lines) -> Walked {
    walk_as(lines, false)
}

fn walk_as(lines: &impl Lines, amend: bool) -> Walked {
    let mut used = Bitmap::new(lines.len());
    let mut damaged = lines.is_empty() || lines.word(0, HEADER_FORMAT) != FORMAT;
    if lines.is_empty() {
        return Walked { v4: Table::new(), v6: Table::new(), damaged, used };
    }
    // A table that was never written: nothing in it is damaged.
    if (0..16).all(|word| lines.word(0, word) == 0) {
        return Walked { v4: Table::new(), v6: Table::new(), damaged: false, used };
    }
    used.insert(0);
    let v4 = walk_family::<Prefix4>(lines, amend, &mut used, &mut damaged);
    let v6 = walk_family::<Prefix6>(lines, amend, &mut used, &mut damaged);
    Walked { v4, v6, damaged, used }
}

fn walk_family<P: TreePrefix>(lines: &impl Lines, amend: bool, used: &mut Bitmap, damaged: &mut bool) -> Table<P, u32> {
    let mut walker = Walker { lines, used, damaged: false, found: Vec::new(), amended: Vec::new() };
    let records = walker.records::<P>();
    let default = lines.word(0, P::DEFAULT);
    let covering = if default == 0 {
        Covering { prefix: None, value: 0 }
    } else {
        let prefix = P::from_bits(0, 0);
        walker.damaged |= default >> VALUE_BITS != 1;
        walker.found.push((prefix, default & VALUE_MASK));
        Covering { prefix: Some(prefix), value: default & VALUE_MASK }
    };
    walker.node(Place { cell: lines.word(0, P::ROOT), position: 0, bits: 0, level: 0 }, covering, &records);
    let Walker { found, amended, damaged: broken, .. } = walker;
    let count = (found.len() + records.len()) as u32;
    let mut table = merge(found, records);
    *damaged |= broken || count != lines.word(0, P::COUNT) || table.len() as u32 != count;
    if !amend {
        return table;
    }
    let amended = Table::from_unsorted(amended);
    let changes: Vec<_> = amended.iter().map(|&(key, to)| Change { key, from: None, to }).collect();
    table.apply(&changes);
    table
}

/// Both are sorted, unless there is damage.
fn merge<P: TreePrefix>(found: Vec<(P, u32)>, records: Vec<(P, u32)>) -> Table<P, u32> {
    let mut merged = Vec::with_capacity(found.len() + records.len());
    let mut records = records.into_iter().peekable();
    for entry in found {
        while let Some(record) = records.next_if(|record| record.0 < entry.0) {
            merged.push(record);
        }
        merged.push(entry);
    }
    merged.extend(records);
    if merged.is_sorted_by(|a, b| a.0 < b.0) {
        return Table::from_sorted(merged).unwrap_or_default();
    }
    Table::from_unsorted(merged)
}

struct Walker<'a, L, P> {
    lines: &'a L,
    used: &'a mut Bitmap,
    damaged: bool,
    found: Vec<(P, u32)>,
    /// Where a cell leads elsewhere than the set says: what a packet would see.
    amended: Vec<(P, Option<u32>)>,
}

#[derive(Clone, Copy)]
struct Place {
    cell: u32,
    position: u32,
    bits: u128,
    level: u32,
}

#[derive(Clone, Copy)]
struct Covering<P> {
    prefix: Option<P>,
    value: u32,
}

impl<L: Lines, P: TreePrefix> Walker<'_, L, P> {
    /// Marks lines as used; false when they are not there or have another use already.
    fn claim(&mut self, first: u32, count: u32) -> bool {
        let inside = first.checked_add(count).is_some_and(|end| end <= self.lines.len());
        let fresh = inside && (first..first + count).all(|line| self.used.insert(line));
        self.damaged |= !fresh;
        fresh
    }

    fn records<Q: TreePrefix>(&mut self) -> Vec<(Q, u32)> {
        let (first, count) = (self.lines.word(0, Q::RECORDS_LINE), self.lines.word(0, Q::RECORDS_LINES));
        if count == 0 || !self.claim(first, count) {
            return Vec::new();
        }
        let mut records = Vec::new();
        for line in first..first + count {
            let content = self.lines.line(line);
            for at in 0..Q::BUCKET {
                match slot::<Q>(&content, at) {
                    Some((prefix, _)) if !sound(prefix) => self.damaged = true,
                    Some(record) => records.push(record),
                    None => {}
                }
            }
        }
        let table = Records::<Q>::open(self.lines);
        self.damaged |= records.len() as u32 != self.lines.word(0, Q::RECORDS_COUNT)
            || records.iter().any(|&(prefix, value)| table.get(self.lines, prefix) != Some(value));
        records.sort_unstable_by_key(|entry| entry.0);
        records
    }

    /// The cell shows `value` to every address of (`bits`, `length`), and `covering` is what it should be.
    fn expect(&mut self, value: u32, covering: Covering<P>, bits: u128, length: u32) {
        if value == covering.value {
            return;
        }
        self.damaged = true;
        let here = P::from_bits(masked(bits, length.min(P::WIDTH)), length.min(P::WIDTH));
        match covering.prefix {
            Some(prefix) if value == 0 => self.amended.push((prefix, None)),
            _ => self.amended.push((here, Some(value))),
        }
    }

    /// `records` are those that end at or below this place, sorted.
    fn node(&mut self, place: Place, covering: Covering<P>, records: &[(P, u32)]) {
        if place.level >= LEVELS_V6 {
            self.damaged = true;
            return;
        }
        match Node::of(place.cell) {
            Node::Leaf(value) => {
                self.damaged |= !records.is_empty();
                self.expect(value, covering, place.bits, place.position);
            }
            Node::Bucket(line) => {
                self.damaged |= !records.is_empty();
                self.bucket(line, place, covering);
            }
            Node::Index { first, stride } => self.index(first, stride, place, covering, records),
            Node::Skip(line) => self.skip(line, place, covering, records),
        }
    }

    fn bucket(&mut self, line: u32, place: Place, covering: Covering<P>) {
        if !self.claim(line, 1) {
            return;
        }
        let content = self.lines.line(line);
        let (start, mut default, mut shortest) = (self.found.len(), 0, P::WIDTH);
        for (prefix, value) in (0..P::BUCKET).map_while(|at| slot::<P>(&content, at)) {
            if prefix.length() == 0 {
                default = value;
                break;
            }
            let fits = sound(prefix)
                && prefix.length() > place.position
                && prefix.length() <= shortest
                && masked(prefix.bits(), place.position) == place.bits;
            if fits {
                shortest = prefix.length();
                self.found.push((prefix, value));
            } else {
                self.damaged = true;
            }
        }
        self.damaged |= start == self.found.len();
        self.found[start..].sort_unstable_by_key(|entry| entry.0);
        self.expect(default, covering, place.bits, place.position);
    }

    fn skip(&mut self, line: u32, place: Place, covering: Covering<P>, records: &[(P, u32)]) {
        if !self.claim(line, 1) {
            return;
        }
        let content = self.lines.line(line);
        let (end, bits, own) = (content.0[SKIP_POSITION], skip_bits::<P>(&content), content.0[SKIP_OWN as usize]);
        let guard = Guard(content.0[SKIP_GUARD]);
        let is_guarded = guard != Guard::NONE;
        let fits = (end > place.position || is_guarded && end == place.position)
            && end < P::WIDTH
            && bits == masked(bits, end)
            && common(bits, place.bits) >= place.position;
        if !fits {
            self.damaged = true;
            return;
        }
        self.expect(content.0[SKIP_DEFAULT] & VALUE_MASK, covering, place.bits, place.position);
        let mut below = covering;
        if own != 0 {
            let prefix = P::from_bits(bits, end);
            self.damaged |= own >> VALUE_BITS != end + 1;
            self.found.push((prefix, own & VALUE_MASK));
            below = Covering { prefix: Some(prefix), value: own & VALUE_MASK };
        }
        let next = Place { cell: content.0[SKIP_NEXT], position: end, bits, level: place.level + 1 };
        let start = self.found.len();
        self.node(next, below, records);
        if !is_guarded {
            return;
        }
        if !guard::fits::<P>(guard, end) || !self.claim(guard.line(), guard::guard_lines(guard)) {
            self.damaged = true;
            return;
        }
        self.expect(content.0[SKIP_COVER] & VALUE_MASK, below, bits, end);
        // Where a bit is clear, the answer is the one above: what stands below is as if it were not.
        let hidden = |&&(prefix, _): &&(P, u32)| !guard::lets(self.lines, guard, end, prefix);
        let hidden: Vec<P> = self.found[start..].iter().chain(records).filter(hidden).map(|entry| entry.0).collect();
        self.damaged |= !hidden.is_empty();
        self.amended.extend(hidden.into_iter().map(|prefix| (prefix, None)));
    }

    fn index(&mut self, first: u32, stride: u32, place: Place, covering: Covering<P>, records: &[(P, u32)]) {
        let end = place.position + stride;
        let fits = (STRIDE_MIN..=STRIDE_MAX).contains(&stride) && place.position < P::WIDTH;
        if !fits || !self.claim(first, index_lines(stride) + 1) {
            self.damaged = true;
            return;
        }
        let mut open: Vec<(u32, Covering<P>)> = Vec::new();
        let (mut at, mut load) = (0, 0);
        for cell in 0..1u32 << stride {
            while open.last().is_some_and(|&(end, _)| end <= cell) {
                open.pop();
            }
            while let Some(&(prefix, value)) = records.get(at)
                && prefix.length() <= end
                && cell_of(prefix.bits(), place.position, stride) == cell
            {
                self.damaged |= prefix.length() <= place.position;
                let span = 1u64 << (end - prefix.length().max(place.position + 1));
                open.push((cell + span as u32, Covering { prefix: Some(prefix), value }));
                load += 1;
                at += 1;
            }
            let content = self.lines.cell(first, cell);
            let here = open.last().map_or(covering, |&(_, covering)| covering);
            let from = at;
            while records.get(at).is_some_and(|(prefix, _)| cell_of(prefix.bits(), place.position, stride) == cell) {
                at += 1;
            }
            if from == at
                && let Node::Leaf(value) = Node::of(content)
                && value == here.value
            {
                continue;
            }
            load += u32::from(!matches!(Node::of(content), Node::Leaf(_)));
            let bits = cell_bits(place.bits, place.position, stride, cell);
            let next = Place { cell: content, position: end, bits, level: place.level + 1 };
            self.node(next, here, &records[from..at]);
        }
        self.damaged |= at != records.len() || load != self.lines.word(first + index_lines(stride), 0);
    }
}

/// Whether a prefix is one that we would write.
fn sound<P: TreePrefix>(prefix: P) -> bool {
    prefix.length() <= P::WIDTH && masked(prefix.bits(), prefix.length()) == prefix.bits()
}
