//! Why the API server did not give what was asked, in the words of an operator.

use std::error::Error;
use std::fmt;

use kube::core::Status;

use super::server::AccessError;

/// A request or a watch failed. All are tried again; what differs is what else helps.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The kubeconfig or the pod's files cannot be read any more.
    Access(AccessError),
    /// The server cannot be reached, or what it says is no answer.
    Client(kube::Error),
    /// The server answered, and refused.
    Refused(Box<Status>),
    /// The server accepted the request and said nothing for as long as it may.
    Silent,
    /// The server ended a watch as soon as it had begun.
    ShortLived,
    /// The watch's place in the server's history is gone (410): a new list is needed.
    Gone,
}

impl Failure {
    pub(crate) fn of_status(status: Box<Status>) -> Self {
        if status.code == 410 || matches!(&*status.reason, "Expired" | "Gone") {
            Self::Gone
        } else {
            Self::Refused(status)
        }
    }

    /// The HTTP code of the refusal.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(status) => Some(status.code),
            Self::Gone => Some(410),
            Self::Access(_) | Self::Client(_) | Self::Silent | Self::ShortLived => None,
        }
    }

    /// The server does not know the kind (404).
    pub(crate) fn is_not_served(&self) -> bool {
        self.code() == Some(404)
    }

    /// The server knows who we are and does not let us (403).
    pub(crate) fn is_forbidden(&self) -> bool {
        self.code() == Some(403)
    }

    /// The server is behind what we have seen already, and will not wait for it.
    pub(crate) fn is_behind(&self) -> bool {
        matches!(self, Self::Refused(status)
            if status.code == 504 || status.message.contains("Too large resource version"))
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status),
            error => Self::Client(error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Access(error) => error.fmt(f),
            // The cause says it better.
            Self::Client(kube::Error::Service(error)) => chain(f, &**error),
            Self::Client(error) => chain(f, error),
            Self::Refused(status) if status.code == 401 => {
                write!(f, "401: the server does not accept our credentials: {}", status.message)
            }
            Self::Refused(status) => write!(f, "{}: {}", status.code, status.message),
            Self::Silent => f.write_str("the server accepted the request and does not answer"),
            Self::ShortLived => f.write_str("the server ends the watch at once"),
            Self::Gone => f.write_str("410: the server does not remember that far back"),
        }
    }
}

/// An error and its causes, as far as the causes say more.
fn chain(f: &mut fmt::Formatter<'_>, error: &dyn Error) -> fmt::Result {
    let mut said = error.to_string();
    f.write_str(&said)?;
    let mut cause = error.source();
    while let Some(error) = cause {
        let says = error.to_string();
        if !said.contains(&says) {
            write!(f, ": {says}")?;
            said = says;
        }
        cause = error.source();
    }
    Ok(())
}
