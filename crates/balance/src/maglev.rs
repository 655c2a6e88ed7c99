//! `mh`: consistent hashing of the client address, after Maglev.

use std::sync::Arc;

use crate::Target;
use crate::choice::Search;
use crate::hash::AddressHash;
use crate::shares::next_untried;

/// A lookup table in which every candidate holds its share of the entries, placed so that a
/// change of the set moves few others. A client's entry is a hash of its address.
///
/// Each candidate has a preference list of all entries, made of two hashes of its address and
/// port; in rounds, each takes the next free entry of its list. Hash keys are constants and
/// candidates take their turns in address order, so nodes with the same endpoints have the same
/// table. Source: Eisenbud et al., Maglev, NSDI 2016, section 3.4; the kernel's `ip_vs_mh`.
#[derive(Debug)]
pub(crate) struct Maglev {
    entries: Box<[u16]>,
}

/// Never to be changed: see [`AddressHash`].
const CLIENT: AddressHash = AddressHash::new(0x7374_7265_616d_7673, 0x6d61_676c_6576_0001);
const OFFSET: AddressHash = AddressHash::new(0x7374_7265_616d_7673, 0x6d61_676c_6576_0002);
const SKIP: AddressHash = AddressHash::new(0x7374_7265_616d_7673, 0x6d61_676c_6576_0003);

/// Up to so many candidates, so many entries: primes of the kernel's list, some hundred entries for
/// each candidate. That keeps shares within 1 %, and a removal moves, besides the clients of the
/// removed one of n endpoints, fewer than two in n of all up to 300 endpoints and fewer than 3 % of
/// all ever. 2 KiB, 32 KiB and 256 KiB: a cluster of 30k Services of a few endpoints, all under
/// `mh`, spends 60 MiB on tables, where one size for all would take 1 GiB or more. There are only
/// three sizes because crossing from one to the next moves nearly all clients.
const SIZES: [(usize, usize); 3] = [(10, 1021), (100, 16381), (usize::MAX, 131071)];

/// How many entries a client walks on over tried candidates before the rest is searched in order.
const WALK: usize = 64;

const FREE: u16 = u16::MAX;

impl Maglev {
    /// Some 20 ns an entry. Of more than 65535 candidates the first 65535 get entries.
    pub(crate) fn new(candidates: &[Arc<Target>]) -> Self {
        let candidates = &candidates[..candidates.len().min(usize::from(FREE))];
        let size = SIZES
            .iter()
            .find(|(limit, _)| candidates.len() <= *limit)
            .map(|(_, size)| *size)
            .expect("the last size has no limit");
        let highest = candidates.iter().map(|target| target.share()).max().unwrap_or(1);
        // Half a turn in advance: shares are rounded, where without it all but the heaviest's would
        // be rounded down.
        let mut preferences: Vec<_> =
            candidates.iter().map(|target| Preference::new(target, size, highest / 2)).collect();

        let mut entries = vec![FREE; size];
        let mut free = if candidates.is_empty() { 0 } else { size };
        while free > 0 {
            for (index, preference) in preferences.iter_mut().enumerate() {
                // The heaviest takes an entry each round, the others in proportion.
                preference.credit += candidates[index].share();
                if preference.credit < highest {
                    continue;
                }
                preference.credit -= highest;
                let entry = preference.next_free(&entries);
                entries[entry] = u16::try_from(index).expect("there are fewer candidates");
                free -= 1;
                if free == 0 {
                    break;
                }
            }
        }
        Self { entries: entries.into() }
    }

    pub(crate) fn pick(&self, candidates: &[Arc<Target>], search: &Search<'_>) -> Option<usize> {
        let home = (CLIENT.of(search.client, 0) % self.entries.len() as u64) as usize;
        let at = |entry: usize| usize::from(self.entries[entry % self.entries.len()]);
        (home..home + WALK)
            .map(at)
            .find(|&index| search.may_use(&candidates[index]))
            .or_else(|| next_untried(candidates, at(home), search))
    }
}

/// A candidate's walk through the entries: the size is prime, so any skip visits all of them.
struct Preference {
    next: usize,
    skip: usize,
    credit: u64,
}

impl Preference {
    fn new(target: &Target, size: usize, credit: u64) -> Self {
        let (ip, port) = (target.address().ip(), target.address().port());
        let size = size as u64;
        Self {
            next: (OFFSET.of(ip, port) % size) as usize,
            skip: (SKIP.of(ip, port) % (size - 1) + 1) as usize,
            credit,
        }
    }

    fn next_free(&mut self, entries: &[u16]) -> usize {
        loop {
            let entry = self.next;
            self.next += self.skip;
            if self.next >= entries.len() {
                self.next -= entries.len();
            }
            if entries[entry] == FREE {
                return entry;
            }
        }
    }
}

#[cfg(test)]
mod tests;
