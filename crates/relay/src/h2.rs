//! The HTTP/2 relay, by two engines: [`switch`], and one on the `h2` crate, which this module holds
//! and describes: one downstream connection, a pool of upstream ones, and an endpoint picked for
//! each stream. Settings, answers, and who was tried already are common to both.
//!
//! The life of a stream:
//!
//! ```text
//!  HEADERS from the client
//!     |
//!     v          none usable
//!   pick --------------------------> answer: grpc-status 14, or 503
//!     |  ^ ^
//!     |  | | dial failed, stream refused, or above a GOAWAY's last id:
//!     v  | | the endpoint has not acted on it, the next one gets it
//!   lease--+
//!     |    |
//!     v    |
//!  exchange+--> 1xx*, headers, data*, trailers both ways, at each side's own pace
//!     |
//!     v
//!  both directions ended, or either side reset: one record, counters, credit returned
//! ```
//!
//! Invariants: a stream is on one endpoint at a time; a removed endpoint gets no new stream, since
//! each pick reads the newest table; a stream whose response has begun is never replayed.
//!
//! Memory: a stream holds at most its window each way ([`settings::STREAM_WINDOW_OCTETS`]) plus
//! one frame, and a connection at most [`settings::CONNECTION_WINDOW_OCTETS`], because credit is
//! returned to the sender only when the other side's connection has taken the bytes.

mod answer;
mod deadline;
mod downstream;
mod exchange;
mod lease;
mod pool;
mod pump;
mod replay;
pub mod settings;
mod stream;
pub mod switch;

pub use downstream::{Drain, Error, Outcome, serve};
pub use pool::Pool;

/// Who relays HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// Frames carried from one connection to another: [`switch`].
    #[default]
    Switch,
    /// Two endpoints of the `h2` crate for each stream: [`serve`].
    H2,
}
