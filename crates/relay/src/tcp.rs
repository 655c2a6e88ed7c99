//! The plain relay: two sockets, bytes both ways, every ending passed on.
//!
//! A connection owns no buffer. Each read goes into the worker's shared one and is written on at
//! once; only what the receiver would not take is kept, and nothing more is read from that side
//! until it is gone. So an idle connection costs its two sockets and this future, and a stalled
//! one at most one buffer (256 KiB) each way.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::connect::reset_on_drop;
use crate::worker::Worker;

/// Full buffers one direction may move before the other connections of the worker get a turn:
/// 2 MiB, about a millisecond of copying.
const TURN_READS: usize = 8;

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

/// Relays until both directions have ended. `to_upstream` and `to_downstream` are bytes that were
/// read before and go first.
///
/// A FIN is passed on as a FIN once all bytes before it are written, and the other direction goes
/// on. A reset is passed on as a reset when what came before it has been read.
pub async fn relay(
    worker: &Worker,
    downstream: TcpStream,
    upstream: TcpStream,
    to_upstream: Bytes,
    to_downstream: Bytes,
) -> Outcome {
    let mut up = Direction::new(Side::Downstream, to_upstream);
    let mut down = Direction::new(Side::Upstream, to_downstream);
    let mut idle = IdleTimer::default();
    let end = poll_fn(|cx| {
        let mut failed = None;
        let moved = up.bytes + down.bytes;
        for (direction, from, to) in
            [(&mut up, &downstream, &upstream), (&mut down, &upstream, &downstream)]
        {
            if let Poll::Ready(Err(failure)) = direction.poll(worker, from, to, cx) {
                failed = Some(failure);
            }
        }
        if let Some((side, kind)) = failed {
            return Poll::Ready(End::Reset(side, kind));
        }
        if up.ended && down.ended {
            return Poll::Ready(End::Closed);
        }
        let limit = if up.ended || down.ended {
            worker.options.half_close_timeout
        } else {
            worker.options.idle_timeout
        };
        let progressed = up.bytes + down.bytes > moved;
        ready!(idle.poll(limit, progressed, cx));
        Poll::Ready(End::Idle)
    })
    .await;
    if end != End::Closed {
        reset_on_drop(&downstream);
        reset_on_drop(&upstream);
    }
    Outcome { bytes_to_upstream: up.bytes, bytes_to_downstream: down.bytes, end }
}

/// One direction of a connection.
///
/// Invariant: while `pending` is not empty nothing is read, so order is kept and memory bounded.
#[derive(Debug)]
struct Direction {
    /// Whose bytes these are.
    source: Side,
    /// Read but not taken by the receiver yet.
    pending: Bytes,
    /// FIN has come; it is passed on when `pending` is empty.
    finished: bool,
    /// FIN has been passed on.
    ended: bool,
    /// Written so far.
    bytes: u64,
}

type Failure = (Side, io::ErrorKind);

impl Direction {
    fn new(source: Side, pending: Bytes) -> Self {
        Self { source, pending, finished: false, ended: false, bytes: 0 }
    }

    fn poll(
        &mut self,
        worker: &Worker,
        from: &TcpStream,
        to: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        for _ in 0..TURN_READS {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_flush(to, cx))?;
            if self.finished {
                // Fails only where the receiver is gone, which its own direction reports.
                let _ = SockRef::from(to).shutdown(std::net::Shutdown::Write);
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_fill(worker, from, to, cx))?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes `pending` until it is empty.
    fn poll_flush(&mut self, to: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while !self.pending.is_empty() {
            match to.try_write(&self.pending) {
                Ok(count) => {
                    self.bytes += count as u64;
                    self.pending.advance(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(to.poll_write_ready(cx)).map_err(|e| (self.sink(), e.kind()))?;
                }
                Err(error) => return Poll::Ready(Err((self.sink(), error.kind()))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes what came; keeps what the receiver would not take.
    fn poll_fill(
        &mut self,
        worker: &Worker,
        from: &TcpStream,
        to: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        loop {
            let mut buffer = worker.buffer.borrow_mut();
            match from.try_read(&mut buffer) {
                Ok(0) => {
                    self.finished = true;
                    return Poll::Ready(Ok(()));
                }
                Ok(count) => {
                    let written = match to.try_write(&buffer[..count]) {
                        Ok(written) => written,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                        Err(error) => return Poll::Ready(Err((self.sink(), error.kind()))),
                    };
                    self.bytes += written as u64;
                    if written < count {
                        self.pending = Bytes::copy_from_slice(&buffer[written..count]);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    drop(buffer);
                    ready!(from.poll_read_ready(cx)).map_err(|e| (self.source, e.kind()))?;
                }
                Err(error) => return Poll::Ready(Err((self.source, error.kind()))),
            }
        }
    }

    fn sink(&self) -> Side {
        match self.source {
            Side::Downstream => Side::Upstream,
            Side::Upstream => Side::Downstream,
        }
    }
}

/// Fires when nothing has moved for a while. The clock is read once per progress, and the timer
/// is moved only when it fires early.
#[derive(Default)]
struct IdleTimer {
    last_progress: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    fn poll(
        &mut self,
        limit: Option<Duration>,
        progressed: bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(limit) = limit else {
            return Poll::Pending;
        };
        let now = Instant::now();
        if progressed || self.last_progress.is_none() {
            self.last_progress = Some(now);
        }
        let last_progress = self.last_progress.unwrap_or(now);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        loop {
            if last_progress + limit < sleep.deadline().into_std() {
                // The limit got shorter (half-closed): do not wait for the old deadline.
                sleep.as_mut().reset((last_progress + limit).into());
            }
            ready!(sleep.as_mut().poll(cx));
            if last_progress.elapsed() >= limit {
                return Poll::Ready(());
            }
            sleep.as_mut().reset((last_progress + limit).into());
        }
    }
}
