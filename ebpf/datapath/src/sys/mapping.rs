use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use super::Plain;

/// The values of an mmap-able array, in our own address space.
///
/// No reference into it is ever given out but to atomics: programs, and other processes, read and write the same memory.
/// Values are copied in and out.
#[derive(Debug)]
pub struct Mapping<T> {
    base: NonNull<T>,
    entries: usize,
    bytes: usize,
}

// SAFETY: the mapping is owned memory; access to it needs no thread of its own, and `T` is plain data.
unsafe impl<T: Plain> Send for Mapping<T> {}

impl<T: Plain> Mapping<T> {
    /// `map` must be an array with `BPF_F_MMAPABLE` of `entries` values of type `T`: the kernel checks the length only.
    pub fn new(map: BorrowedFd<'_>, entries: u32) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8), "the kernel rounds array values up to 8 bytes") };
        let page = 4096usize;
        let bytes = (entries as usize * size_of::<T>()).next_multiple_of(page);
        // SAFETY: a new mapping at an address of the kernel's choice, of a descriptor that the caller holds.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::Other)?;
        Ok(Self { base, entries: entries as usize, bytes })
    }

    pub const fn len(&self) -> usize {
        self.entries
    }

    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    fn at(&self, index: usize) -> NonNull<T> {
        assert!(index < self.entries, "index {index} of a mapping of {}", self.entries);
        // SAFETY: inside the mapping, by the line above.
        unsafe { self.base.add(index) }
    }

    pub fn read(&self, index: usize) -> T {
        // SAFETY: inside the mapping, aligned to a page and so to `T`; plain data, so that a value which is being
        // written elsewhere is still a value.
        unsafe { self.at(index).read_volatile() }
    }

    pub fn write(&mut self, index: usize, value: T) {
        // SAFETY: as for `read`; the mapping is writable.
        unsafe { self.at(index).write_volatile(value) }
    }

    /// One 32-bit word of a value.
    pub fn read_word(&self, index: usize, word: usize) -> u32 {
        assert!(word < size_of::<T>() / 4, "word {word} of a value of {} bytes", size_of::<T>());
        // SAFETY: inside the value at `index`, by the line above, and aligned.
        unsafe { self.at(index).cast::<u32>().add(word).read_volatile() }
    }

    pub fn write_word(&mut self, index: usize, word: usize, value: u32) {
        assert!(word < size_of::<T>() / 4, "word {word} of a value of {} bytes", size_of::<T>());
        // SAFETY: as for `read_word`; the mapping is writable.
        unsafe { self.at(index).cast::<u32>().add(word).write_volatile(value) }
    }

    /// The first eight bytes of a value, as the one word that is read and written whole.
    pub fn atomic(&self, index: usize) -> &AtomicU64 {
        const { assert!(size_of::<T>() >= 8 && align_of::<T>() >= 8) };
        // SAFETY: inside the mapping, aligned to 8 (asserted), and lives as long as the borrow of the mapping.
        unsafe { AtomicU64::from_ptr(self.at(index).cast().as_ptr()) }
    }

    /// All values, as words of eight bytes. A value that is being written elsewhere may be seen in part.
    pub fn words(&self) -> &[AtomicU64] {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        // SAFETY: exactly the values of the mapping, which is aligned to a page and lives as long as the borrow; atomics
        // may change while they are borrowed, by whomever.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.entries * (size_of::<T>() / 8)) }
    }

    /// Whether another mapping holds the same values.
    pub fn same(&self, other: &Self) -> bool {
        let pairs = self.words().iter().zip(other.words());
        self.entries == other.entries
            && pairs.map(|pair| (pair.0.load(Ordering::Relaxed), pair.1.load(Ordering::Relaxed))).all(|(a, b)| a == b)
    }

    pub fn load(&self, index: usize) -> u64 {
        self.atomic(index).load(Ordering::SeqCst)
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped, and nothing borrows from it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
