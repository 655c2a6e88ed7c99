//! Whose turn it is to send on a connection: one client after the other, and of each client its
//! streams in order. So a client with a thousand streams on a shared connection gets as much of it
//! as one with a single stream.
//!
//! ```text
//!   ring:   client A: [ 1 5 9 ]   client B: [ 3 ]   client C: [ 7 11 ]
//!           ^ next: A's stream 1; A then goes behind C, with 5 next
//! ```
//!
//! On a client's own connection there is one client, and its streams take turns.

use std::collections::VecDeque;

use super::{ConnectionKey, ExchangeKey};

/// The streams that wait for one connection, each at most once, by client connection.
///
/// Invariants: a client stands in the ring at most once, and only with streams.
#[derive(Debug, Default)]
pub(super) struct Turns {
    ring: VecDeque<(ConnectionKey, VecDeque<ExchangeKey>)>,
    /// Memory of clients that have left the ring, at most as many as were in it at a time.
    spare: Vec<VecDeque<ExchangeKey>>,
}

impl Turns {
    pub(super) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Puts a stream of `client` behind its others. Takes as long as there are clients.
    pub(super) fn push_back(&mut self, client: ConnectionKey, exchange: ExchangeKey) {
        if let Some((_, streams)) = self.ring.iter_mut().rev().find(|(other, _)| *other == client) {
            return streams.push_back(exchange);
        }
        let mut streams = self.spare.pop().unwrap_or_default();
        streams.push_back(exchange);
        self.ring.push_back((client, streams));
    }

    /// The same for what [`Turns::pop_front`] has just given: its client is last, or has left.
    pub(super) fn push_again(&mut self, client: ConnectionKey, exchange: ExchangeKey) {
        match self.ring.back_mut() {
            Some((last, streams)) if *last == client => streams.push_back(exchange),
            _ => {
                let mut streams = self.spare.pop().unwrap_or_default();
                streams.push_back(exchange);
                self.ring.push_back((client, streams));
            }
        }
    }

    /// The next stream; its client has its next turn after all others.
    pub(super) fn pop_front(&mut self) -> Option<(ConnectionKey, ExchangeKey)> {
        let (client, mut streams) = self.ring.pop_front()?;
        let exchange = streams.pop_front();
        if streams.is_empty() {
            self.spare.push(streams);
        } else {
            self.ring.push_back((client, streams));
        }
        exchange.map(|exchange| (client, exchange))
    }

    /// Undoes the last [`Turns::pop_front`]: the stream could not use its turn.
    pub(super) fn push_front(&mut self, client: ConnectionKey, exchange: ExchangeKey) {
        let place = self.ring.iter().rposition(|(other, _)| *other == client);
        let mut streams = match place.and_then(|place| self.ring.remove(place)) {
            Some((_, streams)) => streams,
            None => self.spare.pop().unwrap_or_default(),
        };
        streams.push_front(exchange);
        self.ring.push_front((client, streams));
    }

    /// Gives up the memory when nothing waits.
    pub(super) fn shrink(&mut self) {
        if self.ring.is_empty() {
            *self = Self::default();
        }
    }

    /// Octets of memory that it holds.
    #[cfg(test)]
    pub(super) fn memory_octets(&self) -> usize {
        self.ring.capacity() + self.spare.capacity()
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    fn keys<K: slotmap::Key>(count: usize) -> Vec<K> {
        let mut map = SlotMap::with_key();
        (0..count).map(|_| map.insert(())).collect()
    }

    #[test]
    fn clients_take_turns_and_the_streams_of_each_go_in_order() {
        let (clients, streams) = (keys::<ConnectionKey>(2), keys::<ExchangeKey>(5));
        let mut turns = Turns::default();
        for stream in &streams[..4] {
            turns.push_back(clients[0], *stream);
        }
        turns.push_back(clients[1], streams[4]);
        let mut order = Vec::new();
        for _ in 0..8 {
            let (client, stream) = turns.pop_front().expect("all come back");
            order.push(streams.iter().position(|other| *other == stream).expect("known"));
            turns.push_again(client, stream);
        }
        assert_eq!(order, [0, 4, 1, 4, 2, 4, 3, 4]);
    }

    #[test]
    fn a_turn_that_could_not_be_used_is_the_next_one_again() {
        let (clients, streams) = (keys::<ConnectionKey>(2), keys::<ExchangeKey>(3));
        let mut turns = Turns::default();
        turns.push_back(clients[0], streams[0]);
        turns.push_back(clients[0], streams[1]);
        turns.push_back(clients[1], streams[2]);
        for _ in 0..3 {
            let (client, stream) = turns.pop_front().expect("they wait");
            assert_eq!((client, stream), (clients[0], streams[0]));
            turns.push_front(client, stream);
        }
        let order: Vec<_> = std::iter::from_fn(|| turns.pop_front()).map(|(_, key)| key).collect();
        assert_eq!(order, [streams[0], streams[2], streams[1]]);
        assert!(turns.is_empty());
        turns.shrink();
        assert_eq!(turns.memory_octets(), 0);
    }
}
