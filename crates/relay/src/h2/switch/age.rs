//! Streams that are ended since they have lived long enough, so that what comes in their place is
//! spread anew.

use std::time::Instant;

use super::exchange::{End, Phase, Toward};
use super::frame::Code;
use super::{ExchangeKey, Switch};
use crate::h2::answer;

/// How soon a stream is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// When the message that is under way to the client is whole. With one that is known to be, or
    /// none begun, that is now.
    AfterMessage,
    /// Now.
    Now,
}

/// Octets in front of each message: a flag, and the length of what follows (gRPC over HTTP/2,
/// "Length-Prefixed-Message").
const HEAD_OCTETS: usize = 5;

/// Where the messages of a gRPC response end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Messages {
    /// Octets of a head that has not come whole.
    head: [u8; HEAD_OCTETS],
    head_octets: u8,
    /// Octets of the message that have not come.
    left: u32,
}

impl Messages {
    /// Octets of the response have come.
    pub(super) fn pass(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            octets = &octets[self.take_one(octets)..];
        }
    }

    /// The same, up to the next end of a message at most. Says how many octets that were.
    pub(super) fn take_one(&mut self, octets: &[u8]) -> usize {
        let mut taken = 0;
        if self.left == 0 {
            let seen = usize::from(self.head_octets);
            taken = octets.len().min(HEAD_OCTETS - seen);
            self.head[seen..seen + taken].copy_from_slice(&octets[..taken]);
            // At most five.
            self.head_octets += taken as u8;
            if usize::from(self.head_octets) < HEAD_OCTETS {
                return taken;
            }
            let [_, length @ ..] = self.head;
            self.left = u32::from_be_bytes(length);
            self.head_octets = 0;
        }
        let rest = octets.len() - taken;
        let of_message = rest.min(self.left as usize);
        // No more than what is left.
        self.left -= of_message as u32;
        taken + of_message
    }

    /// What has come are whole messages.
    pub(super) fn are_whole(&self) -> bool {
        self.left == 0 && self.head_octets == 0
    }
}

impl Switch {
    /// Looks from now on where the messages of the stream's response end, if it is gRPC: it may be
    /// ended by [`Switch::expire`]. To be called before the response begins.
    pub fn watch_messages(&mut self, key: ExchangeKey) {
        if let Some(exchange) = self.exchanges.get_mut(key)
            && exchange.grpc
            && !exchange.response_begun
        {
            exchange.messages.get_or_insert_default();
        }
    }

    /// Ends a stream that has lived long enough. The endpoint is told CANCEL. The client of a gRPC
    /// call is told UNAVAILABLE in trailers, behind what has come for it; other clients 504 where no
    /// response has begun, and CANCEL in the middle of one. A stream whose response is whole is
    /// left to its end.
    pub fn expire(&mut self, key: ExchangeKey, expiry: Expiry, now: Instant) {
        self.now = now;
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let is_over = exchange.response.ended() || exchange.phase == Phase::Answering;
        if is_over || exchange.phase == Phase::Picking {
            return;
        }
        if !exchange.response_begun {
            self.leave_endpoint(key, Some(Code::CANCEL));
            return self.answer(key, 504, answer::EXPIRED, now);
        }
        if !exchange.grpc {
            return self.reset_client(key, Code::CANCEL);
        }
        let is_between = exchange.messages.as_ref().is_some_and(|messages| messages.are_whole());
        if expiry == Expiry::Now || is_between {
            self.end_expired(key);
        } else {
            exchange.expires = true;
        }
    }

    /// Takes octets of a response for which an end is looked for: those that are to go on. None:
    /// all.
    pub(super) fn before_expiry(&mut self, key: ExchangeKey, octets: &[u8]) -> Option<usize> {
        let exchange = self.exchanges.get_mut(key)?;
        let messages = exchange.messages.as_mut()?;
        if !exchange.expires {
            messages.pass(octets);
            return None;
        }
        let taken = messages.take_one(octets);
        messages.are_whole().then_some(taken)
    }

    /// Ends a gRPC response behind what has come of it.
    pub(super) fn end_expired(&mut self, key: ExchangeKey) {
        self.leave_endpoint(key, Some(Code::CANCEL));
        self.drop_request(key);
        self.carry_trailers(key, Toward::Downstream, End::Expired);
    }
}

#[cfg(test)]
mod tests {
    //! Aim: messages are told apart however their octets are cut.

    use super::Messages;

    fn messages(lengths: &[usize]) -> Vec<u8> {
        let message = |length: &usize| {
            let head = [&[0][..], &(*length as u32).to_be_bytes()].concat();
            [head, vec![0xff; *length]].concat()
        };
        lengths.iter().flat_map(message).collect()
    }

    #[test]
    fn ends_are_found_however_octets_are_cut() {
        let octets = messages(&[0, 3, 0, 0, 300, 1]);
        let mut ends = vec![0];
        for length in [0, 3, 0, 0, 300, 1] {
            ends.push(ends.last().unwrap() + 5 + length);
        }
        for cut in [1, 2, 3, 5, 7, 100, octets.len()] {
            let mut messages = Messages::default();
            let mut place = 0;
            for piece in octets.chunks(cut) {
                messages.pass(piece);
                place += piece.len();
                assert_eq!(messages.are_whole(), ends.contains(&place), "{place} by {cut}");
            }
        }
        let mut messages = Messages::default();
        let mut found = vec![0];
        while found.last() != Some(&octets.len()) {
            let place = *found.last().unwrap();
            found.push(place + messages.take_one(&octets[place..]));
            assert!(messages.are_whole());
        }
        assert_eq!(found, ends);
    }

    #[test]
    fn a_length_beyond_all_measure_ends_nothing() {
        let mut messages = Messages::default();
        messages.pass(&[1, 0xff, 0xff, 0xff, 0xff]);
        messages.pass(&[7; 1000]);
        assert!(!messages.are_whole());
    }
}
