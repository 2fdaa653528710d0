//! `weir-bench`: what Weir costs, as ratios to the kernel's own floor and to what a user would pick instead.
//!
//! Every figure is measured in one run, the programs that are compared in turn (21 rounds), over flows that are picked
//! from a list of at least 131,072: a repeated single packet flatters every trie and hash by 5 to 13 times. The
//! shipped programs run behind the same prologue as the floors. `--check` exits 1 on a missed target.
mod apply;
mod balancer;
mod conntrack;
mod cpu;
mod drop_rate;
mod edit;
mod flows;
mod generator;
mod measure;
mod netns;
mod node;
mod prefilter;
mod programs;
mod report;
mod restart;
mod services;
mod sets;
mod table_memory;
mod table_sets;
mod traffic;
mod verify;
mod weir;

use std::process::ExitCode;

use report::Report;

/// One section of the benchmark.
type Section = (&'static str, fn(&Options, &mut Report) -> Result<(), measure::BenchError>);

const SECTIONS: &[Section] = &[
    ("prefilter", prefilter::run),
    ("policy", conntrack::run),
    ("services", services::run),
    ("traffic", traffic::run),
    ("drop", drop_rate::run),
    ("apply", apply::run),
    ("edit", edit::run),
    ("restart", restart::run),
    ("verify", verify::run),
    ("memory", table_memory::run),
];

/// What the command line asks for.
#[derive(Debug)]
struct Options {
    check: bool,
    /// Sections to run; empty for all.
    only: Vec<String>,
    rounds: u32,
    /// Where the JSON goes.
    json: Option<std::path::PathBuf>,
}

fn options() -> Result<Options, String> {
    let mut options = Options { check: false, only: Vec::new(), rounds: 21, json: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = |name: &str| arguments.next().ok_or(format!("{name} needs a value"));
        match argument.as_str() {
            "--check" => options.check = true,
            "--rounds" => {
                options.rounds = value("--rounds")?.parse().map_err(|cause| format!("--rounds: {cause}"))?;
            }
            "--json" => options.json = Some(value("--json")?.into()),
            section if SECTIONS.iter().any(|(name, _)| *name == section) => options.only.push(argument),
            other => {
                let names: Vec<_> = SECTIONS.iter().map(|(name, _)| *name).collect();
                return Err(format!("{other}: not an option; sections are {}", names.join(", ")));
            }
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("weir-bench: {message}");
            return ExitCode::from(64);
        }
    };
    let mut report = Report::new(options.rounds);
    // Namespaces of its own: before any thread exists.
    if let Err(cause) = node::enter() {
        eprintln!("weir-bench: {cause}");
        return ExitCode::FAILURE;
    }
    for (name, run) in SECTIONS {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == name) {
            continue;
        }
        println!("\n## {name}\n");
        if let Err(cause) = run(&options, &mut report) {
            eprintln!("weir-bench: {name}: {cause}");
            return ExitCode::FAILURE;
        }
    }
    if let Some(path) = &options.json
        && let Err(cause) = report.write(path)
    {
        eprintln!("weir-bench: {}: {cause}", path.display());
        return ExitCode::FAILURE;
    }
    let missed = report.missed();
    for target in &missed {
        println!("MISSED  {target}");
    }
    if options.check && !missed.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
