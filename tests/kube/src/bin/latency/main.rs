//! How long an EndpointSlice takes from its writer to the first call on the new endpoint, and
//! what that costs: streamvs against kube-proxy on the same node, in the same run.
//!
//! ```text
//!  writer (control host) --PUT--> API server --watch--> proxy under test (node)
//!                                     \--watch--> observer (node): the moment of the event
//!  client pod: one call after the other through the Service, until the new pod answers
//! ```

mod fill;
mod measure;
mod observer;
mod probe;
mod proxy;
mod table;

use std::time::Duration;

use clap::Parser;

use crate::measure::{Bench, Changes};
use crate::proxy::Kind;

/// Latency from an EndpointSlice's write to its first use, and what it costs.
#[derive(Debug, Parser)]
struct Arguments {
    /// Numbers of Services, one part of the table each
    #[arg(long, value_delimiter = ',', default_value = "100,10000")]
    services: Vec<usize>,
    /// Endpoints of each Service; none of them exists but those of the one that is measured
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// Changes measured for each row
    #[arg(long, default_value_t = 60)]
    rounds: usize,
    /// Pause between changes; kube-proxy holds back what comes within a second of the last
    #[arg(long, default_value_t = 1500)]
    pause_milliseconds: u64,
    /// How long a proxy may take from its start to the first call before its row says that it did
    /// not: iptables takes rules of 100,000 endpoints in minutes
    #[arg(long, default_value_t = 180)]
    start_limit_seconds: u64,
    /// Which rows, in this order: the cheapest first
    #[arg(
        long,
        visible_alias = "only",
        value_enum,
        value_delimiter = ',',
        default_value = "streamvs,streamvs-connections,nftables,iptables"
    )]
    proxies: Vec<Kind>,
}

fn main() {
    let arguments = Arguments::parse();
    let changes = Changes {
        rounds: arguments.rounds,
        pause: Duration::from_millis(arguments.pause_milliseconds),
        start_limit: Duration::from_secs(arguments.start_limit_seconds),
    };
    println!("{}", table::HEAD);
    for services in &arguments.services {
        let bench = Bench::start(*services, arguments.endpoints);
        for kind in &arguments.proxies {
            eprintln!("{services} Services, {kind}");
            println!("{}", bench.measure(*kind, &changes));
        }
    }
}
