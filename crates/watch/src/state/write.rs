//! From the state to the file, so that there is a whole one at any time. Blocking.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{Header, Place, SaveError, State, VERSION, trailer};

/// Writes a file beside, flushes it to disk and renames it over the last one.
///
/// # Errors
/// The disk is full, or the directory cannot be made or written. The last file stays.
pub(crate) fn save(
    path: &Path,
    place: &Place,
    state: &State,
    now: Timestamp,
) -> Result<(), SaveError> {
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |source| SaveError { path, source }
    };
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory).map_err(wrong(directory))?;
    let beside = beside(path);
    let written = write_file(&beside, place, state, now).map_err(wrong(&beside));
    let renamed = written.and_then(|()| fs::rename(&beside, path).map_err(wrong(path)));
    if renamed.is_err() {
        // A full disk needs the room. That there was nothing to remove is no news.
        let _ = fs::remove_file(&beside);
    }
    renamed?;
    // The name is on disk too.
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(wrong(directory))
}

/// One name only, so that a crash leaves at most one such file.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

fn write_file(path: &Path, place: &Place, state: &State, now: Timestamp) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut output = BufWriter::new(file);
    write(&mut output, place, state, now)?;
    output.into_inner()?.sync_all()
}

/// Writes all lines, without holding them.
pub(crate) fn write(
    output: impl Write,
    place: &Place,
    state: &State,
    now: Timestamp,
) -> io::Result<()> {
    let mut lines = Lines { output, checksum: crc32fast::Hasher::new() };
    let header = Header {
        streamvs_state: VERSION,
        place,
        saved_at: now,
        generation: state.snapshot.generation(),
        node_status: state.node.clone(),
        node_facts: (**state.snapshot.node()).clone(),
        service_cidrs: state.service_cidrs.clone(),
    };
    serde_json::to_writer(&mut lines, &header)?;
    lines.write_all(b"\n")?;
    for service in state.snapshot.services() {
        serde_json::to_writer(&mut lines, service)?;
        lines.write_all(b"\n")?;
    }
    let Lines { mut output, checksum } = lines;
    let count = state.snapshot.services().len() + 1;
    output.write_all(trailer(count, checksum.finalize()).as_bytes())
}

/// Sums what passes.
struct Lines<W> {
    output: W,
    checksum: crc32fast::Hasher,
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.checksum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
