//! The frame switch: HTTP/2 frames carried from one connection to another without an HTTP/2
//! endpoint on either side.

pub mod hpack;
