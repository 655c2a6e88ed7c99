//! From the state to the file, so that there is a whole one at any time. Blocking.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use streamvs_table::Snapshot;

use super::{Header, Line, Place, SaveError, State, VERSION, trailer};

/// Below this many bytes of changes no table is written anew, however small it is.
const MIN_CHANGES_BYTES: u64 = 64 << 10;

/// The file, as far as this process has written it.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    place: Place,
    written: Option<Written>,
}

/// A file that can be appended to.
#[derive(Debug)]
struct Written {
    file: File,
    /// Of its first part.
    table_bytes: u64,
    bytes: u64,
    /// What it says.
    snapshot: Snapshot,
}

impl Journal {
    pub(crate) fn new(path: PathBuf, place: Place) -> Self {
        Self { path, place, written: None }
    }

    /// Brings the file up to date: appends what changed, or writes a new one where there is none
    /// of ours, where somebody changed it, or where the changes are as long as the table. On disk
    /// when it returns.
    ///
    /// # Errors
    /// The disk is full, or the directory cannot be made or written. The file says what it said
    /// before; the next call writes a new one.
    pub(crate) fn save(&mut self, state: &State, now: Timestamp) -> Result<(), SaveError> {
        let written = match self.written.take().filter(|written| written.may_grow(&self.path)) {
            Some(written) => written.append(&self.place, state, now).map_err(wrong(&self.path))?,
            None => replace(&self.path, &self.place, state, now)?,
        };
        self.written = Some(written);
        Ok(())
    }
}

impl Written {
    fn may_grow(&self, path: &Path) -> bool {
        let same = |ours: fs::Metadata, found: fs::Metadata| {
            (ours.dev(), ours.ino()) == (found.dev(), found.ino()) && found.len() == self.bytes
        };
        let untouched = self.file.metadata().and_then(|ours| Ok(same(ours, fs::metadata(path)?)));
        let changes_bytes = self.bytes - self.table_bytes;
        untouched.unwrap_or(false) && changes_bytes < self.table_bytes.max(MIN_CHANGES_BYTES)
    }

    fn append(self, place: &Place, state: &State, now: Timestamp) -> io::Result<Self> {
        let mut output = BufWriter::new(self.file);
        let bytes = self.bytes + write(&mut output, place, state, &self.snapshot, now)?;
        let file = output.into_inner()?;
        file.sync_data()?;
        Ok(Self { file, bytes, snapshot: state.snapshot.clone(), ..self })
    }
}

/// Writes a file beside, flushes it to disk and renames it over the last one.
fn replace(
    path: &Path,
    place: &Place,
    state: &State,
    now: Timestamp,
) -> Result<Written, SaveError> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory).map_err(wrong(directory))?;
    let beside = beside(path);
    let written = write_file(&beside, place, state, now).map_err(wrong(&beside));
    let renamed = written
        .and_then(|written| fs::rename(&beside, path).map(|()| written).map_err(wrong(path)));
    if renamed.is_err() {
        // A full disk needs the room. That there was nothing to remove is no news.
        let _ = fs::remove_file(&beside);
    }
    let written = renamed?;
    // The name is on disk too.
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(wrong(directory))?;
    Ok(written)
}

fn wrong(path: &Path) -> impl FnOnce(io::Error) -> SaveError {
    let path = path.to_owned();
    move |source| SaveError { path, source }
}

/// One name only, so that a crash leaves at most one such file.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

fn write_file(path: &Path, place: &Place, state: &State, now: Timestamp) -> io::Result<Written> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut output = BufWriter::new(file);
    let bytes = write(&mut output, place, state, &Snapshot::default(), now)?;
    let file = output.into_inner()?;
    file.sync_all()?;
    Ok(Written { file, table_bytes: bytes, bytes, snapshot: state.snapshot.clone() })
}

/// Writes a part, without holding it: what is not as in `since`. Returns how many bytes it is.
pub(crate) fn write(
    output: impl Write,
    place: &Place,
    state: &State,
    since: &Snapshot,
    now: Timestamp,
) -> io::Result<u64> {
    let mut lines = Lines { output, checksum: crc32fast::Hasher::new(), bytes: 0 };
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
    let mut count = 1;
    for change in state.snapshot.changes_since(since) {
        serde_json::to_writer(&mut lines, &Line { service: change.name, ports: change.after })?;
        lines.write_all(b"\n")?;
        count += 1;
    }
    let Lines { mut output, checksum, bytes } = lines;
    let trailer = trailer(count, checksum.finalize());
    output.write_all(trailer.as_bytes())?;
    Ok(bytes + trailer.len() as u64)
}

/// Sums what passes.
struct Lines<W> {
    output: W,
    checksum: crc32fast::Hasher,
    bytes: u64,
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.checksum.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
