//! Which file says what of which object, and which of them counts.
//!
//! Where several say something of one object, the last file by name counts, as if they were
//! applied in that order; within a file the last document.

use rustc_hash::FxHashMap;
use streamvs_resolve::Change;

use super::directory::FileName;
use super::object::{self, Body, Object, ObjectKey};

/// What all files say. Bounded by what the files hold.
///
/// Invariants: `by_file` names each key of a file once; `by_key` has, sorted by file, exactly
/// what the files of `by_file` say, and no empty list.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    by_key: FxHashMap<ObjectKey, Vec<Claim>>,
    by_file: FxHashMap<FileName, Vec<ObjectKey>>,
}

#[derive(Debug)]
struct Claim {
    file: FileName,
    body: Body,
}

/// Two say something of one object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Duplicate {
    pub(crate) key: ObjectKey,
    /// The file that counts.
    pub(crate) winner: FileName,
    /// The file that does not; the same one if the object stands twice in it.
    pub(crate) loser: FileName,
}

/// What came of a file's new content.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What counts now and did not before.
    pub(crate) changes: Vec<Change>,
    /// Objects this file did not speak of before, or twice now.
    pub(crate) duplicates: Vec<Duplicate>,
}

impl Claims {
    /// Replaces what `file` says; nothing, if it is gone.
    pub(crate) fn replace(&mut self, file: &FileName, objects: Vec<Object>) -> Outcome {
        let mut outcome = Outcome::default();
        let before = self.by_file.remove(file).unwrap_or_default();
        let mut now: FxHashMap<ObjectKey, Body> = FxHashMap::default();
        for Object { key, body } in objects {
            if now.insert(key.clone(), body).is_some() {
                let (winner, loser) = (file.clone(), file.clone());
                outcome.duplicates.push(Duplicate { key, winner, loser });
            }
        }
        let kept: Vec<ObjectKey> = now.keys().cloned().collect();
        for key in before {
            if !now.contains_key(&key) {
                outcome.changes.extend(self.withdraw(file, &key));
            }
        }
        for (key, body) in now {
            self.claim(file, key, body, &mut outcome);
        }
        if !kept.is_empty() {
            self.by_file.insert(file.clone(), kept);
        }
        outcome
    }

    fn withdraw(&mut self, file: &FileName, key: &ObjectKey) -> Option<Change> {
        let claims = self.by_key.get_mut(key)?;
        let index = claims.iter().position(|claim| claim.file == *file)?;
        let was_winner = index + 1 == claims.len();
        let withdrawn = claims.remove(index);
        if claims.is_empty() {
            self.by_key.remove(key);
            return Some(object::change(key, None));
        }
        let body = &claims.last()?.body;
        (was_winner && *body != withdrawn.body).then(|| object::change(key, Some(body)))
    }

    fn claim(&mut self, file: &FileName, key: ObjectKey, body: Body, outcome: &mut Outcome) {
        let claims = self.by_key.entry(key.clone()).or_default();
        let known = claims.binary_search_by(|claim| claim.file.cmp(file));
        let counted = claims.last().map(|claim| claim.body.clone());
        match known {
            Ok(index) => claims[index].body = body,
            Err(index) => {
                claims.insert(index, Claim { file: file.clone(), body });
                // Told from this file's side: it loses to the last one, or takes over from it.
                let others = claims.len() - 1;
                let rival = if index == others { others.checked_sub(1) } else { Some(others) };
                if let Some(rival) = rival {
                    let rival = claims[rival].file.clone();
                    let (winner, loser) =
                        if index == others { (file.clone(), rival) } else { (rival, file.clone()) };
                    outcome.duplicates.push(Duplicate { key: key.clone(), winner, loser });
                }
            }
        }
        let counts = claims.last().map(|claim| &claim.body);
        if counts != counted.as_ref() {
            outcome.changes.push(object::change(&key, counts));
        }
    }

    /// How many objects are spoken of.
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }
}

#[cfg(test)]
mod tests;
