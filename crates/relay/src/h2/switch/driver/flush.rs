//! Writing, for all connections.

use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Instant;

use crate::h2::switch::ConnectionKey;
use crate::worker::Worker;

impl super::Driver {
    /// Writes what there is, until the switch has nothing more or the kernel takes no more.
    pub(super) fn flush(&self, worker: &Rc<Worker>) {
        loop {
            let key = self.switch.borrow_mut().next_dirty();
            let Some(key) = key else {
                return;
            };
            self.flush_link(worker, key);
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
                let (first, second) = switch.output(key);
                if first.is_empty() {
                    break;
                }
                let slices = [IoSlice::new(first), IoSlice::new(second)];
                match link.socket.try_write_vectored(&slices) {
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
            let finished = switch.over(key).is_some() && switch.output(key).0.is_empty();
            if finished || (link.paused && switch.wants_input(key)) {
                link.waker.wake_by_ref();
            }
        }
        self.follow(worker);
    }
}
