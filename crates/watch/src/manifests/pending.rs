//! When to look at a file after signs that it changed. Pure: the time is an argument.
//!
//! A file that was renamed, removed or closed after writing is looked at after [`DEBOUNCE`], so
//! that several written together make one table. A file that somebody is writing is left alone
//! until it is closed: what stands there is the beginning of something, and a beginning of a
//! manifest is often a manifest, of fewer endpoints. `kubectl get ... > file` empties the file long
//! before it fills it.
//!
//! ```text
//!  written --> +10 ms (each further one moves it, up to 50 ms after the first)
//!  writing --> +5 s   (each further one moves it, up to 10 s after the first), or written
//! ```

use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHashSet};

use super::directory::FileName;

/// After a file was written this long is waited for others.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// However many follow, no longer than this: half of the 100 ms within which a change is live.
const MAX_DEBOUNCE: Duration = Duration::from_millis(50);
/// A writer that pauses for so long and does not close is taken to have finished.
const PAUSE: Duration = Duration::from_secs(5);
/// A writer that never pauses is not waited for longer than this.
const MAX_WRITING: Duration = Duration::from_secs(10);
/// More files than this at a time are not kept apart: the whole directory is looked at.
const MAX_FILES: usize = 4096;

/// A sign of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// The file is whole: it was closed after writing, renamed, linked or removed.
    Written,
    /// The file is being written.
    Writing,
    /// Something about it changed, but no more was written.
    Touched,
}

/// What is to be looked at.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// These files, however unchanged they look.
    pub(crate) files: FxHashSet<FileName>,
    /// The whole directory, for what is new, gone or looks changed.
    pub(crate) scan: bool,
    /// Not these, as they are being written.
    pub(crate) held: FxHashSet<FileName>,
}

/// What is owed and when. Bounded by [`MAX_FILES`].
#[derive(Debug, Default)]
pub(crate) struct Pending {
    files: FxHashMap<FileName, Due>,
    scan: Option<Due>,
}

#[derive(Clone, Copy, Debug)]
struct Due {
    first: Instant,
    first_written: Option<Instant>,
    at: Instant,
    writing: bool,
}

impl Due {
    fn new(now: Instant) -> Self {
        Self { first: now, first_written: None, at: now, writing: false }
    }

    fn note(&mut self, sign: Sign, now: Instant) {
        self.writing = match sign {
            Sign::Written => false,
            Sign::Writing => true,
            Sign::Touched => self.writing,
        };
        self.at = if self.writing {
            (now + PAUSE).min(self.first + MAX_WRITING)
        } else {
            let first = *self.first_written.get_or_insert(now);
            (now + DEBOUNCE).min(first + MAX_DEBOUNCE)
        };
    }
}

impl Pending {
    /// A file changed.
    pub(crate) fn note_file(&mut self, file: FileName, sign: Sign, now: Instant) {
        if self.files.len() >= MAX_FILES && !self.files.contains_key(&file) {
            self.note_scan(now);
        } else {
            self.files.entry(file).or_insert_with(|| Due::new(now)).note(sign, now);
        }
    }

    /// Something changed that may concern any file.
    pub(crate) fn note_scan(&mut self, now: Instant) {
        self.scan.get_or_insert_with(|| Due::new(now)).note(Sign::Written, now);
    }

    /// Signs were lost. Those of closing may be among them, so no writer is waited for.
    pub(crate) fn note_loss(&mut self, now: Instant) {
        for due in self.files.values_mut() {
            due.note(Sign::Written, now);
        }
        self.note_scan(now);
    }

    /// When to [`Pending::take`] next. None: nothing is owed.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.files.values().chain(&self.scan).map(|due| due.at).min()
    }

    /// Takes out what is due by now.
    pub(crate) fn take(&mut self, now: Instant) -> Work {
        let mut work =
            Work { scan: self.scan.take_if(|due| due.at <= now).is_some(), ..Work::default() };
        self.files.retain(|file, due| {
            if due.at <= now {
                work.files.insert(file.clone());
            } else if due.writing {
                work.held.insert(file.clone());
            }
            due.at > now
        });
        work
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn file(name: &str) -> FileName {
        std::ffi::OsStr::new(name).into()
    }

    fn names(files: &FxHashSet<FileName>) -> Vec<String> {
        let mut names: Vec<_> = files.iter().map(|name| name.to_string_lossy().into()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_written_file_is_due_after_the_debounce_with_those_written_meanwhile() {
        let start = Instant::now();
        let mut pending = Pending::default();
        assert_eq!(pending.next(), None);
        pending.note_file(file("a"), Sign::Written, start);
        assert_eq!(pending.next(), Some(start + DEBOUNCE));
        pending.note_file(file("b"), Sign::Written, start + 4 * MS);
        assert!(pending.take(start + 9 * MS).files.is_empty());
        assert_eq!(names(&pending.take(start + 14 * MS).files), ["a", "b"]);
        assert_eq!(pending.next(), None);
    }

    #[test]
    fn a_file_written_all_the_time_is_due_within_the_bound() {
        let start = Instant::now();
        let mut pending = Pending::default();
        for turn in 0..60 {
            pending.note_file(file("a"), Sign::Writing, start + turn * MS);
            pending.note_file(file("a"), Sign::Written, start + turn * MS);
        }
        assert_eq!(pending.next(), Some(start + MAX_DEBOUNCE));
    }

    #[test]
    fn a_file_being_written_is_held_until_it_is_closed() {
        let start = Instant::now();
        let mut pending = Pending::default();
        pending.note_file(file("a"), Sign::Writing, start);
        pending.note_scan(start);
        let work = pending.take(start + 100 * MS);
        assert!(work.scan);
        assert!(work.files.is_empty());
        assert_eq!(names(&work.held), ["a"]);
        pending.note_file(file("a"), Sign::Touched, start + 200 * MS);
        assert!(pending.take(start + 300 * MS).files.is_empty());
        pending.note_file(file("a"), Sign::Written, start + 400 * MS);
        let work = pending.take(start + 410 * MS);
        assert_eq!(names(&work.files), ["a"]);
        assert!(work.held.is_empty());
    }

    #[test]
    fn a_writer_that_does_not_close_is_waited_for_within_bounds() {
        let start = Instant::now();
        let mut pending = Pending::default();
        pending.note_file(file("a"), Sign::Writing, start);
        assert_eq!(pending.next(), Some(start + PAUSE));
        for turn in 1..20 {
            pending.note_file(file("a"), Sign::Writing, start + turn * 1000 * MS);
        }
        assert_eq!(pending.next(), Some(start + MAX_WRITING));
    }

    #[test]
    fn after_a_loss_no_writer_is_waited_for() {
        let start = Instant::now();
        let mut pending = Pending::default();
        pending.note_file(file("a"), Sign::Writing, start);
        pending.note_loss(start + MS);
        let work = pending.take(start + MS + DEBOUNCE);
        assert!(work.scan);
        assert_eq!(names(&work.files), ["a"]);
    }

    #[test]
    fn too_many_files_become_a_scan() {
        let start = Instant::now();
        let mut pending = Pending::default();
        for number in 0..=MAX_FILES {
            pending.note_file(file(&number.to_string()), Sign::Written, start);
        }
        let work = pending.take(start + DEBOUNCE);
        assert!(work.scan);
        assert_eq!(work.files.len(), MAX_FILES);
    }
}
