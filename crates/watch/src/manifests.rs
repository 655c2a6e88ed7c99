//! A directory of files as the source of objects: `*.yaml`, `*.yml`, `*.json`.
//!
//! ```text
//!  kernel events --> [events] --> [pending] --> loop --> [directory] --> [claims] --> resolver
//!                    what they     when to       |       which files     which of       |
//!                    are about     look          |       changed         several        v
//!                                                +<------------------------------- publish
//! ```
//!
//! Events say where to look, and looking says what is: an event that was lost costs time and not
//! truth. A file that is whole (closed after writing, renamed, linked, removed) is looked at after
//! 10 ms, at most 50 ms, while a file that somebody is writing is left alone until it is closed
//! (`pending`). Besides, the directory is listed every [`RESCAN`] for what no event tells: links
//! that lead through other links, mounts over the directory, network file systems.
//!
//! Each file is one unit: when it cannot be read or parsed, its last good state stays in force and
//! the others go on. When the directory itself is gone, so do all of them.

mod claims;
mod directory;
mod document;
mod events;
mod object;
mod parse;
mod pending;
mod source;

use std::convert::Infallible;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use streamvs_resolve::{Changes, Config};
use streamvs_table::Snapshot;
use tokio::task;

use crate::Error;
use events::Events;
use pending::Work;
use source::Source;

/// So often the directory is listed, events or not. It costs a `stat` for each file, 10 ms for
/// thousands, and bounds how late a change is seen that made no event.
const RESCAN: Duration = Duration::from_secs(10);
/// So often while no events come at all, to stay within the same 100 ms.
const BLIND_RESCAN: Duration = Duration::from_millis(50);

/// Where the files are, and for whom they are read.
#[derive(Clone, Debug)]
pub struct ManifestsConfig {
    /// The directory. Not its subdirectories, and not its hidden files; symbolic links are
    /// followed, as mounted ConfigMaps need it.
    pub dir: PathBuf,
    /// What the resolver must know.
    pub resolver: Config,
}

/// Watches the directory for ever. `publish` gets the first table as soon as all files have been
/// looked at once, even if they say nothing, and another after each visible change.
///
/// # Errors
/// The directory is missing, unreadable or none at the start: a table of nothing because of a
/// misspelt name would look like a cluster without Services. Later faults are logged, and what
/// was read before stays.
///
/// Cancel safety: dropping the future stops watching. A look under way ends by itself and is
/// not published.
pub async fn manifests(
    config: ManifestsConfig,
    mut publish: impl FnMut(Snapshot, Changes),
) -> Result<Infallible, Error> {
    let ManifestsConfig { dir, resolver } = config;
    check(&dir)?;
    let mut events = Events::new(dir.clone());
    let mut source = Source::new(dir, resolver);
    let mut work = Work { scan: true, ..Work::default() };
    let mut rescan_at = Instant::now();
    loop {
        if work.scan {
            events.ensure();
            rescan_at = Instant::now() + if events.sighted() { RESCAN } else { BLIND_RESCAN };
        }
        let table;
        (source, table) = look(source, work).await;
        events.follow(source.directory.links());
        if let Some((snapshot, changes)) = table {
            publish(snapshot, changes);
        }
        work = next_work(&events, rescan_at).await;
    }
}

fn check(dir: &Path) -> Result<(), Error> {
    let directory = |source| Error::Directory { dir: dir.to_owned(), source };
    if !fs::metadata(dir).map_err(directory)?.is_dir() {
        return Err(Error::NotADirectory { dir: dir.to_owned() });
    }
    fs::read_dir(dir).map_err(directory)?;
    Ok(())
}

/// Reading and parsing may take long, so it is done where it stops nobody else.
async fn look(mut source: Source, work: Work) -> (Source, Option<(Snapshot, Changes)>) {
    let looking = task::spawn_blocking(move || {
        let table = source.refresh(&work);
        (source, table)
    });
    match looking.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => panic::resume_unwind(panic),
            // The runtime is shutting down, and this future with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Waits until something is to be looked at.
async fn next_work(events: &Events, rescan_at: Instant) -> Work {
    loop {
        let now = Instant::now();
        let due_at = events.next().map_or(rescan_at, |due_at| due_at.min(rescan_at));
        if due_at <= now {
            let work = events.take(now);
            return Work { scan: work.scan || rescan_at <= now, ..work };
        }
        tokio::select! {
            () = events.arrived() => {}
            () = tokio::time::sleep_until(due_at.into()) => {}
        }
    }
}

#[cfg(test)]
mod tests;
