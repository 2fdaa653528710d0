use weir_abi::tree::{GUARD_BITS_MAX, GUARD_LINE_BITS, Guard, Line, SKIP_COVER, SKIP_GUARD, STRIDE_MIN};

use super::{
    Tree, TreeFull, TreePrefix,
    build::spread_of,
    lines::Lines,
    prefix::{cell_of, common},
};

/// Below so many prefixes a walk stays in the processor's caches, and a guard saves nothing.
const LEAST: usize = if cfg!(test) { 32 } else { 512 };
/// Bits for each prefix, as a power of two: few addresses that nothing covers share a bit with a prefix.
const BITS_EACH: u32 = 3;

/// Lines of a guard's bitmap.
pub(super) const fn guard_lines(guard: Guard) -> u32 {
    1 << guard.bits().saturating_sub(GUARD_LINE_BITS)
}

/// Whether a guard is one that we would write.
pub(super) fn fits<P: TreePrefix>(guard: Guard, position: u32) -> bool {
    (1..=GUARD_BITS_MAX).contains(&guard.bits()) && position + guard.bits() <= P::WIDTH
}

/// The bits that a prefix needs: the first, and how many.
fn span<P: TreePrefix>(prefix: P, position: u32, bits: u32) -> (u32, u32) {
    let at = cell_of(prefix.bits(), position, bits);
    (at, 1 << (position + bits).saturating_sub(prefix.length().max(position)))
}

/// Whether a guard lets every address of `prefix` through.
pub(super) fn lets<P: TreePrefix>(lines: &impl Lines, guard: Guard, position: u32, prefix: P) -> bool {
    let (from, count) = span(prefix, position, guard.bits());
    let mut at = from;
    while at < from + count {
        let word = lines.word(guard.line() + (at >> GUARD_LINE_BITS), (at >> 5) & 15);
        if at & 31 == 0 && from + count - at >= 32 {
            if word != u32::MAX {
                return false;
            }
            at += 32;
        } else {
            if word >> (at & 31) & 1 == 0 {
                return false;
            }
            at += 1;
        }
    }
    true
}

impl<L: Lines> Tree<L> {
    /// A guard for what stands below `position`, where an index follows: elsewhere, or for few prefixes, it would only
    /// be one more read.
    pub(super) fn build_guard<P: TreePrefix>(&mut self, set: &[(P, u32)], position: u32) -> Result<Guard, TreeFull> {
        let (Some(&(first, _)), Some(&(last, _))) = (set.first(), set.last()) else { return Ok(Guard::NONE) };
        if set.len() < LEAST
            || common(first.bits(), last.bits()).min(first.length()) >= position + STRIDE_MIN
            || !spread_of(set, position).even
        {
            return Ok(Guard::NONE);
        }
        let bits = (set.len().next_power_of_two().ilog2() + BITS_EACH).min(GUARD_BITS_MAX).min(P::WIDTH - position);
        // What covers most of the addresses lets most of them through.
        let most = set.iter().map(|&(prefix, _)| u64::from(span(prefix, position, bits).1)).sum::<u64>();
        if most > 1 << (bits - 1) {
            return Ok(Guard::NONE);
        }
        let lines = 1 << bits.saturating_sub(GUARD_LINE_BITS);
        let line = self.alloc.take(lines)?;
        (line..line + lines).for_each(|line| self.lines.set_line(line, Line::ZERO));
        let guard = Guard::new(line, bits);
        set.iter().for_each(|&(prefix, _)| self.admit(guard, position, prefix));
        Ok(guard)
    }

    /// Sets the bits of a prefix. They stay set when it goes: what else needs them is not known.
    pub(super) fn admit<P: TreePrefix>(&mut self, guard: Guard, position: u32, prefix: P) {
        if guard == Guard::NONE {
            return;
        }
        let (from, count) = span(prefix, position, guard.bits());
        let mut at = from;
        while at < from + count {
            let (line, word) = (guard.line() + (at >> GUARD_LINE_BITS), (at >> 5) & 15);
            if at & 31 == 0 && from + count - at >= 32 {
                self.lines.set_word(line, word, u32::MAX);
                at += 32;
            } else {
                self.lines.set_word(line, word, self.lines.word(line, word) | 1 << (at & 31));
                at += 1;
            }
        }
    }

    /// What a skip's guard answers with.
    pub(super) fn set_cover(&mut self, line: u32, cover: u32) {
        if self.lines.word(line, SKIP_GUARD as u32) != Guard::NONE.0 {
            self.lines.set_word(line, SKIP_COVER as u32, cover);
        }
    }

    /// Gives a skip's guard back.
    pub(super) fn free_guard(&mut self, content: &Line) {
        let guard = Guard(content.0[SKIP_GUARD]);
        if guard != Guard::NONE {
            self.alloc.free(guard.line(), guard_lines(guard));
        }
    }
}
