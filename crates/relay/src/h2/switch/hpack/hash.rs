//! Hashes of names and of whole fields, by which tables are searched.
//!
//! They only save comparisons: nothing is taken for equal because its hash is. So they need not
//! withstand an attacker, who can make us compare at most a table's entries.

/// A field's hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hashes {
    pub(super) name: u32,
    pub(super) field: u32,
}

impl Hashes {
    #[inline]
    pub(super) const fn of(name: &[u8], value: &[u8]) -> Self {
        let hash = add(0, name);
        Self { name: fold(hash), field: fold(add(hash, value)) }
    }

    /// Both in one word, to hash lists with.
    #[inline]
    pub(super) const fn word(self) -> u64 {
        (self.name as u64) << 32 | self.field as u64
    }
}

/// Adds octets to a hash, eight at a time, and their number.
#[inline]
pub(super) const fn add(mut hash: u64, octets: &[u8]) -> u64 {
    let mut rest = octets;
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        hash = mix(hash, u64::from_le_bytes(*word));
        rest = after;
    }
    let mut last = octets.len() as u64;
    if let Some((word, after)) = rest.split_first_chunk::<4>() {
        last = last << 32 | u32::from_le_bytes(*word) as u64;
        rest = after;
    }
    let mut index = 0;
    while index < rest.len() {
        last = last << 8 | rest[index] as u64;
        index += 1;
    }
    mix(hash, last)
}

#[inline]
pub(super) const fn mix(hash: u64, word: u64) -> u64 {
    // A multiplication as rustc-hash does it; its constant, too.
    (hash.rotate_left(23) ^ word).wrapping_mul(0xf135_7aea_2e62_a9c5)
}

#[inline]
const fn fold(hash: u64) -> u32 {
    (hash ^ hash >> 32) as u32
}
