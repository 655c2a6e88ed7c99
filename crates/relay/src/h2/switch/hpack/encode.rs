//! From fields to a header block (RFC 7541 sections 4.2 and 6).

use super::dynamic_table::DynamicTable;
use super::{DEFAULT_TABLE_OCTETS, Field, Indexing, integer, static_table};

/// What we use at most of the table a peer offers: it costs memory on both sides, and its entries
/// are searched one by one.
const MAX_TABLE_OCTETS: u32 = DEFAULT_TABLE_OCTETS;

/// Fields that differ from call to call. Their senders often put them into the table, where they
/// push out what does repeat; we do not pass that on.
const VOLATILE: [&[u8]; 7] = [
    b"grpc-timeout",
    b"traceparent",
    b"x-request-id",
    b"x-b3-spanid",
    b"x-b3-traceid",
    b"grpc-trace-bin",
    b"content-length",
];

/// The writing end of a connection: one dynamic table.
#[derive(Debug)]
pub struct Encoder {
    table: DynamicTable,
    update: Option<Update>,
}

/// A change of the table's size that the peer has yet to be told, and the smallest size in between
/// (RFC 7541 section 4.2).
#[derive(Clone, Copy, Debug)]
struct Update {
    smallest: u32,
    last: u32,
}

impl Encoder {
    /// For a peer whose settings have not been read yet.
    pub fn new() -> Self {
        Self { table: DynamicTable::new(DEFAULT_TABLE_OCTETS), update: None }
    }

    /// Gives up the memory that its table does not use.
    pub fn shrink(&mut self) {
        self.table.shrink();
    }

    pub(super) fn table(&mut self) -> &mut DynamicTable {
        &mut self.table
    }

    /// Takes the peer's SETTINGS_HEADER_TABLE_SIZE. It may come often, in any order with blocks.
    pub fn set_max_table(&mut self, octets: u32) {
        let last = octets.min(MAX_TABLE_OCTETS);
        let smallest = self.update.map_or(self.table.max(), |update| update.smallest).min(last);
        if self.update.is_some() || last != self.table.max() {
            self.update = Some(Update { smallest, last });
            self.table.set_epoch(0);
        }
    }

    /// Begins a header block at the end of `out`, with the size updates that are due. Every block
    /// that was begun has to be sent, and in the same order, or else the peer's table differs.
    pub fn begin<'a>(&'a mut self, out: &'a mut Vec<u8>) -> BlockWriter<'a> {
        if let Some(Update { smallest, last }) = self.update.take() {
            if smallest < last {
                self.resize(smallest, out);
            }
            self.resize(last, out);
        }
        BlockWriter { table: &mut self.table, out }
    }

    fn resize(&mut self, octets: u32, out: &mut Vec<u8>) {
        self.table.set_max(octets);
        integer::put(octets, 5, 0x20, out);
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

/// A header block that is being written.
#[derive(Debug)]
pub struct BlockWriter<'a> {
    table: &'a mut DynamicTable,
    out: &'a mut Vec<u8>,
}

impl BlockWriter<'_> {
    /// Appends a field. It is indexed as its sender wishes, or less: never put into the table if
    /// the sender did not, nor if that would not pay.
    #[inline]
    pub fn field(&mut self, field: &Field<'_>) {
        let &Field { name, value, indexing, .. } = field;
        let hashes = field.hashes();
        if indexing != Indexing::Never {
            let known = static_table::find(name, value, hashes).or_else(|| {
                let place = self.table.find(name, value, hashes)?;
                Some(static_table::ENTRIES + 1 + place)
            });
            if let Some(index) = known {
                return integer::put(index, 7, 0x80, self.out);
            }
        }
        let known = static_table::find_name(name, hashes).or_else(|| {
            let place = self.table.find_name(name, hashes)?;
            Some(static_table::ENTRIES + 1 + place)
        });
        let name_index = known.unwrap_or(0);
        match indexing {
            Indexing::Incremental if self.table.fits(name, value) && !VOLATILE.contains(&name) => {
                integer::put(name_index, 6, 0x40, self.out);
                self.table.insert(name, value, hashes);
            }
            Indexing::Incremental | Indexing::Without => {
                integer::put(name_index, 4, 0x00, self.out);
            }
            Indexing::Never => integer::put(name_index, 4, 0x10, self.out),
        }
        if name_index == 0 {
            self.string(name);
        }
        self.string(value);
    }

    #[inline]
    fn string(&mut self, octets: &[u8]) {
        // Strings come from blocks, which are far shorter than an integer can say.
        integer::put(octets.len() as u32, 7, 0, self.out);
        self.out.extend_from_slice(octets);
    }
}
