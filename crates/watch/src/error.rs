//! Why a source cannot start.

use std::error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::AccessError;

/// Why a source cannot start. Once started a source goes on whatever happens, and logs.
#[derive(Debug)]
pub enum Error {
    /// The directory of manifests is missing or cannot be read.
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What should be the directory of manifests is none.
    NotADirectory {
        /// The path.
        dir: PathBuf,
    },
    /// It is not said how to reach the API server, or wrongly.
    Access(AccessError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { dir, source } => {
                write!(f, "manifest directory {} cannot be read: {source}", dir.display())
            }
            Self::NotADirectory { dir } => {
                write!(f, "{} is not a directory of manifests", dir.display())
            }
            Self::Access(error) => write!(f, "the API server cannot be asked: {error}"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Directory { source, .. } => Some(source),
            Self::NotADirectory { .. } => None,
            Self::Access(error) => Some(error),
        }
    }
}
