//! Which sockets are ready: level-triggered epoll, by a number the caller gives each socket.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Events taken at a time.
const EVENTS: usize = 256;

/// What a socket is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    Read,
    Write,
    Both,
}

impl From<Watch> for EpollFlags {
    fn from(watch: Watch) -> Self {
        match watch {
            Watch::Read => Self::EPOLLIN,
            Watch::Write => Self::EPOLLOUT,
            Watch::Both => Self::EPOLLIN | Self::EPOLLOUT,
        }
    }
}

/// A set of watched sockets. A closed one leaves it by itself.
#[derive(Debug)]
pub(crate) struct Ready {
    epoll: Epoll,
    events: [EpollEvent; EVENTS],
}

/// A socket that is ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) number: usize,
    /// There is something to read, an end or an error.
    pub(crate) readable: bool,
}

impl Ready {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, events: [EpollEvent::empty(); EVENTS] })
    }

    pub(crate) fn add(&self, socket: impl AsFd, number: usize, watch: Watch) -> io::Result<()> {
        Ok(self.epoll.add(socket, EpollEvent::new(watch.into(), number as u64))?)
    }

    pub(crate) fn change(&self, socket: impl AsFd, number: usize, watch: Watch) -> io::Result<()> {
        Ok(self.epoll.modify(socket, &mut EpollEvent::new(watch.into(), number as u64))?)
    }

    pub(crate) fn remove(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(self.epoll.delete(socket)?)
    }

    /// Waits for events and says how many there are.
    ///
    /// # Errors
    /// Among others when none came in time: something is stuck.
    pub(crate) fn wait(&mut self, limit: Option<Duration>) -> io::Result<usize> {
        let timeout = match limit {
            Some(limit) => EpollTimeout::try_from(limit).expect("a limit is a few seconds"),
            None => EpollTimeout::NONE,
        };
        loop {
            match self.epoll.wait(&mut self.events, timeout) {
                Err(Errno::EINTR) => {}
                Ok(0) => return Err(ErrorKind::TimedOut.into()),
                waited => return Ok(waited?),
            }
        }
    }

    /// One of the events that the last [`wait`](Self::wait) counted.
    pub(crate) fn event(&self, place: usize) -> Event {
        let event = &self.events[place];
        let readable = EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        Event {
            number: usize::try_from(event.data()).expect("numbers come from a usize"),
            readable: event.events().intersects(readable),
        }
    }
}
