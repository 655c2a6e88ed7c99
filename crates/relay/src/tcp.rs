//! The plain relay: two sockets, octets both ways, every ending passed on.
//!
//! A connection owns no buffer. Each read goes into the worker's shared one and is written on at
//! once; only what the receiver would not take is kept, and nothing more is read from that side
//! until it is gone. A direction that proves bulky goes through a pipe of the worker's instead,
//! without a copy. So an idle connection costs its two sockets and this future, and a stalled one
//! at most one buffer (256 KiB) or one pipe (1 MiB, of [`MAX_PIPES`]) each way.

mod direction;
mod idle;
mod opinion;
mod pace;
mod patience;
mod pipe;
mod suspend;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use slotmap::DefaultKey;
use tokio::net::TcpStream;

use crate::connect::reset_on_drop;
use crate::worker::Worker;
use direction::Direction;
use idle::IdleTimer;

pub use opinion::Opinion;

pub(crate) use pipe::Pipes;
pub use pipe::{MAX_PIPES, PIPE_DESCRIPTORS};
pub(crate) use suspend::Relays;
pub use suspend::{Half, Progress, Suspended, resume};

/// What was read, and maybe written, before it was known that the connection is a plain one.
#[derive(Debug, Default)]
pub struct Early {
    /// Octets of the client's that the endpoint's socket has taken.
    pub sent_to_upstream: u64,
    /// What goes to the endpoint first.
    pub to_upstream: Bytes,
    /// What goes to the client first.
    pub to_downstream: Bytes,
}

/// How a plain connection went.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Bytes written to the endpoint.
    pub bytes_to_upstream: u64,
    /// Bytes written to the client.
    pub bytes_to_downstream: u64,
    /// What ended it.
    pub end: End,
}

/// How a plain connection leaves its relay.
#[derive(Debug)]
pub enum Departure {
    /// It is over.
    Ended(Outcome),
    /// It goes on elsewhere.
    Suspended(Box<Suspended>),
}

/// What ended a plain connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides sent FIN.
    Closed,
    /// A side reset the connection, or the kernel gave it up; the other side was reset too.
    Reset(Side, io::ErrorKind),
    /// No byte for the idle time; both sides were reset.
    Idle,
}

/// A side of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Downstream,
    /// The endpoint's.
    Upstream,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Reset(Side::Downstream, kind) => write!(f, "downstream: {kind}"),
            Self::Reset(Side::Upstream, kind) => write!(f, "upstream: {kind}"),
            Self::Idle => f.write_str("idle"),
        }
    }
}

/// Relays until both directions have ended, or until the worker's relays are suspended; what came
/// `early` goes first. Stays in the task that polls it first. What the connection says of its
/// endpoint is told to whom `opinion` names.
///
/// A FIN is passed on as a FIN once all bytes before it are written, and the other direction goes
/// on. A reset is passed on as a reset when what came before it has been read.
pub fn relay(
    worker: &Worker,
    downstream: TcpStream,
    upstream: TcpStream,
    early: Early,
    opinion: Option<Opinion>,
) -> impl Future<Output = Departure> {
    Relay {
        worker,
        downstream,
        upstream,
        up: Direction::new(Side::Downstream, early.sent_to_upstream, early.to_upstream),
        down: Direction::new(Side::Upstream, 0, early.to_downstream),
        idle: IdleTimer::default(),
        key: None,
        opinion,
    }
}

/// A connection being relayed. A plain struct, because it is most of what an idle connection
/// costs, and an async function would hold its arguments twice.
struct Relay<'a> {
    worker: &'a Worker,
    downstream: TcpStream,
    upstream: TcpStream,
    up: Direction,
    down: Direction,
    idle: IdleTimer,
    /// By which the worker wakes it.
    key: Option<DefaultKey>,
    /// None: the endpoint has said something, maybe to somebody who had the connection before.
    opinion: Option<Opinion>,
}

impl Future for Relay<'_> {
    type Output = Departure;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Departure> {
        let relay = self.get_mut();
        if relay.key.is_none() {
            relay.key = Some(relay.worker.relays.enter(cx.waker()));
        }
        if relay.worker.relays.is_suspended() {
            match relay.suspend() {
                Ok(suspended) => return Poll::Ready(Departure::Suspended(Box::new(suspended))),
                Err(error) => tracing::debug!(error = %error, "cannot suspend a connection"),
            }
        }
        let end = relay.poll_end(cx);
        relay.judge(&end);
        let end = ready!(end);
        if end != End::Closed {
            reset_on_drop(&relay.downstream);
            reset_on_drop(&relay.upstream);
        }
        Poll::Ready(Departure::Ended(Outcome {
            bytes_to_upstream: relay.up.octets,
            bytes_to_downstream: relay.down.octets,
            end,
        }))
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.worker.relays.leave(key);
        }
    }
}

impl Relay<'_> {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Self { worker, downstream, upstream, up, down, idle, .. } = self;
        let moved = up.octets + down.octets;
        let up_turn = up.poll(worker, downstream, upstream, down.ended, cx);
        // After a failure the other direction has its turn yet, for what came before; but its end
        // is not passed on as a FIN, for a socket that has told its error reads as if it ended.
        let is_last = up.ended || matches!(up_turn, Poll::Ready(Err(_)));
        let down_turn = down.poll(worker, upstream, downstream, is_last, cx);
        for turn in [up_turn, down_turn] {
            if let Poll::Ready(Err((side, kind))) = turn {
                return Poll::Ready(End::Reset(side, kind));
            }
        }
        if up.ended && down.ended {
            return Poll::Ready(End::Closed);
        }
        let limit = if up.ended || down.ended {
            worker.options.half_close_timeout
        } else {
            worker.options.idle_timeout
        };
        let progressed = up.octets + down.octets > moved;
        ready!(idle.poll(limit, progressed, cx));
        Poll::Ready(End::Idle)
    }
}

#[cfg(test)]
mod tests;
