//! Where things are, and cargo.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::{command::Call, failure::Failure};

/// Of this package's parent: fixed when xtask was built, and xtask is always built where it runs.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// The host's cargo: the one that runs xtask.
pub fn cargo() -> Call {
    Call::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).inside(root())
}

/// Of the whole workspace, always: with `--package` the features of dependencies differ, and everything would be built
/// twice.
pub const RELEASE: [&str; 3] = ["build", "--release", "--workspace"];

/// Installs what is missing, builds the binary, and says where it is.
pub fn build_binary() -> Result<PathBuf, Failure> {
    crate::setup::toolchain()?;
    crate::command::heading("the binary");
    cargo().args(RELEASE).args(["--bin", "weir"]).show().run()?;
    Ok(target().join("release/weir"))
}
