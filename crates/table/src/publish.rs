//! One publisher, many readers, one atomic swap.
//!
//! Everything that must agree is one value, so that no reader can see one half of a change
//! without the other. A read costs one atomic load and a compare while nothing changed.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

/// Makes the two halves, with what readers see until the first publication.
pub fn channel<T>(initial: Arc<T>) -> (Publisher<T>, Reader<T>) {
    let shared = Arc::new(ArcSwap::new(initial));
    (Publisher { shared: Arc::clone(&shared) }, Reader { cache: Cache::new(shared) })
}

/// The writing half: there is one, and it is not cloned.
pub struct Publisher<T> {
    shared: Arc<ArcSwap<T>>,
}

impl<T> Publisher<T> {
    /// Shows `value` to every reader from its next [`Reader::load`] on.
    pub fn publish(&self, value: Arc<T>) {
        self.shared.store(value);
    }

    /// What readers see now.
    pub fn current(&self) -> Arc<T> {
        self.shared.load_full()
    }
}

impl<T> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

/// The reading half. Each thread keeps a clone of its own.
pub struct Reader<T> {
    cache: Cache<Arc<ArcSwap<T>>, Arc<T>>,
}

impl<T> Reader<T> {
    /// The newest published value. Keep it for one decision, not across a wait.
    pub fn load(&mut self) -> &Arc<T> {
        self.cache.load()
    }
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone() }
    }
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
