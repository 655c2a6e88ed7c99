//! What a plain connection says of its endpoint's health.
//!
//! Its first octet is an answer, at once. A connection that ends without one is a fault where the
//! endpoint ended it:
//!
//! | how it ends, without an octet of the endpoint's | fault |
//! | --- | --- |
//! | the endpoint's socket fails: reset, no answer to keepalive | yes, unless the client had ended its half and asked nothing |
//! | a FIN of either side, the client's reset, the idle time | no |
//! | passed on to another process | no, here as there |
//!
//! So one who only looks whether the port is open, who sends and wants no reply, or whose idle
//! connection the endpoint gives up, is held against nobody.

use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use streamvs_balance::{Fault, Target, VirtualServer};

use super::{End, Relay, Side};

/// Whose endpoint a plain connection has, as long as it has not said anything.
#[derive(Debug)]
pub struct Opinion {
    /// The ServicePort it was made to.
    pub server: Arc<VirtualServer>,
    /// The endpoint.
    pub target: Arc<Target>,
}

impl Relay<'_> {
    /// After each turn: what has it shown?
    pub(super) fn judge(&mut self, end: &Poll<End>) {
        let Some(opinion) = &self.opinion else {
            return;
        };
        if self.down.heard {
            opinion.target.answered();
            self.opinion = None;
            return;
        }
        let asked = self.up.octets > 0;
        let lost = match end {
            Poll::Pending => return,
            Poll::Ready(End::Reset(Side::Upstream, _)) => asked || !self.up.finished,
            Poll::Ready(End::Closed | End::Reset(Side::Downstream, _) | End::Idle) => false,
        };
        if lost {
            opinion.server.fault(&opinion.target, Fault::LostBeforeReply, Instant::now());
        }
    }
}
