use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{bpf_cmd, bpf_insn, bpf_prog_info, bpf_prog_type};

use super::{attr, bpf, bpf_fd, by_id, info, name_of, object_name};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgInfo {
    pub id: u32,
    pub name: String,
    pub tag: [u8; 8],
    /// Ids of the maps it uses.
    pub maps: Vec<u32>,
    /// Instructions that the verifier went through.
    pub verified_instructions: u32,
    pub jited_bytes: u32,
}

pub fn prog_by_id(id: u32) -> io::Result<OwnedFd> {
    by_id(bpf_cmd::BPF_PROG_GET_FD_BY_ID, id)
}

pub fn prog_info(fd: BorrowedFd<'_>) -> io::Result<ProgInfo> {
    let mut maps = vec![0u32; 64];
    // SAFETY: plain integers, for which zero is a value.
    let mut raw: bpf_prog_info = unsafe { std::mem::zeroed() };
    raw.nr_map_ids = maps.len() as u32;
    raw.map_ids = maps.as_mut_ptr() as u64;
    info(fd, &mut raw)?;
    maps.truncate(raw.nr_map_ids as usize);
    Ok(ProgInfo {
        id: raw.id,
        name: name_of(&raw.name),
        tag: raw.tag,
        maps,
        verified_instructions: raw.verified_insns,
        jited_bytes: raw.jited_prog_len,
    })
}

/// What `BPF_PROG_TEST_RUN` gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    pub retval: u32,
    pub data: Vec<u8>,
    /// The context afterwards.
    pub context: Vec<u8>,
    /// Mean over the repeats.
    pub nanoseconds: u32,
}

/// Runs a program `repeat` times on a copy of `data`. `context` is the bytes of the hook's context struct.
pub fn test_run(program: BorrowedFd<'_>, data: &[u8], context: &[u8], repeat: u32) -> io::Result<TestRun> {
    // A program may grow the packet; the kernel truncates silently what does not fit.
    let mut out = vec![0u8; data.len() + 256];
    // The kernel gives the whole struct back (192 bytes of `__sk_buff`), and refuses less room with ENOSPC.
    let mut context_out = vec![0u8; context.len().max(256)];
    let mut attr = attr();
    attr.test.prog_fd = program.as_raw_fd() as u32;
    attr.test.data_in = data.as_ptr() as u64;
    attr.test.data_size_in = data.len() as u32;
    attr.test.data_out = out.as_mut_ptr() as u64;
    attr.test.data_size_out = out.len() as u32;
    // A pointer without a size is refused.
    if !context.is_empty() {
        attr.test.ctx_in = context.as_ptr() as u64;
        attr.test.ctx_size_in = context.len() as u32;
        attr.test.ctx_out = context_out.as_mut_ptr() as u64;
        attr.test.ctx_size_out = context_out.len() as u32;
    }
    attr.test.repeat = repeat;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: this member was set above and filled in by the kernel.
    let test = unsafe { attr.test };
    out.truncate(test.data_size_out as usize);
    context_out.truncate(test.ctx_size_out as usize);
    Ok(TestRun { retval: test.retval, data: out, context: context_out, nanoseconds: test.duration })
}

/// A program that returns the lower half of jiffies: what the kernel's HZ is measured with.
pub fn jiffies_program() -> io::Result<OwnedFd> {
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const JIFFIES64: i32 = 118;
    let instruction = |code: u8, imm: i32| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm,
    };
    let instructions = [instruction(CALL, JIFFIES64), instruction(EXIT, 0)];
    let mut attr = attr();
    // SAFETY: the attribute is zeroed, so every member of the union is initialised.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = instructions.len() as u32;
    load.license = c"GPL".as_ptr() as u64;
    load.prog_name = object_name("wr_jiffies");
    bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}
