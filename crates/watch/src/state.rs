//! The last good table on disk, for an agent that starts while the API server is away.
//!
//! ```text
//! {"streamvs_state":2,"place":{...},...}     the header: version, for whom, when
//! {"service":{...},"ports":[{...},...]}      a Service, one a line
//! end 2 5e1c7f6a                             lines of this part before this one, CRC-32 of them
//! {"streamvs_state":2,...}                   a later part: what changed since
//! {"service":{...},"ports":[]}               a Service that is gone
//! end 2 0c9d2e11
//! ```
//!
//! It is text so that a person can read it, and names its fields so that a version that has other
//! ones refuses it instead of misreading it. A file is written beside, flushed to disk and renamed,
//! so that there is always a whole one. Changes are appended to it, so that they cost what changed;
//! when they have become as long as the table, it is written anew.
//!
//! A part counts when it is whole. The first that is not, and what follows it, is left out: a crash
//! in the middle of an appended part leaves the table before it. A file whose first part is damaged
//! is refused, and so is one that this version does not understand, wherever: without a state the
//! agent waits for the API server, as it did before.

mod read;
mod saver;
mod write;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use streamvs_table::{NodeFacts, ServiceName, ServicePort, Snapshot};

pub(crate) use read::{Loaded, load};
pub(crate) use saver::Saver;

use crate::NodeStatus;

/// Of the form of the file. What the lines hold is told by their fields.
const VERSION: u32 = 2;

/// A larger file is not read: 30,000 Services with 250,000 endpoints are some 70 MB,
/// and as much again of changes.
const MAX_BYTES: u64 = 512 << 20;

/// What the file is about.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) snapshot: Snapshot,
    pub(crate) node: NodeStatus,
    pub(crate) service_cidrs: Vec<IpNet>,
}

/// For whom a table was made. Another node sees other endpoints as local, another cluster has
/// other Services at the same addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    pub(crate) cluster: String,
    pub(crate) node: Arc<str>,
    pub(crate) service_proxy_name: Option<Arc<str>>,
}

/// The first line of a part.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<P> {
    streamvs_state: u32,
    place: P,
    saved_at: Timestamp,
    generation: u64,
    node_status: NodeStatus,
    node_facts: NodeFacts,
    service_cidrs: Vec<IpNet>,
}

/// Any other line: what a Service has from this part on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<S, P> {
    service: S,
    ports: P,
}

/// As it is read.
type OwnedLine = Line<ServiceName, Vec<ServicePort>>;

/// The last line of a part, where `lines` stand before it.
fn trailer(lines: usize, checksum: u32) -> String {
    format!("end {lines} {checksum:08x}\n")
}

/// Why a file is not used.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// There is none.
    Absent,
    /// It cannot be read.
    Unreadable(io::Error),
    /// It is too large to be ours.
    TooLarge { bytes: u64 },
    /// It is not as it was written.
    Damaged { what: Damage },
    /// Another version of this program wrote it.
    OtherVersion { version: u32 },
    /// Its lines are not as this version writes them.
    OtherFields { line: usize, source: serde_json::Error },
    /// It was made for another node, cluster or service proxy name.
    OtherPlace { place: Box<Place> },
}

/// How a file differs from what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// The last line is missing or is not for these lines.
    Checksum,
    /// The first line is none of ours.
    Header,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("there is none"),
            Self::Unreadable(error) => error.fmt(f),
            Self::TooLarge { bytes } => write!(f, "{bytes} bytes are more than {MAX_BYTES}"),
            Self::Damaged { what: Damage::Checksum } => {
                f.write_str("it is damaged: its checksum is not that of its content")
            }
            Self::Damaged { what: Damage::Header } => {
                f.write_str("it is damaged: its first line is none of a state file")
            }
            Self::OtherVersion { version } => {
                write!(f, "it has version {version}, and this program reads {VERSION}")
            }
            Self::OtherFields { line, source } => {
                write!(f, "another version of this program wrote its line {line}: {source}")
            }
            Self::OtherPlace { place } => {
                let Place { cluster, node, service_proxy_name } = &**place;
                write!(f, "it is for node {node}, cluster {cluster}")?;
                match service_proxy_name {
                    Some(name) => write!(f, ", service proxy name {name}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Why the state could not be saved.
#[derive(Debug)]
pub struct SaveError {
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl fmt::Display for SaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.source)
    }
}

#[cfg(test)]
mod tests;
