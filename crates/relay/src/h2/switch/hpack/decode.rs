//! From a header block to fields (RFC 7541 sections 3 and 6).

use super::dynamic_table::DynamicTable;
use super::hash::Hashes;
use super::{
    DEFAULT_TABLE_OCTETS, ENTRY_OVERHEAD_OCTETS, Error, Field, Indexing, huffman, integer,
    static_table,
};

/// The reading end of a connection: one dynamic table.
#[derive(Debug)]
pub struct Decoder {
    table: DynamicTable,
    allowed: u32,
}

impl Decoder {
    /// `max_table_octets` is our SETTINGS_HEADER_TABLE_SIZE. The peer uses the default size until
    /// it has read our settings and chooses how much of the rest it uses, so no less than the
    /// default is allowed, and it begins there.
    pub fn new(max_table_octets: u32) -> Self {
        let allowed = max_table_octets.max(DEFAULT_TABLE_OCTETS);
        Self { table: DynamicTable::new(DEFAULT_TABLE_OCTETS), allowed }
    }

    /// Gives up the memory that its table does not use.
    pub fn shrink(&mut self) {
        self.table.shrink();
    }

    pub(super) fn table(&mut self) -> &mut DynamicTable {
        &mut self.table
    }

    /// Reads one whole block and gives its fields to `sink`, in order. `scratch` is room for
    /// decoded strings that is used again and again; what is in it does not matter.
    ///
    /// # Errors
    /// After [`Error::ListTooLarge`], which means more than `max_list_octets` counted as RFC 9113
    /// section 6.5.2 does, the block was read to its end; `sink` got the fields that fit. After any
    /// other error the connection must end.
    pub fn decode(
        &mut self,
        block: &[u8],
        max_list_octets: usize,
        scratch: &mut Vec<u8>,
        mut sink: impl FnMut(Field<'_>),
    ) -> Result<(), Error> {
        let mut rest = self.table_updates(block)?;
        let mut list_octets = 0;
        while let Some(&first) = rest.first() {
            let mut give = |field: Field<'_>| {
                list_octets +=
                    field.name.len() + field.value.len() + ENTRY_OVERHEAD_OCTETS as usize;
                if list_octets <= max_list_octets {
                    sink(field);
                }
            };
            if first & 0x80 != 0 {
                let index = integer::take(&mut rest, 7)?;
                let (name, value, hashes) = entry(&self.table, index)?;
                give(Field::hashed(name, value, Indexing::Incremental, hashes));
            } else if first & 0x40 != 0 {
                let (name, value) = literal(&self.table, &mut rest, 6, scratch)?;
                let hashes = Hashes::of(name, value);
                self.table.insert(name, value, hashes);
                give(Field::hashed(name, value, Indexing::Incremental, hashes));
            } else if first & 0x20 != 0 {
                return Err(Error::LateTableUpdate);
            } else {
                let indexing = if first & 0x10 != 0 { Indexing::Never } else { Indexing::Without };
                let (name, value) = literal(&self.table, &mut rest, 4, scratch)?;
                give(Field::new(name, value, indexing));
            }
        }
        if list_octets <= max_list_octets { Ok(()) } else { Err(Error::ListTooLarge) }
    }

    /// RFC 7541 section 6.3: any number of them, but only before the first field.
    fn table_updates<'a>(&mut self, block: &'a [u8]) -> Result<&'a [u8], Error> {
        let mut rest = block;
        while rest.first().is_some_and(|first| first & 0xe0 == 0x20) {
            let octets = integer::take(&mut rest, 5)?;
            if octets > self.allowed {
                return Err(Error::TableTooLarge(octets));
            }
            self.table.set_max(octets);
        }
        Ok(rest)
    }
}

/// RFC 7541 section 2.3.3.
#[inline]
fn entry(table: &DynamicTable, index: u32) -> Result<(&[u8], &[u8], Hashes), Error> {
    let found = match index.checked_sub(static_table::ENTRIES + 1) {
        None => static_table::get(index),
        Some(place) => table.get(place),
    };
    found.ok_or(Error::UnknownIndex(index))
}

/// A name and a value of a literal field, whose name may be an entry's (RFC 7541 section 6.2).
/// They borrow from the block, the static table or `scratch`, never from the dynamic table, which
/// may evict the entry that a new one has its name from.
#[inline]
fn literal<'a, 'b: 'a>(
    table: &DynamicTable,
    rest: &mut &'b [u8],
    prefix: u32,
    scratch: &'a mut Vec<u8>,
) -> Result<(&'a [u8], &'a [u8]), Error> {
    scratch.clear();
    let index = integer::take(rest, prefix)?;
    let name = if index == 0 {
        string(rest, scratch)?
    } else if let Some((name, ..)) = static_table::get(index) {
        Text::Plain(name)
    } else {
        let (name, ..) = entry(table, index)?;
        scratch.extend_from_slice(name);
        Text::Scratch(0, scratch.len())
    };
    let value = string(rest, scratch)?;
    Ok((name.in_scratch(scratch), value.in_scratch(scratch)))
}

enum Text<'a> {
    Plain(&'a [u8]),
    Scratch(usize, usize),
}

impl<'a> Text<'a> {
    #[inline]
    fn in_scratch<'b>(self, scratch: &'b [u8]) -> &'b [u8]
    where
        'a: 'b,
    {
        match self {
            Self::Plain(text) => text,
            Self::Scratch(start, end) => &scratch[start..end],
        }
    }
}

/// RFC 7541 section 5.2.
#[inline]
fn string<'a>(rest: &mut &'a [u8], scratch: &mut Vec<u8>) -> Result<Text<'a>, Error> {
    let coded = rest.first().ok_or(Error::Truncated)? & 0x80 != 0;
    let octets = integer::take(rest, 7)?;
    let (text, after) = rest.split_at_checked(octets as usize).ok_or(Error::Truncated)?;
    *rest = after;
    if !coded {
        return Ok(Text::Plain(text));
    }
    let start = scratch.len();
    huffman::decode(text, scratch)?;
    Ok(Text::Scratch(start, scratch.len()))
}
