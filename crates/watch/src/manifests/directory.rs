//! The files of the directory: listing, telling apart what changed, reading.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::object::Object;
use super::parse::{self, Fault, Format, Reason};

/// The largest file that is read, as a file is held whole while it is parsed: 250,000 endpoints
/// take about 100 MiB as `kubectl` prints them.
pub(crate) const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;
/// As many files are read, the first by name: one for each of 30,000 Services and its slices.
const MAX_FILES: usize = 65_536;
/// Two writes this close may have the same time stamp, so a file read so soon after it changed is
/// read again when next in doubt. The coarsest clock of a file system in use ticks every 2 s.
const CLOCK_TICK: Duration = Duration::from_secs(2);
/// So many kinds of no use are told of; whoever has more knows by then.
const MAX_TOLD_KINDS: usize = 100;

/// A file's name within the directory.
pub(crate) type FileName = Arc<OsStr>;

/// What a look at a file showed.
#[derive(Debug)]
pub(crate) enum Look {
    /// What it says now.
    Content(Vec<Object>),
    /// It is not there, or a link to nothing.
    Gone,
    /// Nothing new. Also when it cannot be used: it is taken to say what it said when it could.
    Same,
}

/// The directory and what is remembered of its files.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    files: BTreeMap<FileName, Known>,
    told_kinds: BTreeSet<String>,
    /// That it cannot be listed was told and still holds.
    told_unlisted: bool,
}

/// What is remembered of a file.
#[derive(Debug, Default)]
struct Known {
    /// How it looked when last read, if that can prove it the same.
    stamp: Option<Stamp>,
    /// Where the link leads that it is.
    target: Option<PathBuf>,
    /// The fault it was last told of, with its line.
    told: Option<(Option<u64>, String)>,
}

/// What tells two states of a file apart without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// None: the file changed just now, and may change again without looking different.
    fn of(metadata: &Metadata) -> Option<Self> {
        let changed = metadata.modified().ok()?;
        let age = SystemTime::now().duration_since(changed).ok()?;
        (age > CLOCK_TICK).then(|| Self {
            file: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Directory {
    pub(crate) fn new(path: PathBuf) -> Self {
        let (files, told_kinds) = (BTreeMap::new(), BTreeSet::new());
        Self { path, files, told_kinds, told_unlisted: false }
    }

    /// The names of the manifests there are, sorted. None: the directory cannot be read, which is
    /// told once; its files are taken to be as they were.
    pub(crate) fn list(&mut self) -> Option<BTreeSet<FileName>> {
        let names = self.names();
        let unlisted = names.is_err();
        match &names {
            Err(error) if !self.told_unlisted => tracing::error!(
                dir = %self.path.display(),
                reason = %error,
                "manifest directory cannot be read, the last good state is kept"
            ),
            Ok(_) if self.told_unlisted => {
                tracing::info!(dir = %self.path.display(), "manifest directory can be read again");
            }
            _ => {}
        }
        self.told_unlisted = unlisted;
        names.ok()
    }

    fn names(&self) -> io::Result<BTreeSet<FileName>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if format(&name).is_some() {
                names.insert(name.into());
            }
        }
        if names.len() > MAX_FILES {
            tracing::error!(
                dir = %self.path.display(),
                files = names.len(),
                limit = MAX_FILES,
                "too many manifests, the last by name are ignored"
            );
            names = names.into_iter().take(MAX_FILES).collect();
        }
        Ok(names)
    }

    /// The names of the manifests there were.
    pub(crate) fn known(&self) -> impl Iterator<Item = &FileName> {
        self.files.keys()
    }

    /// Where files lead that are links, and which they are.
    pub(crate) fn links(&self) -> impl Iterator<Item = (&Path, &FileName)> {
        self.files.iter().filter_map(|(name, known)| Some((known.target.as_deref()?, name)))
    }

    /// Looks at a file. `doubted`: something happened to it, so that it is read even if it looks
    /// the same.
    pub(crate) fn look(&mut self, name: &FileName, doubted: bool) -> Look {
        let Some(format) = format(name) else { return Look::Same };
        let path = self.path.join(&**name);
        let known = self.files.entry(Arc::clone(name)).or_default();
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.files.remove(name);
                return Look::Gone;
            }
            Err(error) => {
                known.tell(&path, &Reason::Unreadable(error).into());
                return Look::Same;
            }
        };
        let stamp = Stamp::of(&metadata);
        if !doubted && stamp.is_some() && known.stamp == stamp {
            return Look::Same;
        }
        known.stamp = None;
        known.target = target(&path);
        let content = read(&path, &metadata).map_err(Fault::from);
        match content.and_then(|bytes| parse::parse(&bytes, format)) {
            Ok(content) => {
                known.stamp = stamp;
                known.tell_mended(&path);
                self.tell_foreign(&path, content.foreign);
                Look::Content(content.objects)
            }
            Err(fault) if fault.is_absence() => {
                self.files.remove(name);
                Look::Gone
            }
            Err(fault) => {
                // What could not be read may be readable without looking different.
                known.stamp = stamp.filter(|_| !fault.is_unreadable());
                known.tell(&path, &fault);
                Look::Same
            }
        }
    }

    fn tell_foreign(&mut self, path: &Path, kinds: BTreeSet<String>) {
        for kind in kinds {
            if self.told_kinds.len() < MAX_TOLD_KINDS && !self.told_kinds.contains(&kind) {
                tracing::info!(file = %path.display(), kind, "objects of this kind are ignored");
                self.told_kinds.insert(kind);
            }
        }
    }
}

impl Known {
    /// Logs a fault, unless it was the last thing logged of this file.
    fn tell(&mut self, path: &Path, fault: &Fault) {
        let told = Some((fault.line, fault.reason.to_string()));
        if self.told != told {
            tracing::error!(
                file = %path.display(),
                line = fault.line,
                reason = %fault.reason,
                "manifest cannot be used, its last good state is kept"
            );
            self.told = told;
        }
    }

    fn tell_mended(&mut self, path: &Path) {
        if self.told.take().is_some() {
            tracing::info!(file = %path.display(), "manifest can be used again");
        }
    }
}

/// Where a link leads in the end. None: it is none.
fn target(path: &Path) -> Option<PathBuf> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    is_link.then(|| fs::canonicalize(path).ok()).flatten()
}

fn read(path: &Path, metadata: &Metadata) -> Result<Vec<u8>, Reason> {
    // Asked before it is opened, as opening a pipe would wait for its writer.
    if !metadata.is_file() {
        return Err(Reason::NotAFile);
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Reason::Unreadable)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(Reason::Unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Reason::TooLarge { limit_bytes: MAX_FILE_BYTES });
    }
    Ok(bytes)
}

/// How a file is written, by its name. None: it is no manifest. Hidden files are none: editors
/// and mounts keep theirs under such names.
pub(crate) fn format(name: &OsStr) -> Option<Format> {
    if name.as_encoded_bytes().starts_with(b".") {
        return None;
    }
    match Path::new(name).extension()?.to_str()? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}
