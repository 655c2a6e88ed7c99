//! A pick, and the guard that counts it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use streamvs_table::TrafficPolicy;

use crate::Target;
use crate::slow_start::Rest;

/// What is about to be given to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A TCP connection.
    Connection,
    /// An HTTP/2 stream.
    Stream,
}

/// Who asks for an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The client's address, not IPv4-mapped: key of sessionAffinity, `sh` and `mh`.
    pub client: IpAddr,
    /// The policy that holds for it: which of the Service's endpoints may be picked.
    pub policy: TrafficPolicy,
    /// What it will be used for.
    pub unit: Unit,
    /// The time, for sessionAffinity.
    pub now: Instant,
    /// Endpoints that failed for this unit already and are not picked again. Searched linearly:
    /// meant for the few tries a unit gets.
    pub tried: &'a [SocketAddr],
}

/// What a scheduler goes by: for whom, and whom to pass over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search<'a> {
    pub(crate) client: IpAddr,
    pub(crate) tried: &'a [SocketAddr],
    /// Some candidates may be ejected, and are passed over.
    pub(crate) skips_ejected: bool,
    /// New candidates that are passed over this time.
    pub(crate) rest: Option<Rest<'a>>,
}

impl<'a> Search<'a> {
    pub(crate) fn new(request: &Request<'a>, skips_ejected: bool) -> Self {
        Self { client: request.client, tried: request.tried, skips_ejected, rest: None }
    }

    /// No candidate is passed over.
    pub(crate) fn may_use_all(&self) -> bool {
        self.tried.is_empty() && !self.passes_over()
    }

    /// Candidates may be passed over that were not tried.
    pub(crate) fn passes_over(&self) -> bool {
        self.skips_ejected || self.rest.is_some()
    }

    pub(crate) fn may_use(&self, target: &Target) -> bool {
        (self.tried.is_empty() || !self.tried.contains(&target.address()))
            && !(self.skips_ejected && target.is_ejected())
            && self.rest.is_none_or(|rest| !rest.has(target))
    }
}

/// A picked endpoint: one outstanding unit there, from the pick until this is dropped.
///
/// Keep it for as long as the connection or stream lives, whatever plans are published meanwhile:
/// it keeps its target alive.
#[derive(Debug)]
pub struct Choice {
    target: Arc<Target>,
    unit: Unit,
}

impl Choice {
    pub(crate) fn new(target: Arc<Target>, unit: Unit) -> Self {
        target.begin(unit);
        Self { target, unit }
    }

    /// The endpoint with its load.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.target.address()
    }

    /// What it counts as.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// Counts as `unit` from now on, in one step: the outstanding sum does not move. For the
    /// connection dialled before its protocol was known, which then carries a stream.
    #[must_use = "a dropped choice no longer counts"]
    pub fn into_unit(mut self, unit: Unit) -> Self {
        self.target.exchange(self.unit, unit);
        self.unit = unit;
        self
    }
}

impl Drop for Choice {
    fn drop(&mut self) {
        self.target.end(self.unit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{endpoint, start};

    #[test]
    fn a_choice_counts_until_it_is_dropped() {
        let target = Arc::new(Target::new(endpoint(1), start()));
        let connection = Choice::new(Arc::clone(&target), Unit::Connection);
        let stream = Choice::new(Arc::clone(&target), Unit::Stream);
        assert_eq!((target.active_connections(), target.active_streams()), (1, 1));
        drop(connection);
        assert_eq!((target.active_connections(), target.active_streams()), (0, 1));
        drop(stream);
        assert_eq!(target.outstanding(), 0);
    }

    #[test]
    fn a_choice_that_changes_its_unit_ends_as_the_new_one() {
        let target = Arc::new(Target::new(endpoint(1), start()));
        let choice = Choice::new(Arc::clone(&target), Unit::Connection).into_unit(Unit::Stream);
        assert_eq!(choice.unit(), Unit::Stream);
        assert_eq!((target.active_connections(), target.active_streams()), (0, 1));
        drop(choice);
        assert_eq!((target.active_connections(), target.active_streams()), (0, 0));
    }
}
