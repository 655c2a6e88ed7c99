//! Why things are as they are, where the decision itself does not say it. For people; nothing on
//! the traffic path reads it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::PerFamily;

/// What decided over a ServicePort and is not to be seen in its other fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reasons {
    /// Where [`protocol_hint`](crate::ServicePort::protocol_hint) is from.
    pub protocol_hint: HintSource,
    /// What became of the endpoints' hints.
    pub topology: PerFamily<TopologyOutcome>,
}

/// Which part of a Service said what its port speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HintSource {
    /// None did.
    #[default]
    Nothing,
    /// The annotation `streamvs.io/protocol`.
    Annotation,
    /// `appProtocol` (KEP-3726).
    AppProtocol,
    /// The prefix of the port's name.
    PortName,
}

/// What the hints of one family's ready endpoints came to on this node (KEP-2433, 4444, 3015).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TopologyOutcome {
    /// No ready endpoint has a hint, or hints are not asked for (internalTrafficPolicy Local).
    #[default]
    NoHints,
    /// Endpoints hinted to this node are used.
    SameNode,
    /// Endpoints hinted to this node's zone are used.
    SameZone,
    /// Ignored: the level that others have hints for, this endpoint has none for.
    Incomplete {
        /// The first by address.
        without_hint: SocketAddr,
    },
    /// Ignored: each endpoint has a zone hint, but the node has no zone.
    NodeWithoutZone,
    /// Ignored: each endpoint has a hint, and none names this node or its zone.
    NoneForThisNode,
}

/// Why a Service that is known is not served.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Unserved {
    /// It has the label `service.kubernetes.io/service-proxy-name`, which gives it to another
    /// proxy (KEP-2447).
    OtherProxy {
        /// The label's value.
        label: Arc<str>,
    },
    /// This agent serves only Services with that label, and it has none.
    NoProxyLabel,
    /// `clusterIP: None`.
    Headless,
    /// `type: ExternalName`.
    ExternalName,
    /// It has no ClusterIP that can be used.
    NoClusterIp,
}

impl fmt::Display for Unserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherProxy { label } => write!(
                f,
                "label says service.kubernetes.io/service-proxy-name={label}, another proxy has it"
            ),
            Self::NoProxyLabel => f.write_str(
                "it has no label service.kubernetes.io/service-proxy-name, and this agent serves \
                 only Services with its own",
            ),
            Self::Headless => {
                f.write_str("it is headless (clusterIP: None), clients connect to its pods")
            }
            Self::ExternalName => {
                f.write_str("its type is ExternalName, which is a name in DNS and nothing else")
            }
            Self::NoClusterIp => f.write_str("it has no ClusterIP that can be used"),
        }
    }
}
