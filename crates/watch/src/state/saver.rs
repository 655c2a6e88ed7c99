//! Saves the newest state every now and then, off the publishing path.
//!
//! The owner offers states as fast as it likes; a thread of its own takes the newest when it is
//! time. Dropping the [`Saver`] saves what was offered last and ends the thread; a runtime that
//! shuts down waits for it.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::task;

use super::write::Journal;
use super::{Place, SaveError, State};

/// From the first change to its file. A start is one burst of changes, and this is its end.
const DELAY: Duration = Duration::from_secs(1);
/// Between two times, at least.
const GAP: Duration = Duration::from_secs(10);
/// Writing takes at most one part in so many of the time: 100 MB on a slow disk are not written
/// all the time.
const SHARE: u32 = 20;

/// Takes states to be saved.
#[derive(Debug)]
pub(crate) struct Saver {
    slot: Arc<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    newest: Mutex<Newest>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Newest {
    state: Option<State>,
    closed: bool,
}

impl Saver {
    /// Starts the thread. `report` is told how each attempt ended.
    pub(crate) fn start(
        path: PathBuf,
        place: Place,
        report: impl Fn(Result<(), SaveError>) + Send + 'static,
    ) -> Self {
        let slot = Arc::new(Slot::default());
        let taken = Arc::clone(&slot);
        task::spawn_blocking(move || {
            let mut not_before = Instant::now();
            let mut journal = Journal::new(path, place);
            while let Some(state) = taken.take(not_before) {
                let started = Instant::now();
                report(journal.save(&state, Timestamp::now()));
                not_before = Instant::now() + GAP.max(started.elapsed() * SHARE);
            }
        });
        Self { slot }
    }

    /// This is the newest state. Cheap; replaces one that was not saved yet.
    pub(crate) fn offer(&self, state: State) {
        self.slot.lock().state = Some(state);
        self.slot.changed.notify_one();
    }

    /// Ends the thread without what was not saved yet.
    pub(crate) fn forget(self) {
        self.slot.lock().state = None;
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.slot.lock().closed = true;
        self.slot.changed.notify_one();
    }
}

impl Slot {
    /// Waits for a state, and until it is time, or for the end. None: it is over.
    fn take(&self, not_before: Instant) -> Option<State> {
        let nothing = |newest: &mut Newest| newest.state.is_none() && !newest.closed;
        let newest = self.changed.wait_while(self.lock(), nothing);
        let newest = newest.unwrap_or_else(PoisonError::into_inner);
        let wait = not_before.saturating_duration_since(Instant::now()).max(DELAY);
        let open = |newest: &mut Newest| !newest.closed;
        let ready = self.changed.wait_timeout_while(newest, wait, open);
        let (mut newest, _) = ready.unwrap_or_else(PoisonError::into_inner);
        newest.state.take()
    }

    fn lock(&self) -> MutexGuard<'_, Newest> {
        // Nothing panics while the lock is held.
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
