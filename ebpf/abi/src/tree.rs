//! The prefix tree: a longest-prefix-match table in one mappable array of 64-byte lines.
//!
//! A kernel LPM trie costs 700 to 1900 ns a lookup from 100k prefixes on; this costs two or three cache misses. User
//! space builds and edits it on the standby side; programs, and tests on the host, only walk it, with [`lookup_v4`]
//! and [`lookup_v6`].
//!
//! Layout: line 0 is the header; [`HEADER_ROOT_V4`] and [`HEADER_ROOT_V6`] are its two root cells, the other words
//! belong to user space. A *cell* is a `u32`, its kind in the upper two bits:
//!
//! | kind | bits 0.. | meaning |
//! |---|---|---|
//! | leaf | value (24) | the answer; 0 is "no prefix covers this" |
//! | bucket | line (30) | compare with the prefixes of one line, longest first; the first that covers is the answer, none is 0 |
//! | index | line (25), stride (5) | `2^stride` cells from that line on, indexed by the next `stride` bits of the address |
//! | skip | line (30) | one line: all prefixes below agree in the bits up to a position; on a mismatch the answer is the line's default; it may have a guard |
//!
//! A bucket line holds, for IPv4, 8 × (prefix bits, len_value), for IPv6 3 × (4 words of prefix bits, most significant
//! first, len_value) and an unused word; `len_value` is `(length + 1) << 24 | value`, 0 is an empty slot and ends the
//! bucket. A skip line: word 0 the next cell, 1 the default leaf, 2 the bit position after the skipped bits, 4..8 the
//! expected address bits (IPv6 as in a bucket; IPv4 in word 4). Bits after the length are zero everywhere. An index may
//! reach beyond the address's last bit: the bits there count as zero.
//!
//! A *guard* is a bitmap over the bits that follow a skip: where no prefix below lies in, or covers, such a part of the
//! addresses, its bit is clear, and the answer stands in the skip's line. So an address that nothing covers costs one
//! read in a bitmap of one to two bytes a prefix, not a walk to the place where nothing is. Word 3 of the skip is
//! `bits << 25 | first line` (0: no guard), word 9 the answer where a bit is clear. A set bit promises nothing.

/// One line of a tree.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line(pub [u32; 16]);
const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    pub const ZERO: Self = Self([0; 16]);
}

pub const HEADER_ROOT_V4: usize = 0;
pub const HEADER_ROOT_V6: usize = 1;

pub const VALUE_BITS: u32 = 24;
pub const VALUE_MASK: u32 = (1 << VALUE_BITS) - 1;
pub const BUCKET_V4: usize = 8;
pub const BUCKET_V6: usize = 3;
/// No index is narrower: 16 cells are one line.
pub const STRIDE_MIN: u32 = 4;
pub const STRIDE_MAX: u32 = 20;
/// Most lines that a tree can have: an index cell has this many bits for its line.
pub const LINES_MAX: u32 = 1 << 25;
/// Levels that a lookup follows before it gives up; a tree that is deeper is not built.
pub const LEVELS_V4: u32 = 16;
pub const LEVELS_V6: u32 = 40;

pub const KIND_LEAF: u32 = 0;
pub const KIND_BUCKET: u32 = 1;
pub const KIND_INDEX: u32 = 2;
pub const KIND_SKIP: u32 = 3;

pub const SKIP_NEXT: usize = 0;
pub const SKIP_DEFAULT: usize = 1;
pub const SKIP_POSITION: usize = 2;
pub const SKIP_GUARD: usize = 3;
pub const SKIP_BITS: usize = 4;
pub const SKIP_COVER: usize = 9;

/// Most bits that a guard tells apart: its bitmap takes 2 MiB then.
pub const GUARD_BITS_MAX: u32 = 24;
/// Bits of one line.
pub const GUARD_LINE_BITS: u32 = 9;

/// Word 3 of a skip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard(pub u32);

impl Guard {
    pub const NONE: Self = Self(0);

    #[inline(always)]
    pub const fn new(line: u32, bits: u32) -> Self {
        Self((bits << 25) | line)
    }

    #[inline(always)]
    pub const fn line(self) -> u32 {
        self.0 & (LINES_MAX - 1)
    }

    /// Address bits that pick the bit.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        (self.0 >> 25) & 0x1f
    }

    /// Whether bit `at` says that something may be below.
    #[inline(always)]
    fn lets<'a>(self, at: u32, read: &impl Fn(u32) -> Option<&'a Line>) -> bool {
        let Some(line) = read(self.line() + (at >> GUARD_LINE_BITS)) else { return true };
        line.0[((at >> 5) & 15) as usize] >> (at & 31) & 1 != 0
    }
}

/// One `u32` that points on, or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell(pub u32);

impl Cell {
    pub const EMPTY: Self = Self(0);

    #[inline(always)]
    pub const fn leaf(value: u32) -> Self {
        Self(value & VALUE_MASK)
    }

    #[inline(always)]
    pub const fn bucket(line: u32) -> Self {
        Self((KIND_BUCKET << 30) | line)
    }

    #[inline(always)]
    pub const fn index(line: u32, stride: u32) -> Self {
        Self((KIND_INDEX << 30) | (stride << 25) | line)
    }

    #[inline(always)]
    pub const fn skip(line: u32) -> Self {
        Self((KIND_SKIP << 30) | line)
    }

    #[inline(always)]
    pub const fn kind(self) -> u32 {
        self.0 >> 30
    }

    #[inline(always)]
    pub const fn value(self) -> u32 {
        self.0 & VALUE_MASK
    }

    /// The line of a bucket or a skip.
    #[inline(always)]
    pub const fn line(self) -> u32 {
        self.0 & 0x3fff_ffff
    }

    /// The first line of an index.
    #[inline(always)]
    pub const fn index_line(self) -> u32 {
        self.0 & (LINES_MAX - 1)
    }

    #[inline(always)]
    pub const fn stride(self) -> u32 {
        (self.0 >> 25) & 0x1f
    }
}

/// The value of the longest prefix that covers `address` (host order), 0 for none. `read` gives a line of the tree.
#[inline(always)]
pub fn lookup_v4<'a>(address: u32, read: impl Fn(u32) -> Option<&'a Line>) -> u32 {
    let Some(header) = read(0) else { return 0 };
    let mut cell = Cell(header.0[HEADER_ROOT_V4]);
    // Bits of the address already used. Kept within its range everywhere: whichever way a level was left, the verifier
    // then finds the same state at the next, and does not follow all of them. (Nothing indexes after the last bit.)
    let mut position = 0u32;
    for _ in 0..LEVELS_V4 {
        match cell.kind() {
            KIND_LEAF => return cell.value(),
            KIND_BUCKET => {
                let Some(line) = read(cell.line()) else { return 0 };
                for slot in 0..BUCKET_V4 {
                    let length_value = line.0[slot * 2 + 1];
                    if length_value == 0 {
                        return 0;
                    }
                    let length = (length_value >> VALUE_BITS) - 1;
                    // A shift by 64 - length of the bits at the top: length 0 compares nothing.
                    let different = ((address ^ line.0[slot * 2]) as u64) << 32;
                    if length == 0 || different >> (64 - (length & 63)) == 0 {
                        return length_value & VALUE_MASK;
                    }
                }
                return 0;
            }
            KIND_INDEX => {
                let stride = cell.stride();
                let at = (address << (position & 31)) >> (32 - stride);
                let Some(line) = read(cell.index_line() + (at >> 4)) else { return 0 };
                cell = Cell(line.0[(at & 15) as usize]);
                position = (position + stride) & 31;
            }
            _ => {
                let Some(line) = read(cell.line()) else { return 0 };
                position = line.0[SKIP_POSITION] & 31;
                let different = ((address ^ line.0[SKIP_BITS]) as u64) << 32;
                if position != 0 && different >> (64 - position) != 0 {
                    return line.0[SKIP_DEFAULT] & VALUE_MASK;
                }
                let guard = Guard(line.0[SKIP_GUARD]);
                if guard != Guard::NONE && !guard.lets((address << position) >> (32 - guard.bits()), &read) {
                    return line.0[SKIP_COVER] & VALUE_MASK;
                }
                cell = Cell(line.0[SKIP_NEXT]);
            }
        }
    }
    0
}

/// As [`lookup_v4`], for an IPv6 address given as its two halves (host order).
#[inline(always)]
pub fn lookup_v6<'a>(high: u64, low: u64, read: impl Fn(u32) -> Option<&'a Line>) -> u32 {
    let Some(header) = read(0) else { return 0 };
    let mut cell = Cell(header.0[HEADER_ROOT_V6]);
    let mut position = 0u32;
    for _ in 0..LEVELS_V6 {
        match cell.kind() {
            KIND_LEAF => return cell.value(),
            KIND_BUCKET => {
                let Some(line) = read(cell.line()) else { return 0 };
                for slot in 0..BUCKET_V6 {
                    let words = slot * 5;
                    let length_value = line.0[words + 4];
                    if length_value == 0 {
                        return 0;
                    }
                    let length = (length_value >> VALUE_BITS) - 1;
                    let different_high = high ^ join(line.0[words], line.0[words + 1]);
                    let different_low = low ^ join(line.0[words + 2], line.0[words + 3]);
                    if covered(different_high, different_low, length) {
                        return length_value & VALUE_MASK;
                    }
                }
                return 0;
            }
            KIND_INDEX => {
                let stride = cell.stride();
                let at = (shift_left(high, low, position) >> (64 - stride)) as u32;
                let Some(line) = read(cell.index_line() + (at >> 4)) else { return 0 };
                cell = Cell(line.0[(at & 15) as usize]);
                position = (position + stride) & 127;
            }
            _ => {
                let Some(line) = read(cell.line()) else { return 0 };
                position = line.0[SKIP_POSITION] & 127;
                let different_high = high ^ join(line.0[SKIP_BITS], line.0[SKIP_BITS + 1]);
                let different_low = low ^ join(line.0[SKIP_BITS + 2], line.0[SKIP_BITS + 3]);
                if !covered(different_high, different_low, position) {
                    return line.0[SKIP_DEFAULT] & VALUE_MASK;
                }
                let guard = Guard(line.0[SKIP_GUARD]);
                if guard != Guard::NONE {
                    let at = (shift_left(high, low, position) >> (64 - guard.bits())) as u32;
                    if !guard.lets(at, &read) {
                        return line.0[SKIP_COVER] & VALUE_MASK;
                    }
                }
                cell = Cell(line.0[SKIP_NEXT]);
            }
        }
    }
    0
}

#[inline(always)]
const fn join(high: u32, low: u32) -> u64 {
    ((high as u64) << 32) | low as u64
}

/// The upper 64 of the 128 bits, shifted left by `by` (below 128). Without a branch: the verifier would follow each at
/// every level, and a processor would guess.
#[inline(always)]
const fn shift_left(high: u64, low: u64, by: u32) -> u64 {
    let past = 0u64.wrapping_sub((by >> 6) as u64 & 1);
    let (first, second) = (high ^ ((high ^ low) & past), low & !past);
    let by = by & 63;
    (first << by) | ((second >> 1) >> (63 - by))
}

/// Whether the first `length` bits (at most 128) of the difference are zero. One branch: with none, measured, the
/// verifier has more to follow, not less.
#[inline(always)]
const fn covered(high: u64, low: u64, length: u32) -> bool {
    if length <= 64 { first_bits(high, length) == 0 } else { high | first_bits(low, length - 64) == 0 }
}

/// The first `length` bits (at most 64), in two steps: no shift may be by 64.
#[inline(always)]
const fn first_bits(word: u64, length: u32) -> u64 {
    let (rest, half) = (64 - (length & 127), (64 - (length & 127)) >> 1);
    (word >> (half & 63)) >> ((rest - half) & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_and_comparisons_are_those_of_128_bits() {
        let (high, low) = (0x8123_4567_89ab_cdef_u64, 0xfedc_ba98_7654_3211_u64);
        let whole = ((high as u128) << 64) | low as u128;
        for by in 0..128 {
            assert_eq!(shift_left(high, low, by), ((whole << by) >> 64) as u64, "by {by}");
        }
        for bit in 0..=128u32 {
            let difference = if bit == 128 { 0 } else { 1u128 << (127 - bit) };
            for length in 0..=128 {
                let (high, low) = ((difference >> 64) as u64, difference as u64);
                assert_eq!(covered(high, low, length), length <= bit, "bit {bit}, length {length}");
            }
        }
    }
}
