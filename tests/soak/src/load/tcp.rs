//! TCP: connections for one message, and sessions of many.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{PATIENCE, REST, Shared, check, pause};
use crate::endpoint::{GO, NAME_BYTES};
use crate::ledger::{Kind, Why};
use crate::message;
use crate::records::Incarnation;

/// A connection for one message after another.
pub(super) async fn knock(shared: Rc<Shared>, mut random: Rng) {
    while !shared.is_over() {
        let call = shared.begin(Kind::Connection);
        let sent = message::encode(call.id, random.usize(0..3_000));
        let outcome = within(async {
            let mut socket = connect(&shared).await?;
            let (by, _) = exchange(&mut socket, &sent).await?;
            Ok((by, socket))
        });
        let outcome = outcome.await.map(|(by, mut socket)| {
            // Its end is seen by nobody: it has what it wanted.
            tokio::task::spawn_local(async move { socket.shutdown().await });
            by
        });
        if !shared.end(call, None, outcome) {
            tokio::time::sleep(REST).await;
        }
        pause(&mut random, 150).await;
    }
}

/// A connection of many messages after another, until the endpoint asks to go.
pub(super) async fn sessions(shared: Rc<Shared>, mut random: Rng) {
    while !shared.is_over() {
        let mut connection = shared.open();
        let life = connection.opened + Duration::from_secs(random.u64(2..90));
        let mut open: Option<TcpStream> = None;
        loop {
            let call = shared.begin(Kind::Session);
            let length = if random.u32(0..50) == 0 { 300_000 } else { 2_000 };
            let sent = message::encode(call.id, random.usize(0..length));
            let outcome = within(async {
                let mut socket = match open.take() {
                    Some(socket) => socket,
                    None => connect(&shared).await?,
                };
                let (by, shall_go) = exchange(&mut socket, &sent).await?;
                open = Some(socket);
                Ok((by, shall_go))
            });
            let (outcome, shall_go) = match outcome.await {
                Ok((by, shall_go)) => (Ok(by), shall_go),
                Err(why) => (Err(why), true),
            };
            let good = shared.end(call, Some(&mut connection), outcome);
            if !good {
                tokio::time::sleep(REST).await;
            }
            if !good || shall_go || shared.is_over() || shared.clock.now() > life {
                break;
            }
            pause(&mut random, 300).await;
        }
        if let Some(mut socket) = open {
            let _ = socket.shutdown().await;
        }
    }
}

async fn connect(shared: &Shared) -> Result<TcpStream, Why> {
    let socket = TcpStream::connect(shared.targets.tcp).await;
    let socket = socket.map_err(|error| match error.kind() {
        // It was made, and broke before this looked.
        io::ErrorKind::ConnectionReset => broken(error),
        _ => Why::Refused(error.to_string()),
    })?;
    socket.set_nodelay(true).map_err(broken)?;
    shared.ledger.borrow_mut().connected += 1;
    Ok(socket)
}

/// Sends a message and takes its answer: whose it is, and whether the client shall go.
async fn exchange(socket: &mut TcpStream, sent: &[u8]) -> Result<(Incarnation, bool), Why> {
    socket.write_all(sent).await.map_err(broken)?;
    let mut answer = vec![0; NAME_BYTES + 1 + sent.len()];
    socket.read_exact(&mut answer).await.map_err(broken)?;
    let name = String::from_utf8_lossy(&answer[..NAME_BYTES]);
    let by = check(&name, sent, &answer[NAME_BYTES + 1..])?;
    Ok((by, answer[NAME_BYTES] == GO))
}

async fn within<T>(work: impl Future<Output = Result<T, Why>>) -> Result<T, Why> {
    timeout(PATIENCE, work).await.unwrap_or(Err(Why::Silent))
}

fn broken(error: io::Error) -> Why {
    Why::Broken(error.to_string())
}
