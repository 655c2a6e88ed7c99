//! What the operator should hear about once.

use std::fmt;
use std::sync::Arc;

use streamvs_table::ServiceName;

use crate::SchedulerName;

/// Something a Service asks for that it gets otherwise than it may think. Returned when it is new
/// or changed, not with every generation, and once for a Service however many ports it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The annotation names no scheduler: the default runs.
    UnknownScheduler {
        /// Who asks.
        service: ServiceName,
        /// What is written there.
        name: Arc<str>,
        /// What runs.
        default: SchedulerName,
    },
    /// The scheduler chooses by the destination address, of which a Service has one: `rr` runs.
    DegenerateScheduler {
        /// Who asks by annotation; none: it is the default.
        service: Option<ServiceName>,
        /// The scheduler asked for.
        name: SchedulerName,
    },
    /// `sessionAffinity: ClientIP` sends all streams of a client to one endpoint, as it must.
    AffinityPinsStreams {
        /// Who asks.
        service: ServiceName,
    },
}

impl Notice {
    /// The Service concerned; none: all.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::UnknownScheduler { service, .. } | Self::AffinityPinsStreams { service } => {
                Some(service)
            }
            Self::DegenerateScheduler { service, .. } => service.as_ref(),
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownScheduler { service, name, default } => {
                write!(f, "{service} asks for the unknown scheduler {name:?}, {default} runs")
            }
            Self::DegenerateScheduler { service, name } => {
                match service {
                    Some(service) => write!(f, "{service} asks for the scheduler {name}")?,
                    None => write!(f, "the default scheduler is {name}")?,
                }
                f.write_str(", which for a single address means one endpoint for all, rr runs")
            }
            Self::AffinityPinsStreams { service } => write!(
                f,
                "{service} has sessionAffinity ClientIP: all streams of a client go to one endpoint"
            ),
        }
    }
}
