//! Names that occur again and again, each kept once.
//!
//! 250,000 endpoints run on a few thousand nodes in a handful of zones; without this each would
//! hold two strings of its own.

use std::sync::Arc;

use rustc_hash::FxHashSet;

/// Below this many names nothing is ever swept: they cost less than the sweep.
const SWEEP_FLOOR: usize = 1024;

/// One `Arc` for each distinct name.
///
/// Bound: twice the names in use (or `SWEEP_FLOOR`), as those that only this set still holds are
/// dropped whenever it has doubled.
#[derive(Debug)]
pub(crate) struct Names {
    known: FxHashSet<Arc<str>>,
    sweep_at: usize,
}

impl Names {
    pub(crate) fn new() -> Self {
        Self { known: FxHashSet::default(), sweep_at: SWEEP_FLOOR }
    }

    /// The shared copy of `name`.
    pub(crate) fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.known.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.known.insert(Arc::clone(&name));
        name
    }

    /// Drops unused names if there are many.
    pub(crate) fn sweep(&mut self) {
        if self.known.len() < self.sweep_at {
            return;
        }
        self.known.retain(|name| Arc::strong_count(name) > 1);
        self.sweep_at = (2 * self.known.len()).max(SWEEP_FLOOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_kept_once() {
        let mut names = Names::new();
        assert!(Arc::ptr_eq(&names.intern("node-1"), &names.intern("node-1")));
        assert!(!Arc::ptr_eq(&names.intern("node-1"), &names.intern("node-2")));
    }

    #[test]
    fn a_sweep_drops_unused_names_and_keeps_used_ones() {
        let mut names = Names::new();
        let kept = names.intern("kept");
        for i in 0..SWEEP_FLOOR {
            names.intern(&format!("gone-{i}"));
        }
        names.sweep();
        assert_eq!(names.known.len(), 1);
        assert!(Arc::ptr_eq(&names.intern("kept"), &kept));
    }
}
