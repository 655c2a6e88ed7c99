//! Files in, tables out: what a look at the directory means. Blocking; no events and no clock.

use std::collections::BTreeSet;
use std::path::PathBuf;

use streamvs_resolve::{Changes, Config, Resolver};
use streamvs_table::Snapshot;

use super::claims::{Claims, Duplicate};
use super::directory::{Directory, FileName, Look};
use super::pending::Work;
use crate::notices;

/// All that is known of the directory, and the one writer of the table.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) directory: Directory,
    claims: Claims,
    resolver: Resolver,
}

impl Source {
    pub(crate) fn new(dir: PathBuf, resolver: Config) -> Self {
        Self {
            directory: Directory::new(dir),
            claims: Claims::default(),
            resolver: Resolver::new(resolver),
        }
    }

    /// Looks at what there is to look at. Returns the next table if anything visible changed, and
    /// what came in for it; the first call always does.
    pub(crate) fn refresh(&mut self, work: &Work) -> Option<(Snapshot, Changes)> {
        let mut names: BTreeSet<FileName> = work.files.iter().cloned().collect();
        if work.scan
            && let Some(listed) = self.directory.list()
        {
            names.extend(listed);
            names.extend(self.directory.known().cloned());
        }
        for name in names.difference(&work.held.iter().cloned().collect()) {
            match self.directory.look(name, work.files.contains(name)) {
                Look::Content(objects) => self.replace(name, objects),
                Look::Gone => self.replace(name, Vec::new()),
                Look::Same => {}
            }
        }
        let (snapshot, notices) = self.resolver.resolve()?;
        notices::tell(notices);
        tracing::debug!(
            generation = snapshot.generation(),
            objects = self.claims.len(),
            "manifests make a new table"
        );
        Some((snapshot, self.resolver.take_changes()))
    }

    fn replace(&mut self, file: &FileName, objects: Vec<super::object::Object>) {
        let outcome = self.claims.replace(file, objects);
        for Duplicate { key, winner, loser } in outcome.duplicates {
            tracing::warn!(
                object = %key,
                file = %winner.display(),
                shadowed = %loser.display(),
                "object is defined twice, the last file by name and the last in it counts"
            );
        }
        for change in outcome.changes {
            notices::tell(self.resolver.apply(change));
        }
    }
}
