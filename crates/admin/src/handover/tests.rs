//! Aim: a successor learns who is there, and doors change hands with nobody refused.
//! Method: real doors in a temporary directory and on loopback.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::list::fetch;
use crate::testing::{admin, shop};
use crate::{Addresses, Admin, Closing, Doors, Server};

struct Agent {
    doors: Doors,
    stop: oneshot::Sender<Closing>,
    serving: JoinHandle<()>,
}

async fn start(addresses: Addresses, doors: Doors, handover: Option<HandoverDoor>) -> Agent {
    let (admin, publisher) = admin(shop());
    drop(publisher);
    let server = Server::bind_or_inherit(addresses, doors).await.unwrap();
    let doors = server.share().unwrap();
    let (stop, stopped) = oneshot::channel();
    let serve = server
        .serve(Admin { handover, ..admin }, async { stopped.await.unwrap_or(Closing::Remove) });
    Agent { doors, stop, serving: tokio::spawn(serve) }
}

#[tokio::test]
async fn a_successor_learns_who_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let addresses = || Addresses { socket: Some(path.clone()), ..Addresses::default() };
    assert!(matches!(ask(&path).await, Ok(Found::Nobody)), "nobody is there");

    let silent = start(addresses(), Doors::default(), None).await;
    assert!(matches!(ask(&path).await, Ok(Found::Nobody)), "one that does not hand over");
    drop(silent.doors);
    silent.stop.send(Closing::Remove).unwrap();
    silent.serving.await.unwrap();
    assert!(!path.exists());

    let (door, mut successors) = door();
    let agent = start(addresses(), Doors::default(), Some(door)).await;
    let Ok(Found::Predecessor(mut ours)) = ask(&path).await else { panic!("hands over") };
    // The first one is not taken out of the queue yet.
    assert!(matches!(ask(&path).await, Ok(Found::Busy)));
    let mut theirs = successors.recv().await.unwrap();
    ours.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    theirs.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping", "the octet that ended HTTP is not among what is said");
    theirs.write_all(b"pong").await.unwrap();
    ours.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"pong");

    drop(successors);
    assert!(matches!(ask(&path).await, Ok(Found::Stopping)));
    agent.stop.send(Closing::Remove).unwrap();
    agent.serving.await.unwrap();
}

#[tokio::test]
async fn doors_change_hands_and_the_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let addresses =
        || Addresses { healthz: Some(port), socket: Some(path.clone()), ..Addresses::default() };
    let old = start(addresses(), Doors::default(), None).await;
    let new = start(addresses(), old.doors, None).await;
    old.stop.send(Closing::Leave).unwrap();
    old.serving.await.unwrap();
    assert_eq!(fetch(&path).await.unwrap().len(), 3, "the new one answers at the old file");
    tokio::net::TcpStream::connect(port).await.expect("the port is served");
    drop(new.doors);
    new.stop.send(Closing::Remove).unwrap();
    new.serving.await.unwrap();
    assert!(!path.exists(), "the last one tidies up");
    assert!(tokio::net::TcpStream::connect(port).await.is_err(), "and the port is closed");
}

#[tokio::test]
async fn a_door_at_another_place_is_not_taken() {
    let any = "127.0.0.1:0".parse().unwrap();
    let addresses = Addresses { healthz: Some(any), ..Addresses::default() };
    let stray = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    stray.set_nonblocking(true).unwrap();
    let stray_port = stray.local_addr().unwrap();
    let doors = Doors { healthz: Some(stray.into()), ..Doors::default() };
    let server = Server::bind_or_inherit(addresses, doors).await.unwrap();
    assert_ne!(server.bound().healthz, Some(stray_port));
    assert!(tokio::net::TcpStream::connect(stray_port).await.is_err(), "it is closed");
}
