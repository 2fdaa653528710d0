//! The generation word: read once, at entry, and carried through the run.
use aya_ebpf::helpers::generated::bpf_jiffies64;
use weir_abi::Generation;

use crate::maps::{HZ, RUNTIME};

/// What one run of a program holds on to: every table is read on this side, every verdict is stamped with this epoch.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Run {
    pub word: u64,
}

impl Run {
    /// The one load of the generation word. `None` cannot be: the verifier does not know that an array has its slots.
    #[inline(always)]
    pub fn begin() -> Option<Self> {
        let runtime = RUNTIME.get_ptr(0)?;
        // SAFETY: the slot is valid for as long as the map is, and `generation` is an aligned 64-bit word. Volatile, so
        // that it is read exactly once however often it is used.
        Some(Self { word: unsafe { (&raw const (*runtime).generation).read_volatile() } })
    }

    #[inline(always)]
    pub fn side(&self) -> u32 {
        (self.word & 1) as u32
    }

    #[inline(always)]
    pub fn epoch(&self) -> u64 {
        Generation::unpack(self.word).epoch
    }

    /// Jiffies, moved by the simulated hours of a test.
    #[inline(always)]
    pub fn now(&self) -> u64 {
        // SAFETY: as in `begin`; the helper has no arguments.
        unsafe {
            let offset = RUNTIME.get_ptr(0).map_or(0, |runtime| (&raw const (*runtime).clock_offset).read_volatile());
            bpf_jiffies64().wrapping_add(offset)
        }
    }
}

/// Whole seconds as jiffies.
#[inline(always)]
pub fn jiffies(seconds: u32) -> u64 {
    seconds as u64 * HZ.load() as u64
}
