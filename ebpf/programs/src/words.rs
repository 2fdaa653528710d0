//! Memory by the word.
//!
//! What the compiler would set to zero with a call of `memset`, which goes byte by byte here and costs a call
//! (measured: 60 ns a packet), is written as words.

use weir_abi::Address;

/// Every bit zero.
///
/// # Safety
///
/// All zero bytes must be a `T`.
#[inline(always)]
pub unsafe fn zero<T>(value: *mut T) {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8) };
    let words = value.cast::<u64>();
    let mut at = 0;
    while at < size_of::<T>() / 8 {
        // SAFETY: inside the value, and aligned. Volatile, so that it stays a store of a word.
        unsafe { words.add(at).write_volatile(0) };
        at += 1;
    }
}

/// One value over another.
#[inline(always)]
pub fn copy<T: Copy>(from: &T, to: &mut T) {
    const { assert!(size_of::<T>().is_multiple_of(4) && align_of::<T>() >= 4) };
    let (from, to) = (core::ptr::from_ref(from).cast::<u32>(), core::ptr::from_mut(to).cast::<u32>());
    let mut at = 0;
    while at < size_of::<T>() / 4 {
        // SAFETY: inside both values, and aligned. Volatile, as above.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
        at += 1;
    }
}

/// An address, of which these are the words in memory.
#[inline(always)]
pub fn as_address(words: &[u64; 2]) -> &Address {
    const { assert!(size_of::<Address>() == 16 && align_of::<Address>() <= 8) };
    // SAFETY: as large, aligned, and all bits are values.
    unsafe { &*core::ptr::from_ref(words).cast::<Address>() }
}

/// Whether an address's words are those of a mapped IPv4 address.
#[inline(always)]
pub fn is_v4(words: &[u64; 2]) -> bool {
    words[0] == 0 && words[1] as u32 == 0xffff_0000
}

/// An address's words, as they are in memory.
#[inline(always)]
pub fn of_address(address: &Address) -> &[u64; 2] {
    // SAFETY: as above, the other way.
    unsafe { &*core::ptr::from_ref(address).cast::<[u64; 2]>() }
}

/// Two words, as they are in memory.
#[inline(always)]
pub fn set<T>(value: &mut T, words: [u64; 2]) {
    const { assert!(size_of::<T>() == 16 && align_of::<T>() == 8) };
    let at = core::ptr::from_mut(value).cast::<u64>();
    // SAFETY: inside the value, and aligned; only used for addresses, of which all bits are values.
    unsafe {
        at.write_volatile(words[0]);
        at.add(1).write_volatile(words[1]);
    }
}
