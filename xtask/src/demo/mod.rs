//! `cargo xtask demo`: the main job on this machine's kernel, with real traffic, beside everything else that runs.

mod probe;
mod story;
mod table;
mod world;

use std::{env, path::Path};

pub use probe::{probe, serve};

use crate::{failure::Failure, privilege, workspace};

/// Builds the binary and runs [`inside`] in mount and network namespaces of its own.
pub fn run() -> Result<(), Failure> {
    privilege::check()?;
    let weir = workspace::build_binary()?;
    enter(&weir)
}

/// The demo itself, once the binary is there.
pub fn enter(weir: &Path) -> Result<(), Failure> {
    let program = this_program()?;
    privilege::root("unshare")
        .args(["--mount", "--net", "--propagation", "private", "--"])
        .args([program.as_os_str(), "demo-inside".as_ref(), weir.as_os_str()])
        .run()
}

/// In its own namespaces.
pub fn inside(weir: &str) -> Result<(), Failure> {
    story::tell(Path::new(weir), &this_program()?)
}

fn this_program() -> Result<std::path::PathBuf, Failure> {
    env::current_exe().map_err(|cause| Failure::Start { program: "xtask".to_owned(), cause })
}
