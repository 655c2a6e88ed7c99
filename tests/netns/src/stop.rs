//! Aim: SIGTERM takes nobody's call, and does not wait for ever. Method: clients that see every
//! octet and every frame, before, while and after the agent stops.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use streamvs_support::agent::{Agent, PATIENCE};
use streamvs_support::grpc::{Client, Failure, Kind};
use streamvs_support::lab::block_on_local;
use streamvs_support::tcp::Speak;
use streamvs_support::wait::{eventually, eventually_some};
use streamvs_support::{Family, tcp};

use crate::scene::{PODS, Scene, address, engines, grpc_service, needs_node, tcp_service};

/// Waits for its own end, without a second signal.
#[track_caller]
fn end_well(mut agent: Agent, scene: &Scene, log: &str) {
    let status = eventually_some("the agent ends", PATIENCE, || agent.ended());
    assert_eq!(status.code(), Some(0), "{}", agent.log());
    assert!(agent.log().contains(log), "{}", agent.log());
    let rules = scene.lab.node().netns().output("iptables-save", &[]);
    assert!(!rules.contains("STREAMVS"), "{rules}");
}

/// Two messages to and fro.
async fn talk(target: SocketAddr, agent: &Agent) -> Result<(), Failure> {
    let client = Client::connect(target).await?;
    let mut call = client.open(Kind::Bidi).await?;
    call.send(b"before").await?;
    assert_eq!(call.next().await?.as_deref(), Some(&b"before"[..]));
    agent.terminate();
    let deadline = Instant::now() + PATIENCE;
    while client.ready().await.is_ok() {
        assert!(Instant::now() < deadline, "no GOAWAY");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for message in [&b"after"[..], b"and after"] {
        call.send(message).await?;
        assert_eq!(call.next().await?.as_deref(), Some(message));
    }
    call.end()?;
    assert_eq!(call.next().await?, None);
    call.finish().await.map(drop)
}

#[test]
fn sigterm_lets_open_calls_finish_and_takes_no_new_ones() {
    needs_node!();
    let scene = Scene::new();
    let service = grpc_service(Family::V4);
    let _endpoints = scene.grpc(Family::V4, PODS);
    scene.publish(&service, &PODS);
    for engine in engines() {
        let agent = scene.agent(&["--http2-engine", &engine]);
        let target = address(&service);
        let talked = scene.client().netns().run(|| block_on_local(talk(target, &agent)));
        talked.unwrap_or_else(|failure| panic!("{engine}: {failure:?}\n{}", agent.log()));
        end_well(agent, &scene, "all connections have ended");
    }
}

/// An agent with a plain connection through it, which is open and silent.
fn with_silent(drain_timeout: &str) -> (Scene, Agent, TcpStream, Vec<tcp::Endpoint>) {
    let scene = Scene::new();
    let endpoints = scene.tcp(Family::V4, Speak::Echo, PODS);
    let service = tcp_service(Family::V4);
    scene.publish(&service, &PODS);
    let agent = scene.agent(&["--drain-timeout", drain_timeout]);
    let socket = scene.client().netns().run(|| TcpStream::connect(address(&service)));
    let mut socket = socket.expect("is accepted");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    socket.write_all(b"who?\n").expect("is taken");
    // The pod's name, and the question.
    let mut answer = [0; "a\nwho?\n".len()];
    socket.read_exact(&mut answer).expect("answers");
    (scene, agent, socket, endpoints)
}

/// The client hears of the end, by FIN or RST.
#[track_caller]
fn is_over(mut socket: TcpStream) {
    match tcp::read(&mut socket, &mut [0; 1]) {
        Ok(count) => assert_eq!(count, 0, "nothing more comes"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

#[test]
fn what_does_not_end_is_cut_off_at_the_drain_timeout() {
    needs_node!();
    let (scene, agent, socket, _endpoints) = with_silent("1s");
    let started = Instant::now();
    agent.terminate();
    is_over(socket);
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    end_well(agent, &scene, "cut off at the drain timeout");
}

#[test]
fn a_second_signal_waits_for_nobody() {
    needs_node!();
    let (scene, agent, socket, _endpoints) = with_silent("600s");
    agent.terminate();
    eventually("it has heard the first", PATIENCE, || agent.log().contains("stopping"));
    agent.terminate();
    is_over(socket);
    end_well(agent, &scene, "cut off by a second signal");
}
