//! Which crate may use which, and who owns a foreign crate: read from cargo, never from memory.
//!
//! An arrow that is not in the list of `rules` fails a test. To add one, write down why
//! (docs/decisions) and add it there: the list is the only place.

#[cfg(test)]
mod graph;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod workspace;
