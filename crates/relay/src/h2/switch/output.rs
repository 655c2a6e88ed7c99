//! What waits for a connection's socket.
//!
//! ```text
//!   own:    [ head ]              [ head, small DATA, HEADERS ]  ...
//!   loans:           chunk[a..b]                                chunk[c..d]
//!   socket:  head  , chunk[a..b],  head, small DATA, HEADERS,  chunk[c..d]  , ...
//! ```
//!
//! Most of it is the connection's own octets. A large piece of DATA is not copied there but lent:
//! it stays in the chunk that it was read into, until it has gone on. Copying it would cost as much
//! as both of the kernel's copies together ([`LOAN_OCTETS`](limits::LOAN_OCTETS)).

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use super::limits;

/// Octets in the order in which they go. A connection that has none holds no memory for them.
#[derive(Debug, Default)]
pub(super) struct Output(Option<Box<Queue>>);

/// The memory of an output.
///
/// Invariants: no loan is empty; `placed` is the sum of the loans' `after`, and at most the length
/// of `own` behind `start`.
#[derive(Debug, Default)]
pub(super) struct Queue {
    own: Vec<u8>,
    /// Octets of `own` that have gone on.
    start: usize,
    loans: VecDeque<Loan>,
    /// Own octets in front of the last loan.
    placed: usize,
    lent_octets: usize,
}

/// Octets of a chunk.
#[derive(Debug)]
struct Loan {
    /// Own octets that go between the loan before and this one.
    after: usize,
    chunk: Rc<[u8]>,
    range: Range<usize>,
}

impl Output {
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.own_octets() + queue.lent_octets)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn reserve(&mut self, octets: usize) {
        self.0.get_or_insert_default().own.reserve(octets);
    }

    /// Appends a copy.
    pub(super) fn extend(&mut self, octets: &[u8]) {
        self.0.get_or_insert_default().own.extend_from_slice(octets);
    }

    /// Appends `octets` as they lie in `chunk`. False: they are too few to be worth it, or lie
    /// elsewhere; nothing is appended.
    #[must_use]
    pub(super) fn lend(&mut self, chunk: &Rc<[u8]>, octets: &[u8]) -> bool {
        if octets.len() < limits::LOAN_OCTETS {
            return false;
        }
        let Some(range) = place(chunk, octets) else {
            return false;
        };
        let queue = self.0.get_or_insert_default();
        let after = queue.own_octets() - queue.placed;
        queue.placed += after;
        queue.lent_octets += range.len();
        queue.loans.push_back(Loan { after, chunk: Rc::clone(chunk), range });
        true
    }

    /// All of it, in pieces.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().flat_map(|queue| queue.pieces())
    }

    /// Drops the first octets, which have gone on. No more than there are.
    pub(super) fn advance(&mut self, octets: usize) {
        if let Some(queue) = &mut self.0 {
            queue.advance(octets);
        }
    }

    /// Copies what is lent, so that its chunks can be used again. What is in front of it stays where
    /// it is, so that a receiver who takes nothing has each octet copied once.
    pub(super) fn keep(&mut self) {
        let Some(queue) = &mut self.0 else { return };
        let Some(first) = queue.loans.front() else { return };
        let behind = queue.own.split_off(queue.start + first.after);
        let mut rest = &behind[..];
        for (place, loan) in queue.loans.drain(..).enumerate() {
            let own = rest.split_off(..if place == 0 { 0 } else { loan.after });
            queue.own.extend_from_slice(own.unwrap_or_default());
            queue.own.extend_from_slice(&loan.chunk[loan.range]);
        }
        queue.own.extend_from_slice(rest);
        (queue.placed, queue.lent_octets) = (0, 0);
    }

    /// Its memory, where it holds nothing.
    pub(super) fn take_memory(&mut self) -> Option<Box<Queue>> {
        if self.is_empty() { self.0.take() } else { None }
    }

    pub(super) fn has_memory(&self) -> bool {
        self.0.is_some()
    }

    /// Takes memory, where it has none.
    pub(super) fn give_memory(&mut self, queue: Box<Queue>) {
        debug_assert!(!self.has_memory() && queue.own.is_empty() && queue.loans.is_empty());
        self.0 = Some(queue);
    }
}

impl Queue {
    fn own_octets(&self) -> usize {
        self.own.len() - self.start
    }

    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = self.start;
        let lent = self.loans.iter().flat_map(move |loan| {
            let own = &self.own[start..start + loan.after];
            start += loan.after;
            [own, &loan.chunk[loan.range.clone()]]
        });
        let last = &self.own[self.start + self.placed..];
        lent.chain([last]).filter(|piece| !piece.is_empty())
    }

    /// The first own octets have gone on. No more than there are.
    fn advance_own(&mut self, octets: usize) {
        self.start = (self.start + octets).min(self.own.len());
        // Moves each octet once at most, on average.
        if 2 * self.start >= self.own.len() {
            self.own.drain(..self.start);
            self.start = 0;
        }
    }

    fn advance(&mut self, mut octets: usize) {
        while let Some(loan) = self.loans.front_mut() {
            let own = octets.min(loan.after);
            let lent = (octets - own).min(loan.range.len());
            loan.after -= own;
            loan.range.start += lent;
            let is_over = loan.range.is_empty();
            self.placed -= own;
            self.lent_octets -= lent;
            self.advance_own(own);
            octets -= own + lent;
            if !is_over {
                return;
            }
            self.loans.pop_front();
        }
        self.advance_own(octets);
    }

    /// Gives up what is above `octets`, while it holds nothing.
    pub(super) fn shrink_to(&mut self, octets: usize) {
        self.own.shrink_to(octets);
        self.loans.shrink_to(octets / limits::LOAN_OCTETS);
    }

    /// Octets of memory that it holds, without what is lent.
    pub(super) fn memory_octets(&self) -> usize {
        self.own.capacity() + self.loans.capacity() * size_of::<Loan>()
    }
}

/// Where `octets` lie in `chunk`, if they do.
fn place(chunk: &[u8], octets: &[u8]) -> Option<Range<usize>> {
    let start = octets.as_ptr().addr().checked_sub(chunk.as_ptr().addr())?;
    let end = start.checked_add(octets.len())?;
    (end <= chunk.len()).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = limits::LOAN_OCTETS;

    fn all(output: &Output) -> Vec<u8> {
        output.pieces().flatten().copied().collect()
    }

    /// An output of own octets and loans in turn, behind some that have gone on, with what should
    /// leave it.
    fn mixed(gone: usize) -> (Output, Vec<u8>) {
        let chunk: Rc<[u8]> = (0..4 * LARGE).map(|place| place as u8).collect();
        let mut output = Output::default();
        output.extend(&vec![0; gone]);
        let mut expected = Vec::new();
        for round in 0..3 {
            let own = [round as u8; 9];
            output.extend(&own);
            expected.extend(own);
            let lent = &chunk[round..round + LARGE + round];
            assert!(output.lend(&chunk, lent));
            expected.extend(lent);
            if round == 1 {
                assert!(output.lend(&chunk, &chunk[LARGE..2 * LARGE]), "two without own between");
                expected.extend(&chunk[LARGE..2 * LARGE]);
            }
        }
        output.extend(b"end");
        expected.extend(b"end");
        output.advance(gone);
        (output, expected)
    }

    #[test]
    fn octets_leave_in_order_however_many_are_taken_at_a_time() {
        for gone in [0, 10, 60] {
            for step in [1, 7, 9, 10, LARGE, LARGE + 9, 3 * LARGE, 1 << 20] {
                let (mut output, mut expected) = mixed(gone);
                while !expected.is_empty() {
                    assert_eq!(output.len(), expected.len());
                    assert!(all(&output) == expected, "{gone} {step}");
                    let taken = step.min(expected.len());
                    output.advance(taken);
                    expected.drain(..taken);
                }
                assert!(output.is_empty() && output.pieces().next().is_none());
            }
        }
    }

    #[test]
    fn what_is_kept_is_the_same_and_frees_its_chunks() {
        let (mut output, mut expected) = mixed(10);
        output.advance(12);
        expected.drain(..12);
        let chunk = Rc::clone(&output.0.as_ref().expect("it is not empty").loans[0].chunk);
        assert!(Rc::strong_count(&chunk) > 2);
        output.keep();
        assert_eq!(Rc::strong_count(&chunk), 1);
        assert!(all(&output) == expected);
        for round in 0..3 {
            output.extend(b"head");
            assert!(output.lend(&chunk, &chunk[round..LARGE + round]), "and goes on");
            expected.extend(b"head");
            expected.extend(&chunk[round..LARGE + round]);
            if round == 1 {
                output.keep();
            }
            assert!(all(&output) == expected && output.len() == expected.len());
        }
    }

    #[test]
    fn only_large_pieces_of_the_chunk_are_lent() {
        let chunk: Rc<[u8]> = vec![7; 2 * LARGE].into();
        let elsewhere = vec![7; 2 * LARGE];
        let mut output = Output::default();
        assert!(!output.lend(&chunk, &chunk[..LARGE - 1]));
        assert!(!output.lend(&chunk, &elsewhere));
        assert!(!output.lend(&chunk, &[]));
        assert!(output.is_empty());
        assert!(output.lend(&chunk, &chunk));
    }
}
