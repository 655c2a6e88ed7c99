//! The dynamic table (RFC 7541 sections 2.3.2 and 4), the same for both directions.
//!
//! ```text
//!   octets   [ evicted | name value | name value | ... | name value ]   spare
//!                      ^ entries.front()                ^ entries.back(), index 62
//! ```
//!
//! Entries lie one after another, each in one piece. Evicting moves the front; when there is no
//! room behind the last entry and at least half of the octets are evicted ones, the rest moves to
//! the beginning. So an octet is moved less than once for each octet that is inserted.
//!
//! Memory: nothing until the first insertion; then at most twice the table's size for octets, and
//! 24 for each entry, of which there is at most one for each 32 octets of size. With the usual
//! 4096 octets that is 11 KiB at worst and under 1 KiB for the dozen fields of gRPC.

use std::collections::VecDeque;

use super::ENTRY_OVERHEAD_OCTETS;
use super::hash::Hashes;

#[derive(Debug)]
pub(super) struct DynamicTable {
    octets: Vec<u8>,
    /// The position of `octets[0]` among all octets that were ever inserted.
    base: u64,
    entries: VecDeque<Entry>,
    /// RFC 7541 section 4.1.
    size: u32,
    max: u32,
    /// A number for the state of the table, given by whoever remembers something about it; 0 if
    /// nobody has since the last change.
    epoch: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    position: u64,
    name_octets: u32,
    value_octets: u32,
    hashes: Hashes,
}

impl Entry {
    fn size(&self) -> u32 {
        self.name_octets + self.value_octets + ENTRY_OVERHEAD_OCTETS
    }
}

impl DynamicTable {
    pub(super) fn new(max: u32) -> Self {
        Self { octets: Vec::new(), base: 0, entries: VecDeque::new(), size: 0, max, epoch: 0 }
    }

    pub(super) fn max(&self) -> u32 {
        self.max
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// The number that the present state was given, 0 if none.
    #[inline]
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Names the present state. The number must never have been given to any other table or state.
    #[inline]
    pub(super) fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// Changes the maximum size and evicts what no longer fits (RFC 7541 section 4.3).
    pub(super) fn set_max(&mut self, max: u32) {
        self.epoch = 0;
        self.max = max;
        self.evict_to(max);
        if max == 0 {
            self.octets = Vec::new();
            self.entries = VecDeque::new();
        }
    }

    /// Does an entry of this text stay in the table when it is inserted?
    pub(super) fn fits(&self, name: &[u8], value: &[u8]) -> bool {
        entry_size(name, value) <= self.max as usize
    }

    /// Inserts as the newest entry, evicting what it takes. One that does not fit leaves the table
    /// empty (RFC 7541 section 4.4).
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8], hashes: Hashes) {
        self.epoch = 0;
        let size = entry_size(name, value);
        self.evict_to((self.max as usize).saturating_sub(size) as u32);
        if size > self.max as usize {
            return;
        }
        self.make_room(name.len() + value.len());
        let position = self.base + self.octets.len() as u64;
        self.octets.extend_from_slice(name);
        self.octets.extend_from_slice(value);
        // Both lengths are below `max`, which is 32 bits wide.
        let (name_octets, value_octets) = (name.len() as u32, value.len() as u32);
        self.entries.push_back(Entry { position, name_octets, value_octets, hashes });
        self.size += size as u32;
    }

    /// The entry at `place`, 0 being the newest.
    #[inline]
    pub(super) fn get(&self, place: u32) -> Option<(&[u8], &[u8], Hashes)> {
        let index = self.entries.len().checked_sub(1 + place as usize)?;
        let entry = self.entries.get(index)?;
        let (name, value) = self.text(entry);
        Some((name, value, entry.hashes))
    }

    /// The place of the newest entry with this name and value.
    #[inline]
    pub(super) fn find(&self, name: &[u8], value: &[u8], hashes: Hashes) -> Option<u32> {
        let found = self.entries.iter().rev().position(|entry| {
            entry.hashes.field == hashes.field && self.text(entry) == (name, value)
        });
        found.map(|place| place as u32)
    }

    /// The place of the newest entry with this name.
    #[inline]
    pub(super) fn find_name(&self, name: &[u8], hashes: Hashes) -> Option<u32> {
        let found = self
            .entries
            .iter()
            .rev()
            .position(|entry| entry.hashes.name == hashes.name && self.text(entry).0 == name);
        found.map(|place| place as u32)
    }

    #[inline]
    fn text(&self, entry: &Entry) -> (&[u8], &[u8]) {
        let start = (entry.position - self.base) as usize;
        let middle = start + entry.name_octets as usize;
        let end = middle + entry.value_octets as usize;
        (&self.octets[start..middle], &self.octets[middle..end])
    }

    /// Gives up the memory that is not in use.
    pub(super) fn shrink(&mut self) {
        self.octets.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    fn evict_to(&mut self, size: u32) {
        while self.size > size {
            let evicted = self.entries.pop_front().expect("the size is the sum over the entries");
            self.size -= evicted.size();
        }
    }

    fn make_room(&mut self, more: usize) {
        let end = self.octets.len();
        if end + more <= self.octets.capacity() {
            return;
        }
        let front = self.entries.front();
        let evicted = front.map_or(end, |front| (front.position - self.base) as usize);
        let live = end - evicted;
        if evicted >= live {
            self.octets.copy_within(evicted.., 0);
            self.octets.truncate(live);
            self.base += evicted as u64;
        }
        // If nothing was moved then `live` is more than half of the octets, so this is enough.
        let wanted = 2 * (live + more);
        if self.octets.capacity() < self.octets.len() + more {
            self.octets.reserve_exact(wanted - self.octets.len());
        }
    }
}

/// RFC 7541 section 4.1.
fn entry_size(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + ENTRY_OVERHEAD_OCTETS as usize
}

#[cfg(test)]
mod tests;
