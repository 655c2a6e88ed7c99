//! How much each client has open, where that is limited.
//!
//! A client is a source address. What it has open is counted over all workers, so that it makes no
//! difference to which of them the kernel gives its connections. The map of clients is locked when
//! a connection begins or ends, and has an entry for each client with an open connection: no more
//! than there are connections. Streams count on their client's entry alone.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxBuildHasher;
use streamvs_balance::StreamLimit;

/// What one client may have open at a time. None: as much as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Connections, plain ones and HTTP/2.
    pub connections: Option<u32>,
    /// Streams, on all its connections together.
    pub streams: Option<u32>,
}

/// The clients that have something open.
#[derive(Debug)]
pub struct Clients {
    limits: ClientLimits,
    open: Mutex<HashMap<IpAddr, Arc<Client>, FxBuildHasher>>,
}

#[derive(Debug, Default)]
struct Client {
    /// Changes only while the map is locked.
    connections: AtomicU32,
    streams: AtomicU32,
}

impl Clients {
    /// Nobody yet.
    pub fn new(limits: ClientLimits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default() })
    }

    /// One more connection of `client`. None: it has as many as it may.
    pub fn connect(self: &Arc<Self>, client: IpAddr) -> Option<Seat> {
        self.take(client, self.limits.connections)
    }

    /// A connection that is there already, however many the client has.
    pub fn adopt(self: &Arc<Self>, client: IpAddr) -> Option<Seat> {
        self.take(client, None)
    }

    fn take(self: &Arc<Self>, ip: IpAddr, most: Option<u32>) -> Option<Seat> {
        let mut open = self.lock();
        let client = open.entry(ip).or_default();
        let count = client.connections.load(Ordering::Relaxed);
        // A limit is at least 1, so an entry that was made just now is used.
        if most.is_some_and(|most| count >= most.max(1)) {
            return None;
        }
        client.connections.store(count + 1, Ordering::Relaxed);
        let client = Arc::clone(client);
        drop(open);
        Some(Seat { clients: Arc::clone(self), ip, client })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Client>, FxBuildHasher>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection of a client, counted until it is dropped.
pub struct Seat {
    clients: Arc<Clients>,
    ip: IpAddr,
    client: Arc<Client>,
}

impl Seat {
    /// One more stream of the client. None: streams are not counted.
    ///
    /// # Errors
    /// It has as many as it may.
    pub(crate) fn open_stream(&self) -> Result<Option<StreamSeat>, StreamLimit> {
        let Some(most) = self.clients.limits.streams else { return Ok(None) };
        let count = self.client.streams.fetch_add(1, Ordering::Relaxed);
        let seat = StreamSeat(Arc::clone(&self.client));
        if count < most { Ok(Some(seat)) } else { Err(StreamLimit::Client) }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.clients.lock();
        let count = self.client.connections.load(Ordering::Relaxed) - 1;
        self.client.connections.store(count, Ordering::Relaxed);
        if count == 0 {
            open.remove(&self.ip);
        }
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("ip", &self.ip).finish_non_exhaustive()
    }
}

/// One stream of a client, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct StreamSeat(Arc<Client>);

impl Drop for StreamSeat {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    //! Aim: each client has its own count, exact whatever ends first, and nobody who has nothing
    //! open is remembered.

    use super::*;

    fn client(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    #[test]
    fn a_client_has_as_many_connections_as_it_may_and_others_do_not_matter() {
        let clients = Clients::new(ClientLimits { connections: Some(2), streams: None });
        let first = clients.connect(client(1)).expect("the first");
        let second = clients.connect(client(1)).expect("the second");
        assert!(clients.connect(client(1)).is_none());
        assert!(clients.connect(client(2)).is_some());
        let adopted = clients.adopt(client(1)).expect("is there already");
        drop(first);
        assert!(clients.connect(client(1)).is_none(), "two are left");
        drop(adopted);
        assert!(clients.connect(client(1)).is_some());
        drop(second);
        assert!(clients.lock().is_empty(), "nobody is left");
    }

    #[test]
    fn streams_of_all_connections_count_together() {
        let clients = Clients::new(ClientLimits { connections: None, streams: Some(3) });
        let seats = [clients.connect(client(1)).unwrap(), clients.connect(client(1)).unwrap()];
        let mut streams: Vec<_> = [0, 1, 1].map(|seat| seats[seat].open_stream().unwrap()).into();
        for seat in &seats {
            assert_eq!(seat.open_stream().map(drop), Err(StreamLimit::Client));
        }
        let other = clients.connect(client(2)).unwrap();
        assert!(other.open_stream().is_ok());
        drop(streams.pop());
        streams.push(seats[0].open_stream().expect("one has ended"));
        assert!(seats[1].open_stream().is_err());
    }

    #[test]
    fn counts_are_exact_when_many_threads_open_and_close() {
        let clients = Clients::new(ClientLimits { connections: Some(4), streams: Some(4) });
        let most = AtomicU32::new(0);
        let open = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let seats: Vec<_> =
                            (0..3).filter_map(|_| clients.connect(client(1))).collect();
                        let now = open.fetch_add(seats.len() as u32, Ordering::SeqCst);
                        most.fetch_max(now + seats.len() as u32, Ordering::SeqCst);
                        let streams: Vec<_> =
                            seats.iter().filter_map(|seat| seat.open_stream().ok()).collect();
                        open.fetch_sub(seats.len() as u32, Ordering::SeqCst);
                        drop((streams, seats));
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 4);
        assert!(clients.lock().is_empty());
        let seat = clients.connect(client(1)).unwrap();
        let streams: Vec<_> = (0..9).map_while(|_| seat.open_stream().ok()).collect();
        assert_eq!(streams.len(), 4);
    }
}
