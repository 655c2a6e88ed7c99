//! Everything that can go wrong while rules, sets and routes are put into the kernel.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::process::ExitStatus;
use std::time::Duration;

use ipnet::IpNet;
use streamvs_table::Family;

/// Why capture could not be installed, changed, checked or removed.
///
/// Whatever was put into the kernel before the failure stays there: the next
/// [`crate::Capture::audit`], the next [`crate::Capture::install`] or [`crate::cleanup()`] takes it
/// from there.
#[derive(Debug)]
pub enum Error {
    /// The configuration cannot work; nothing was touched.
    Config(ConfigError),
    /// A program that capture runs is not installed.
    ToolMissing {
        /// The program looked for in `PATH` and the usual `sbin` directories.
        program: String,
        /// The package that has it on Debian, Fedora and Alpine alike.
        package: &'static str,
    },
    /// A program could not be started or talked to.
    Start {
        /// The command line.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// A program ran and said no.
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to stderr, whole.
        stderr: String,
    },
    /// A program did not end in time and was killed.
    TimedOut {
        /// The command line.
        command: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The kernel does not show the rules just committed: someone else rewrites them.
    RulesNotKept {
        /// The family whose rules differ.
        family: Family,
        /// The chain that differs.
        chain: &'static str,
        /// How often they were committed.
        attempts: u32,
    },
    /// A route could not be read or changed.
    Route {
        /// What was attempted.
        attempt: RouteAttempt,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// The route socket could not be opened, or closed by itself.
    RouteSocket(io::Error),
}

/// What a [`crate::Config`] must not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// Our own sockets need a mark bit, or each captured connection captures itself again.
    ZeroMark,
    /// The listener needs a port.
    ZeroPort,
}

/// What was done with a route when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAttempt {
    /// All interfaces were read.
    Links,
    /// All routes of a family were read.
    Dump(Family),
    /// The kernel was asked for the way to an address.
    Lookup(IpAddr),
    /// A route was added.
    Add(IpNet),
    /// A route was deleted.
    Delete(IpNet),
    /// The rules of a family, by which tables are chosen, were read or changed.
    Rule(Family),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::ToolMissing { program, package } => {
                write!(f, "{program} is not installed: install the package {package}")
            }
            Self::Start { command, source } => write!(f, "cannot run `{command}`: {source}"),
            Self::Failed { command, status, stderr } => {
                write!(f, "`{command}` failed ({status}): {}", stderr.trim_end())
            }
            Self::TimedOut { command, after } => {
                write!(f, "`{command}` did not end within {} s", after.as_secs())
            }
            Self::RulesNotKept { family, chain, attempts } => write!(
                f,
                "the {family} rules of {chain} were committed {attempts} times and are not what \
                 the kernel shows: another program rewrites them"
            ),
            Self::Route { attempt, source } => write!(f, "cannot {attempt}: {source}"),
            Self::RouteSocket(source) => write!(f, "the route socket failed: {source}"),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroMark => {
                "the mark is 0: it needs a bit, else own connections would be captured"
            }
            Self::ZeroPort => "the listen port is 0: capture needs to know the listener's port",
        })
    }
}

impl fmt::Display for RouteAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Links => f.write_str("read the interfaces"),
            Self::Dump(family) => write!(f, "read the {family} routes"),
            Self::Lookup(address) => write!(f, "look up the route to {address}"),
            Self::Add(network) => write!(f, "add the route to {network}"),
            Self::Delete(network) => write!(f, "delete the route to {network}"),
            Self::Rule(family) => write!(f, "read or change the {family} routing rules"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Start { source, .. } | Self::RouteSocket(source) => Some(source),
            Self::Route { source, .. } => Some(source),
            Self::ToolMissing { .. }
            | Self::Failed { .. }
            | Self::TimedOut { .. }
            | Self::RulesNotKept { .. } => None,
        }
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}
