//! A transaction of both families: as text for `nft`, and where it is short and of elements alone
//! also as messages for the kernel. Pure.
//!
//! What changes all the time are elements, and messages cost the kernel's work and no more, where a
//! run of `nft` takes its start as well ([`Nft`](crate::nft::Nft)). Everything else is text only.

use std::fmt::{Display, Write as _};

use streamvs_table::Family;

use crate::elements::{Batch, Element, MAX_ELEMENTS, Verb};
use crate::layout::{self, TABLE};

/// Elements in one statement: nft parses each whole, and wants memory for it.
pub(crate) const ELEMENTS: usize = 5_000;

/// What is to be done, in this order.
#[derive(Debug)]
pub(crate) struct Script {
    text: String,
    /// The same; none where the text says more than elements, or too many.
    batch: Option<Batch>,
}

impl Script {
    pub(crate) fn new() -> Self {
        Self { text: String::new(), batch: Some(Batch::new()) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// What `nft` reads.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// What the kernel reads, if it can be told so.
    pub(crate) fn messages(&self) -> Option<Vec<u8>> {
        self.batch.as_ref().map(Batch::octets)
    }

    /// Adds lines of text.
    pub(crate) fn lines(&mut self, lines: &str) {
        if !lines.is_empty() {
            self.text.push_str(lines);
            self.batch = None;
        }
    }

    /// Adds a line of text.
    pub(crate) fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("a String takes every write");
        self.batch = None;
    }

    /// Takes elements of which the keys are given out of a map or set.
    pub(crate) fn delete(
        &mut self,
        family: Family,
        set: impl Display,
        keys: impl IntoIterator<Item = impl Element>,
    ) {
        self.elements(Verb::Delete, family, &set.to_string(), keys);
    }

    /// Puts elements into a map or set.
    pub(crate) fn add(
        &mut self,
        family: Family,
        set: impl Display,
        elements: impl IntoIterator<Item = impl Element>,
    ) {
        self.elements(Verb::Add, family, &set.to_string(), elements);
    }

    fn elements(
        &mut self,
        verb: Verb,
        family: Family,
        set: &str,
        elements: impl IntoIterator<Item = impl Element>,
    ) {
        let statement = format!("{verb} element {} {TABLE} {set}", layout::word(family));
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            write!(self.text, "{statement} {{ ").expect("a String takes every write");
            let mut listed = Vec::new();
            for (index, element) in elements.by_ref().take(ELEMENTS).enumerate() {
                let comma = if index == 0 { "" } else { ", " };
                write!(self.text, "{comma}{element}").expect("a String takes every write");
                if self.batch.is_some() && listed.len() <= MAX_ELEMENTS {
                    listed.push(element.attributes());
                }
            }
            self.text.push_str(" }\n");
            let batch = self.batch.take();
            self.batch = batch.and_then(|batch| batch.with(verb, family, set, listed));
        }
    }
}
