//! The only place that compares with the end of a packet.
use core::arch::asm;

use weir_abi::Reason;

/// The bytes of a frame that a program can read directly, and how long the whole frame is.
#[derive(Clone, Copy)]
pub struct Window {
    pub data: usize,
    pub end: usize,
    /// Of the whole frame, in bytes.
    pub length: u32,
}

/// No header is looked for beyond: headers are pulled as far as 768 bytes, and the verifier wants a bound.
const FARTHEST: u32 = 0xfff;

/// At least as many bytes of the packet as were asked for.
#[derive(Clone, Copy)]
pub struct Header(usize);

impl Window {
    /// The `size` bytes at `offset` from the start of the frame.
    ///
    /// # Errors
    ///
    /// [`Reason::Truncated`]: the frame ends before; [`Reason::NoData`]: it does not, but they lie outside the window.
    #[inline(always)]
    pub fn at(&self, offset: u32, size: u32) -> Result<Header, Reason> {
        if offset > FARTHEST {
            return Err(Reason::NoData);
        }
        let mut start = self.data + offset as usize;
        // SAFETY: a move to itself. It keeps the compiler from computing the address a second time: the verifier ties
        // the comparison below to this register only. (No instruction at all would leave two lines of debug
        // information at one place, which the kernel refuses.)
        unsafe { asm!("{start} = {start}", start = inout(reg) start, options(nomem, nostack, preserves_flags)) };
        if start + size as usize > self.end {
            return Err(if offset + size > self.length { Reason::Truncated } else { Reason::NoData });
        }
        Ok(Header(start))
    }
}

// The reads are single instructions: packets are not aligned, and the compiler would read an unaligned word byte by
// byte. `AT` is within the bytes asked for, or the verifier refuses the program.
impl Header {
    #[inline(always)]
    pub fn u8<const AT: usize>(self) -> u8 {
        let value: u64;
        // SAFETY: the verifier proves that the bytes are inside the packet.
        unsafe {
            asm!("{v} = *(u8 *)({p} + {at})", v = out(reg) value, p = in(reg) self.0, at = const AT,
                 options(pure, readonly, nostack, preserves_flags));
        }
        value as u8
    }

    /// In network order.
    #[inline(always)]
    pub fn u16_be<const AT: usize>(self) -> u16 {
        let value: u64;
        // SAFETY: as above.
        unsafe {
            asm!("{v} = *(u16 *)({p} + {at})", v = out(reg) value, p = in(reg) self.0, at = const AT,
                 options(pure, readonly, nostack, preserves_flags));
        }
        value as u16
    }

    /// As a number.
    #[inline(always)]
    pub fn u16<const AT: usize>(self) -> u16 {
        u16::from_be(self.u16_be::<AT>())
    }

    /// In network order.
    #[inline(always)]
    pub fn u32_be<const AT: usize>(self) -> u32 {
        let value: u64;
        // SAFETY: as above.
        unsafe {
            asm!("{v} = *(u32 *)({p} + {at})", v = out(reg) value, p = in(reg) self.0, at = const AT,
                 options(pure, readonly, nostack, preserves_flags));
        }
        value as u32
    }

    /// In network order.
    #[inline(always)]
    pub fn u64_be<const AT: usize>(self) -> u64 {
        let value: u64;
        // SAFETY: as above.
        unsafe {
            asm!("{v} = *(u64 *)({p} + {at})", v = out(reg) value, p = in(reg) self.0, at = const AT,
                 options(pure, readonly, nostack, preserves_flags));
        }
        value
    }

    /// In network order.
    #[inline(always)]
    pub fn set_u16_be<const AT: usize>(self, value: u16) {
        // SAFETY: as above; the packet is XDP's own.
        unsafe {
            asm!("*(u16 *)({p} + {at}) = {v}", v = in(reg) value as u64, p = in(reg) self.0, at = const AT,
                 options(nostack, preserves_flags));
        }
    }

    /// In network order.
    #[inline(always)]
    pub fn set_u32_be<const AT: usize>(self, value: u32) {
        // SAFETY: as above.
        unsafe {
            asm!("*(u32 *)({p} + {at}) = {v}", v = in(reg) value as u64, p = in(reg) self.0, at = const AT,
                 options(nostack, preserves_flags));
        }
    }

    /// In network order.
    #[inline(always)]
    pub fn set_u64_be<const AT: usize>(self, value: u64) {
        // SAFETY: as above.
        unsafe {
            asm!("*(u64 *)({p} + {at}) = {v}", v = in(reg) value, p = in(reg) self.0, at = const AT,
                 options(nostack, preserves_flags));
        }
    }

    #[inline(always)]
    pub fn set_u8<const AT: usize>(self, value: u8) {
        // SAFETY: as above.
        unsafe {
            asm!("*(u8 *)({p} + {at}) = {v}", v = in(reg) value as u64, p = in(reg) self.0, at = const AT,
                 options(nostack, preserves_flags));
        }
    }
}
