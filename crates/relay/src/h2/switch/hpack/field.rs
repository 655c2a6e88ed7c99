//! One header field.

use super::hash::Hashes;

/// What the sender of a field allows to be done with it (RFC 7541 section 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Indexing {
    /// It was, or may be, put into a table.
    Incremental,
    /// It is not worth a place in a table.
    Without,
    /// It must never be put into a table, by no one on its way (RFC 7541 section 7.1.3).
    Never,
}

/// A header field, borrowed from the block it came in, from a table, or from a list.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// Its name. Any octets: no one has checked yet that it is a name.
    pub name: &'a [u8],
    /// Its value, any octets.
    pub value: &'a [u8],
    /// What may be done with it.
    pub indexing: Indexing,
    /// Not yet known for what was not in a table.
    hashes: Option<Hashes>,
}

impl<'a> Field<'a> {
    /// A field with the sender's wish.
    pub const fn new(name: &'a [u8], value: &'a [u8], indexing: Indexing) -> Self {
        Self { name, value, indexing, hashes: None }
    }

    #[inline]
    pub(super) fn hashed(
        name: &'a [u8],
        value: &'a [u8],
        indexing: Indexing,
        hashes: Hashes,
    ) -> Self {
        Self { name, value, indexing, hashes: Some(hashes) }
    }

    #[inline]
    pub(super) fn hashes(&self) -> Hashes {
        match self.hashes {
            Some(hashes) => hashes,
            None => Hashes::of(self.name, self.value),
        }
    }
}

impl PartialEq for Field<'_> {
    fn eq(&self, other: &Self) -> bool {
        (self.name, self.value, self.indexing) == (other.name, other.value, other.indexing)
    }
}

impl Eq for Field<'_> {}
