use weir_abi::tree::{BUCKET_V4, BUCKET_V6, HEADER_ROOT_V4, HEADER_ROOT_V6, Line, SKIP_BITS, VALUE_BITS, VALUE_MASK};
use weir_plan::{Prefix4, Prefix6};

/// What the tree's code must know of an address family. Bits are left-aligned in 128, so that positions and lengths
/// mean the same in both.
pub trait TreePrefix: Copy + Ord + std::fmt::Debug {
    const WIDTH: u32;
    /// Prefixes in a bucket's line, words of each.
    const BUCKET: usize;
    const SLOT_WORDS: usize;
    /// Words of the header line.
    const ROOT: u32;
    const DEFAULT: u32;
    const COUNT: u32;
    const RECORDS_LINE: u32;
    const RECORDS_LINES: u32;
    const RECORDS_COUNT: u32;

    fn from_bits(bits: u128, length: u32) -> Self;
    fn bits(self) -> u128;
    fn length(self) -> u32;
    fn put_bits(words: &mut [u32], bits: u128);
    fn take_bits(words: &[u32]) -> u128;
}

/// Header words that belong to no family.
pub const HEADER_FORMAT: u32 = 12;
/// Prefixes that the tree was built with, and how many went since.
pub const HEADER_BUILT: u32 = 13;
pub const HEADER_REMOVED: u32 = 14;
/// Raised when what user space keeps in a tree changes its shape.
pub const FORMAT: u32 = 0x7765_0002;

impl TreePrefix for Prefix4 {
    const WIDTH: u32 = 32;
    const BUCKET: usize = BUCKET_V4;
    const SLOT_WORDS: usize = 2;
    const ROOT: u32 = HEADER_ROOT_V4 as u32;
    const DEFAULT: u32 = 2;
    const COUNT: u32 = 4;
    const RECORDS_LINE: u32 = 6;
    const RECORDS_LINES: u32 = 8;
    const RECORDS_COUNT: u32 = 10;

    fn from_bits(bits: u128, length: u32) -> Self {
        Self { bits: (bits >> 96) as u32, length: length as u8 }
    }

    fn bits(self) -> u128 {
        u128::from(self.bits) << 96
    }

    fn length(self) -> u32 {
        u32::from(self.length)
    }

    fn put_bits(words: &mut [u32], bits: u128) {
        words[0] = (bits >> 96) as u32;
    }

    fn take_bits(words: &[u32]) -> u128 {
        u128::from(words[0]) << 96
    }
}

impl TreePrefix for Prefix6 {
    const WIDTH: u32 = 128;
    const BUCKET: usize = BUCKET_V6;
    const SLOT_WORDS: usize = 5;
    const ROOT: u32 = HEADER_ROOT_V6 as u32;
    const DEFAULT: u32 = 3;
    const COUNT: u32 = 5;
    const RECORDS_LINE: u32 = 7;
    const RECORDS_LINES: u32 = 9;
    const RECORDS_COUNT: u32 = 11;

    fn from_bits(bits: u128, length: u32) -> Self {
        Self::from_bits(bits, length as u8)
    }

    fn bits(self) -> u128 {
        Self::bits(&self)
    }

    fn length(self) -> u32 {
        u32::from(self.length)
    }

    fn put_bits(words: &mut [u32], bits: u128) {
        for (index, word) in words.iter_mut().take(4).enumerate() {
            *word = (bits >> (96 - 32 * index)) as u32;
        }
    }

    fn take_bits(words: &[u32]) -> u128 {
        words.iter().take(4).fold(0, |bits, word| bits << 32 | u128::from(*word))
    }
}

/// `bits` with everything from position `length` on cleared.
pub const fn masked(bits: u128, length: u32) -> u128 {
    match length {
        0 => 0,
        1..128 => bits & (u128::MAX << (128 - length)),
        _ => bits,
    }
}

/// The `stride` bits of `bits` from `position` on. Bits past the end are zero.
pub const fn cell_of(bits: u128, position: u32, stride: u32) -> u32 {
    if position >= 128 { 0 } else { ((bits << position) >> (128 - stride)) as u32 }
}

/// The bits of cell `at` of an index at `position`, below the path `bits`.
pub const fn cell_bits(bits: u128, position: u32, stride: u32, at: u32) -> u128 {
    let end = position + stride;
    if end <= 128 { bits | ((at as u128) << (128 - end)) } else { bits | ((at as u128) >> (end - 128)) }
}

/// How many leading bits two bit strings share.
pub const fn common(a: u128, b: u128) -> u32 {
    (a ^ b).leading_zeros()
}

pub const fn length_value(length: u32, value: u32) -> u32 {
    ((length + 1) << VALUE_BITS) | (value & VALUE_MASK)
}

/// A slot of a line in bucket format. The length is whatever stands there: damage gives one above the family's width.
pub fn slot<P: TreePrefix>(line: &Line, slot: usize) -> Option<(P, u32)> {
    let words = &line.0[slot * P::SLOT_WORDS..][..P::SLOT_WORDS];
    let length_value = words[P::SLOT_WORDS - 1];
    let length = (length_value >> VALUE_BITS).wrapping_sub(1);
    (length_value != 0).then(|| (P::from_bits(P::take_bits(words), length), length_value & VALUE_MASK))
}

pub fn put_slot<P: TreePrefix>(line: &mut Line, slot: usize, prefix: P, value: u32) {
    let words = &mut line.0[slot * P::SLOT_WORDS..][..P::SLOT_WORDS];
    P::put_bits(words, prefix.bits());
    words[P::SLOT_WORDS - 1] = length_value(prefix.length(), value);
}

/// The expected bits of a skip line.
pub fn skip_bits<P: TreePrefix>(line: &Line) -> u128 {
    P::take_bits(&line.0[SKIP_BITS..])
}
