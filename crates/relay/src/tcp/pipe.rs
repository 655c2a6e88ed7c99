//! Pipes for splice(2), shared by the connections of a worker.
//!
//! ```text
//! source socket --splice--> pipe --splice--> sink socket
//! ```
//!
//! The pages of the source's receive queue go to the sink's send queue without being copied. A
//! pipe is lent for one turn; only what the sink would not take keeps it with its connection.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::{pipe2, read};

/// Octets a pipe shall hold. One splice then moves all that a socket's receive queue usually has
/// (`net.ipv4.tcp_rmem` ends at 6 MiB, half of it window); more measured no faster, and this is
/// what the kernel lets everybody have (`fs.pipe-max-size`).
const PIPE_OCTETS: i32 = 1024 * 1024;

/// Fewest octets worth splicing by. The kernel gives a user who holds many pages in pipes
/// (`fs.pipe-user-pages-soft`) only 8 KiB.
const LEAST_PIPE_OCTETS: i32 = 64 * 1024;

/// Pipes of a worker, lent and spare. Only a stalled receiver keeps one for longer than a turn, so
/// this is how many of those splice at a time (the others copy), and what they hold is bounded by
/// 64 times `PIPE_OCTETS`.
pub const MAX_PIPES: usize = 64;

/// Descriptors that the pipes of a worker take at most.
pub const PIPE_DESCRIPTORS: usize = 2 * MAX_PIPES;

/// A pipe with `held` octets in it.
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    held: usize,
    open_count: Rc<Cell<usize>>,
}

impl Pipe {
    fn new(open_count: &Rc<Cell<usize>>) -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let mut wanted = PIPE_OCTETS;
        // Refused above fs.pipe-max-size, and to users who hold many pages already.
        let capacity = loop {
            match fcntl(&write, FcntlArg::F_SETPIPE_SZ(wanted)) {
                Ok(capacity) => break capacity,
                Err(errno) if wanted <= LEAST_PIPE_OCTETS => return Err(errno.into()),
                Err(_) => wanted /= 2,
            }
        };
        let capacity = usize::try_from(capacity).unwrap_or(0);
        open_count.set(open_count.get() + 1);
        Ok(Self { read, write, capacity, held: 0, open_count: Rc::clone(open_count) })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves octets out of `source` into this pipe, which is empty. `Ok(0)` is their end.
    pub(super) fn fill(&mut self, source: impl AsFd) -> Result<usize, Errno> {
        debug_assert!(self.is_empty(), "else a full pipe could not be told from an empty socket");
        let count = splice(
            source,
            None,
            &self.write,
            None,
            self.capacity,
            SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK,
        )?;
        self.held = count;
        Ok(count)
    }

    /// Moves octets of this pipe, which is not empty, into `sink`. A sink that is gone is EPIPE;
    /// the signal that comes with it is ignored by every Rust program.
    pub(super) fn drain(&mut self, sink: impl AsFd) -> Result<usize, Errno> {
        let count = splice(
            &self.read,
            None,
            sink,
            None,
            self.held,
            SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK,
        )?;
        self.held -= count;
        Ok(count)
    }

    /// Copies out all it holds; then it is empty.
    ///
    /// # Errors
    /// As read(2), which does not fail on a pipe that holds octets.
    pub(super) fn take_octets(&mut self) -> Result<Bytes, Errno> {
        let mut octets = vec![0; self.held];
        let mut filled = 0;
        while filled < octets.len() {
            match read(&self.read, &mut octets[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        octets.truncate(filled);
        self.held = 0;
        Ok(octets.into())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.open_count.set(self.open_count.get() - 1);
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").field("capacity", &self.capacity).field("held", &self.held).finish()
    }
}

/// The pipes of a worker.
#[derive(Debug)]
pub(crate) struct Pipes {
    #[expect(
        clippy::vec_box,
        reason = "they are lent as boxes, so that idle connections are small"
    )]
    spare: RefCell<Vec<Box<Pipe>>>,
    open_count: Rc<Cell<usize>>,
    limit: usize,
}

impl Pipes {
    /// No pipe yet, and never more than `limit`.
    pub(crate) fn new(limit: usize) -> Self {
        Self { spare: RefCell::default(), open_count: Rc::default(), limit }
    }

    /// An empty pipe. None: all are in use, or the kernel gives none; then copy.
    pub(super) fn take(&self) -> Option<Box<Pipe>> {
        if let Some(pipe) = self.spare.borrow_mut().pop() {
            return Some(pipe);
        }
        if self.open_count.get() >= self.limit {
            return None;
        }
        match Pipe::new(&self.open_count) {
            Ok(pipe) => Some(Box::new(pipe)),
            Err(error) => {
                tracing::debug!(error = %error, "no pipe, copying instead");
                None
            }
        }
    }

    /// Takes back a pipe; one with octets in it is closed, for they are nobody's any more.
    pub(super) fn give(&self, pipe: Box<Pipe>) {
        if pipe.is_empty() {
            self.spare.borrow_mut().push(pipe);
        }
    }

    /// How many there are, and how many of them nobody uses.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.open_count.get(), self.spare.borrow().len())
    }
}

#[cfg(test)]
mod tests;
