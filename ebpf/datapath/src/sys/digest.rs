//! A digest of a hash, computed inside the kernel: a third of what it costs to copy the entries out.
//!
//! The program is written here instruction by instruction, since it must name one inner map and its sizes. It is of
//! type `syscall` (Linux 5.14): it runs in its caller's time, can be preempted, and holds no lock between two buckets.
use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{
    BPF_F_SLEEPABLE, BPF_PSEUDO_FUNC, BPF_PSEUDO_MAP_FD, bpf_cmd, bpf_func_id::BPF_FUNC_for_each_map_elem, bpf_insn,
    bpf_prog_type,
};

use super::{attr, bpf, bpf_fd, object_name};

/// The sum of every entry's mix, and how many there are: whatever order they come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntriesDigest {
    pub sum: u64,
    pub count: u64,
}

impl EntriesDigest {
    pub fn add(&mut self, seed: u64, key: &[u8], value: &[u8]) {
        self.sum = self.sum.wrapping_add(mix(seed, key, value));
        self.count = self.count.wrapping_add(1);
    }

    pub fn remove(&mut self, seed: u64, key: &[u8], value: &[u8]) {
        self.sum = self.sum.wrapping_sub(mix(seed, key, value));
        self.count = self.count.wrapping_sub(1);
    }
}

/// Odd, and without a pattern: the golden ratio in 64 bits.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// What the program does to an entry. A step is a bijection of what came before, so that two entries that differ in one
/// piece never have the same mix.
fn mix(seed: u64, key: &[u8], value: &[u8]) -> u64 {
    let mut mixed = seed;
    for bytes in [key, value] {
        for (at, width) in pieces(bytes.len()) {
            let mut piece = [0u8; 8];
            piece[..width].copy_from_slice(&bytes[at..at + width]);
            mixed = (mixed ^ u64::from_le_bytes(piece)).wrapping_mul(FACTOR);
            mixed ^= mixed >> 32;
        }
    }
    mixed
}

/// Where to read, and how many bytes: each read is aligned to its width.
fn pieces(bytes: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let width = [8, 4, 2, 1].into_iter().find(|width| at + width <= bytes)?;
        let piece = (at, width);
        at += width;
        Some(piece)
    })
}

/// What goes in and out of the program.
#[repr(C)]
struct Context {
    seed: u64,
    digest: [u64; 2],
}

/// The digest of all that `map`, a hash of these sizes, holds. Where the kernel cannot, an error.
pub fn digest_entries(map: BorrowedFd<'_>, key: u32, value: u32, seed: u64) -> io::Result<EntriesDigest> {
    DigestProgram::load(map, key, value)?.run(seed)
}

/// What computes the digest of one hash. It holds the hash.
#[derive(Debug)]
pub struct DigestProgram(OwnedFd);

impl DigestProgram {
    pub fn load(map: BorrowedFd<'_>, key: u32, value: u32) -> io::Result<Self> {
        load(map, key, value).map(Self)
    }

    pub fn run(&self, seed: u64) -> io::Result<EntriesDigest> {
        let mut context = Context { seed, digest: [0; 2] };
        let mut attr = attr();
        attr.test.prog_fd = self.0.as_raw_fd() as u32;
        attr.test.ctx_in = std::ptr::from_mut(&mut context) as u64;
        attr.test.ctx_size_in = size_of::<Context>() as u32;
        bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
        // SAFETY: the kernel wrote the context back to where it was read from, which only it can know.
        let [sum, count] = unsafe { std::ptr::from_ref(&context.digest).read_volatile() };
        Ok(EntriesDigest { sum, count })
    }
}

fn load(map: BorrowedFd<'_>, key: u32, value: u32) -> io::Result<OwnedFd> {
    let (instructions, callback) = program(map, key as usize, value as usize);
    let types = types()?;
    let functions = [0u32, MAIN_TYPE, callback as u32, CALLBACK_TYPE];
    let mut attr = attr();
    // SAFETY: the attribute is zeroed, so every member of the union is initialised.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SYSCALL as u32;
    load.prog_flags = BPF_F_SLEEPABLE;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = instructions.len() as u32;
    load.license = c"GPL".as_ptr() as u64;
    load.prog_name = object_name("wr_digest");
    load.prog_btf_fd = types.as_raw_fd() as u32;
    load.func_info = functions.as_ptr() as u64;
    load.func_info_rec_size = 8;
    load.func_info_cnt = 2;
    bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// The instructions, and where the callback begins.
fn program(map: BorrowedFd<'_>, key: usize, value: usize) -> (Vec<bpf_insn>, usize) {
    const FRAME: i16 = -24;
    let mut code = Code::default();
    // The seed and the digest lie in the frame, where the callback finds them.
    code.move_register(6, 1);
    code.load(8, 2, 6, 0);
    code.store(10, FRAME, 2);
    code.load_immediate(2, 0);
    code.store(10, FRAME + 8, 2);
    code.store(10, FRAME + 16, 2);
    code.load_wide(1, BPF_PSEUDO_MAP_FD as u8, map.as_raw_fd() as u64);
    let names_callback = code.0.len();
    code.load_wide(2, BPF_PSEUDO_FUNC as u8, 0);
    code.move_register(3, 10);
    code.immediate(ADD, 3, i32::from(FRAME));
    code.load_immediate(4, 0);
    code.push(CALL, 0, 0, 0, BPF_FUNC_for_each_map_elem as i32);
    code.load(8, 2, 10, FRAME + 8);
    code.store(6, 8, 2);
    code.load(8, 2, 10, FRAME + 16);
    code.store(6, 16, 2);
    code.load_immediate(0, 0);
    code.push(EXIT, 0, 0, 0, 0);

    let callback = code.0.len();
    code.0[names_callback].imm = (callback - names_callback - 1) as i32;
    // Map, key, value and frame come in registers 1 to 4.
    code.load(8, 5, 4, 0);
    code.load_wide(1, 0, FACTOR);
    for (from, bytes) in [(2, key), (3, value)] {
        for (at, width) in pieces(bytes) {
            code.load(width, 0, from, at as i16);
            code.register(XOR, 5, 0);
            code.register(MULTIPLY, 5, 1);
            code.move_register(0, 5);
            code.immediate(SHIFT_RIGHT, 0, 32);
            code.register(XOR, 5, 0);
        }
    }
    code.load(8, 0, 4, 8);
    code.register(ADD, 0, 5);
    code.store(4, 8, 0);
    code.load(8, 0, 4, 16);
    code.immediate(ADD, 0, 1);
    code.store(4, 16, 0);
    code.load_immediate(0, 0);
    code.push(EXIT, 0, 0, 0, 0);
    (code.0, callback)
}

/// Operations of class ALU64, with an immediate; `FROM_REGISTER` added, with a register.
const ADD: u8 = 0x07;
const MULTIPLY: u8 = 0x27;
const SHIFT_RIGHT: u8 = 0x77;
const XOR: u8 = 0xa7;
const MOVE: u8 = 0xb7;
const FROM_REGISTER: u8 = 0x08;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const LOAD_WIDE: u8 = 0x18;
const STORE_8_BYTES: u8 = 0x7b;

#[derive(Default)]
struct Code(Vec<bpf_insn>);

impl Code {
    fn push(&mut self, code: u8, to: u8, from: u8, off: i16, imm: i32) {
        let _bitfield_1 = bpf_insn::new_bitfield_1(to, from);
        self.0.push(bpf_insn { code, _bitfield_align_1: [], _bitfield_1, off, imm });
    }

    fn immediate(&mut self, operation: u8, to: u8, imm: i32) {
        self.push(operation, to, 0, 0, imm);
    }

    fn register(&mut self, operation: u8, to: u8, from: u8) {
        self.push(operation | FROM_REGISTER, to, from, 0, 0);
    }

    fn move_register(&mut self, to: u8, from: u8) {
        self.register(MOVE, to, from);
    }

    fn load_immediate(&mut self, to: u8, imm: i32) {
        self.immediate(MOVE, to, imm);
    }

    /// Two instructions: 64 bits, or what `kind` says the lower half names.
    fn load_wide(&mut self, to: u8, kind: u8, value: u64) {
        self.push(LOAD_WIDE, to, kind, 0, value as u32 as i32);
        self.push(0, 0, 0, 0, (value >> 32) as u32 as i32);
    }

    fn load(&mut self, width: usize, to: u8, from: u8, off: i16) {
        let code = match width {
            8 => 0x79,
            4 => 0x61,
            2 => 0x69,
            _ => 0x71,
        };
        self.push(code, to, from, off, 0);
    }

    fn store(&mut self, to: u8, off: i16, from: u8) {
        self.push(STORE_8_BYTES, to, from, off, 0);
    }
}

const MAIN_TYPE: u32 = 3;
const CALLBACK_TYPE: u32 = 4;

/// The least BTF that a program with a callback must have: an integer, a prototype, and two functions.
fn types() -> io::Result<OwnedFd> {
    const STRINGS: &[u8] = b"\0u64\0weir_digest\0weir_mix\0";
    const INT: u32 = 1 << 24;
    const FUNCTION: u32 = 12 << 24;
    const PROTOTYPE: u32 = 13 << 24;
    // Each: name, kind, size or type; an integer says its bits as well.
    let kinds: [u32; 13] = [1, INT, 8, 64, 0, PROTOTYPE, 1, 5, FUNCTION, 2, 17, FUNCTION, 2];
    let kinds_bytes = size_of_val(&kinds) as u32;
    let header: [u32; 5] = [24, 0, kinds_bytes, kinds_bytes, STRINGS.len() as u32];
    let mut bytes = vec![0x9f, 0xeb, 1, 0];
    bytes.extend(header.iter().chain(&kinds).flat_map(|word| word.to_ne_bytes()));
    bytes.extend_from_slice(STRINGS);
    let mut attr = attr();
    attr.__bindgen_anon_7.btf = bytes.as_ptr() as u64;
    attr.__bindgen_anon_7.btf_size = bytes.len() as u32;
    bpf_fd(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::sys::{Batch, MapSpec, map_create};

    const SEED: u64 = 0x0123_4567_89ab_cdef;

    /// Through the kernel's program and through ours, for sizes with every kind of piece.
    #[test]
    fn the_kernel_computes_what_we_compute() {
        fn check<const K: usize, const V: usize>(entries: u32)
        where
            [u8; K]: crate::sys::Plain,
            [u8; V]: crate::sys::Plain,
        {
            let map = map_create("wr_test", &MapSpec::hash(K as u32, V as u32, entries.max(1)), None).unwrap();
            let mut ours = EntriesDigest::default();
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for entry in 0..entries {
                let mut key = [0x5a; K];
                key[..4].copy_from_slice(&entry.to_ne_bytes());
                let value: [u8; V] = std::array::from_fn(|at| (entry as usize * 31 + at * 7) as u8);
                ours.add(SEED, &key, &value);
                keys.push(key);
                values.push(value);
            }
            if entries > 0 {
                Batch::of(&map).update(&keys, &values).1.unwrap();
            }
            let kernels = digest_entries(map.as_fd(), K as u32, V as u32, SEED).unwrap();
            assert_eq!(kernels, ours, "{K} and {V} bytes, {entries} entries");
            if entries > 0 {
                let other = digest_entries(map.as_fd(), K as u32, V as u32, SEED + 1).unwrap();
                assert_ne!(other.sum, ours.sum, "the seed matters");
                ours.remove(SEED, &keys[0], &values[0]);
                crate::sys::delete(map.as_fd(), &keys[0]).unwrap();
                assert_eq!(digest_entries(map.as_fd(), K as u32, V as u32, SEED).unwrap(), ours);
                values[0][V - 1] ^= 1;
                crate::sys::update(map.as_fd(), &keys[0], &values[0]).unwrap();
                assert_ne!(digest_entries(map.as_fd(), K as u32, V as u32, SEED).unwrap(), ours);
            }
        }
        for entries in [0, 1, 2, 300, 5000] {
            check::<4, 16>(entries);
            check::<12, 8>(entries);
            check::<16, 7>(entries);
            check::<7, 23>(entries);
        }
    }
}
