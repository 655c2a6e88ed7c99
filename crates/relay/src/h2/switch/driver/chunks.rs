//! The memory that the worker's HTTP/2 connections read into.

use std::cell::RefCell;
use std::rc::Rc;

/// Octets of one read. A few of them fit into a core's cache, so that what was read is mostly still
/// there when it is passed on.
pub(super) const CHUNK_OCTETS: usize = 128 * 1024;

/// Chunks of a worker: what one batch of readable sockets brings. When all are lent, the driver
/// writes before it reads on.
const CHUNK_COUNT: usize = 8;

/// Chunks that take turns. Those whose octets wait for a socket are lent, and come back by
/// themselves when these have gone on.
#[derive(Debug, Default)]
pub(super) struct Chunks(RefCell<Vec<Rc<[u8]>>>);

impl Chunks {
    /// One that nobody else holds, used last if possible. None: all are lent.
    pub(super) fn take(&self) -> Option<Rc<[u8]>> {
        let mut chunks = self.0.borrow_mut();
        if let Some(place) = chunks.iter().rposition(|chunk| Rc::strong_count(chunk) == 1) {
            return Some(chunks.remove(place));
        }
        (chunks.len() < CHUNK_COUNT).then(fresh)
    }

    /// Takes one back, which may be lent.
    pub(super) fn give(&self, chunk: Rc<[u8]>) {
        let mut chunks = self.0.borrow_mut();
        if chunks.len() < CHUNK_COUNT {
            chunks.push(chunk);
        }
    }

    /// Keeps the one that was used last.
    pub(super) fn shrink(&self) {
        let mut chunks = self.0.borrow_mut();
        let unused = chunks.len().saturating_sub(1);
        chunks.drain(..unused);
    }
}

/// A chunk that was in no turn yet.
pub(super) fn fresh() -> Rc<[u8]> {
    vec![0; CHUNK_OCTETS].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_not_given_again_and_there_is_a_bound() {
        let chunks = Chunks::default();
        let lent: Vec<_> = (0..CHUNK_COUNT)
            .map(|_| {
                let mut chunk = chunks.take().expect("below the bound");
                assert!(Rc::get_mut(&mut chunk).is_some());
                chunks.give(Rc::clone(&chunk));
                chunk
            })
            .collect();
        assert!(chunks.take().is_none());
        let first = Rc::as_ptr(&lent[0]);
        drop(lent);
        let last = chunks.take().expect("all are back");
        assert!(!std::ptr::eq(Rc::as_ptr(&last), first));
        chunks.give(last);
        chunks.shrink();
        assert_eq!(chunks.0.borrow().len(), 1);
    }
}
