//! `sessionAffinity: ClientIP`: which client went where.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The clients of one virtual server and the endpoint each is bound to.
///
/// The window slides: each pick for a client begins its timeout anew. A timeout long over and one
/// that ends at this instant are told apart as in kube-proxy's iptables mode, where the last
/// instant still counts. What is not here: state of other nodes (kube-proxy has none either).
///
/// Bounds: [`CLIENTS`] clients, at about 130 bytes each 7 MiB for one virtual server. Forgotten
/// are clients whose window is over, two looks at each new client, so that the memory follows the
/// clients of about one window; and, when it is full, the one seen longest ago or nearly so, who is
/// picked for anew when it returns.
///
/// Locking: [`SHARDS`] locks by client, each held for one look-up (some tens of nanoseconds), and
/// for the move of up to 3584 entries when a shard grows. Keys come from the network, so they are
/// hashed with a secret.
#[derive(Debug)]
pub(crate) struct Affinity {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    capacity: usize,
}

/// More clients than a node has pods (110 by default, 1000 at most in practice) by far; traffic
/// from outside may come from more, and then the oldest lose their window early. Seven eighths of
/// 64 Ki: what the hash maps hold before they double for the last time.
const CLIENTS: usize = 57344;

const SHARDS: usize = 16;

/// How many clients are looked at, at most, to find one to forget in a full shard.
const SECOND_CHANCES: usize = 8;

#[derive(Debug, Default)]
struct Shard {
    bindings: HashMap<IpAddr, Binding>,
    /// Each client of `bindings` once, with the time at which it was lined up. One that was seen
    /// since goes to the back when its turn comes.
    queue: VecDeque<(IpAddr, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Binding {
    endpoint: SocketAddr,
    seen: Instant,
}

impl Affinity {
    pub(crate) fn new() -> Self {
        Self::with_capacity(CLIENTS)
    }

    /// For so many clients, spread evenly over the shards.
    fn with_capacity(clients: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            capacity: (clients / SHARDS).max(1),
        }
    }

    /// Where the client is bound, as `usable` has it, and begins its window anew. None: it is not
    /// bound, its window is over, or its endpoint is not usable; then pick, and [`Self::bind`].
    pub(crate) fn recall<T>(
        &self,
        client: IpAddr,
        now: Instant,
        timeout: Duration,
        usable: impl Fn(SocketAddr) -> Option<T>,
    ) -> Option<T> {
        self.shard(client).recall(client, now, timeout, usable)
    }

    /// Binds the client to the picked endpoint, unless another thread has bound it to a usable one
    /// since [`Self::recall`]: the first one binds, so that a client that opens many connections at
    /// once is not spread over endpoints. Gives where the client is bound in the end.
    pub(crate) fn bind<T>(
        &self,
        client: IpAddr,
        now: Instant,
        timeout: Duration,
        usable: impl Fn(SocketAddr) -> Option<T>,
        (endpoint, picked): (SocketAddr, T),
    ) -> T {
        let mut shard = self.shard(client);
        if let Some(bound) = shard.recall(client, now, timeout, usable) {
            return bound;
        }
        let binding = Binding { endpoint, seen: now };
        if let Some(known) = shard.bindings.get_mut(&client) {
            *known = binding;
        } else {
            shard.make_room(now, timeout, self.capacity);
            shard.bindings.insert(client, binding);
            shard.queue.push_back((client, now));
        }
        picked
    }

    fn shard(&self, client: IpAddr) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(client) as usize % SHARDS;
        // No code of others runs under the lock but `usable`, and a shard is whole at any time.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let lock = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            assert_eq!(shard.bindings.len(), shard.queue.len(), "a client is lined up once");
            shard.bindings.len()
        };
        self.shards.iter().map(lock).sum()
    }
}

impl Shard {
    fn recall<T>(
        &mut self,
        client: IpAddr,
        now: Instant,
        timeout: Duration,
        usable: impl Fn(SocketAddr) -> Option<T>,
    ) -> Option<T> {
        let binding = self.bindings.get_mut(&client)?;
        if expired(binding.seen, now, timeout) {
            return None;
        }
        let target = usable(binding.endpoint)?;
        // Threads may arrive with times in another order than that of the lock.
        binding.seen = binding.seen.max(now);
        Some(target)
    }

    /// Forgets up to two clients whose window is over, and one in any case if the shard is full.
    fn make_room(&mut self, now: Instant, timeout: Duration, capacity: usize) {
        for _ in 0..2 {
            self.forget_front(|seen| expired(seen, now, timeout));
        }
        for _ in 0..SECOND_CHANCES {
            if self.bindings.len() < capacity {
                return;
            }
            self.forget_front(|_| true);
        }
        // All that had their turn were seen since: the next one goes, whatever it did.
        if let Some((client, _)) = self.queue.pop_front() {
            self.bindings.remove(&client);
        }
    }

    /// Forgets the client in front if it was not seen since it was lined up and `forget` agrees;
    /// lines it up again if it was seen.
    fn forget_front(&mut self, forget: impl Fn(Instant) -> bool) {
        let Some(&(client, lined_up)) = self.queue.front() else {
            return;
        };
        let seen = self.bindings.get(&client).map_or(lined_up, |binding| binding.seen);
        if seen > lined_up {
            self.queue.pop_front();
            self.queue.push_back((client, seen));
        } else if forget(seen) {
            self.queue.pop_front();
            self.bindings.remove(&client);
        }
    }
}

/// The instant `seen + timeout` still belongs to the window.
fn expired(seen: Instant, now: Instant, timeout: Duration) -> bool {
    now.saturating_duration_since(seen) > timeout
}

#[cfg(test)]
mod tests;
