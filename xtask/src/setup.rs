//! Installs what is missing, and nothing else.

use std::path::{Path, PathBuf};

use crate::{
    command::{Call, heading},
    failure::Failure,
    privilege, workspace,
};

/// What building needs. rustup's toolchains need not have `rust-src`; Debian's second Rust does, and builds the eBPF
/// programs. bpf-linker links to LLVM 22, the version behind that Rust.
const TO_BUILD: &[&str] = &[
    "build-essential",
    "pkg-config",
    "protobuf-compiler",
    "libprotobuf-dev",
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "rust-web-clippy",
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
    "libxml2-dev",
];

/// What the demo and the tests call.
const TO_RUN: &[&str] = &[
    "iproute2",
    "iputils-ping",
    "ethtool",
    "bpftool",
    "ipset",
    "nftables",
    "iptables",
    "tcpdump",
    "procps",
    "git",
    "gnupg",
    "openssh-client",
    "dropbear-bin",
    "etcd-server",
    "etcd-client",
];

/// What the emulated machine needs.
const TO_EMULATE: &[&str] = &["qemu-system-x86", "busybox-static", "kmod"];

/// The oldest Debian Rust that is known to build the programs.
const RUST: (u32, u32) = (1, 96);
const LINKER: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";

/// Everything that any verb needs.
pub fn all() -> Result<(), Failure> {
    install(&[TO_BUILD, TO_RUN, TO_EMULATE])
}

/// What building and running need.
pub fn toolchain() -> Result<(), Failure> {
    install(&[TO_BUILD, TO_RUN])
}

fn install(groups: &[&[&str]]) -> Result<(), Failure> {
    heading("what this machine has");
    packages(&groups.concat())?;
    check_rust()?;
    linker()
}

fn packages(wanted: &[&str]) -> Result<(), Failure> {
    let missing = missing_packages(wanted)?;
    if missing.is_empty() {
        println!("all {} Debian packages are installed", wanted.len());
        return Ok(());
    }
    privilege::check()?;
    println!("installing {} Debian packages: {}", missing.len(), missing.join(" "));
    let quiet = ["-q", "-y", "-o", "Dpkg::Use-Pty=0"];
    privilege::root("apt-get").args(["update", "-q"]).show().run()?;
    privilege::root("env")
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--no-install-recommends"])
        .args(quiet)
        .args(&missing)
        .show()
        .run()?;
    match missing_packages(wanted)?.as_slice() {
        [] => Ok(()),
        still => Err(Failure::Machine(format!("apt-get did not install {}", still.join(" ")))),
    }
}

fn missing_packages<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>, Failure> {
    // Exits with 1 when it does not know one of them; what it prints about the others is still right.
    let output = Call::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
        .args(wanted)
        .output()
        .map_err(|failure| Failure::Machine(format!("{failure}; setup knows Debian 12 only")))?;
    let known = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed = |package: &&&str| known.lines().any(|line| line.split_once(' ') == Some((package, "installed")));
    Ok(wanted.iter().filter(|package| !installed(package)).copied().collect())
}

/// The base release's `rustc-web` is older than the security suite's.
fn check_rust() -> Result<(), Failure> {
    let version = Call::new("/usr/bin/rustc").args(["--version"]).text()?;
    let mut numbers = version.split(' ').nth(1).unwrap_or_default().split('.').map_while(|part| part.parse().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < RUST {
        return Err(Failure::Machine(format!(
            "/usr/bin/rustc is {}, and the eBPF programs need {}.{}: enable the suite bookworm-security, then \
             `apt-get update && apt-get install rustc-web cargo-web rust-web-src`",
            version.trim(),
            RUST.0,
            RUST.1
        )));
    }
    println!("Debian's {}", version.trim());
    Ok(())
}

/// The eBPF linker, where `cargo install` puts it or on the path.
fn linker() -> Result<(), Failure> {
    for place in linker_places() {
        let version = Call::new(&place).args(["--version"]).text().unwrap_or_default();
        if version.split_whitespace().nth(1) == Some(LINKER) {
            println!("bpf-linker {LINKER} at {}", place.display());
            return Ok(());
        }
    }
    println!("building bpf-linker {LINKER}: about two minutes");
    if !Path::new(LLVM).join("bin/llvm-config").exists() {
        return Err(Failure::Machine(format!("{LLVM}/bin/llvm-config is not there: package llvm-22-dev is broken")));
    }
    workspace::cargo()
        .args(["install", "--locked", "--force", "--no-default-features", "--features", "llvm-22"])
        .args([format!("bpf-linker@{LINKER}")])
        .env("LLVM_PREFIX", LLVM)
        // Beside the project's own artifacts it would be built again with every change of profile.
        .without(&["CARGO_TARGET_DIR"])
        .show()
        .run()
}

fn linker_places() -> Vec<PathBuf> {
    let home = |variable: &str, below: &str| std::env::var_os(variable).map(|home| PathBuf::from(home).join(below));
    let installed = home("CARGO_HOME", "bin").or_else(|| home("HOME", ".cargo/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = installed.into_iter().chain(std::env::split_paths(&path));
    places.map(|place| place.join("bpf-linker")).filter(|place| place.is_file()).collect()
}
