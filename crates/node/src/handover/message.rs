//! What two agents say to each other. Descriptors and octets in flight travel beside it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use streamvs_accept::{Facts, Passed, Stage};
use streamvs_balance::Verdict;
use streamvs_relay::tcp::{Half, Progress, Suspended};

use super::channel::Frame;

/// One message. In comments: its descriptors, and its octets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub(super) enum Message {
    /// Listening sockets of the data path. There may be more than go with one message.
    Listeners,
    /// Listening sockets of the admin doors named; the last of the sockets. All of them belong to
    /// this network namespace, by its inode.
    Doors { doors: Vec<Door>, network: u64 },
    /// The successor has a table.
    Ready,
    /// The rules are the successor's.
    Yours,
    /// The successor accepts.
    Serving,
    /// A connection whose protocol is not known. The client's socket; what the client has sent.
    Opening { client: SocketAddr },
    /// A plain connection. The client's and the endpoint's socket; what is on its way to the
    /// endpoint, then what is on its way to the client.
    Plain {
        client: SocketAddr,
        original_dst: SocketAddr,
        endpoint: SocketAddr,
        tls: bool,
        up: Flow,
        down: Flow,
    },
}

/// A door of the admin server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Door {
    Healthz,
    Metrics,
    Socket,
}

/// One direction of a plain connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Flow {
    pending_octets: usize,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum End {
    Open,
    Finished,
    Ended,
}

impl From<&Half> for Flow {
    fn from(half: &Half) -> Self {
        let end = match half.progress {
            Progress::Open => End::Open,
            Progress::Finished => End::Finished,
            Progress::Ended => End::Ended,
        };
        Self { pending_octets: half.pending.len(), end }
    }
}

impl Flow {
    fn progress(self) -> Progress {
        match self.end {
            End::Open => Progress::Open,
            End::Finished => Progress::Finished,
            End::Ended => Progress::Ended,
        }
    }
}

/// A connection as a message with what goes beside it.
pub(super) fn frame(passed: Passed) -> Frame {
    let Passed { client, stage } = passed;
    match stage {
        Stage::Opening { downstream, heard } => Frame {
            message: Message::Opening { client },
            octets: vec![heard],
            descriptors: vec![downstream],
        },
        Stage::Plain { facts, suspended } => {
            let Facts { original_dst, endpoint, verdict } = facts;
            let Suspended { downstream, upstream, up, down } = *suspended;
            let (tls, flows) = (verdict == Verdict::Tls, [Flow::from(&up), Flow::from(&down)]);
            let [up_flow, down_flow] = flows;
            Frame {
                message: Message::Plain {
                    client,
                    original_dst,
                    endpoint,
                    tls,
                    up: up_flow,
                    down: down_flow,
                },
                octets: vec![up.pending, down.pending],
                descriptors: vec![downstream, upstream],
            }
        }
    }
}

/// The reverse. None: it is no connection, or its parts do not fit together.
pub(super) fn passed(frame: Frame) -> Option<Passed> {
    let Frame { message, octets, descriptors } = frame;
    let mut octets = octets.into_iter().next().unwrap_or_default();
    match message {
        Message::Opening { client } => {
            let [downstream] = <[_; 1]>::try_from(descriptors).ok()?;
            Some(Passed { client, stage: Stage::Opening { downstream, heard: octets } })
        }
        Message::Plain { client, original_dst, endpoint, tls, up, down } => {
            let [downstream, upstream] = <[_; 2]>::try_from(descriptors).ok()?;
            if up.pending_octets.checked_add(down.pending_octets)? != octets.len() {
                return None;
            }
            let to_upstream = octets.split_to(up.pending_octets);
            let half = |pending, flow: Flow| Half { pending, octets: 0, progress: flow.progress() };
            let suspended = Suspended {
                downstream,
                upstream,
                up: half(to_upstream, up),
                down: half(octets, down),
            };
            let verdict = if tls { Verdict::Tls } else { Verdict::Tcp };
            let facts = Facts { original_dst, endpoint, verdict };
            Some(Passed { client, stage: Stage::Plain { facts, suspended: Box::new(suspended) } })
        }
        _ => None,
    }
}
