//! For build scripts: compiles an eBPF package and says where the object is.
//!
//! rustup's toolchains have no `rust-src` on every machine, so the programs are always built by Debian's `rustc-web`
//! and `cargo-web` with `rust-web-src`, and linked by `bpf-linker`: one path, whatever the host toolchain is.
//! `cargo xtask setup` installs all of it.
#![forbid(unsafe_code)]

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const CARGO: &str = "/usr/bin/cargo";
const RUSTC: &str = "/usr/bin/rustc";
const TARGET: &str = "bpfel-unknown-none";
/// BTF for maps and programs; v3 has 32-bit ALU operations and jumps.
const RUSTFLAGS: &str = "-C link-arg=--btf -C debuginfo=2 -C target-cpu=v3";

/// Why there is no object.
#[derive(Debug)]
pub enum BuildError {
    Missing { what: String },
    Failed { what: String },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { what } => {
                write!(f, "the eBPF toolchain is incomplete: {what} is missing; run `cargo xtask setup`")
            }
            Self::Failed { what } => write!(f, "{what}"),
        }
    }
}

impl std::error::Error for BuildError {}

/// Builds the binary `name` of the package in `package` with `features`, with everything in `inputs` as what it depends
/// on, and returns the object's path. To be called from a build script: artifacts go below `OUT_DIR`.
pub fn object(package: &Path, name: &str, features: &[&str], inputs: &[&Path]) -> Result<PathBuf, BuildError> {
    for input in inputs {
        println!("cargo::rerun-if-changed={}", input.display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(BuildError::Missing { what: "OUT_DIR".to_owned() })?);
    for tool in [CARGO, RUSTC, "/usr/lib/rustlib/src/rust/library/core/src/lib.rs"] {
        if !Path::new(tool).exists() {
            return Err(BuildError::Missing { what: tool.to_owned() });
        }
    }
    let linker = linker_dir().ok_or(BuildError::Missing { what: "bpf-linker".to_owned() })?;
    let target = out.join("ebpf");

    let mut command = Command::new(CARGO);
    // What the host's cargo and rustup tell this build script is not meant for the other toolchain.
    for (variable, _) in env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("CARGO") || name.starts_with("RUST") {
            command.env_remove(&variable);
        }
    }
    if let Some(home) = env::var_os("CARGO_HOME") {
        command.env("CARGO_HOME", home);
    }
    command
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", RUSTFLAGS)
        .env("CARGO_TARGET_DIR", &target)
        .env("PATH", format!("{}:/usr/bin:/bin", linker.display()))
        .current_dir(package)
        .args(["build", "--locked", "--release", "-Z", "build-std=core", "--target", TARGET, "--bin", name])
        .args(["--features", &features.join(",")])
        .stdin(Stdio::null());
    let status = command
        .status()
        .map_err(|cause| BuildError::Failed { what: format!("running {CARGO} for {}: {cause}", package.display()) })?;
    if !status.success() {
        return Err(BuildError::Failed { what: format!("building {} failed: {status}", package.display()) });
    }
    Ok(target.join(TARGET).join("release").join(name))
}

/// Where `bpf-linker` is: on the path, or where `cargo install` puts it.
fn linker_dir() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    places.extend(env::var_os("CARGO_HOME").map(|home| PathBuf::from(home).join("bin")));
    places.extend(env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin")));
    places.into_iter().find(|place| place.join("bpf-linker").is_file())
}
