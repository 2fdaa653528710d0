use crate::generation::EPOCH_BITS;

/// Bits of a rule number in a [`VerdictWord`].
pub const RULE_BITS: u32 = 24;
/// No rule decided: default deny, or nothing enforces.
pub const RULE_NONE: u32 = 0;

/// The verdicts that a [`VerdictWord`] can hold.
pub mod flow_verdict {
    /// Not judged yet.
    pub const NONE: u8 = 0;
    pub const ALLOW: u8 = 1;
    pub const DENY: u8 = 2;
    /// Reserved for L7: allow, by way of the proxy.
    pub const REDIRECT: u8 = 3;
}

/// What one end of a flow was last judged to be, by which rule, in which epoch: one aligned 64-bit word, so that it
/// is read and written whole. `epoch << 28 | rule << 4 | verdict`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerdictWord(pub u64);

impl VerdictWord {
    #[inline(always)]
    pub const fn new(epoch: u64, rule: u32, verdict: u8) -> Self {
        Self((epoch << (RULE_BITS + 4)) | ((rule as u64 & ((1 << RULE_BITS) - 1)) << 4) | (verdict as u64 & 0xf))
    }

    #[inline(always)]
    pub const fn epoch(self) -> u64 {
        self.0 >> (RULE_BITS + 4)
    }

    #[inline(always)]
    pub const fn rule(self) -> u32 {
        (self.0 >> 4) as u32 & ((1 << RULE_BITS) - 1)
    }

    #[inline(always)]
    pub const fn verdict(self) -> u8 {
        (self.0 & 0xf) as u8
    }
}
const _: () = assert!(EPOCH_BITS + RULE_BITS + 4 == 64);
