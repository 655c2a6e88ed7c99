//! How fast this processor is now: a machine that changed its speed between two runs made their
//! difference, not the proxy.

use std::hint::black_box;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use clap::Args;
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often the work is done
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: u32,
}

/// A round is a write and a read of 64 octets on a socket pair, and 500 multiplications.
pub(crate) fn run(options: &Options) -> io::Result<Value> {
    let (mut one, mut other) = UnixStream::pair()?;
    let mut octets = [7; 64];
    let before = processor_time()?;
    for _ in 0..options.rounds {
        one.write_all(&octets)?;
        other.read_exact(&mut octets)?;
        let product = (0..500_u64).fold(1_u64, |product, term| {
            black_box(product.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(term))
        });
        octets[0] = product as u8;
    }
    let used = processor_time()?.saturating_sub(before);
    let each = used.as_secs_f64() * 1e9 / f64::from(options.rounds);
    Ok(json!({ "n": options.rounds, "errors": 0, "nanoseconds": each }))
}

/// What this process has used so far.
fn processor_time() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}
