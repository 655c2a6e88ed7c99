//! Brings connections to Services to the listener: rules, sets, routes, and where a captured
//! connection was going. All privilege of the program is here.
//!
//! A packet's walk:
//!
//! ```text
//!  from a pod                                 from a process of this node
//!      |                                           |  route (ours over lo, if there is none)
//!  PREROUTING nat                              OUTPUT nat
//!      |  not our own mark, and (ip,port) in streamvs4/6
//!      +----------------> listener:port <----------+
//!                             |
//!                         INPUT filter: captured (ctstate DNAT) yes, direct no
//!
//!  FORWARD, INPUT, OUTPUT filter: new connection to an (ip,port) in
//!      streamvs-reject4/6 -> refused          streamvs-drop4/6 -> dropped
//! ```
//!
//! What comes in: [`Desired`], three sets of addresses. What goes out: kernel state, and
//! [`original_destination`] of accepted sockets. Never here: endpoints, whose changes touch
//! nothing in the kernel, and payload.
//!
//! Which way it errs: rules that somebody else changed are put back ([`Capture::audit`]), and
//! whatever state a crash left is adopted ([`Capture::install`]) or removed ([`cleanup`]).

mod capture;
mod cleanup;
mod command;
mod created;
mod desired;
mod error;
mod ipset;
mod link;
mod listing;
mod original_dst;
mod render;
mod repair;
mod ruleset;
mod sets;
mod tools;

pub use capture::{Capture, Config};
pub use cleanup::cleanup;
pub use desired::Desired;
pub use error::{ConfigError, Error};
pub use link::PROTOCOL;
pub use original_dst::original_destination;
pub use repair::{Removed, Repair};
pub use ruleset::{LISTENER_V4, LISTENER_V6};
pub use tools::{Flavour, Tools};
