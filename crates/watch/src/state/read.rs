//! From the file to the state, or to the reason why not. Blocking.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustc_hash::FxHashSet;
use serde::Deserialize;
use streamvs_table::ServicePort;

use super::{Damage, Header, LoadError, MAX_BYTES, OwnedLine, Place, State, VERSION, trailer};

/// How the last line of a part begins, and no other: those are JSON objects.
const END: &[u8] = b"end ";

/// What a file has to say.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) state: State,
    /// When the part it ends with was saved.
    pub(crate) saved_at: Timestamp,
    /// Bytes after that part, which are damaged: an append that was cut short.
    pub(crate) left_out_bytes: usize,
}

/// Reads the file.
///
/// # Errors
/// There is none, or it is not to be used; nothing of it is.
pub(crate) fn load(path: &Path, place: &Place) -> Result<Loaded, LoadError> {
    parse(&content(path)?, place)
}

fn content(path: &Path) -> Result<Vec<u8>, LoadError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LoadError::Absent,
        _ => LoadError::Unreadable(error),
    })?;
    let bytes = file.metadata().map_err(LoadError::Unreadable)?.len();
    if bytes > MAX_BYTES {
        return Err(LoadError::TooLarge { bytes });
    }
    let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
    file.take(MAX_BYTES).read_to_end(&mut content).map_err(LoadError::Unreadable)?;
    Ok(content)
}

pub(crate) fn parse(content: &[u8], place: &Place) -> Result<Loaded, LoadError> {
    check_version(content)?;
    let mut names = FxHashSet::default();
    let mut read: Option<Loaded> = None;
    let mut line_number = 0;
    let mut rest = content;
    while let Some((part, after)) = split_part(rest) {
        rest = after;
        let mut lines = part.split_inclusive(|byte| *byte == b'\n');
        let first = lines.next().ok_or(LoadError::Damaged { what: Damage::Header })?;
        line_number += 1;
        let header: Header<Place> = read_line(line_number, first)?;
        if header.place != *place {
            return Err(LoadError::OtherPlace { place: Box::new(header.place) });
        }
        let mut changes = Vec::new();
        for line in lines {
            line_number += 1;
            let OwnedLine { service, ports } = read_line(line_number, line)?;
            let shared = |mut port: ServicePort| {
                share_names(&mut port, &mut names);
                Arc::new(port)
            };
            changes.push((service, ports.into_iter().map(shared).collect()));
        }
        line_number += 1;
        let before = read.take().map(|read| read.state.snapshot).unwrap_or_default();
        // Conflicts were told of when the table was made.
        let snapshot = before.next(&changes).at_generation(header.generation);
        let Header { node_status: node, node_facts, service_cidrs, saved_at, .. } = header;
        let snapshot = snapshot.with_node(Arc::new(node_facts));
        let state = State { snapshot, node, service_cidrs };
        read = Some(Loaded { state, saved_at, left_out_bytes: after.len() });
    }
    read.ok_or(LoadError::Damaged { what: Damage::Checksum })
}

/// Before all else: a file of another version may have another form of everything after.
fn check_version(content: &[u8]) -> Result<(), LoadError> {
    #[derive(Deserialize)]
    struct Version {
        streamvs_state: u32,
    }
    let first = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match serde_json::from_slice(first) {
        Ok(Version { streamvs_state: VERSION }) => Ok(()),
        Ok(Version { streamvs_state: version }) => Err(LoadError::OtherVersion { version }),
        Err(_) => Err(LoadError::Damaged { what: Damage::Header }),
    }
}

/// Takes off the first part if it is whole. Returns its lines without the last, and what follows.
fn split_part(content: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut end = 0;
    let last = content.split_inclusive(|byte| *byte == b'\n').enumerate().find(|(_, line)| {
        let last = line.starts_with(END);
        end += if last { 0 } else { line.len() };
        last
    });
    let (lines, last) = last?;
    let body = &content[..end];
    let whole = trailer(lines, crc32fast::hash(body)).as_bytes() == last;
    whole.then(|| (body, &content[end + last.len()..]))
}

fn read_line<'de, T: Deserialize<'de>>(line: usize, text: &'de [u8]) -> Result<T, LoadError> {
    serde_json::from_slice(text).map_err(|source| LoadError::OtherFields { line, source })
}

/// Endpoints run on few nodes in fewer zones: each name is kept once.
fn share_names(service: &mut ServicePort, names: &mut FxHashSet<Arc<str>>) {
    let mut share = |name: &mut Arc<str>| match names.get(name) {
        Some(known) => *name = Arc::clone(known),
        None => {
            names.insert(Arc::clone(name));
        }
    };
    share(&mut service.name.service.namespace);
    for endpoint in &mut service.endpoints {
        endpoint.node.as_mut().map(&mut share);
        endpoint.zone.as_mut().map(&mut share);
    }
}
