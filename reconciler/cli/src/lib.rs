//! `weir`: the command line.
//!
//! A verb reads manifests, asks the agent where one runs or works alone where none does, and prints what came of it.
//! Exit codes are a promise to scripts, and so are the bytes of `-o json`; text is for people and may get better.
//!
//! It must never decide anything about the datapath itself, nor ask questions: `apply` applies.
#![deny(unsafe_code)]

mod args;
mod context;
mod doctor;
mod logging;
mod memory;
mod out;
mod plan_text;
mod verbs;

use std::{io::Write, process::ExitCode};

use clap::Parser;
use weir_agent::{Error, Exit, FORMAT_VERSION, Failure};

use crate::{
    args::{Cli, Format, Verb},
    context::Context,
};

/// The whole program, from the process's arguments to its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell when this fails.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(Exit::USAGE.0) } else { ExitCode::SUCCESS };
        }
    };
    logging::start(&cli.global, &cli.verb);
    let context = Context::new(cli.global);
    let is_diff = matches!(cli.verb, Verb::Diff { .. });
    match verbs::run(&context, cli.verb) {
        Ok(exit) => ExitCode::from(exit.0),
        Err(error) => {
            report(&error, context.global.output);
            // For diff, 1 means that there is a difference.
            let exit = if is_diff && error.exit() == Exit::FAILED { 2 } else { error.exit().0 };
            ExitCode::from(exit)
        }
    }
}

fn report(error: &Error, format: Format) {
    let failure = Failure::from(error);
    let document = || serde_json::json!({ "formatVersion": FORMAT_VERSION, "error": failure });
    // Where even that cannot be written, the exit code still tells.
    let _ = match format {
        Format::Json => out::print(|out| writeln!(out, "{}", document())),
        Format::Yaml => out::print(|out| serde_yaml::to_writer(out, &document()).map_err(std::io::Error::other)),
        Format::Text | Format::Name => writeln!(std::io::stderr(), "{failure}")
            .map_err(|cause| Error::Failed { what: "write to standard error".to_owned(), cause: cause.to_string() }),
    };
}
