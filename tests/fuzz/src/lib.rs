//! What must hold whatever octets come: each module takes any octets as a script and panics when
//! its claims do not hold.
//!
//! `libfuzzer/` looks for such octets with a fuzzer; `tests/corpus.rs` runs what was found so far
//! on every `cargo test`. To add a crash: copy its file into `corpus/TARGET/`.

pub mod frames;
pub mod hpack;
mod script;
pub mod switch;
mod wire;
