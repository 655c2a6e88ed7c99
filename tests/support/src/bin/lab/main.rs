//! The lab as a program: the demonstration behind `scripts/demo`, and clearing up.

mod demo;
mod ghz;
mod table;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// A node made of network namespaces, to try streamvs in.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show where calls go: through kube-proxy's kind of rules, then through streamvs.
    Demo {
        /// gRPC calls in each row.
        #[arg(long, default_value_t = 3000)]
        calls: u64,
        /// TCP connections in each row.
        #[arg(long, default_value_t = 300)]
        connections: usize,
        /// Use ghz and a grpc-go endpoint, found in this folder, for the gRPC rows.
        #[arg(long, value_name = "FOLDER")]
        peers: Option<PathBuf>,
    },
    /// Delete what a killed lab left behind.
    Sweep,
}

fn main() {
    match Arguments::parse().command {
        Command::Demo { calls, connections, peers } => {
            demo::run(&demo::Plan { calls, connections, peers });
        }
        Command::Sweep => {
            for name in streamvs_support::lab::sweep() {
                eprintln!("removed the namespace {name}");
            }
        }
    }
}
