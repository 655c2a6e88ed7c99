//! The bytes of a file into objects, or into a fault with its line.

use std::collections::BTreeSet;
use std::error;
use std::fmt;
use std::io;
use std::str::Utf8Error;

use super::document::Document;
use super::object::Object;

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

/// What a file says.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// In the order written; the same object may stand twice.
    pub(crate) objects: Vec<Object>,
    /// `apiVersion kind` of documents of no use.
    pub(crate) foreign: BTreeSet<String>,
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
    let documents = match format {
        Format::Yaml => yaml(text)?,
        Format::Json => json(text)?,
    };
    let mut content = Content::default();
    for document in documents {
        content.objects.extend(document.objects);
        content.foreign.extend(document.foreign);
    }
    Ok(content)
}

/// The line of an offset, from 1.
fn line_at(bytes: &[u8], offset: usize) -> u64 {
    let breaks = bytes[..offset].iter().filter(|byte| **byte == b'\n').count();
    breaks as u64 + 1
}

fn yaml(text: &str) -> Result<Vec<Document>, Fault> {
    serde_saphyr::from_multiple_with_options(text, options(text.len())).map_err(|error| Fault {
        line: error.location().map(|location| location.line()).filter(|line| *line > 0),
        reason: Reason::Yaml(Box::new(error)),
    })
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

fn json(text: &str) -> Result<Vec<Document>, Fault> {
    let documents = serde_json::Deserializer::from_str(text).into_iter::<Document>();
    documents.collect::<Result<_, _>>().map_err(|error| Fault {
        line: Some(error.line() as u64).filter(|line| *line > 0),
        reason: Reason::Json(error),
    })
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
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.reason),
            None => self.reason.fmt(f),
        }
    }
}

impl error::Error for Fault {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.reason {
            Reason::Unreadable(error) => Some(error),
            Reason::NotAFile | Reason::TooLarge { .. } => None,
            Reason::NotUtf8(error) => Some(error),
            Reason::Yaml(error) => Some(error.as_ref()),
            Reason::Json(error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests;
