//! Builds the eBPF programs; `programs.rs` embeds the object.
use std::{env, error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let features: &[&str] = if env::var_os("CARGO_FEATURE_NEXT_LAYOUT").is_some() { &["next-layout"] } else { &[] };
    let object = weir_ebpf_build::object(
        Path::new("../programs"),
        "weir-programs",
        features,
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
