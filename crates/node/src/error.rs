//! Why the program ends other than well.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What stops the program. Everything that can be survived is logged instead.
#[derive(Debug)]
pub(crate) enum Error {
    /// A thread or runtime cannot be made.
    Runtime(io::Error),
    /// The host name is needed and cannot be read.
    HostName(io::Error),
    /// The listener's port cannot be bound.
    Listen { port: u16, source: io::Error },
    /// The dead-man switch that was asked for cannot be had.
    Gate(io::Error),
    /// A listening socket cannot be kept for a successor.
    Share(io::Error),
    /// The signal handlers cannot be set.
    Signals(io::Error),
    /// Capabilities cannot be given up.
    Privileges(caps::errors::CapsError),
    /// `no_new_privs` cannot be set.
    NoNewPrivileges(io::Error),
    /// The kernel's rules cannot be set.
    Capture(streamvs_capture::Error),
    /// The kernel path cannot be programmed.
    KernelPath(streamvs_nat::Error),
    /// The source of objects cannot be watched.
    Watch(streamvs_watch::Error),
    /// The configuration cannot be written down.
    WriteConfig { path: PathBuf, source: io::Error },
    /// An admin server failed, or the agent's socket does not answer.
    Admin(streamvs_admin::Error),
    /// Standard output is closed.
    Output(io::Error),
    /// What kube-proxy left shall be removed, and it is there.
    KubeProxyRuns { port: u16 },
    /// The Service asked about is not there.
    UnknownService,
    /// Something on this node is in the way.
    NotFit { count: usize },
    /// A data path thread ended by itself.
    WorkerLost,
    /// The task that keeps the rules ended by itself.
    RulesLost,
}

impl Error {
    /// 1: failed at run time. 2 is wrong usage or configuration.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Watch(_) => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runtime(source) => write!(f, "cannot start a runtime: {source}"),
            Self::HostName(source) => {
                write!(f, "cannot read the host name: {source}; set --hostname-override")
            }
            Self::Listen { port, source } => write!(f, "cannot listen on port {port}: {source}"),
            Self::Gate(source) => write!(f, "cannot make the dead-man switch: {source}"),
            Self::Share(source) => write!(f, "cannot keep a listening socket: {source}"),
            Self::Signals(source) => write!(f, "cannot handle signals: {source}"),
            Self::Privileges(source) => write!(f, "cannot give up capabilities: {source}"),
            Self::NoNewPrivileges(source) => write!(f, "cannot set no_new_privs: {source}"),
            Self::Capture(source) => write!(f, "cannot capture traffic: {source}"),
            Self::KernelPath(source) => write!(f, "cannot balance in the kernel: {source}"),
            Self::Watch(source) => write!(f, "cannot watch: {source}"),
            Self::WriteConfig { path, source } => {
                write!(f, "cannot write {}: {source}", path.display())
            }
            Self::Admin(source) => write!(f, "{source}"),
            Self::Output(source) => write!(f, "cannot write: {source}"),
            Self::KubeProxyRuns { port } => {
                write!(f, "kube-proxy answers on port {port}: remove it from this node first")
            }
            Self::UnknownService => f.write_str("there is no such Service"),
            Self::NotFit { count } => {
                write!(f, "this node is not fit: {count} findings say fail")
            }
            Self::WorkerLost => f.write_str("a data path thread has ended"),
            Self::RulesLost => f.write_str("the keeper of the capture rules has ended"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Runtime(source)
            | Self::HostName(source)
            | Self::Listen { source, .. }
            | Self::Gate(source)
            | Self::Share(source)
            | Self::Signals(source)
            | Self::NoNewPrivileges(source)
            | Self::WriteConfig { source, .. }
            | Self::Output(source) => Some(source),
            Self::Privileges(source) => Some(source),
            Self::Capture(source) => Some(source),
            Self::KernelPath(source) => Some(source),
            Self::Watch(source) => Some(source),
            Self::Admin(source) => Some(source),
            Self::KubeProxyRuns { .. }
            | Self::UnknownService
            | Self::NotFit { .. }
            | Self::WorkerLost
            | Self::RulesLost => None,
        }
    }
}
