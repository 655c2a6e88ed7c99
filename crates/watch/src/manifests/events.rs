//! The kernel's events, on their way from the watcher's thread to the loop.
//!
//! Errs towards looking: whatever cannot be told to be nothing makes a look.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::directory::{self, FileName};
use super::pending::{Pending, Sign, Work};

/// Directories watched besides the one, as links lead there. Those of the others are found by the
/// rescan; each watch takes kernel memory that users have a budget of.
const MAX_LINKED: usize = 64;

/// What both threads share.
#[derive(Debug, Default)]
struct Inbox {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The directory as the kernel's events name it: without links.
    dir: PathBuf,
    /// Files elsewhere that manifests are links to, and which.
    targets: BTreeMap<PathBuf, Vec<FileName>>,
    /// Where the directory's own name stands, if it is a link.
    dir_link: Option<PathBuf>,
    pending: Pending,
    /// What was the directory was moved or removed, so that what is there now is another.
    dir_lost: bool,
}

/// Watches the directory as it is now, and the places its links lead to.
#[derive(Debug)]
pub(crate) struct Events {
    path: PathBuf,
    inbox: Arc<Inbox>,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the directory that is watched. None: nothing is, events do not come.
    watched: Option<(u64, u64)>,
    linked: BTreeSet<PathBuf>,
    told_blind: bool,
}

impl Events {
    /// For the directory at `path`; nothing is watched before [`Events::ensure`].
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            inbox: Arc::default(),
            watcher: None,
            watched: None,
            linked: BTreeSet::new(),
            told_blind: false,
        }
    }

    /// Whether events come.
    pub(crate) fn sighted(&self) -> bool {
        self.watched.is_some()
    }

    /// Completes when anything happened since the last call. Cancel safe.
    pub(crate) async fn arrived(&self) {
        self.inbox.arrived.notified().await;
    }

    /// When something is owed next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.inbox.lock().pending.next()
    }

    /// What is owed by now.
    pub(crate) fn take(&self, now: Instant) -> Work {
        self.inbox.lock().pending.take(now)
    }

    /// Sees to it that the directory that is there now is watched. To be called before it is
    /// listed, so that nothing falls between.
    pub(crate) fn ensure(&mut self) {
        let lost = std::mem::take(&mut self.inbox.lock().dir_lost);
        let there = fs::metadata(&self.path).ok();
        let there = there.map(|metadata| (metadata.dev(), metadata.ino()));
        if self.watched.is_some() && self.watched == there && !lost {
            return;
        }
        // All watches go with the watcher; what follows starts afresh.
        self.watcher = None;
        self.watched = None;
        self.linked.clear();
        match self.watch() {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.watched = there;
                if self.told_blind {
                    self.told_blind = false;
                    tracing::info!(dir = %self.path.display(), "manifest directory is watched again");
                }
            }
            Err(error) if !self.told_blind => {
                self.told_blind = true;
                tracing::warn!(
                    dir = %self.path.display(),
                    reason = %error,
                    "manifest directory cannot be watched, it is looked at again and again instead"
                );
            }
            Err(_) => {}
        }
    }

    fn watch(&self) -> notify::Result<RecommendedWatcher> {
        let dir = fs::canonicalize(&self.path)?;
        let is_link = fs::symlink_metadata(&self.path)?.is_symlink();
        let dir_link = if is_link { self.named_at() } else { None };
        {
            let mut state = self.inbox.lock();
            state.dir.clone_from(&dir);
            state.dir_link.clone_from(&dir_link);
        }
        let inbox = Arc::clone(&self.inbox);
        let mut watcher = notify::recommended_watcher(move |event| inbox.receive(event))?;
        watcher.watch(&dir, RecursiveMode::NonRecursive)?;
        if let Some(parent) = dir_link.as_deref().and_then(Path::parent).filter(|it| *it != dir) {
            watcher.watch(parent, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    }

    /// The directory's own name, in its parent as the kernel names that.
    fn named_at(&self) -> Option<PathBuf> {
        let path = std::path::absolute(&self.path).ok()?;
        Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?))
    }

    /// Watches the files that links lead to, where that is possible.
    pub(crate) fn follow<'a>(&mut self, links: impl Iterator<Item = (&'a Path, &'a FileName)>) {
        let mut targets: BTreeMap<PathBuf, Vec<FileName>> = BTreeMap::new();
        for (target, name) in links {
            targets.entry(target.to_owned()).or_default().push(Arc::clone(name));
        }
        let Some(watcher) = &mut self.watcher else { return };
        let mut state = self.inbox.lock();
        let own = [Some(state.dir.as_path()), state.dir_link.as_deref().and_then(Path::parent)];
        let places = targets.keys().filter_map(|target| target.parent());
        let places: BTreeSet<&Path> = places.filter(|place| !own.contains(&Some(*place))).collect();
        let wanted: BTreeSet<PathBuf> =
            places.into_iter().take(MAX_LINKED).map(Path::to_owned).collect();
        state.targets = targets;
        // The watcher's thread may wait for the lock.
        drop(state);
        for gone in self.linked.difference(&wanted) {
            // It fails where the directory is gone, and its watch with it.
            let _ = watcher.unwatch(gone);
        }
        self.linked.retain(|place| wanted.contains(place));
        for place in wanted {
            if !self.linked.contains(&place)
                && watcher.watch(&place, RecursiveMode::NonRecursive).is_ok()
            {
                self.linked.insert(place);
            }
        }
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it; and if, the state is sound between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(&self, event: notify::Result<Event>) {
        let now = Instant::now();
        match event {
            Ok(event) if event.need_rescan() => self.lock().pending.note_loss(now),
            Ok(event) => {
                let Some(sign) = sign(&event.kind) else { return };
                for path in &event.paths {
                    let sign = self.complete(path, &event.kind, sign);
                    self.lock().note(path, &event.kind, sign, now);
                }
            }
            Err(error) => {
                tracing::warn!(reason = %error, "events of the manifest directory are missing");
                self.lock().pending.note_loss(now);
            }
        }
        self.arrived.notify_one();
    }

    /// A new name is of a file that will be closed after writing, unless it is a link.
    fn complete(&self, path: &Path, kind: &EventKind, sign: Sign) -> Sign {
        let is_link = |path: &Path| {
            fs::symlink_metadata(path)
                .is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
        };
        if kind.is_create() && is_link(path) { Sign::Written } else { sign }
    }
}

/// What an event means for the file it is about. None: nothing.
fn sign(kind: &EventKind) -> Option<Sign> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Sign::Written),
        // Our own reading is among these.
        EventKind::Access(_) => None,
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_)) => Some(Sign::Writing),
        EventKind::Modify(ModifyKind::Metadata(_)) => Some(Sign::Touched),
        EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Any | EventKind::Other => {
            Some(Sign::Written)
        }
    }
}

impl State {
    fn note(&mut self, path: &Path, kind: &EventKind, sign: Sign, now: Instant) {
        for name in self.targets.get(path).into_iter().flatten() {
            self.pending.note_file(Arc::clone(name), sign, now);
        }
        if path == self.dir || Some(path) == self.dir_link.as_deref() {
            // Its own metadata changes whenever a file comes or goes; only its end matters.
            if sign == Sign::Written {
                self.dir_lost = true;
                self.pending.note_scan(now);
            }
            return;
        }
        if path.parent() != Some(&self.dir) {
            return;
        }
        let Some(name) = path.file_name() else { return };
        if directory::format(name).is_some() {
            self.pending.note_file(name.into(), sign, now);
        } else if kind.is_create() || kind.is_remove() || is_rename(kind) {
            // A link may lead through it, as through `..data` of a mounted ConfigMap.
            self.pending.note_scan(now);
        }
    }
}

fn is_rename(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Modify(ModifyKind::Name(_)))
}
