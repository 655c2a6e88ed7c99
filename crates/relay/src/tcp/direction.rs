//! One direction of a plain connection.

use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use nix::errno::Errno;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::Side;
use super::pace::Pace;
use super::patience::Patience;
use super::pipe::Pipe;
use super::suspend::{Half, Progress};
use crate::socket::{read_once, write_once};
use crate::worker::Worker;

/// Octets one direction may move before the other connections of the worker get a turn: a
/// millisecond of copying, less of splicing.
const TURN_OCTETS: usize = 2 * 1024 * 1024;

/// What a piece counts in a turn however small it is, so that a turn has at most 64.
const LEAST_COST: usize = 32 * 1024;

/// Which side failed, and how.
pub(super) type Failure = (Side, io::ErrorKind);

/// The octets of one side on their way to the other.
///
/// ```text
///                    +---- read ----> worker's buffer ----- write ---+
///          copying   |                       | refused               v
///   source ----------+                       +--> pending --write--> sink
///          splicing  |                                               ^
///                    +---- splice ---> pipe ---------- splice -------+
/// ```
///
/// Invariants: while `pending` or `pipe` holds octets nothing is read, so order is kept and memory
/// is bounded by one buffer (256 KiB) or one pipe (1 MiB, and those are counted); at most one of
/// the two holds any; an empty pipe goes back at the end of each turn.
#[derive(Debug)]
pub(super) struct Direction {
    /// Read but not taken by the receiver yet.
    pending: Bytes,
    /// Lent for this turn, or until the receiver has taken what it holds.
    pipe: Option<Box<Pipe>>,
    /// Written so far.
    pub(super) octets: u64,
    /// Whose octets these are.
    source: Side,
    pace: Pace,
    patience: Patience,
    /// An octet has come from the source.
    pub(super) heard: bool,
    /// FIN has come; it is passed on when nothing is held.
    pub(super) finished: bool,
    /// FIN has been passed on.
    pub(super) ended: bool,
}

impl Direction {
    /// `written` octets have gone, and `pending` are next.
    pub(super) fn new(source: Side, written: u64, pending: Bytes) -> Self {
        let heard = written > 0 || !pending.is_empty();
        Self {
            heard,
            pending,
            pipe: None,
            octets: written,
            source,
            pace: Pace::default(),
            patience: Patience::default(),
            finished: false,
            ended: false,
        }
    }

    /// Goes on where another relay stopped.
    pub(super) fn resumed(source: Side, half: Half) -> Self {
        let Half { pending, octets, progress } = half;
        Self {
            finished: progress != Progress::Open,
            ended: progress == Progress::Ended,
            ..Self::new(source, octets, pending)
        }
    }

    /// All there is to go on with `source`; what is held stays held here too.
    pub(super) fn half(&mut self, source: &TcpStream) -> io::Result<Half> {
        if let Some(pipe) = &mut self.pipe {
            debug_assert!(self.pending.is_empty(), "at most one of the two holds any");
            self.pending = pipe.take_octets()?;
        }
        self.patience.end(source);
        let progress = match (self.ended, self.finished) {
            (true, _) => Progress::Ended,
            (false, true) => Progress::Finished,
            (false, false) => Progress::Open,
        };
        Ok(Half { pending: self.pending.clone(), octets: self.octets, progress })
    }

    /// Takes a turn. Ready when the direction has ended; `is_last` says that the other one has,
    /// however it did.
    pub(super) fn poll(
        &mut self,
        worker: &Worker,
        from: &TcpStream,
        to: &TcpStream,
        is_last: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        let turn = self.poll_turn(worker, from, to, is_last, cx);
        if let Some(pipe) = self.pipe.take_if(|pipe| pipe.is_empty()) {
            worker.pipes.give(pipe);
        }
        turn
    }

    fn poll_turn(
        &mut self,
        worker: &Worker,
        from: &TcpStream,
        to: &TcpStream,
        is_last: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        let mut left = TURN_OCTETS;
        while !self.ended {
            ready!(self.poll_flush(to, cx))?;
            if self.finished {
                if !is_last {
                    // Fails only where the receiver is gone, which its own direction reports. The
                    // last FIN goes when the sockets are closed, which is at once.
                    let _ = SockRef::from(to).shutdown(Shutdown::Write);
                }
                self.ended = true;
                break;
            }
            if left == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let moved = ready!(self.poll_fill(worker, from, to, cx))?;
            left = left.saturating_sub(moved.max(LEAST_COST));
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is held until nothing is.
    fn poll_flush(&mut self, to: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            let written = if !self.pending.is_empty() {
                write_once(to, &self.pending).inspect(|&count| self.pending.advance(count))
            } else if let Some(pipe) = self.pipe.as_mut().filter(|pipe| !pipe.is_empty()) {
                to.try_io(Interest::WRITABLE, || Ok(pipe.drain(to)?))
            } else {
                // An empty slice would keep its memory.
                self.pending = Bytes::new();
                return Poll::Ready(Ok(()));
            };
            match written {
                Ok(count) => self.octets += count as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(to.poll_write_ready(cx)).map_err(|e| (self.sink(), e.kind()))?;
                }
                Err(error) => return Poll::Ready(Err((self.sink(), error.kind()))),
            }
        }
    }

    /// Reads once, and says how much. Nothing is held before it.
    fn poll_fill(
        &mut self,
        worker: &Worker,
        from: &TcpStream,
        to: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Failure>> {
        loop {
            let filled = match self.lend(worker) {
                Some(pipe) => self.splice(pipe, from),
                None => {
                    self.patience.end(from);
                    self.copy(worker, from, to)
                }
            };
            match filled {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err((side, io::ErrorKind::WouldBlock)) => {
                    let Poll::Ready(ready) = from.poll_read_ready(cx) else {
                        self.patience.wait(from, cx);
                        return Poll::Pending;
                    };
                    ready.map_err(|error| (side, error.kind()))?;
                }
                Err(failure) => return Poll::Ready(Err(failure)),
            }
        }
    }

    /// An empty pipe, when the next piece is worth it.
    fn lend(&mut self, worker: &Worker) -> Option<Box<Pipe>> {
        if !self.pace.is_bulky() {
            return None;
        }
        let pipe = self.pipe.take().or_else(|| worker.pipes.take());
        if pipe.is_none() {
            self.pace.reset();
        }
        pipe
    }

    /// Splices once into `pipe`.
    fn splice(&mut self, mut pipe: Box<Pipe>, from: &TcpStream) -> Result<usize, Failure> {
        let filled = from.try_io(Interest::READABLE, || Ok(pipe.fill(from)?));
        self.pipe = Some(pipe);
        match filled {
            Ok(count) => {
                self.finished = count == 0;
                self.heard |= count > 0;
                self.pace.spliced(count);
                self.patience.spliced(from, count);
                Ok(count)
            }
            Err(error) if cannot_splice(&error) => {
                self.pace.reset();
                Ok(0)
            }
            Err(error) => Err((self.source, error.kind())),
        }
    }

    /// Reads once into the worker's buffer and writes what came; keeps what the receiver would not
    /// take.
    fn copy(
        &mut self,
        worker: &Worker,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Result<usize, Failure> {
        worker.with_buffer(|buffer| {
            let count = read_once(from, buffer).map_err(|error| (self.source, error.kind()))?;
            if count == 0 {
                self.finished = true;
                return Ok(0);
            }
            self.heard = true;
            self.pace.copied(count);
            let written = match write_once(to, &buffer[..count]) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err((self.sink(), error.kind())),
            };
            self.octets += written as u64;
            if written < count {
                self.pending = Bytes::copy_from_slice(&buffer[written..count]);
            }
            Ok(count)
        })
    }

    fn sink(&self) -> Side {
        match self.source {
            Side::Downstream => Side::Upstream,
            Side::Upstream => Side::Downstream,
        }
    }
}

/// The kernel cannot splice this, or may not (a filter of system calls), or has no memory for it.
/// It says so before it touches the socket, so that reading goes on where it was.
fn cannot_splice(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EINVAL | Errno::ENOSYS | Errno::EPERM | Errno::ENOMEM))
}
