//! How the next agent gets hold of the one that runs: an HTTP upgrade on the unix socket.
//!
//! ```text
//! successor                                   predecessor
//!   GET /handover, Upgrade: streamvs-handover ->
//!                                            <- 101 Switching Protocols
//!   one octet                                ->
//!   ------------------ the socket itself, given to both ------------------
//! ```
//!
//! What is said on the socket afterwards is the node's business. The octet is there because
//! descriptors come with whatever is read next: the predecessor sends none before it knows that
//! HTTP reads no more on the other side.

use std::io;
use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, HOST, UPGRADE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use crate::Error;
use crate::server::Socket;

const PATH: &str = "/handover";

/// With a version, so that agents that speak differently tell each other apart.
const PROTOCOL: HeaderValue = HeaderValue::from_static("streamvs-handover/1");

/// The octet that ends HTTP.
const OVER: u8 = b'\n';

/// How long the upgrade may take: two processes of one machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who takes the sockets of successors.
#[derive(Clone, Debug)]
pub struct HandoverDoor(mpsc::Sender<UnixStream>);

/// A door, and where its successors arrive: one at a time, and one more may wait. Dropping the
/// receiver says that the agent is about to stop.
pub fn door() -> (HandoverDoor, mpsc::Receiver<UnixStream>) {
    let (sender, receiver) = mpsc::channel(1);
    (HandoverDoor(sender), receiver)
}

/// What an agent that wants to take over finds.
#[derive(Debug)]
pub enum Found {
    /// Nobody, or somebody who does not hand over.
    Nobody,
    /// An agent that hands over already, to another one.
    Busy,
    /// An agent that is about to stop.
    Stopping,
    /// An agent that hands over.
    Predecessor(UnixStream),
}

/// Asks whoever serves the unix socket to hand over.
///
/// # Errors
/// Somebody is there and answers in a way that says neither yes nor no.
pub async fn ask(socket: &Path) -> Result<Found, Error> {
    let Ok(connected) = UnixStream::connect(socket).await else {
        return Ok(Found::Nobody);
    };
    match timeout(PATIENCE, upgrade(socket, connected)).await {
        Ok(found) => found,
        Err(_) => Err(Error::NoAnswer { path: socket.to_owned(), waited: PATIENCE }),
    }
}

async fn upgrade(socket: &Path, connected: UnixStream) -> Result<Found, Error> {
    let broken = |source| Error::BrokenAnswer { path: socket.to_owned(), source };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(connected)).await.map_err(broken)?;
    // Ends with the upgrade, or with the connection.
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(PATH)
        .header(HOST, "localhost")
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, PROTOCOL)
        .body(Body::empty())
        .expect("constants make a request");
    let response = sender.send_request(request).await.map_err(broken)?;
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => {}
        StatusCode::NOT_FOUND => return Ok(Found::Nobody),
        StatusCode::CONFLICT => return Ok(Found::Busy),
        StatusCode::SERVICE_UNAVAILABLE => return Ok(Found::Stopping),
        status => {
            return Err(Error::Status { path: socket.to_owned(), status: status.as_u16() });
        }
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(broken)?;
    let parts = upgraded.downcast::<TokioIo<UnixStream>>().expect("it was made of this above");
    let mut stream = parts.io.into_inner();
    match stream.write_all(&[OVER]).await {
        Ok(()) => Ok(Found::Predecessor(stream)),
        // It ended in this moment.
        Err(_) => Ok(Found::Stopping),
    }
}

/// Answers [`ask`].
pub(crate) fn answer(door: Option<&HandoverDoor>, request: Request) -> Response {
    let Some(HandoverDoor(sender)) = door else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if request.headers().get(UPGRADE) != Some(&PROTOCOL) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let permit = match sender.clone().try_reserve_owned() {
        Ok(permit) => permit,
        Err(mpsc::error::TrySendError::Full(_)) => return StatusCode::CONFLICT.into_response(),
        Err(mpsc::error::TrySendError::Closed(_)) => {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
    };
    // Ends within its patience; the door's connection ends with the upgrade.
    tokio::spawn(async move {
        match timeout(PATIENCE, accept(request)).await {
            Ok(Ok(stream)) => drop(permit.send(stream)),
            Ok(Err(error)) => debug!(%error, "no handover after all"),
            Err(_) => debug!("no handover after all: silence"),
        }
    });
    let headers = [(CONNECTION, HeaderValue::from_static("upgrade")), (UPGRADE, PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn accept(request: Request) -> io::Result<UnixStream> {
    let upgraded: Upgraded = hyper::upgrade::on(request).await.map_err(io::Error::other)?;
    let parts = upgraded
        .downcast::<TokioIo<Box<dyn Socket>>>()
        .expect("the doors serve nothing but such sockets");
    let mut stream =
        parts.io.into_inner().into_unix().ok_or_else(|| io::Error::from(io::ErrorKind::Other))?;
    // HTTP may have read the octet already.
    if parts.read_buf.is_empty() && stream.read_u8().await? != OVER {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(stream)
}

#[cfg(test)]
mod tests;
