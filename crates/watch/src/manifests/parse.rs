//! The bytes of a file into objects, or into a fault with its line.

use std::fmt;
use std::io;
use std::str::Utf8Error;

use serde_saphyr::Spanned;

use super::document::{Complaint, Content, Item};

/// How deep collections may nest, as each level takes stack. Kubernetes' deepest own documents,
/// the schemas of custom resources, stay below half of it.
const MAX_DEPTH: usize = 128;
/// Nodes that aliases may add, over the whole file. Manifests do well without any; nested aliases
/// grow exponentially ("billion laughs"), so they are what must be bounded.
const MAX_REPLAYED: usize = 100_000;

/// How a file is written, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Yaml,
    Json,
}

/// Why a file cannot be used.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Where, counted from 1, if it is at one place.
    pub(crate) line: Option<u64>,
    pub(crate) reason: Reason,
}

#[derive(Debug)]
pub(crate) enum Reason {
    Unreadable(io::Error),
    NotAFile,
    TooLarge { limit_bytes: u64 },
    NotUtf8(Utf8Error),
    Yaml(Box<serde_saphyr::Error>),
    Json(serde_json::Error),
    Complaint(Complaint),
}

/// Reads a file's bytes: any number of documents, each an object, a list, or nothing.
///
/// Work and memory are linear in the length of `bytes`, apart from [`MAX_REPLAYED`] nodes.
pub(crate) fn parse(bytes: &[u8], format: Format) -> Result<Content, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| Fault {
        line: Some(line_at(bytes, error.valid_up_to())),
        reason: Reason::NotUtf8(error),
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match format {
        Format::Yaml => yaml(text),
        Format::Json => json(text),
    }
}

/// The line of an offset, from 1.
fn line_at(bytes: &[u8], offset: usize) -> u64 {
    let breaks = bytes[..offset].iter().filter(|byte| **byte == b'\n').count();
    breaks as u64 + 1
}

fn yaml(text: &str) -> Result<Content, Fault> {
    let documents = serde_saphyr::from_multiple_with_options(text, options(text.len()));
    let documents: Vec<Spanned<Item>> = documents.map_err(|error| Fault {
        line: error.location().map(|location| location.line()).filter(|line| *line > 0),
        reason: Reason::Yaml(Box::new(error)),
    })?;
    let mut content = Content::default();
    for document in documents {
        content.add(document, None).map_err(Fault::from)?;
    }
    Ok(content)
}

/// Limits for a text of this length. Two characters (`a:`) can make four events and three nodes,
/// so the factors below never refuse an honest file, and leave aliases as the only way to make
/// much out of little.
fn options(length: usize) -> serde_saphyr::Options {
    let linear = 4 * length + 64;
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_events: linear + MAX_REPLAYED,
            max_nodes: linear + MAX_REPLAYED,
            max_documents: linear,
            max_total_scalar_bytes: linear,
            max_recorded_anchor_events: MAX_REPLAYED,
            max_aliases: 1000,
            max_anchors: 1000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED,
        },
        emit_comments: false,
        with_snippet: false,
    }
}

fn json(text: &str) -> Result<Content, Fault> {
    let mut documents = serde_json::Deserializer::from_str(text).into_iter::<Spanned<Item>>();
    let mut content = Content::default();
    loop {
        // Where the next document begins, after the blanks before it.
        let rest = &text[documents.byte_offset()..];
        let start = text.len() - rest.trim_start().len();
        let Some(document) = documents.next() else { return Ok(content) };
        let document = document.map_err(|error| Fault {
            line: Some(error.line() as u64).filter(|line| *line > 0),
            reason: Reason::Json(error),
        })?;
        content.add(document, None).map_err(|complaint| Fault {
            line: complaint.line.or_else(|| Some(line_at(text.as_bytes(), start))),
            reason: Reason::Complaint(complaint),
        })?;
    }
}

impl From<Complaint> for Fault {
    fn from(complaint: Complaint) -> Self {
        Self { line: complaint.line, reason: Reason::Complaint(complaint) }
    }
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self { line: None, reason }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::NotAFile => f.write_str("it is not a regular file"),
            Self::TooLarge { limit_bytes } => write!(f, "it is larger than {limit_bytes} bytes"),
            Self::NotUtf8(error) => error.fmt(f),
            Self::Yaml(error) => error.fmt(f),
            Self::Json(error) => error.fmt(f),
            Self::Complaint(complaint) => complaint.fmt(f),
        }
    }
}

impl Fault {
    /// The file was not there (any more).
    pub(crate) fn is_absence(&self) -> bool {
        matches!(&self.reason, Reason::Unreadable(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// The content was not seen.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(self.reason, Reason::Unreadable(_))
    }
}

#[cfg(test)]
mod tests;
