//! The files of a directory, what each said last, and what that means for all of them together.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use streamvs_resolve::Change;

use super::object::{self, Body, Kind, ObjectKey};
use super::parse::{self, Fault, Format, Reason};

/// The largest file that is read: 250,000 endpoints in slices take about 60 MiB of YAML.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// A file this young is read again although it looks the same: two writes may fall into one tick
/// of the file system's clock.
const CLOCK_TICK: Duration = Duration::from_secs(1);

/// What tells two states of a file apart without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            modified: metadata.modified().ok(),
        }
    }

    /// Whether the same stamp later proves the same content.
    fn settled(&self) -> bool {
        let age = self.modified.and_then(|modified| modified.elapsed().ok());
        age.is_some_and(|age| age > CLOCK_TICK)
    }
}

/// One file.
#[derive(Debug, Default)]
struct FileState {
    stamp: Option<Stamp>,
    /// What it said when it was last good.
    objects: BTreeMap<ObjectKey, Body>,
    /// The complaint logged last, so that it is not repeated.
    told: Option<String>,
}

/// All files, and what was made known of them.
#[derive(Debug, Default)]
pub(crate) struct Files {
    states: BTreeMap<PathBuf, FileState>,
    applied: BTreeMap<ObjectKey, Body>,
    /// Duplicates that were warned about: the object and the file that lost.
    told_duplicates: BTreeSet<(ObjectKey, PathBuf)>,
    told_foreign: BTreeSet<String>,
}

impl Files {
    /// Looks at the directory and returns what is new since the last look: Nodes first, so that a
    /// first table is made for the right zone.
    ///
    /// # Errors
    /// The directory itself cannot be read; nothing has changed then.
    pub(crate) fn scan(&mut self, dir: &Path) -> io::Result<Vec<Change>> {
        let mut present = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if let Some(format) = format(&path) {
                present.insert(path, format);
            }
        }
        self.states.retain(|path, _| present.contains_key(path));
        for (path, format) in present {
            let state = self.states.entry(path.clone()).or_default();
            match state.refresh(&path, format) {
                Ok(foreign) => {
                    state.told = None;
                    for kind in foreign {
                        if !self.told_foreign.contains(&kind) {
                            tracing::info!(file = %path.display(), kind, "objects of this kind are ignored");
                            self.told_foreign.insert(kind);
                        }
                    }
                }
                Err(fault) => state.complain(&path, &fault),
            }
        }
        Ok(self.changes())
    }

    /// The difference between what the files say and what was made known.
    fn changes(&mut self) -> Vec<Change> {
        let mut said: BTreeMap<&ObjectKey, &Body> = BTreeMap::new();
        let mut duplicates = BTreeSet::new();
        for (path, state) in &self.states {
            for (key, body) in &state.objects {
                if said.contains_key(key) {
                    duplicates.insert((key.clone(), path.clone()));
                } else {
                    said.insert(key, body);
                }
            }
        }
        for (key, path) in duplicates.difference(&self.told_duplicates) {
            tracing::warn!(
                file = %path.display(),
                object = %key,
                "object stands in another file too, the first file by name counts"
            );
        }
        let gone = self.applied.keys().filter(|key| !said.contains_key(key));
        let gone: Vec<ObjectKey> = gone.cloned().collect();
        let new = said.into_iter().filter(|(key, body)| self.applied.get(key) != Some(body));
        let mut new: Vec<(ObjectKey, Body)> =
            new.map(|(key, body)| (key.clone(), body.clone())).collect();
        new.sort_by_key(|(key, _)| key.kind != Kind::Node);
        self.told_duplicates = duplicates;

        let mut changes = Vec::with_capacity(gone.len() + new.len());
        for key in gone {
            self.applied.remove(&key);
            changes.push(object::change(&key, None));
        }
        for (key, body) in new {
            changes.push(object::change(&key, Some(&body)));
            self.applied.insert(key, body);
        }
        changes
    }
}

impl FileState {
    /// Reads the file unless it is surely the same. Returns the kinds of objects of no use in it.
    fn refresh(&mut self, path: &Path, format: Format) -> Result<BTreeSet<String>, Fault> {
        let metadata = fs::metadata(path).map_err(Reason::Unreadable)?;
        let stamp = Stamp::of(&metadata);
        if self.stamp.as_ref() == Some(&stamp) && stamp.settled() {
            return Ok(BTreeSet::new());
        }
        if !metadata.is_file() {
            return Err(Reason::NotAFile.into());
        }
        let bytes = read(path)?;
        let content = parse::parse(&bytes, format)?;
        let mut objects = BTreeMap::new();
        for object in content.objects {
            if let Some(_earlier) = objects.insert(object.key.clone(), object.body) {
                tracing::debug!(file = %path.display(), object = %object.key, "the last of several counts");
            }
        }
        self.stamp = Some(stamp);
        self.objects = objects;
        Ok(content.foreign)
    }

    /// Logs a fault once.
    fn complain(&mut self, path: &Path, fault: &Fault) {
        // A file that vanished between the listing and the reading is no fault of anyone's.
        if matches!(&fault.reason, Reason::Unreadable(error) if error.kind() == io::ErrorKind::NotFound)
            && fs::symlink_metadata(path).is_err()
        {
            return;
        }
        let told = fault.to_string();
        if self.told.as_ref() != Some(&told) {
            tracing::error!(
                file = %path.display(),
                line = fault.line,
                reason = %fault.reason,
                "manifest cannot be used, its last good state is kept"
            );
            self.told = Some(told);
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Reason> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Reason::Unreadable)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(Reason::Unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Reason::TooLarge { limit_bytes: MAX_FILE_BYTES });
    }
    Ok(bytes)
}

/// How a file is written. None: not ours to read, hidden files of editors and mounts included.
fn format(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?;
    if name.starts_with('.') {
        return None;
    }
    match path.extension().and_then(OsStr::to_str)? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}
