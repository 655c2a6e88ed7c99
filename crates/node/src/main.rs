//! `streamvs`: a node's Service proxy that balances gRPC by stream.
//!
//! This crate wires the stages and is the only place that knows all of them:
//! `invocation` reads the command line (`cli`) and kube-proxy's configuration file (`kube_proxy`),
//! `app` starts and stops everything, `control` turns each new table into what traffic and kernel
//! see, `workers` runs the data path, `handover` passes it all from one process to the next.

mod app;
mod check;
mod cli;
mod client_ip;
mod commands;
mod config;
mod control;
mod ejections;
mod error;
mod handover;
mod invocation;
mod kube_proxy;
mod memory;
mod oom;
mod orders;
mod origin;
mod privileges;
mod programming;
mod reach;
mod reload;
mod seccomp;
mod service_health;
mod telemetry;
mod top;
mod workers;

use std::process::ExitCode;

use crate::cli::Command;
use crate::invocation::{Invocation, Refusal};

// The data path allocates on one thread and frees on the same, which suits its per-thread heaps.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let invocation = match invocation::read(std::env::args_os().collect()) {
        Ok(invocation) => invocation,
        // Wrong usage ends here with exit code 2 and the reason, help with 0.
        Err(Refusal::Usage(error)) => error.exit(),
        Err(Refusal::File(fault)) => {
            eprintln!("streamvs: {fault}");
            return ExitCode::from(2);
        }
    };
    let Invocation { command, notices, settings } = invocation;
    let done = match command {
        Command::Run(options) if options.write_config_to.is_some() || options.init_only => {
            commands::instead_of_run(&options, &settings)
        }
        Command::Run(options) if options.cleanup => commands::cleanup(&options.log, false),
        Command::Run(options) => app::run(*options, &notices, settings),
        Command::List(options) => commands::list(&options),
        Command::Top(options) => top::run(&options),
        Command::Explain(options) => commands::explain(&options),
        Command::Check(options) => check::check(&options),
        Command::Cleanup(options) => commands::cleanup(&options.log, options.kube_proxy),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("streamvs: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
