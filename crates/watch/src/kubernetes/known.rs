//! Which objects of a kind were told to the resolver, and which of them a list did not have. Pure.

use std::sync::Arc;

use rustc_hash::FxHashMap;

/// An object's namespace (empty where its kind has none) and name.
pub(crate) type Key = (Arc<str>, Arc<str>);

/// The names of all objects of a kind that were told of and not taken back, each with the number
/// of the last list that had it. About 100 bytes an object, however large the object.
///
/// Also what an unfinished list told of is known, so that the next list takes it back if need be.
#[derive(Debug, Default)]
pub(crate) struct Known {
    objects: FxHashMap<Key, u32>,
    list: u32,
}

impl Known {
    /// A list begins; one before it that did not end is forgotten.
    pub(crate) fn begin_list(&mut self) {
        self.list = self.list.wrapping_add(1);
    }

    /// The object is there.
    pub(crate) fn insert(&mut self, key: Key) {
        self.objects.insert(key, self.list);
    }

    /// The object is gone.
    pub(crate) fn remove(&mut self, key: &Key) {
        self.objects.remove(key);
    }

    /// The list is done. Returns, and forgets, what was known and is not in it.
    pub(crate) fn end_list(&mut self) -> Vec<Key> {
        let list = self.list;
        self.objects.extract_if(|_, last| *last != list).map(|(key, _)| key).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("shop".into(), name.into())
    }

    fn missing(known: &mut Known) -> Vec<String> {
        let mut names: Vec<_> = known.end_list().iter().map(|(_, name)| name.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_list_takes_back_exactly_what_it_does_not_have() {
        let mut known = Known::default();
        known.begin_list();
        for name in ["a", "b", "c"] {
            known.insert(key(name));
        }
        assert_eq!(missing(&mut known), [""; 0]);
        known.begin_list();
        known.insert(key("b"));
        known.insert(key("d"));
        assert_eq!(missing(&mut known), ["a", "c"]);
        assert_eq!(known.len(), 2);
    }

    #[test]
    fn what_came_and_went_between_lists_is_not_taken_back_again() {
        let mut known = Known::default();
        known.begin_list();
        known.insert(key("a"));
        known.end_list();
        known.insert(key("b"));
        known.remove(&key("a"));
        known.begin_list();
        assert_eq!(missing(&mut known), ["b"]);
    }

    #[test]
    fn what_only_an_unfinished_list_had_is_taken_back_by_the_next() {
        let mut known = Known::default();
        known.begin_list();
        known.insert(key("a"));
        known.begin_list();
        known.insert(key("b"));
        assert_eq!(missing(&mut known), ["a"]);
    }
}
