//! One agent takes over from another, without a connection refused or lost.
//!
//! ```text
//! successor                                predecessor
//!   asks on the admin socket         ->
//!                                    <-    Listeners, Doors      the listening sockets themselves
//!   has its first table and accepts:
//!   Ready                            ->
//!                                          touches the rules no more
//!                                    <-    Yours
//!   makes the rules its own, opens its
//!   gate and its doors: Serving      ->
//!                                          shuts its gate, stops accepting, GOAWAY on HTTP/2, closes its doors
//!                                    <-    Opening, Plain, ...   connections with octets in flight
//!   goes on with them                <-    end, when the last stream has ended
//! ```
//!
//! Both hold the same listening sockets, so that there is no moment in which nobody accepts, and
//! none of what waits in them is reset. If the predecessor dies on the way, the successor has the
//! sockets and serves as soon as it can. If the successor dies before `Serving`, the predecessor
//! takes the rules back and goes on. What a successor that dies later has been given dies with it.

mod channel;
mod message;
mod predecessor;
mod successor;

use std::io;
use std::os::unix::fs::MetadataExt;

pub(crate) use channel::Channel;
pub(crate) use predecessor::{Inherited, Predecessor, find};
pub(crate) use successor::{Spares, give, pass_on};

/// The network namespace of this process. Admin sockets are files, and two namespaces may share
/// them; listening sockets belong to one.
fn network() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/self/ns/net")?.ino())
}
