//! A plain connection between two turns, for somebody else to go on with.
//!
//! Comes in: a relay that was told to stop where it is ([`Worker::suspend`]). Goes out: its two
//! sockets, and what was read from one but not yet taken by the other, also out of a pipe. Nothing
//! is closed, reset or lost by it; [`resume`] goes on with the next octet, in this process or in
//! another that was given the descriptors.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::Waker;

use bytes::Bytes;
use slotmap::{DefaultKey, SlotMap};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::{Departure, Relay, Side, direction::Direction};
use crate::tcp::idle::IdleTimer;
use crate::worker::Worker;

/// All that goes on with a plain connection takes.
#[derive(Debug)]
pub struct Suspended {
    /// The client's socket.
    pub downstream: OwnedFd,
    /// The endpoint's socket.
    pub upstream: OwnedFd,
    /// From the client to the endpoint.
    pub up: Half,
    /// From the endpoint to the client.
    pub down: Half,
}

/// One direction of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Half {
    /// Read, but not taken by the receiver yet: at most a pipe's content (1 MiB).
    pub pending: Bytes,
    /// Written so far, in octets.
    pub octets: u64,
    /// How far its end has come.
    pub progress: Progress,
}

/// How far the end of a direction has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// More may come.
    #[default]
    Open,
    /// FIN has come and is to be passed on after what is pending.
    Finished,
    /// FIN has been passed on.
    Ended,
}

/// Goes on with a connection where it was suspended.
///
/// # Errors
/// The sockets cannot be registered with the runtime; they are closed.
pub fn resume(
    worker: &Worker,
    suspended: Suspended,
) -> io::Result<impl Future<Output = Departure>> {
    let Suspended { downstream, upstream, up, down } = suspended;
    let socket = |descriptor: OwnedFd| TcpStream::from_std(descriptor.into());
    Ok(Relay {
        worker,
        downstream: socket(downstream)?,
        upstream: socket(upstream)?,
        up: Direction::resumed(Side::Downstream, up),
        down: Direction::resumed(Side::Upstream, down),
        idle: IdleTimer::default(),
        key: None,
        // What the endpoint has said to whoever had the connection before is not known.
        opinion: None,
    })
}

impl Relay<'_> {
    /// Between two turns. The sockets are duplicated, so that dropping the relay deregisters its
    /// own and neither FIN nor reset is sent.
    pub(super) fn suspend(&mut self) -> io::Result<Suspended> {
        let downstream = self.downstream.as_fd().try_clone_to_owned()?;
        let upstream = self.upstream.as_fd().try_clone_to_owned()?;
        let (up, down) = (self.up.half(&self.downstream)?, self.down.half(&self.upstream)?);
        Ok(Suspended { downstream, upstream, up, down })
    }
}

/// Which relays of a worker are to be woken when all shall be suspended.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    suspended: Cell<bool>,
    /// One for each relay that was polled; a relay stays in the task that polled it first.
    wakers: RefCell<SlotMap<DefaultKey, Waker>>,
    notify: Notify,
}

impl Relays {
    pub(super) fn is_suspended(&self) -> bool {
        self.suspended.get()
    }

    pub(super) fn enter(&self, waker: &Waker) -> DefaultKey {
        self.wakers.borrow_mut().insert(waker.clone())
    }

    pub(super) fn leave(&self, key: DefaultKey) {
        self.wakers.borrow_mut().remove(key);
    }
}

impl Worker {
    /// From now on plain connections leave their relay suspended: those that run, and those to come.
    pub fn suspend(&self) {
        self.relays.suspended.set(true);
        self.relays.notify.notify_waiters();
        for waker in self.relays.wakers.borrow().values() {
            waker.wake_by_ref();
        }
    }

    /// Ready when plain connections are suspended. Cancel safe.
    pub async fn suspended(&self) {
        let told = self.relays.notify.notified();
        if !self.relays.is_suspended() {
            told.await;
        }
    }
}

#[cfg(test)]
mod tests;
