/// Bits of an epoch: at a flip every millisecond they last two years, at one a second two thousand.
pub const EPOCH_BITS: u32 = 36;

/// Which of the two copies of every table that manifests fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Side {
    A = 0,
    B = 1,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    #[inline(always)]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }
}

/// The generation word: which side is active, and the epoch that judged flows are stamped with.
///
/// One aligned 64-bit word, `epoch << 1 | side`. A program loads it once, at entry. The epoch grows with every flip,
/// forward or back; 0 is never an epoch, so a zeroed verdict word is always stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    pub side: Side,
    pub epoch: u64,
}

impl Generation {
    pub const FIRST: Self = Self { side: Side::A, epoch: 1 };

    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.epoch << 1) | self.side as u64
    }

    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self { side: if word & 1 == 0 { Side::A } else { Side::B }, epoch: (word >> 1) & ((1 << EPOCH_BITS) - 1) }
    }

    /// What the word becomes when the standby side goes live.
    #[inline(always)]
    pub const fn flipped(self) -> Self {
        Self { side: self.side.other(), epoch: self.epoch + 1 }
    }
}

/// The only value of the `runtime` table: what every program loads first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// [`Generation::pack`].
    pub generation: u64,
    /// Added to jiffies: 0 in production, the simulated hours of a test.
    pub clock_offset: u64,
    /// Until then (in jiffies, without the offset) somebody wants to be told of every flow that begins.
    pub tell_flows_until: u64,
    /// The network namespace whose sockets are the host's, by the kernel's number (`SO_NETNS_COOKIE`).
    pub netns_cookie: u64,
}
const _: () = assert!(size_of::<Runtime>() == 32);
