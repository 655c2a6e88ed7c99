//! The load of `scripts/bench` and what it goes to.
//!
//! One program, so that both ends are known to cost little: `endpoint` is a pod that answers HTTP/2
//! and plain TCP, `probe` checks every octet of it through an HTTP/2 client that nobody here wrote,
//! and the rest are clients of plain TCP. (Timed HTTP/2 load comes from h2load.)
//!
//! Each client prints one JSON object with at least `n`, what it did, and `errors`; with an error it
//! is no measurement. Every loop is bounded by a count and by a time. Never here: a figure about a
//! proxy; what a run used is read by whoever started it.

mod calibrate;
mod client;
mod endpoint;
mod histogram;
mod pattern;
mod probe;
mod ready;
mod socket;
#[cfg(test)]
mod tests;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::{Value, json};

#[derive(Debug, Parser)]
#[command(name = "load")]
enum Command {
    /// Be an endpoint pod
    Endpoint(endpoint::Options),
    /// Call an endpoint and check what comes back
    Probe(probe::Options),
    #[command(flatten)]
    Client(Client),
    /// Say what a fixed piece of work costs on this processor now
    Calibrate(calibrate::Options),
}

#[derive(Debug, Subcommand)]
enum Client {
    /// One message in flight on each of some connections
    PingPong(client::ping_pong::Options),
    /// Connect, one message each way, close
    Short(client::short::Options),
    /// Many octets one way
    Bulk(client::bulk::Options),
    /// Connect and wait to be greeted
    Greeting(client::greeting::Options),
    /// Hold connections that do nothing until a line comes on standard input
    Idle(client::idle::Options),
}

fn main() -> ExitCode {
    let (report, code) = match run(Command::parse()) {
        Ok(report) => (report, ExitCode::SUCCESS),
        Err(error) => {
            let why = error.to_string();
            (json!({ "n": 0, "errors": 1, "why": why }), ExitCode::FAILURE)
        }
    };
    println!("{report}");
    code
}

fn run(command: Command) -> io::Result<Value> {
    match command {
        Command::Endpoint(options) => endpoint::run(&options),
        Command::Probe(options) => probe::run(&options),
        Command::Client(Client::PingPong(options)) => client::ping_pong::run(&options),
        Command::Client(Client::Short(options)) => client::short::run(&options),
        Command::Client(Client::Bulk(options)) => client::bulk::run(&options),
        Command::Client(Client::Greeting(options)) => client::greeting::run(&options),
        Command::Client(Client::Idle(options)) => client::idle::run(&options),
        Command::Calibrate(options) => calibrate::run(&options),
    }
}
