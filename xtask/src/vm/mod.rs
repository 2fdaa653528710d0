//! `cargo xtask vm`: the oldest supported kernel, emulated.
//!
//! Debian's own 6.1 kernel boots in qemu without KVM. Its root is this machine's file system, read-only, under an
//! overlay in memory: every binary, library and tool is there under the same path, and nothing that the guest does
//! reaches the host.

mod initramfs;
mod job;
mod kernel;
mod machine;
mod verified;

use std::fs;

use crate::{
    command::heading,
    failure::Failure,
    libtest::Tally,
    privilege, setup,
    workspace::{self, build_binary},
};

pub fn run() -> Result<(), Failure> {
    setup::all()?;
    build_binary()?;
    let tally = checks()?;
    println!("{tally}");
    if tally.failed > 0 || tally.passed == 0 {
        return Err(Failure::Failed("the run on the oldest kernel failed".to_owned()));
    }
    Ok(())
}

/// Boots, runs everything in [`job`], and adds up what came out. The binary must have been built.
pub fn checks() -> Result<Tally, Failure> {
    privilege::check()?;
    let cache = workspace::target().join("vm");
    let kernel = kernel::get(&cache)?;
    let job = job::script(&kernel)?;
    heading(&format!("booting Linux {} under software emulation", kernel.release));
    let initramfs = initramfs::write(&kernel, &cache.join("initramfs.cpio"), &job)?;
    let mut outcome = machine::boot(&kernel, &initramfs)?;
    heading("instructions that the verifier went through, by program and kernel");
    let own = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let here = verified::here(&workspace::target().join("release/weir"))?;
    print!("{}", verified::table(&[(&kernel.release, outcome.verified()), (own.trim(), &here)]));
    let programs = |counts: &verified::Counts| counts.keys().cloned().collect::<Vec<_>>();
    let alike = !here.is_empty() && programs(outcome.verified()) == programs(&here);
    outcome.result("the same programs were verified on both kernels", alike);
    Ok(outcome.tally())
}
