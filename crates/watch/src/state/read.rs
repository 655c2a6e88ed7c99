//! From the file to the state, or to the reason why not. Blocking.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustc_hash::FxHashSet;
use serde::Deserialize;
use streamvs_table::{ServicePort, Snapshot};

use super::{Damage, Header, LoadError, MAX_BYTES, Place, State, VERSION, trailer};

/// Reads the file. Returns the state and when it was saved.
///
/// # Errors
/// There is none, or it is not to be used; nothing of it is.
pub(crate) fn load(path: &Path, place: &Place) -> Result<(State, Timestamp), LoadError> {
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

pub(crate) fn parse(content: &[u8], place: &Place) -> Result<(State, Timestamp), LoadError> {
    check_version(content)?;
    let lines = check_lines(content)?;
    let mut lines = lines.enumerate().map(|(index, line)| (index + 1, line));
    let (_, first) = lines.next().ok_or(LoadError::Damaged { what: Damage::Header })?;
    let header: Header<Place> = read_line(1, first)?;
    if header.place != *place {
        return Err(LoadError::OtherPlace { place: Box::new(header.place) });
    }
    let mut names = FxHashSet::default();
    let services = lines.map(|(number, line)| {
        let mut service: ServicePort = read_line(number, line)?;
        share_names(&mut service, &mut names);
        Ok(Arc::new(service))
    });
    let services = services.collect::<Result<Vec<_>, LoadError>>()?;
    // Conflicts were told of when the table was made.
    let (snapshot, _) = Snapshot::new(header.generation, services);
    let Header { node_status: node, node_facts, service_cidrs, saved_at, .. } = header;
    let snapshot = snapshot.with_node(Arc::new(node_facts));
    Ok((State { snapshot, node, service_cidrs }, saved_at))
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

/// Holds the lines against the last one. Returns those before it.
fn check_lines(content: &[u8]) -> Result<impl Iterator<Item = &[u8]>, LoadError> {
    let damaged = || LoadError::Damaged { what: Damage::Checksum };
    let whole = content.strip_suffix(b"\n").ok_or_else(damaged)?;
    let body_end = whole.iter().rposition(|byte| *byte == b'\n').ok_or_else(damaged)? + 1;
    let (body, last) = content.split_at(body_end);
    let lines = body.iter().filter(|byte| **byte == b'\n').count();
    if trailer(lines, crc32fast::hash(body)).as_bytes() != last {
        return Err(damaged());
    }
    Ok(body.split_inclusive(|byte| *byte == b'\n'))
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
