//! `sh`: by client address.

use std::net::IpAddr;
use std::sync::Arc;

use crate::Target;
use crate::choice::Search;
use crate::hash::AddressHash;
use crate::shares::{Shares, next_untried};

/// Sends a client always to the same candidate for as long as the candidates stay the same.
///
/// As the kernel's: a table in which candidates repeat by weight, indexed by a hash of the source
/// address. The differences: the table is not written out, so it has no 256 entries to be too few;
/// the hash mixes all bits; and a client whose candidate failed goes on to another one, where the
/// kernel's refuses it. Any change of the set moves most clients; `mh` does not.
///
/// Candidates are in address order and the hash's keys are constants: nodes agree.
#[derive(Debug)]
pub(crate) struct SourceHash {
    shares: Shares,
}

/// Never to be changed: see [`AddressHash`].
const CLIENT: AddressHash = AddressHash::new(0x7374_7265_616d_7673, 0x736f_7572_6365_0001);

/// How often a client is hashed anew while it lands on tried candidates. Clients of a failed
/// endpoint spread over all others that way, not onto its neighbour.
const HASHES: u16 = 16;

impl SourceHash {
    pub(crate) fn new(candidates: &[Arc<Target>]) -> Self {
        Self { shares: Shares::new(candidates) }
    }

    pub(crate) fn pick(&self, candidates: &[Arc<Target>], search: &Search<'_>) -> Option<usize> {
        (0..HASHES)
            .map(|attempt| self.candidate_of(search.client, attempt))
            .find(|&index| search.may_use(&candidates[index]))
            .or_else(|| next_untried(candidates, self.candidate_of(search.client, 0), search))
    }

    fn candidate_of(&self, client: IpAddr, attempt: u16) -> usize {
        self.shares.owner(CLIENT.of(client, attempt) % self.shares.total())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{client, search, search_of, targets};

    fn counts(weights: &[u16], tried: &[usize], clients: u32) -> Vec<usize> {
        let candidates = targets(weights);
        let tried: Vec<_> = tried.iter().map(|&index| candidates[index].address()).collect();
        let scheduler = SourceHash::new(&candidates);
        let mut counts = vec![0; weights.len()];
        for number in 0..clients {
            let search = search_of(client(number), &tried);
            counts[scheduler.pick(&candidates, &search).expect("one is left")] += 1;
        }
        counts
    }

    #[test]
    fn a_client_stays_with_its_endpoint() {
        let candidates = targets(&[1; 7]);
        let scheduler = SourceHash::new(&candidates);
        let again = SourceHash::new(&candidates);
        for number in 0..100 {
            let search = search_of(client(number), &[]);
            let first = scheduler.pick(&candidates, &search);
            assert!(first.is_some());
            assert_eq!(scheduler.pick(&candidates, &search), first);
            assert_eq!(again.pick(&candidates, &search), first);
        }
    }

    #[test]
    fn clients_spread_by_weight() {
        // 4 sigma of 10000 clients with a chance of 1/4 is 173, with 1/2 is 200.
        let counts = counts(&[1, 2, 1], &[], 10_000);
        assert!(counts[0].abs_diff(2500) <= 173, "{counts:?}");
        assert!(counts[1].abs_diff(5000) <= 200, "{counts:?}");
        assert!(counts[2].abs_diff(2500) <= 173, "{counts:?}");
    }

    #[test]
    fn clients_of_a_failed_endpoint_spread_over_the_others() {
        let before = counts(&[1; 5], &[], 10_000);
        let after = counts(&[1; 5], &[2], 10_000);
        assert_eq!(after[2], 0);
        for index in [0, 1, 3, 4] {
            let gained = after[index] - before[index];
            assert!(gained.abs_diff(before[2] / 4) <= 4 * 20, "{before:?} -> {after:?}");
        }
    }

    #[test]
    fn the_last_untried_endpoint_is_found_by_every_client() {
        let counts = counts(&[1; 40], &(1..40).collect::<Vec<_>>(), 200);
        assert_eq!(counts[0], 200);
    }

    #[test]
    fn nothing_is_left_when_all_were_tried() {
        let candidates = targets(&[1, 1]);
        let tried: Vec<_> = candidates.iter().map(|target| target.address()).collect();
        assert_eq!(SourceHash::new(&candidates).pick(&candidates, &search(&tried)), None);
    }
}
