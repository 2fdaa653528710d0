//! Root, or sudo.

use std::{ffi::OsStr, os::unix::fs::MetadataExt as _};

use crate::{command::Call, failure::Failure};

/// Environment variables that survive sudo: where tools are, and what the tests are told.
const KEPT: &str = "--preserve-env=PATH,HOME,CARGO,CARGO_HOME,RUSTUP_HOME,RUSTUP_TOOLCHAIN,CARGO_TARGET_DIR,\
                    WEIR_BIN,WEIR_CAMPAIGN,WEIR_SEED,WEIR_RESULTS,RUST_BACKTRACE,RUST_TEST_THREADS,CI";

/// Whether this process is root's: `/proc/self` belongs to its effective user.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// `program`, as root.
pub fn root(program: impl AsRef<OsStr>) -> Call {
    if is_root() { Call::new(program) } else { Call::new("sudo").args([OsStr::new(KEPT), program.as_ref()]) }
}

/// What cargo runs test binaries with when it is not root itself: the build stays the user's, the tests are root's.
pub fn test_runner() -> Option<(&'static str, String)> {
    (!is_root()).then(|| ("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", format!("sudo {KEPT}")))
}

pub fn check() -> Result<(), Failure> {
    if is_root() || Call::new("sudo").args(["-n", "true"]).output().is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    Err(Failure::Machine(
        "this needs root: run it as root, or as a user whom sudo lets through without a password".to_owned(),
    ))
}
