//! Builds the benchmark's own eBPF programs.
use std::{error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let object = weir_ebpf_build::object(
        Path::new("programs"),
        "weir-bench-programs",
        &[],
        &[
            Path::new("programs/src"),
            Path::new("programs/Cargo.toml"),
            Path::new("programs/Cargo.lock"),
            Path::new("../ebpf/abi/src"),
            Path::new("../ebpf/programs/src/parse/window.rs"),
        ],
    )?;
    println!("cargo::rustc-env=WEIR_BENCH_PROGRAMS={}", object.display());
    Ok(())
}
