//! Moves bytes, or streams, between one downstream connection and the endpoints.
//!
//! ```text
//!                        +-- tcp: one connection, one endpoint -------> endpoint
//! downstream connection -+
//!                        +-- h2: each stream picks anew --+-----------> endpoint A
//!                                                         +-----------> endpoint B
//! ```
//!
//! What comes in: a downstream socket, what was already read from it, and the ServicePort it was
//! made for. What goes out: every byte and frame, once and in order, and counts of them. Never
//! here: where a connection came from (accept), what protocol it speaks (detect), which endpoint
//! is next (balance).
//!
//! Everything runs on one thread: a [`Worker`] and all its connections live and die on the
//! `current_thread` runtime that made them, so nothing here is locked or sent across threads.

mod clients;
pub mod connect;
pub mod h2;
mod leg;
mod pressure;
pub mod socket;
pub mod tcp;
mod worker;

pub use clients::{ClientLimits, Clients, Seat};
pub use leg::Leg;
pub use pressure::{Pressure, Shed};
pub use worker::{Options, Route, Worker};
