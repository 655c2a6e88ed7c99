//! Header blocks from one connection to another, fast when they repeat.
//!
//! A gRPC client sends nearly the same block for each call, and it meets as many upstream
//! connections as there are endpoints, shared with other clients. So what is remembered lies
//! between the two ends, not in either, and in two halves that meet in the list:
//!
//! ```text
//!   (state of the decoder's table, octets of the block)  -->  list      `blocks`
//!   octets of the list                                   -->  the list  `lists`: equal ones are one
//!   (list, state of the encoder's table)                 -->  octets    `outputs`
//! ```
//!
//! Why it is right: only what changed no table is remembered, and then reading is a function of
//! the table and the block, writing one of the table and the list. A state's name (the table's
//! epoch) and a list's number are drawn from one count and never given twice; any change of a
//! table takes its name away. So what is found was made from the same inputs.
//!
//! Because equal lists are one, the same call from any number of clients is written once for each
//! upstream connection, whatever state their decoders are in.
//!
//! Bounds: each kind has [`SLOTS`] places and a newcomer takes the place of what was there. Blocks
//! longer than [`BLOCK_OCTETS`] and lists larger than [`LIST_OCTETS`] are not remembered. At worst
//! 2 * 512 * 2 KiB of lists and 2 * 512 * 256 octets of blocks: 2.3 MiB a worker.

use std::rc::Rc;

use super::hash::{add, mix};
use super::list::Draft;
use super::{Decoder, Encoder, Error, Fields, HeaderList};

const SLOTS: usize = 512;
const BLOCK_OCTETS: usize = 256;
const LIST_OCTETS: usize = 2048;
const SPARE: usize = 8;

/// Reads header lists from decoders and writes them to encoders, and remembers both.
///
/// One for each worker. A decoder or encoder must meet only one translator in its life, since
/// another one's count names other states by the same numbers.
#[derive(Debug)]
pub struct Translator<T> {
    /// The last name or number that was given.
    count: u64,
    scratch: Vec<u8>,
    draft: Draft,
    /// Memory of lists that nobody has any more.
    spare: Vec<Draft>,
    blocks: Box<[Block<T>]>,
    lists: Box<[Option<Rc<HeaderList<T>>>]>,
    outputs: Box<[Output]>,
}

#[derive(Debug)]
struct Block<T> {
    epoch: u64,
    octets: Vec<u8>,
    list: Option<Rc<HeaderList<T>>>,
}

#[derive(Clone, Debug, Default)]
struct Output {
    epoch: u64,
    list: u64,
    octets: Vec<u8>,
}

impl<T> Translator<T> {
    /// One that has seen nothing.
    pub fn new() -> Self {
        let block = |_| Block { epoch: 0, octets: Vec::new(), list: None };
        Self {
            count: 0,
            scratch: Vec::new(),
            draft: Draft::default(),
            spare: Vec::new(),
            blocks: (0..SLOTS).map(block).collect(),
            lists: (0..SLOTS).map(|_| None).collect(),
            outputs: vec![Output::default(); SLOTS].into(),
        }
    }

    /// Reads a whole header block. `facts` is asked once for each list that is not known yet; what
    /// it says may depend on the fields and on `tag`, which says what kind of block this is
    /// (request, response, trailers: the caller's choice), and on nothing else.
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub fn read(
        &mut self,
        decoder: &mut Decoder,
        block: &[u8],
        max_list_octets: usize,
        tag: u8,
        facts: impl FnOnce(Fields<'_>) -> T,
    ) -> Result<Rc<HeaderList<T>>, Error> {
        if block.len() > BLOCK_OCTETS {
            return self.read_anew(decoder, block, max_list_octets, tag, facts);
        }
        let epoch = Self::epoch(&mut self.count, decoder.table());
        let slot = (mix(add(epoch, block), u64::from(tag)) >> 32) as usize % SLOTS;
        let known = &self.blocks[slot];
        if known.epoch == epoch
            && known.octets == block
            && let Some(list) = &known.list
            && list.tag == tag
        {
            return match list.list_octets() {
                octets if octets <= max_list_octets => Ok(Rc::clone(list)),
                _ => Err(Error::ListTooLarge),
            };
        }
        let list = self.read_anew(decoder, block, max_list_octets, tag, facts)?;
        if decoder.table().epoch() == epoch && list.memory_octets() <= LIST_OCTETS {
            let known = &mut self.blocks[slot];
            known.epoch = epoch;
            known.octets.clear();
            known.octets.extend_from_slice(block);
            let before = known.list.replace(Rc::clone(&list));
            self.salvage(before);
        }
        Ok(list)
    }

    fn read_anew(
        &mut self,
        decoder: &mut Decoder,
        block: &[u8],
        max_list_octets: usize,
        tag: u8,
        facts: impl FnOnce(Fields<'_>) -> T,
    ) -> Result<Rc<HeaderList<T>>, Error> {
        let draft = &mut self.draft;
        draft.clear();
        decoder.decode(block, max_list_octets, &mut self.scratch, |field| draft.push(&field))?;
        let slot = (draft.hash(tag) >> 32) as usize % SLOTS;
        if let Some(list) = &self.lists[slot]
            && list.is(draft, tag)
        {
            return Ok(Rc::clone(list));
        }
        self.count += 1;
        let facts = facts(draft.fields());
        let list = Rc::new(draft.finish(self.count, tag, facts));
        self.draft = self.spare.pop().unwrap_or_default();
        if list.memory_octets() <= LIST_OCTETS {
            let before = self.lists[slot].replace(Rc::clone(&list));
            self.salvage(before);
        }
        Ok(list)
    }

    /// Keeps the memory of a list that was forgotten here and that no stream has either.
    fn salvage(&mut self, list: Option<Rc<HeaderList<T>>>) {
        if let Some(list) = list.and_then(Rc::into_inner)
            && self.spare.len() < SPARE
        {
            self.spare.push(list.into_draft());
        }
    }

    /// Appends the list to `out` as a header block for the encoder's peer. The block has to be
    /// sent, as [`Encoder::begin`] says.
    pub fn write(&mut self, list: &HeaderList<T>, encoder: &mut Encoder, out: &mut Vec<u8>) {
        let epoch = Self::epoch(&mut self.count, encoder.table());
        let slot = (mix(mix(0, epoch), list.number) >> 32) as usize % SLOTS;
        let known = &mut self.outputs[slot];
        if known.epoch == epoch && known.list == list.number {
            out.extend_from_slice(&known.octets);
            return;
        }
        let start = out.len();
        let mut writer = encoder.begin(out);
        for field in list.fields() {
            writer.field(&field);
        }
        let octets = &out[start..];
        if encoder.table().epoch() == epoch && octets.len() <= BLOCK_OCTETS {
            known.epoch = epoch;
            known.list = list.number;
            known.octets.clear();
            known.octets.extend_from_slice(octets);
        }
    }

    /// The name of the table's state, given now if it has none.
    #[inline]
    fn epoch(count: &mut u64, table: &mut super::dynamic_table::DynamicTable) -> u64 {
        if table.epoch() == 0 {
            *count += 1;
            table.set_epoch(*count);
        }
        table.epoch()
    }
}

impl<T> Default for Translator<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
