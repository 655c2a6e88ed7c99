//! A seeded simulation of the frame switch: clients, endpoints and the octets between them, all in
//! one thread and without sockets, one random step after another.
//!
//! Each end of each connection is a small HTTP/2 implementation of the test's own that keeps the
//! rules and fails when the switch does not; each call is a shadow of what was sent, against which
//! everything that arrives is held. What is checked after every step:
//!
//! - nobody is sent more than it granted, and no window passes 2^31 - 1 (`peer`);
//! - every octet of every body arrives once and in order, heads and trailers field by field, on the
//!   stream that they belong to (`heard`);
//! - a request is on one endpoint, and goes to another only if the first said it did not act on it;
//! - resets have a reason, and their code arrives; who keeps the rules is never blamed;
//! - a stream holds no more than its window, and a socket's queue is bounded;
//! - whoever has output or is over is announced (a driver that waits for it would wait forever);
//!
//! and at the end, when everybody does what is left to do: every call has ended, every stream has
//! ended once, all credit of the connections has been given back, and nothing is left in the switch.

mod acts;
mod call;
mod frame;
mod heard;
mod peer;
mod trace;
mod world;

pub use world::Counts;

use world::World;

/// What kind of world it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Climate {
    /// Several clients and endpoints, and everything that can happen to them.
    Rough,
    /// One client with large bodies, and endpoints that stay: little by little a leak of credit
    /// stops everything.
    Steady,
}

/// Runs one simulation.
///
/// # Panics
/// Something that must hold does not. The same arguments panic again.
pub fn run(climate: Climate, seed: u64, steps: usize) -> Counts {
    let _trace = trace::Trace::begin();
    let mut world = World::new(climate, seed);
    for _ in 0..steps {
        world.step();
    }
    world.settle();
    world.end();
    world.counts
}
