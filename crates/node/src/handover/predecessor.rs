//! The successor's side: what it takes from the agent that runs.

use std::io;
use std::path::Path;
use std::time::Duration;

use streamvs_accept::{Listener, Passed};
use streamvs_admin::Doors;
use streamvs_admin::handover::{Found, ask};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::channel::{Channel, Frame};
use super::message::{self, Door, Message};
use crate::orders::{Order, Orders};

/// Between two looks at an agent that is about to stop, or hands over to another one already.
const PAUSE: Duration = Duration::from_millis(100);

/// How long such an agent is waited for before we start beside it: longer than a drain takes.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// How long the sockets may take: two processes of one machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Listening sockets of the agent that runs.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// Of the data path.
    pub(crate) listeners: Vec<Listener>,
    /// Of the admin server.
    pub(crate) doors: Doors,
}

/// The agent that runs, and has given its sockets.
#[derive(Debug)]
pub(crate) struct Predecessor(Channel);

/// Looks for an agent behind the admin socket, and takes its sockets.
pub(crate) async fn find(socket: &Path) -> Option<(Predecessor, Inherited)> {
    let deadline = Instant::now() + LONGEST_WAIT;
    let mut told = false;
    while Instant::now() < deadline {
        match ask(socket).await {
            Ok(Found::Nobody) => return None,
            Ok(Found::Predecessor(stream)) => {
                let mut channel = Channel::new(stream);
                match timeout(PATIENCE, sockets(&mut channel)).await {
                    Ok(Ok(None)) => {
                        tracing::warn!("the agent behind the admin socket serves another network");
                        return None;
                    }
                    Ok(Ok(Some(inherited))) => {
                        let listener_count = inherited.listeners.len();
                        tracing::info!(listener_count, "taking over from the agent that runs");
                        return Some((Predecessor(channel), inherited));
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(error = %error, "no sockets from the agent that runs");
                    }
                    Err(_) => tracing::debug!("no sockets from the agent that runs in time"),
                }
            }
            Ok(Found::Busy | Found::Stopping) => {}
            Err(error) => {
                tracing::warn!(error = %error, "starting beside an agent that does not answer");
                return None;
            }
        }
        if !told {
            tracing::info!("waiting for an agent that stops, or hands over to another one");
            told = true;
        }
        sleep(PAUSE).await;
    }
    tracing::warn!("starting beside an agent that neither stops nor hands over");
    None
}

/// None: they belong to another network namespace.
async fn sockets(channel: &mut Channel) -> io::Result<Option<Inherited>> {
    let mut inherited = Inherited::default();
    loop {
        let Frame { message, descriptors, .. } =
            channel.receive().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        match message {
            Message::Listeners => {
                inherited.listeners.extend(descriptors.into_iter().map(Listener::from));
            }
            Message::Doors { network, .. } if network != super::network()? => return Ok(None),
            Message::Doors { doors, .. } => {
                for (door, descriptor) in doors.into_iter().zip(descriptors) {
                    let place = match door {
                        Door::Healthz => &mut inherited.doors.healthz,
                        Door::Metrics => &mut inherited.doors.metrics,
                        Door::Socket => &mut inherited.doors.socket,
                    };
                    *place = Some(descriptor);
                }
                return Ok(Some(inherited));
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Predecessor {
    /// Says that we have a table, makes the rules ours, and returns when they are. If the
    /// predecessor ends meanwhile, they are ours all the same.
    pub(crate) async fn take_rules(&mut self, orders: &Orders) {
        let answer = match self.0.send(Message::Ready).await {
            Ok(()) => self.0.receive().await,
            Err(error) => Err(error),
        };
        if !matches!(answer, Ok(Some(Frame { message: Message::Yours, .. }))) {
            tracing::warn!("the agent that ran has ended before it handed over");
        }
        orders.carried_out(Order::Keep).await;
    }

    /// Says that we serve, and hands its connections to the workers, in turn, until it ends.
    pub(crate) async fn take_connections(mut self, workers: Vec<mpsc::UnboundedSender<Passed>>) {
        if self.0.send(Message::Serving).await.is_err() {
            return;
        }
        let mut count: u64 = 0;
        let mut in_turn = workers.iter().cycle();
        loop {
            match self.0.receive().await {
                Ok(Some(frame)) => {
                    let passed = message::passed(frame);
                    if passed.is_none() {
                        tracing::warn!("a message that is no connection is left out");
                    }
                    if let (Some(passed), Some(worker)) = (passed, in_turn.next()) {
                        count += 1;
                        // A worker that has ended takes none: then so do we, soon.
                        let _ = worker.send(passed);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(error = %error, "the agent that ran has broken off");
                    break;
                }
            }
        }
        tracing::info!(connection_count = count, "the agent that ran has ended");
    }
}
