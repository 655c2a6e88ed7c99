//! The predecessor's side: what it gives to the agent that takes over.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use streamvs_accept::{Listener, Passed};
use streamvs_admin::{Doors, Server};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::channel::{Channel, Frame, MOST_DESCRIPTORS};
use super::message::{self, Door, Message};
use crate::orders::{Order, Orders};

/// Second descriptors of all listening sockets. While they are held the sockets listen, whoever
/// accepts; so they are dropped when the agent stops.
#[derive(Debug)]
pub(crate) struct Spares {
    listeners: Vec<OwnedFd>,
    doors: Doors,
}

impl Spares {
    /// Of what was just opened.
    ///
    /// # Errors
    /// As dup(2).
    pub(crate) fn new(listeners: &[Listener], server: &Server) -> io::Result<Self> {
        let listeners = listeners.iter().map(Listener::share).collect::<Result<_, _>>()?;
        Ok(Self { listeners, doors: server.share()? })
    }

    fn frames(&self) -> io::Result<Vec<Frame>> {
        let mut frames = Vec::new();
        for listeners in self.listeners.chunks(MOST_DESCRIPTORS) {
            let descriptors = listeners.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>()?;
            frames.push(Frame { descriptors, ..Message::Listeners.into() });
        }
        let (mut doors, mut descriptors) = (Vec::new(), Vec::new());
        for (door, descriptor) in [
            (Door::Healthz, &self.doors.healthz),
            (Door::Metrics, &self.doors.metrics),
            (Door::Socket, &self.doors.socket),
        ] {
            if let Some(descriptor) = descriptor {
                doors.push(door);
                descriptors.push(descriptor.try_clone()?);
            }
        }
        let network = super::network()?;
        frames.push(Frame { descriptors, ..Message::Doors { doors, network }.into() });
        Ok(frames)
    }
}

/// Hands sockets and rules to a successor, and returns when it serves. None: it ended before, and
/// the rules are ours again.
pub(crate) async fn give(
    stream: UnixStream,
    spares: Rc<Spares>,
    orders: Rc<Orders>,
) -> Option<Channel> {
    tracing::info!("another agent takes over");
    let mut channel = Channel::new(stream);
    match negotiate(&mut channel, &spares, &orders).await {
        Ok(()) => Some(channel),
        Err(error) => {
            tracing::warn!(error = %error, "the other agent did not take over, going on");
            orders.give(Order::Keep);
            None
        }
    }
}

async fn negotiate(channel: &mut Channel, spares: &Spares, orders: &Orders) -> io::Result<()> {
    for frame in spares.frames()? {
        channel.send(frame).await?;
    }
    expect(channel, &Message::Ready).await?;
    orders.carried_out(Order::Hold).await;
    channel.send(Message::Yours).await?;
    expect(channel, &Message::Serving).await
}

async fn expect(channel: &mut Channel, expected: &Message) -> io::Result<()> {
    let frame = channel.receive().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    if frame.message == *expected { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Gives the successor each connection that leaves the workers, until the last worker has ended.
pub(crate) async fn pass_on(mut channel: Channel, mut departing: mpsc::UnboundedReceiver<Passed>) {
    let mut count: u64 = 0;
    while let Some(passed) = departing.recv().await {
        if let Err(error) = channel.send(message::frame(passed)).await {
            tracing::error!(error = %error, "the other agent has ended, connections are lost");
            break;
        }
        count += 1;
        if departing.is_empty() {
            tracing::info!(connection_count = count, "plain connections are passed on");
        }
    }
}
