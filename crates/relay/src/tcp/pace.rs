//! When is a direction bulky enough for splice(2)?
//!
//! splice costs two system calls and a pipe where copying costs the copy, so it pays for large
//! pieces only. A direction proves bulky by several large reads in a row, and stops being bulky at
//! the first small piece.

/// A read of at least this many octets is a large one. Below it, splicing measured no cheaper.
const LARGE_OCTETS: usize = 32 * 1024;

/// Large reads in a row that prove a direction bulky: a transfer that ends before is over anyway.
const PROOF_READS: u8 = 4;

/// A spliced piece of fewer octets ends it. Well below [`LARGE_OCTETS`], so that a direction does
/// not go to and fro.
const SMALL_OCTETS: usize = 8 * 1024;

/// What the last reads of one direction were like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    large_reads: u8,
}

impl Pace {
    /// Whether the next piece should be spliced.
    pub(super) fn is_bulky(self) -> bool {
        self.large_reads >= PROOF_READS
    }

    /// `count` octets came by one read.
    pub(super) fn copied(&mut self, count: usize) {
        let large_reads = if count < LARGE_OCTETS { 0 } else { self.large_reads + 1 };
        self.large_reads = large_reads.min(PROOF_READS);
    }

    /// `count` octets came by one splice.
    pub(super) fn spliced(&mut self, count: usize) {
        if count < SMALL_OCTETS {
            self.large_reads = 0;
        }
    }

    /// No pipe could be had: prove it anew before asking again.
    pub(super) fn reset(&mut self) {
        self.large_reads = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_reads_in_a_row_prove_a_direction_bulky() {
        let mut pace = Pace::default();
        for _ in 0..PROOF_READS {
            assert!(!pace.is_bulky());
            pace.copied(LARGE_OCTETS);
        }
        assert!(pace.is_bulky());
        for _ in 0..1000 {
            pace.copied(LARGE_OCTETS);
        }
        assert!(pace.is_bulky(), "and it stays so however many follow");
    }

    #[test]
    fn a_small_piece_ends_it_and_a_middling_one_does_not() {
        for (spliced, bulky) in [(SMALL_OCTETS - 1, false), (SMALL_OCTETS, true)] {
            let mut pace = Pace { large_reads: PROOF_READS };
            pace.spliced(spliced);
            assert_eq!(pace.is_bulky(), bulky, "{spliced}");
        }
        let mut pace = Pace { large_reads: PROOF_READS - 1 };
        pace.copied(LARGE_OCTETS - 1);
        pace.copied(LARGE_OCTETS);
        assert!(!pace.is_bulky(), "a row that was interrupted does not count");
    }
}
