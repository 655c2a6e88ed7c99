//! Writing, for all connections.

use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Instant;

use crate::h2::switch::ConnectionKey;
use crate::worker::Worker;

/// Pieces of one write: 256 KiB and more where they are large.
const PIECES: usize = 64;

impl super::Driver {
    /// Writes what there is, until the switch has nothing more or the kernel takes no more.
    pub(super) fn flush(&self, worker: &Rc<Worker>) {
        loop {
            let key = self.switch.borrow_mut().next_dirty();
            let Some(key) = key else {
                return;
            };
            self.flush_link(worker, key);
            // What the kernel does not take now must not hold the chunks that all read into.
            self.switch.borrow_mut().keep(key);
        }
    }

    /// The same for one connection. Wakes its task where that has to do something about it.
    pub(super) fn flush_link(&self, worker: &Rc<Worker>, key: ConnectionKey) {
        {
            let mut links = self.links.borrow_mut();
            let Some(link) = links.get_mut(key) else {
                return;
            };
            let mut switch = self.switch.borrow_mut();
            let mut now = None;
            while !link.blocked && link.error.is_none() {
                let mut slices = [IoSlice::new(&[]); PIECES];
                let mut count = 0;
                for (slice, piece) in slices.iter_mut().zip(switch.output(key)) {
                    *slice = IoSlice::new(piece);
                    count += 1;
                }
                if count == 0 {
                    break;
                }
                match link.socket.try_write_vectored(&slices[..count]) {
                    Ok(octets) => {
                        let now = *now.get_or_insert_with(Instant::now);
                        switch.written(key, octets, now);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        link.blocked = true;
                        link.waker.wake_by_ref();
                    }
                    Err(error) => {
                        link.error = Some(error);
                        link.waker.wake_by_ref();
                    }
                }
            }
            let finished = switch.over(key).is_some() && switch.output_octets(key) == 0;
            if finished || (link.paused && switch.wants_input(key)) {
                link.waker.wake_by_ref();
            }
        }
        self.follow(worker);
    }
}
