//! `weir`, as it is released.

fn main() -> std::process::ExitCode {
    weir_cli::main()
}
