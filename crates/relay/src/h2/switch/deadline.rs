//! Clients that will not wait any longer (gRPC over HTTP/2, "Timeout").
//!
//! A call whose deadline passes on its endpoint is the endpoint's affair. One that is still with us
//! then, since it waits for a dial, for SETTINGS or for room, or is about to be given to another
//! endpoint, is answered with DEADLINE_EXCEEDED: nobody wants what would come of it.

use std::time::Instant;

use super::exchange::Exchange;
use super::{ExchangeKey, Switch};
use crate::h2::{answer, deadline};

impl Switch {
    /// When [`Switch::expire_waits`] is due next. None: nobody with a deadline waits.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.next_expiry
    }

    /// Answers the streams that wait for an endpoint past their deadline. Looks at each that waits.
    pub fn expire_waits(&mut self, now: Instant) {
        if self.next_expiry.is_none_or(|at| now < at) {
            return;
        }
        self.now = now;
        let mut late = Vec::new();
        let mut next: Option<Instant> = None;
        for (&leg, endpoint) in &mut self.endpoints {
            endpoint.waiting.retain(|&key| {
                let exchange = self.exchanges.get(key).filter(|exchange| exchange.waits_for(leg));
                let Some(exchange) = exchange else { return false };
                if exchange.is_late(now) {
                    late.push(key);
                    return false;
                }
                next = [next, exchange.deadline].into_iter().flatten().min();
                true
            });
        }
        self.next_expiry = next;
        for key in late {
            self.answer_late(key);
        }
    }

    /// An exchange has begun to wait.
    pub(super) fn expects_by(&mut self, deadline: Option<Instant>) {
        self.next_expiry = [self.next_expiry, deadline].into_iter().flatten().min();
    }

    pub(super) fn answer_late(&mut self, key: ExchangeKey) {
        self.answer_as(key, 504, answer::DEADLINE_EXCEEDED, deadline::PASSED);
    }
}

impl Exchange {
    /// Its client does not wait for it any more.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}
