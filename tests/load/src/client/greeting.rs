//! Servers that speak first: the greeting has to come before the client says anything.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};

use super::wrong;
use crate::endpoint::plain::GREETING;
use crate::histogram::Histogram;
use crate::socket::{connect, receive_exact};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long)]
    address: SocketAddr,
    /// Connections, one after the other
    #[arg(long, default_value_t = 1)]
    count: u64,
}

pub(crate) fn run(options: &Options) -> io::Result<Value> {
    let mut histogram = Histogram::new();
    for _ in 0..options.count {
        let begun = Instant::now();
        let socket = connect(options.address)?;
        let mut greeting = vec![0; GREETING.len()];
        receive_exact(&socket, &mut greeting)?;
        if greeting != GREETING {
            return Err(wrong("another greeting came"));
        }
        histogram.add(begun.elapsed());
    }
    Ok(histogram.report(json!({ "n": histogram.count(), "errors": 0 })))
}
