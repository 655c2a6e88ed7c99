//! Streams and connections that have lived long: counted, and ended where their Service says so.
//!
//! Nothing of it is looked at when octets pass. Once a second all streams are, of which most have
//! gone by the next time.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slotmap::Key;
use streamvs_balance::{ConnectionLimit, StreamLimit, Target, VirtualServer};

use super::TICK;
use super::link::Age;
use crate::h2::switch::{ConnectionKey, ExchangeKey, Expiry};
use crate::worker::Worker;

/// Ticks between two looks.
pub(super) const TICKS: u32 = (SWEEP.as_millis() / TICK.as_millis()) as u32;

const SWEEP: Duration = Duration::from_secs(1);

/// How long a message that is under way may take to become whole when its stream is to end.
const MESSAGE_GRACE: Duration = Duration::from_secs(10);

/// How far a stream is in its life.
pub(super) struct Life {
    connection: ConnectionKey,
    began: Instant,
    /// It is to end after its message since then.
    expires: Option<Instant>,
}

impl Life {
    pub(super) fn new(connection: ConnectionKey, began: Instant) -> Self {
        Self { connection, began, expires: None }
    }
}

/// Counts as an old stream of its endpoint until it is dropped.
pub(super) struct Old(Arc<Target>);

impl Old {
    fn new(target: &Arc<Target>) -> Self {
        target.stats().old_streams.inc();
        Self(Arc::clone(target))
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        self.0.stats().old_streams.dec();
    }
}

impl super::Driver {
    /// What `server` serves may be ended for its age.
    pub(super) fn may_expire(&self, worker: &Worker, server: &VirtualServer) -> bool {
        let max_age = worker.max_age(server);
        let graced = worker.options.max_connection_age_grace.is_some();
        max_age.stream.is_some() || (graced && max_age.connection.is_some())
    }

    /// Looks at the age of everything.
    pub(super) fn sweep(&self, worker: &Rc<Worker>) {
        let now = Instant::now();
        for key in self.too_old_connections(worker, now) {
            self.switch.borrow_mut().drain(key, now);
        }
        for (key, expiry) in self.too_old_streams(worker, now) {
            self.switch.borrow_mut().expire(key, expiry, now);
            self.follow(worker);
        }
    }

    fn too_old_connections(&self, worker: &Worker, now: Instant) -> Vec<ConnectionKey> {
        let mut links = self.links.borrow_mut();
        let aged = links.iter_mut().filter_map(|(key, link)| {
            let client = link.client.as_mut()?;
            let Age::Since(began) = client.age else { return None };
            let age = now.saturating_duration_since(began);
            if age < SWEEP {
                return None;
            }
            let server = client.route.server(worker)?;
            let most = worker.max_age(&server).connection?;
            if age < jittered(most, key) {
                return None;
            }
            client.age = Age::TooOld(now);
            server.stats().limited_connections[ConnectionLimit::Age.index()].inc();
            Some(key)
        });
        aged.collect()
    }

    /// Those that are to end, and how. Others that have become old are counted.
    fn too_old_streams(&self, worker: &Worker, now: Instant) -> Vec<(ExchangeKey, Expiry)> {
        let links = self.links.borrow();
        // Its client's connection was too old, and what is on it has had its grace.
        let graceless = |connection| {
            let client = links.get(connection).and_then(|link| link.client.as_ref());
            client.is_some_and(|client| match client.age {
                Age::Since(_) => false,
                Age::TooOld(then) => worker
                    .options
                    .max_connection_age_grace
                    .is_some_and(|grace| now.saturating_duration_since(then) >= grace),
            })
        };
        let mut streams = self.streams.borrow_mut();
        let mut due = Vec::new();
        for (key, stream) in streams.iter_mut() {
            let age = now.saturating_duration_since(stream.life.began);
            if age < SWEEP {
                continue;
            }
            if age >= worker.options.old_stream_age
                && let Some(on) = &mut stream.on
            {
                on.old.get_or_insert_with(|| Old::new(on.choice.target()));
            }
            if let Some(then) = stream.life.expires {
                if now.saturating_duration_since(then) >= MESSAGE_GRACE {
                    due.push((key, Expiry::Now));
                }
                continue;
            }
            let Some(server) = stream.route.server(worker) else { continue };
            let most = worker.max_age(&server).stream;
            let is_too_old = most.is_some_and(|most| age >= jittered(most, key));
            if is_too_old || graceless(stream.life.connection) {
                stream.life.expires = Some(now);
                server.stats().limited_streams[StreamLimit::Age.index()].inc();
                due.push((key, Expiry::AfterMessage));
            }
        }
        due
    }
}

/// `age`, give or take a tenth, always the same for the same key: what began together does not end
/// together. Source: gRPC's MAX_CONNECTION_AGE (proposal A9).
fn jittered(age: Duration, key: impl Key) -> Duration {
    // SplitMix64's last steps, which spread keys that follow each other over all numbers.
    let mut number = key.data().as_ffi().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let part = f64::from((number >> 32) as u32) / f64::from(u32::MAX);
    age.mul_f64(0.9 + 0.2 * part)
}

#[cfg(test)]
mod tests {
    //! Aim: ages differ from key to key, within a tenth, and evenly.

    use slotmap::SlotMap;

    use super::*;

    #[test]
    fn ages_are_spread_over_a_tenth_each_way() {
        let mut map: SlotMap<ExchangeKey, ()> = SlotMap::with_key();
        let mut counts = [0_u32; 20];
        for _ in 0..20_000 {
            let key = map.insert(());
            let age = jittered(Duration::from_secs(1000), key).as_secs();
            assert_eq!(jittered(Duration::from_secs(1000), key).as_secs(), age);
            assert!((900..=1100).contains(&age), "{age}");
            counts[((age - 900) / 10).min(19) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
