//! New endpoints get their share of units bit by bit: caches are cold, code is not compiled yet.
//!
//! ```text
//!  share of what it would get
//!    100 %  |                 ______
//!           |              .-'
//!           |          .-'
//!           |      .-'
//!     10 %  |.....'
//!           +-----------------------> since it came
//!             10 %           window
//! ```
//!
//! A pick passes over a new endpoint by chance, more rarely the longer it is there. Who is passed
//! over is a function of one number drawn for the pick, so a scheduler may look at an endpoint as
//! often as it likes. Where load is compared as well, a new endpoint counts as if it had so much
//! more outstanding: else all units would go to who has none yet. While all endpoints are new, the
//! oldest counts as if it was not.
//!
//! After Envoy's `slow_start_config` with an `aggression` of 1 and a `min_weight_percent` of 10.
//! An endpoint is new when it begins to take units of a ServicePort that had some before; not at
//! the start of the agent, and not when its ejection ends. `sh`, `mh`, `fo` and `ovf` know nothing
//! of it: who they pick follows from the client, or from an order of preference.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Target;
use crate::hash::AddressHash;

/// What a new endpoint gets at least.
const LEAST_SHARE: f64 = 0.1;

/// The new endpoints of a list.
#[derive(Debug)]
pub(crate) struct SlowStart {
    window: Duration,
    /// With the time when each came; sorted by address.
    joined: Box<[(SocketAddr, Instant)]>,
    /// When the first came, where all are new.
    first: Option<Instant>,
    /// From then on none is new.
    until: Instant,
}

/// Who is passed over in one pick.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest<'a> {
    slow: &'a SlowStart,
    now: Instant,
    /// Drawn for the pick.
    salt: u64,
}

impl SlowStart {
    /// None: none is new. `before` are the candidates of the generation before with what was known
    /// of them; none where there was no generation before.
    pub(crate) fn new(
        window: Option<Duration>,
        candidates: &[Arc<Target>],
        before: Option<(&[Arc<Target>], Option<&Self>)>,
        now: Instant,
    ) -> Option<Self> {
        let (window, (old, slow)) = (window?, before?);
        let mut known: Vec<SocketAddr> = old.iter().map(|target| target.address()).collect();
        known.sort_unstable();
        let came = |address: SocketAddr| match known.binary_search(&address) {
            Ok(_) => slow.and_then(|slow| slow.came(address)),
            Err(_) => Some(now),
        };
        let is_new = |came: &Instant| now.saturating_duration_since(*came) < window;
        let joined = candidates.iter().map(|target| target.address());
        let joined = joined.filter_map(|address| Some((address, came(address).filter(is_new)?)));
        let mut joined: Vec<_> = joined.collect();
        joined.sort_unstable();
        let times = || joined.iter().map(|(_, came)| *came);
        let until = times().max()?.checked_add(window)?;
        let first = (joined.len() == candidates.len()).then(|| times().min()).flatten();
        Some(Self { window, joined: joined.into(), first, until })
    }

    /// For one pick. None: nobody is passed over.
    pub(crate) fn rest(&self, now: Instant, rng: &mut fastrand::Rng) -> Option<Rest<'_>> {
        (now < self.until).then(|| Rest { slow: self, now, salt: rng.u64(..) })
    }

    fn came(&self, address: SocketAddr) -> Option<Instant> {
        let index = self.joined.binary_search_by_key(&address, |(address, _)| *address).ok()?;
        Some(self.joined[index].1)
    }

    fn share(&self, came: Instant, now: Instant) -> f64 {
        let age = now.saturating_duration_since(came);
        (age.as_secs_f64() / self.window.as_secs_f64()).clamp(LEAST_SHARE, 1.0)
    }
}

impl Rest<'_> {
    /// It is passed over this time.
    pub(crate) fn has(&self, target: &Target) -> bool {
        let address = target.address();
        let Some(share) = self.share(target).filter(|share| *share < 1.0) else {
            return false;
        };
        let lot = AddressHash::new(self.salt, LOTS).of(address.ip(), address.port());
        lot as f64 / u64::MAX as f64 >= share
    }

    /// Of its share of the load, so many parts of [`PARTS`].
    pub(crate) fn parts(&self, target: &Target) -> u64 {
        let share = self.share(target).unwrap_or(1.0);
        ((share * PARTS as f64) as u64).clamp(1, PARTS)
    }

    /// None: it is not new.
    fn share(&self, target: &Target) -> Option<f64> {
        let came = self.slow.came(target.address())?;
        let most = self.slow.first.map_or(1.0, |first| self.slow.share(first, self.now));
        Some(self.slow.share(came, self.now) / most)
    }
}

/// A whole share. Small, since it is multiplied with loads and weights.
pub(crate) const PARTS: u64 = 64;

/// Tells these hashes from others.
const LOTS: u64 = 0x736c_6f77_6c6f_7473;

#[cfg(test)]
mod tests;
