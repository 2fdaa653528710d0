//! `cargo xtask bench`.

use crate::{command::heading, failure::Failure, privilege, workspace};

/// Builds the benchmarks and runs them as root, with `arguments`.
pub fn run(arguments: &[&str]) -> Result<(), Failure> {
    privilege::check()?;
    workspace::build_binary()?;
    heading("the benchmarks");
    workspace::cargo().args(workspace::RELEASE).args(["--bin", "weir-bench"]).show().run()?;
    privilege::root(workspace::target().join("release/weir-bench"))
        .args(arguments)
        .inside(workspace::root())
        .show()
        .run()
}
