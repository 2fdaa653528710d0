//! `weir` once more, built with the layouts of a next version: what the upgrade's test swaps in.

fn main() -> std::process::ExitCode {
    weir_cli::main()
}
