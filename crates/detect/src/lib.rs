//! Which protocol does a connection speak? The first bytes from either side tell.
//!
//! What comes in: the first bytes the client sent and the first bytes the endpoint sent, in any
//! pieces. What goes out: a [`Protocol`], as soon as one byte settles it. Never here: sockets,
//! clocks, timers. Bytes are looked at, not kept; who reads them replays them
//! ([`Prefixed`]).
//!
//! Which way it errs: towards TCP. A connection is HTTP/2 only when the client sent the whole
//! 24-octet preface (RFC 9113 section 3.4); the first octet that differs makes it TCP. While what
//! came is a true prefix of the preface there is no verdict, and there is no timer to make one:
//! the choice of an endpoint for a plain connection does not depend on the protocol, so the
//! endpoint is dialled meanwhile, and its first byte counts as well ([`FirstBytes::endpoint`]).

mod first_bytes;
mod preface;
mod prefixed;
mod settings;
pub mod tls;

pub use first_bytes::{FirstBytes, Protocol};
pub use preface::PREFACE;
pub use prefixed::Prefixed;
