//! Header compression (RFC 7541), and the translation of header blocks from one connection's
//! tables to another's.
//!
//! ```text
//!   block --> Decoder --> HeaderList (shared, immutable) --> Encoder --> block
//!             of the connection it came from                 of the one it goes to
//!   \______________________ Translator ______________________________/
//!                remembers what repeats
//! ```
//!
//! What comes in: whole header blocks, CONTINUATION already joined. What goes out: fields, in order
//! and octet by octet as they were, and blocks for another peer. Never here: what a field means
//! (the caller's checks), frames, limits other than the list's size.
//!
//! No octets make anything here panic, and all work is bounded by the length of the block.

mod decode;
mod dynamic_table;
mod encode;
mod field;
mod hash;
mod huffman;
mod integer;
mod list;
mod static_table;
mod translate;

use std::fmt;

pub use decode::Decoder;
pub use encode::{BlockWriter, Encoder};
pub use field::{Field, Indexing};
pub use list::{Fields, HeaderList};
pub use translate::Translator;

/// The size of a dynamic table before SETTINGS say another (RFC 9113 section 6.5.2).
pub const DEFAULT_TABLE_OCTETS: u32 = 4096;

/// What each field counts in a table and in a list on top of its name and value (RFC 7541 section
/// 4.1, RFC 9113 section 6.5.2).
pub const ENTRY_OVERHEAD_OCTETS: u32 = 32;

/// Why a header block was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The block ends within a field.
    Truncated,
    /// An integer is above 2^28 - 1 or longer than five octets.
    IntegerTooLarge,
    /// There is no entry with this index.
    UnknownIndex(u32),
    /// A Huffman-coded string with EOS or bad padding in it.
    Huffman,
    /// A table size update that is not at the block's beginning.
    LateTableUpdate,
    /// A table size update above what was allowed.
    TableTooLarge(u32),
    /// The list, counted as in RFC 9113 section 6.5.2, is larger than the caller takes. The whole
    /// block was read, so the connection can go on and only the stream has to end.
    ListTooLarge,
}

impl Error {
    /// Are the tables of both sides still the same? If not, the connection must end with
    /// COMPRESSION_ERROR.
    pub fn leaves_tables_in_sync(self) -> bool {
        self == Self::ListTooLarge
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("header block ends within a field"),
            Self::IntegerTooLarge => f.write_str("integer in a header block is too large"),
            Self::UnknownIndex(index) => write!(f, "no header field has the index {index}"),
            Self::Huffman => f.write_str("Huffman-coded string is not valid"),
            Self::LateTableUpdate => f.write_str("table size update after a header field"),
            Self::TableTooLarge(octets) => write!(f, "table size update to {octets} octets"),
            Self::ListTooLarge => f.write_str("header list is too large"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests;
