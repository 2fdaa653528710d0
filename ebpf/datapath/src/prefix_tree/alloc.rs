use std::collections::BTreeMap;

/// The tree has no line left: the table must be made larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no line is left")]
pub struct TreeFull;

/// Which lines are free: runs by length, and everything from `fresh` on. Kept in user space, found again by a walk.
#[derive(Clone, Debug, Default)]
pub struct Allocator {
    fresh: u32,
    end: u32,
    runs: BTreeMap<u32, Vec<u32>>,
    free: u32,
}

impl Allocator {
    /// All of `end` lines but the header are free.
    pub fn new(end: u32) -> Self {
        Self { fresh: 1, end, runs: BTreeMap::new(), free: 0 }
    }

    /// From the lines that a walk found in use (`used[line]`).
    pub fn from_used(used: &Bitmap, end: u32) -> Self {
        let mut allocator = Self::new(end);
        let mut start = 1;
        for line in 1..end {
            if used.contains(line) {
                if start < line {
                    allocator.free(start, line - start);
                }
                start = line + 1;
            }
        }
        allocator.fresh = start.min(end);
        allocator
    }

    /// Lines in use, header included.
    pub const fn used(&self) -> u32 {
        self.fresh - self.free
    }

    pub fn take(&mut self, lines: u32) -> Result<u32, TreeFull> {
        if let Some(run) = self.runs.get_mut(&lines).and_then(Vec::pop) {
            self.free -= lines;
            return Ok(run);
        }
        if self.end - self.fresh >= lines {
            self.fresh += lines;
            return Ok(self.fresh - lines);
        }
        let (&longer, run) = self.runs.range_mut(lines..).find(|(_, runs)| !runs.is_empty()).ok_or(TreeFull)?;
        let run = run.pop().ok_or(TreeFull)?;
        self.free -= longer;
        if longer > lines {
            self.free(run + lines, longer - lines);
        }
        Ok(run)
    }

    pub fn free(&mut self, line: u32, lines: u32) {
        self.runs.entry(lines).or_default().push(line);
        self.free += lines;
    }
}

#[derive(Clone, Debug)]
pub struct Bitmap(Vec<u64>);

impl Bitmap {
    pub fn new(bits: u32) -> Self {
        Self(vec![0; (bits as usize).div_ceil(64)])
    }

    pub fn contains(&self, bit: u32) -> bool {
        self.0[bit as usize / 64] >> (bit % 64) & 1 == 1
    }

    /// Whether it was new.
    pub fn insert(&mut self, bit: u32) -> bool {
        let word = &mut self.0[bit as usize / 64];
        let new = *word >> (bit % 64) & 1 == 0;
        *word |= 1 << (bit % 64);
        new
    }
}
