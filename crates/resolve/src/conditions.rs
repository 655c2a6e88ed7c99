//! What an EndpointSlice says of an endpoint's state.

use k8s_openapi::api::discovery::v1::EndpointConditions;

/// The three conditions of an endpoint, with the defaults of KEP-1669 filled in.
///
/// | written | means |
/// | --- | --- |
/// | no `ready` | ready |
/// | no `serving` | serving |
/// | no `terminating` | not terminating |
///
/// The defaults are each condition's own: `ready: false` alone still serves, as in kube-proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
}

impl Conditions {
    pub(crate) fn read(written: Option<&EndpointConditions>) -> Self {
        Self {
            ready: written.and_then(|conditions| conditions.ready).unwrap_or(true),
            serving: written.and_then(|conditions| conditions.serving).unwrap_or(true),
            terminating: written.and_then(|conditions| conditions.terminating).unwrap_or(false),
        }
    }

    /// May take new traffic once nothing ready is left. An endpoint that stopped serving while it
    /// terminates never does, not even as the last one: that is how it opts out (KEP-1669).
    pub(crate) fn is_fallback(self) -> bool {
        self.serving && self.terminating
    }
}
