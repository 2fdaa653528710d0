//! `cargo xtask test`.

use std::time::Instant;

use crate::{
    campaign::Campaign,
    command::{Call, heading},
    failure::Failure,
    libtest::Tally,
    privilege, setup, vm, workspace,
};

/// What bpftool must say of the kernel; without these no test can mean anything.
const KERNEL: &[&str] = &[
    "bpf() syscall is available",
    "eBPF program_type sched_cls is available",
    "eBPF program_type xdp is available",
    "eBPF map_type array_of_maps is available",
    "eBPF map_type ringbuf is available",
];

/// Workspaces: the host's, and those whose programs run in the kernel.
const PROGRAMS: &[&str] = &["ebpf/programs/Cargo.toml", "bench/programs/Cargo.toml"];

/// Everything, to the end, even after a failure; the last line is `N passed, N failed`.
pub fn run(campaign: Campaign) -> Result<(), Failure> {
    let start = Instant::now();
    setup::all()?;
    privilege::check()?;
    kernel()?;
    let mut tally = Tally::default();
    for (what, call) in gates() {
        heading(&what);
        record(&mut tally, &what, call.show().run());
    }
    match workspace::build_binary() {
        Ok(_) => {
            tests(campaign, &mut tally)?;
            emulated(campaign, &mut tally);
        }
        failure => record(&mut tally, "the binary", failure.map(drop)),
    }
    println!("\n{} s in all", start.elapsed().as_secs());
    verdict(tally)
}

fn kernel() -> Result<(), Failure> {
    heading("eBPF on this machine");
    let features = privilege::root("bpftool").args(["feature", "probe", "kernel"]).text()?;
    let lacking: Vec<&str> = KERNEL.iter().filter(|line| !features.contains(*line)).copied().collect();
    if lacking.is_empty() {
        println!("the kernel loads programs and has the map types that Weir needs");
        return Ok(());
    }
    Err(Failure::Machine(format!(
        "this kernel, or this process, cannot do eBPF; `bpftool feature probe kernel` does not say: {}",
        lacking.join("; ")
    )))
}

/// Formatting and lints: each is counted like a test.
fn gates() -> Vec<(String, Call)> {
    let manifest = |path: &str| ["--manifest-path".to_owned(), workspace::root().join(path).display().to_string()];
    let mut gates = vec![
        ("formatting".to_owned(), workspace::cargo().args(["fmt", "--all", "--check"])),
        (
            "lints".to_owned(),
            workspace::cargo().args(["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        ),
    ];
    for path in PROGRAMS.iter().filter(|path| workspace::root().join(path).exists()) {
        gates.push((format!("formatting of {path}"), workspace::cargo().args(["fmt", "--check"]).args(manifest(path))));
        gates.push((format!("lints of {path}"), program_lints(path)));
    }
    gates
}

/// The programs' lints, by the toolchain that builds them.
fn program_lints(path: &str) -> Call {
    let directory = workspace::root().join(path).parent().map(std::path::Path::to_owned).unwrap_or_default();
    Call::new("/usr/bin/cargo-clippy")
        .args(["clippy", "--release", "-Z", "build-std=core", "--target", "bpfel-unknown-none", "--", "-D", "warnings"])
        .inside(directory)
        .without(&["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"])
        // As they are built: without 32-bit registers inline assembly is refused.
        .env("RUSTFLAGS", "-C target-cpu=v3")
        .env("CARGO", "/usr/bin/cargo")
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("PATH", "/usr/bin:/bin")
        .env("CARGO_TARGET_DIR", workspace::target().join("programs-lints"))
}

fn record(tally: &mut Tally, what: &str, result: Result<(), Failure>) {
    match result {
        Ok(()) => tally.passed += 1,
        Err(failure) => {
            println!("FAILED: {what}: {failure}");
            tally.failed += 1;
        }
    }
}

fn tests(campaign: Campaign, tally: &mut Tally) -> Result<(), Failure> {
    heading(&format!("tests, campaigns at their {} counts", campaign.name()));
    let call = campaign.tell(workspace::cargo()).args(["test", "--release", "--workspace", "--no-fail-fast"]).show();
    let mut run = Tally::default();
    let ended_well = call.lines(|line| {
        println!("{line}");
        run.line(line);
    })?;
    if !ended_well && run.failed == 0 {
        println!("FAILED: cargo test ended without a summary for every test binary");
        run.failed += 1;
    }
    tally.add(run);
    Ok(())
}

/// The same programs on the oldest supported kernel.
fn emulated(campaign: Campaign, tally: &mut Tally) {
    if campaign == Campaign::Quick {
        println!("\nleft out by --quick: the oldest kernel (cargo xtask vm), and campaigns at more than a few cases");
        return;
    }
    match vm::checks() {
        Ok(run) => tally.add(run),
        failure => record(tally, "the oldest kernel", failure.map(drop)),
    }
}

/// The closing line, last on standard output.
fn verdict(tally: Tally) -> Result<(), Failure> {
    println!("{tally}");
    match tally {
        Tally { failed: 1.., .. } => Err(Failure::Failed("something failed: look for FAILED above".to_owned())),
        Tally { passed: 0, .. } => Err(Failure::Failed("no test ran".to_owned())),
        Tally { ignored: 1.., .. } => {
            Err(Failure::Failed(format!("{} tests were ignored: no test may skip itself", tally.ignored)))
        }
        _ => Ok(()),
    }
}
