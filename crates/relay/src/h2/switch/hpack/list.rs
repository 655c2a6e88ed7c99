//! A header list that outlives the block it came in: for a stream that has to wait for its
//! connection, or to be sent again.

use super::hash::{Hashes, mix};
use super::{ENTRY_OVERHEAD_OCTETS, Field, Indexing};

/// An immutable header list with what its reader found out about it.
///
/// Equal lists share one, so it is a name for its contents as well.
#[derive(Debug)]
pub struct HeaderList<T> {
    entries: Vec<Entry>,
    octets: Vec<u8>,
    /// Never used again by the translator that made this.
    pub(super) number: u64,
    pub(super) tag: u8,
    facts: T,
}

impl<T> HeaderList<T> {
    /// What the reader's function said of these fields.
    pub fn facts(&self) -> &T {
        &self.facts
    }

    /// The fields in order.
    pub fn fields(&self) -> Fields<'_> {
        Fields { entries: &self.entries, octets: &self.octets }
    }

    /// The list's size as RFC 9113 section 6.5.2 counts it.
    pub fn list_octets(&self) -> usize {
        self.octets.len() + self.entries.len() * ENTRY_OVERHEAD_OCTETS as usize
    }

    /// What it takes in memory, about.
    pub(super) fn memory_octets(&self) -> usize {
        size_of::<Self>() + self.octets.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    pub(super) fn is(&self, draft: &Draft, tag: u8) -> bool {
        self.tag == tag && self.entries == draft.entries && self.octets == draft.octets
    }

    /// Its memory, for another list.
    pub(super) fn into_draft(self) -> Draft {
        Draft { entries: self.entries, octets: self.octets }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    name_octets: u32,
    value_octets: u32,
    hashes: Hashes,
    indexing: Indexing,
}

/// The fields of a list, in order. A cheap view, to be iterated as often as needed.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    entries: &'a [Entry],
    octets: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    #[inline]
    fn next(&mut self) -> Option<Field<'a>> {
        let (entry, entries) = self.entries.split_first()?;
        self.entries = entries;
        // Draft::push writes both together, so the octets are there.
        let (name, octets) = self.octets.split_at(entry.name_octets as usize);
        let (value, octets) = octets.split_at(entry.value_octets as usize);
        self.octets = octets;
        Some(Field::hashed(name, value, entry.indexing, entry.hashes))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.entries.len(), Some(self.entries.len()))
    }
}

impl ExactSizeIterator for Fields<'_> {}

/// A list that is being read, often in the memory of one that is no longer needed.
#[derive(Debug, Default)]
pub(super) struct Draft {
    entries: Vec<Entry>,
    octets: Vec<u8>,
}

impl Draft {
    /// More unused memory than this per used one is given back.
    const SLACK: usize = 2;

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.octets.clear();
    }

    #[inline]
    pub(super) fn push(&mut self, field: &Field<'_>) {
        self.octets.extend_from_slice(field.name);
        self.octets.extend_from_slice(field.value);
        self.entries.push(Entry {
            // Strings come from blocks, which are far shorter than 2^32.
            name_octets: field.name.len() as u32,
            value_octets: field.value.len() as u32,
            hashes: field.hashes(),
            indexing: field.indexing,
        });
    }

    pub(super) fn fields(&self) -> Fields<'_> {
        Fields { entries: &self.entries, octets: &self.octets }
    }

    pub(super) fn hash(&self, tag: u8) -> u64 {
        self.entries.iter().fold(u64::from(tag), |hash, entry| mix(hash, entry.hashes.word()))
    }

    /// The list as it is now. The draft is left empty and without memory.
    pub(super) fn finish<T>(&mut self, number: u64, tag: u8, facts: T) -> HeaderList<T> {
        let Self { mut entries, mut octets } = std::mem::take(self);
        if entries.capacity() > Self::SLACK * entries.len() {
            entries.shrink_to_fit();
        }
        if octets.capacity() > Self::SLACK * octets.len() {
            octets.shrink_to_fit();
        }
        HeaderList { entries, octets, number, tag, facts }
    }
}
