//! Many kinds of calls through a node to which everything happens, and an account of every call.
//!
//! ```text
//! schedule (of a seed) -> run -> node, damage, loss, pressure      what is done, and when
//! load -> ledger                                                   what clients know
//! endpoint -> records                                              what endpoints know
//! judge(ledger, records, happenings) -> report
//! ```
//!
//! Never here: a verdict from speed. A call is judged by ids and by the times of what was done.

mod clock;
mod damage;
mod endpoint;
mod judge;
mod ledger;
mod load;
mod loss;
mod message;
mod node;
mod pressure;
mod records;
mod report;
mod run;
mod schedule;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Soaks a node: see docs/testing.md.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run it. Exit code 1: a call was lost, duplicated or corrupted, or a step failed.
    Run(run::Options),
    /// An endpoint; a run starts them.
    #[command(hide = true)]
    Endpoint(endpoint::Options),
    /// One who uses up the memory of a group; a run starts them.
    #[command(hide = true)]
    Hog {
        /// The group's list of members.
        members: PathBuf,
        /// The file it makes and reads.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(options) => {
            if run::run(&options) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Command::Endpoint(options) => endpoint::run(&options),
        Command::Hog { members, file } => pressure::hog(&members, &file),
    }
}
