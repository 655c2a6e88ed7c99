//! Packages and what they use, whatever they were read from.

use std::collections::BTreeSet;
use std::fmt;

/// One package of ours and everything it names as a dependency, of whatever kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its name without `streamvs-`.
    pub(crate) name: String,
    /// True for a package under `tests/`.
    pub(crate) test: bool,
    /// Packages of ours it uses, without `streamvs-`.
    pub(crate) ours: BTreeSet<String>,
    /// Foreign packages it uses outside its tests.
    pub(crate) foreign: BTreeSet<String>,
}

/// An arrow that no rule allows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Violation {
    /// A crate uses one of ours that it may not.
    Arrow { from: String, to: String },
    /// A crate uses a foreign one that belongs to others.
    Ownership { from: String, to: String, owners: Vec<String> },
    /// A crate no rule mentions.
    Unknown { name: String },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arrow { from, to } => write!(f, "{from} may not use {to}"),
            Self::Ownership { from, to, owners } => {
                write!(f, "{from} may not use {to}: it belongs to {}", owners.join(", "))
            }
            Self::Unknown { name } => write!(f, "no rule says what {name} may use"),
        }
    }
}
