//! `streamvs`: a node's Service proxy that balances gRPC by stream.
//!
//! This crate wires the stages and is the only place that knows all of them:
//! `cli` says what may be asked, `app` starts and stops everything, `control` turns each new
//! table into what traffic and kernel see, `workers` runs the data path.

mod app;
mod cli;
mod commands;
mod config;
mod control;
mod error;
mod privileges;
mod programming;
mod telemetry;
mod workers;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

// The data path allocates on one thread and frees on the same, which suits its per-thread heaps:
// see docs/decisions for the figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Wrong usage ends here with exit code 2 and the reason.
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run(options) => app::run(*options),
        Command::List(options) => commands::list(&options),
        Command::Cleanup(options) => commands::cleanup(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("streamvs: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
