//! UDP: one datagram and its answer after another, many from one socket.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::{REST, Shared, check, pause};
use crate::endpoint::{DATAGRAM_BYTES, NAME_BYTES};
use crate::ledger::{Kind, Why};
use crate::message;
use crate::records::Incarnation;

/// How long an answer may take; nobody sends a datagram again.
const PATIENCE: Duration = Duration::from_secs(5);

/// One socket after another, each the kernel's flow to one endpoint while that is there.
pub(super) async fn ask(shared: Rc<Shared>, mut random: Rng) {
    while !shared.is_over() {
        let mut connection = shared.open();
        let socket = match socket(&shared).await {
            Ok(socket) => socket,
            Err(error) => {
                let call = shared.begin(Kind::Datagram);
                shared.end(call, None, Err(Why::Strange(error.to_string())));
                continue;
            }
        };
        for _ in 0..random.u32(1..200) {
            if shared.is_over() {
                break;
            }
            let call = shared.begin(Kind::Datagram);
            let sent = message::encode(call.id, random.usize(0..1_000));
            let asked = timeout(PATIENCE, exchange(&socket, call.id, &sent));
            let outcome = match asked.await {
                Ok(asked) => asked,
                Err(_elapsed) => Err(Why::Silent),
            };
            if !shared.end(call, Some(&mut connection), outcome) {
                tokio::time::sleep(REST).await;
            }
            pause(&mut random, 150).await;
        }
    }
}

async fn socket(shared: &Shared) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(shared.targets.udp).await?;
    Ok(socket)
}

/// Sends a datagram and waits for its answer; those of earlier ones are late and ignored.
async fn exchange(socket: &UdpSocket, id: u64, sent: &[u8]) -> Result<Incarnation, Why> {
    if socket.send(sent).await.is_err() {
        // What the kernel tells here happened to an earlier datagram; this one was not sent.
        socket.send(sent).await.map_err(broken)?;
    }
    let mut datagram = [0; DATAGRAM_BYTES];
    loop {
        let length = socket.recv(&mut datagram).await.map_err(broken)?;
        let Some((name, rest)) = datagram[..length].split_at_checked(NAME_BYTES) else {
            return Err(Why::Wrong(format!("{length} octets")));
        };
        let answer = rest.get(1..).unwrap_or_default();
        if message::head(answer).is_some_and(|(of, _)| of < id && of >> 56 == id >> 56) {
            continue;
        }
        return check(&String::from_utf8_lossy(name), sent, answer);
    }
}

fn broken(error: io::Error) -> Why {
    Why::Broken(error.to_string())
}
