//! `cargo xtask bench`.

use std::fs;

use crate::{command::heading, failure::Failure, privilege, setup, workspace};

/// Where a whole run leaves its figures.
const RESULTS: &str = "bench/results/bench.json";

/// Builds the benchmarks and runs them as root, with `arguments`.
pub fn run(arguments: &[&str]) -> Result<(), Failure> {
    setup::all()?;
    privilege::check()?;
    workspace::build_binary()?;
    heading("the benchmarks");
    workspace::cargo().args(workspace::RELEASE).args(["--bin", "weir-bench"]).show().run()?;
    let mut bench = privilege::root(workspace::target().join("release/weir-bench")).args(arguments);
    // A part of it is no result to keep.
    if arguments.iter().all(|argument| *argument == "--check") {
        let path = workspace::root().join(RESULTS);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(Failure::file("making", directory))?;
        }
        bench = bench.args(["--json", RESULTS]);
    }
    bench.inside(workspace::root()).show().run()
}
