//! TCP endpoints, one file for each way of speaking, and clients for them.
//!
//! An endpoint names itself in the line it sends, so that a client knows who answered.

mod ask;
pub mod endpoint;
pub mod load;
mod speak;
pub mod transfer;

pub use ask::{Got, SILENCE, ask, expect, expect_by, read};
pub use endpoint::Endpoint;
pub use speak::Speak;

#[cfg(test)]
mod tests;
