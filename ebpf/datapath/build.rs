//! Builds the eBPF programs; `programs.rs` embeds the object.
use std::{error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let object = weir_ebpf_build::object(
        Path::new("../programs"),
        "weir-programs",
        &[
            Path::new("../programs/src"),
            Path::new("../programs/Cargo.toml"),
            Path::new("../programs/Cargo.lock"),
            Path::new("../abi/src"),
        ],
    )?;
    println!("cargo::rustc-env=WEIR_PROGRAMS={}", object.display());
    Ok(())
}
