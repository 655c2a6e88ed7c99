//! Clients of plain TCP. What they say first tells the endpoint what to be: see
//! [`crate::endpoint::plain`].

pub(crate) mod bulk;
pub(crate) mod greeting;
pub(crate) mod idle;
pub(crate) mod ping_pong;
pub(crate) mod short;

use std::io::{self, ErrorKind};

/// An answer that is not the one wanted.
fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.into())
}
