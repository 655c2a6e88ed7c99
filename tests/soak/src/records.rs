//! What an endpoint has received, kept where its death does not take it.
//!
//! A file for each process that served in a pod, with the ids of the messages in the order in which
//! they came whole, 8 octets each. It is written before the answer, without a buffer: what was
//! written stands there when the process is killed in the next instant.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// In place of the id of a message that came damaged.
pub(crate) const DAMAGED: u64 = u64::MAX;

/// One process that serves in a pod: `b#3` is the third one in the pod `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Incarnation {
    pub(crate) pod: char,
    pub(crate) count: u16,
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.pod, self.count)
    }
}

impl Incarnation {
    /// Reads what `Display` wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (pod, count) = text.split_once('#')?;
        let mut letters = pod.chars();
        let (Some(pod), None) = (letters.next(), letters.next()) else { return None };
        Some(Self { pod, count: count.parse().ok()? })
    }
}

/// Where an endpoint writes. Clones write to the same file.
#[derive(Debug)]
pub(crate) struct Writer(File);

impl Writer {
    /// Begins a file.
    ///
    /// # Panics
    /// When it cannot be made.
    pub(crate) fn create(path: &Path) -> Self {
        let file = File::options().create_new(true).append(true).open(path);
        Self(file.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    /// Adds an id, in one write.
    ///
    /// # Panics
    /// When it cannot be written: what is not recorded must not be answered.
    pub(crate) fn add(&self, id: u64) {
        (&self.0).write_all(&id.to_be_bytes()).expect("a record can be written");
    }
}

/// The ids in a file.
///
/// # Panics
/// When there is none, or it was cut in the middle of an id.
pub(crate) fn read(path: &Path) -> Vec<u64> {
    let octets = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (ids, rest) = octets.as_chunks::<8>();
    assert!(rest.is_empty(), "{} has half an id", path.display());
    ids.iter().map(|id| u64::from_be_bytes(*id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_is_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b#3");
        let writer = Writer::create(&path);
        [7, 9, 7].into_iter().for_each(|id| writer.add(id));
        assert_eq!(read(&path), [7, 9, 7]);
    }

    #[test]
    fn a_name_is_read_back() {
        let name = Incarnation { pod: 'b', count: 3 };
        assert_eq!(Incarnation::parse(&name.to_string()), Some(name));
        for text in ["", "b", "#1", "bc#1", "b#x"] {
            assert_eq!(Incarnation::parse(text), None, "{text}");
        }
    }
}
