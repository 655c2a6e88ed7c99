//! Everything that can go wrong while the kernel path is programmed.

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use streamvs_table::Family;

/// Why the kernel path could not be installed, changed, checked or removed. The kernel holds what
/// it held before, since each change is one transaction.
#[derive(Debug)]
pub enum Error {
    /// The program `nft` is not installed.
    NftMissing,
    /// The kernel has no nf_tables, or the process may not use it.
    NoNftables {
        /// What `nft` wrote.
        stderr: String,
    },
    /// The kernel has nf_tables, and not all that the rules need.
    Unsupported {
        /// The family whose rules were refused.
        family: Family,
        /// What `nft` wrote: it points at the expression.
        stderr: String,
    },
    /// `nft` could not be started or talked to.
    Start(io::Error),
    /// `nft` ran and said no.
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        stderr: String,
    },
    /// The kernel refused a change of elements.
    Elements(io::Error),
    /// `nft` did not end in time and was killed.
    TimedOut(Duration),
    /// Conntrack entries could not be read or deleted.
    Conntrack(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NftMissing => {
                f.write_str("nft is not installed: install the package nftables (1.0 or newer)")
            }
            Self::NoNftables { stderr } => write!(
                f,
                "this kernel has no nf_tables, without which UDP and SCTP cannot be served; leave \
                 them to kube-proxy (--kube-proxy-replacement=false), or use Linux 5.6 or newer \
                 with CONFIG_NF_TABLES: {}",
                stderr.trim_end()
            ),
            Self::Unsupported { family, stderr } => write!(
                f,
                "nf_tables of this kernel, or nft, cannot do the {family} rules of the kernel path \
                 (maps with concatenations, numgen, dnat to a map; Linux 5.6 and nft 1.0 can): {}",
                stderr.trim_end()
            ),
            Self::Start(source) => write!(f, "cannot run nft: {source}"),
            Self::Failed { status, stderr } => {
                write!(f, "nft failed ({status}): {}", stderr.trim_end())
            }
            Self::Elements(source) => write!(f, "cannot change elements: {source}"),
            Self::TimedOut(after) => write!(f, "nft did not end within {} s", after.as_secs()),
            Self::Conntrack(source) => write!(f, "cannot delete stale UDP flows: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start(source) | Self::Elements(source) | Self::Conntrack(source) => Some(source),
            Self::NftMissing
            | Self::NoNftables { .. }
            | Self::Unsupported { .. }
            | Self::Failed { .. }
            | Self::TimedOut(_) => None,
        }
    }
}
