//! gRPC over HTTP/2 on the `h2` crate, both sides, without generated code.
//!
//! One service, `test.Echo`, with a method of each kind ([`Kind`]). Messages are raw octets; the
//! endpoint names itself in the response header `x-endpoint`, so that a client knows who answered
//! even when there is no message:
//!
//! | method | request | answer |
//! | --- | --- | --- |
//! | `Unary` | one message | the same message |
//! | `ServerStream` | one message with a decimal number n | n messages, `0` to `n-1` |
//! | `ClientStream` | any number of messages | how many came, in decimal |
//! | `Bidi` | any number of messages | each one, as soon as it came |
//!
//! Source: "gRPC over HTTP2" (PROTOCOL-HTTP2 in the gRPC repository).

mod call;
pub mod client;
pub mod conduct;
pub mod endpoint;
mod line;
pub mod load;
mod message;

pub use client::{Client, Failure, Reply};
pub use conduct::Conduct;
pub use endpoint::Endpoint;
pub use line::Line;

/// A kind of gRPC method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One message each way.
    Unary,
    /// One message there, many back.
    ServerStream,
    /// Many messages there, one back.
    ClientStream,
    /// Many messages both ways at once.
    Bidi,
}

impl Kind {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Unary, Self::ServerStream, Self::ClientStream, Self::Bidi];

    /// The method's path.
    pub fn path(self) -> &'static str {
        match self {
            Self::Unary => "/test.Echo/Unary",
            Self::ServerStream => "/test.Echo/ServerStream",
            Self::ClientStream => "/test.Echo/ClientStream",
            Self::Bidi => "/test.Echo/Bidi",
        }
    }

    /// The kind a path asks for.
    pub fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.path() == path)
    }
}

#[cfg(test)]
mod tests;
