//! How an endpoint behaves: well, or in one of the ways a proxy must cope with.
//!
//! One file for each way. They hold for calls that start after the change; calls already stuck are
//! let go by any change.

mod refusing;
mod slow;
mod steady;
mod stuck;
mod trailers_only;

use std::time::Duration;

use super::call::Call;

/// How an endpoint answers calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Conduct {
    /// As the service promises.
    #[default]
    Steady,
    /// As promised, but only after a time.
    Slow(Duration),
    /// Takes the call and never answers, until the conduct changes.
    Stuck,
    /// Refuses the stream: `RST_STREAM(REFUSED_STREAM)`, the call was not looked at.
    Refusing,
    /// Ends at once with this gRPC status and message, in a block of headers that is also the end.
    TrailersOnly(u8, String),
}

/// Answers one call.
///
/// # Errors
/// When the stream or its connection ended first.
pub(super) async fn answer(conduct: Conduct, call: Call) -> Result<(), h2::Error> {
    match conduct {
        Conduct::Steady => steady::answer(call).await,
        Conduct::Slow(delay) => slow::answer(call, delay).await,
        Conduct::Stuck => stuck::answer(call).await,
        Conduct::Refusing => {
            refusing::answer(call);
            Ok(())
        }
        Conduct::TrailersOnly(status, message) => trailers_only::answer(call, status, &message),
    }
}
