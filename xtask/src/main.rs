//! `cargo xtask`: what this repository is driven with.
//!
//! A thin caller. It installs what is missing, calls cargo, the binary and the usual network tools, prints each
//! command that matters before it runs, and adds up what came out. It knows nothing of Weir's inside, links to no
//! crate of the workspace and has no dependencies, so that it is there within seconds on a machine that has nothing
//! but rustup's Rust.
//!
//! It must never change the machine beyond the packages and the linker that `setup` names: networks, mounts and BPF
//! file systems are made in namespaces that end with the process.
#![forbid(unsafe_code)]

mod bench;
mod campaign;
mod command;
mod demo;
mod failure;
mod libtest;
mod privilege;
mod setup;
mod soak;
mod suite;
mod vm;
mod workspace;

use std::process::ExitCode;

use failure::Failure;

const USAGE: &str = "\
cargo xtask VERB

  setup               install what is missing: apt packages, the eBPF linker
  build               the binary, at target/release/weir
  demo                the main job, in namespaces of its own, with real traffic
  test [--quick]      formatting, lints, every test, and the oldest kernel under emulation
                      (--quick: short campaigns, no emulation)
  vm                  the oldest kernel (Debian's 6.1) under software emulation: load, attach, packets, quickstart
  bench [ARGS]        the benchmarks, into bench/results/; ARGS go to them (--check exits 1 on a missed target,
                      the name of a section runs that one only)
  soak --minutes N    the campaigns at full count, again and again with new seeds, into bench/results/

setup comes first in each of them, and does nothing when nothing is missing.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(what)) => {
            eprintln!("xtask: {what}\n\n{USAGE}");
            ExitCode::from(64)
        }
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<(), Failure> {
    match words {
        ["setup"] => setup::all(),
        ["build"] => workspace::build_binary().map(|binary| println!("{}", binary.display())),
        ["test"] => suite::run(campaign::Campaign::Ci),
        ["test", "--quick"] => suite::run(campaign::Campaign::Quick),
        ["demo"] => demo::run(),
        // Not for people: the demo calls itself inside its namespaces.
        ["demo-inside", weir] => demo::inside(weir),
        ["serve", services @ ..] => demo::serve(services),
        ["probe", targets @ ..] => demo::probe(targets),
        ["vm"] => vm::run(),
        ["bench", arguments @ ..] => bench::run(arguments),
        ["soak", "--minutes", minutes] => match minutes.parse() {
            Ok(minutes) if minutes > 0 => soak::run(minutes),
            _ => Err(Failure::Usage(format!("--minutes wants a number from 1, not `{minutes}`"))),
        },
        [] | ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        other => Err(Failure::Usage(format!("no such verb: `{}`", other.join(" ")))),
    }
}
