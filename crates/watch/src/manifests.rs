//! A directory of files as the source of objects: `*.yaml`, `*.yml`, `*.json`.
//!
//! Each file is one unit: when it cannot be read or parsed, its last good state stays in force and
//! the others go on. Events of the kernel say only that something changed; what, is found by
//! looking. So an event that was lost, or a directory mounted over, costs time and not truth: the
//! directory is looked at again every [`RESCAN`] in any case.

mod document;
mod files;
mod object;
mod parse;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use streamvs_resolve::{Notice, Resolver};
use streamvs_table::Snapshot;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::Error;
use files::Files;

/// After an event this long is waited for others, so that several files written together make one
/// table. Well below the 100 ms within which a change must be live.
const DEBOUNCE: Duration = Duration::from_millis(10);

/// At least so often the directory is looked at, events or not: bounds what a lost event costs.
const RESCAN: Duration = Duration::from_secs(10);

/// Where the files are, and for whom they are read.
#[derive(Clone, Debug)]
pub struct ManifestsConfig {
    /// The directory. Not its subdirectories; symbolic links are followed, as mounted ConfigMaps
    /// need it.
    pub dir: PathBuf,
    /// What the resolver must know.
    pub resolver: streamvs_resolve::Config,
}

/// Watches the directory for ever. `publish` gets the first table as soon as all files have been
/// looked at once, even if they say nothing, and another after each visible change.
///
/// # Errors
/// The directory is missing or unreadable at the start. Later faults are logged and what was read
/// before stays.
///
/// Cancel safety: dropping the future stops watching.
pub async fn manifests(
    config: ManifestsConfig,
    mut publish: impl FnMut(Snapshot),
) -> Result<Infallible, Error> {
    let ManifestsConfig { dir, resolver } = config;
    let metadata =
        std::fs::metadata(&dir).map_err(|source| Error::Directory { dir: dir.clone(), source })?;
    if !metadata.is_dir() {
        return Err(Error::NotADirectory { dir });
    }
    let mut resolver = Resolver::new(resolver);
    let mut files = Files::default();
    // One slot: whoever finds it full knows that a look is owed already.
    let (changed, mut changes) = mpsc::channel(1);
    let mut watcher = watch(&dir, &changed);
    loop {
        match files.scan(&dir) {
            Ok(objects) => {
                for change in objects {
                    warn(resolver.apply(change));
                }
                if let Some((snapshot, notices)) = resolver.resolve() {
                    warn(notices);
                    publish(snapshot);
                }
            }
            Err(error) => {
                tracing::error!(
                    dir = %dir.display(),
                    %error,
                    "manifest directory cannot be read, the last good state is kept"
                );
                // A directory that comes back is another one.
                watcher = None;
            }
        }
        match timeout(RESCAN, changes.recv()).await {
            Ok(_) => sleep(DEBOUNCE).await,
            Err(_) if watcher.is_none() => watcher = watch(&dir, &changed),
            Err(_) => {}
        }
        // What happened up to here is seen by the look that follows.
        let _ = changes.try_recv();
    }
}

/// Asks the kernel for events. None, with a warning, where it refuses: the rescans still work.
fn watch(dir: &Path, changed: &mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let changed = changed.clone();
    // Errors of the watcher, an overflow of its queue among them, are a reason to look as well.
    let on_event = move |event: notify::Result<notify::Event>| {
        if !event.is_ok_and(|event| event.kind.is_access()) {
            let _ = changed.try_send(());
        }
    };
    let watching = notify::recommended_watcher(on_event).and_then(|mut watcher| {
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    match watching {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(
                dir = %dir.display(),
                %error,
                "manifest directory cannot be watched, changes take up to 10 s"
            );
            None
        }
    }
}

fn warn(notices: Vec<Notice>) {
    for notice in notices {
        tracing::warn!("{notice}");
    }
}
