//! What both sides of the kernel boundary share, from the programs' own source.
#[path = "../programs/src/flow.rs"]
mod shared;

pub(crate) use shared::{Control, FLOWS, Flow, SLOTS};

/// SplitMix64: the same flows in every run of one seed.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // The bias of a 64-bit product is far below what any figure here can show.
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}
