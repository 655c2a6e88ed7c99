//! Aim: restarts of endpoints cost no call where they end as gRPC servers do, and none but those on
//! the killed one where they are killed; and no call is ever acted on twice.
//! Method: grpc-go on both sides, without retries; every endpoint is restarted in place, one after
//! the other, again and again, and has written down each call that it acted on.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use streamvs_support::lab::Lab;
use streamvs_support::manifest::{Endpoint, Service};
use streamvs_support::wait::eventually;
use streamvs_support::{Family, figure};

use super::PATIENCE;
use super::calls::{Caller, Server, account};
use crate::scene::{Scene, address, engines, grpc_service, needs_node};

const ENDPOINTS: [&str; 5] = ["e1", "e2", "e3", "e4", "e5"];

/// How an endpoint ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// SIGTERM, upon which grpc-go says GOAWAY and finishes what it has; told to the process and
    /// by the slice at once, as to a pod that is deleted.
    Graceful,
    /// SIGKILL. The slice says so only after some calls.
    Killed,
}

/// How often all five are restarted, and calls in a second meanwhile.
fn size() -> (usize, u32) {
    let rounds = std::env::var("STREAMVS_RESTARTS").ok().and_then(|count| count.parse().ok());
    rounds.map_or((2, 1000), |rounds| (rounds, 5000))
}

#[test]
fn graceful_restarts_fail_no_call() {
    needs_node!();
    for engine in engines() {
        restart_all(&engine, End::Graceful);
    }
}

#[test]
fn killed_endpoints_fail_their_own_calls_alone_and_none_is_acted_on_twice() {
    needs_node!();
    for engine in engines() {
        restart_all(&engine, End::Killed);
    }
}

fn restart_all(engine: &str, end: End) {
    let (rounds, rate) = size();
    let scene = Scene::of(Lab::builder().pod("client").pods(ENDPOINTS));
    let service = grpc_service(Family::V4);
    let mut servers = ENDPOINTS.map(|pod| Server::start(&scene, pod, 0));
    scene.publish(&service, &ENDPOINTS);
    let agent = scene.agent(&["--http2-engine", engine]);
    let caller = Caller::start(&scene, address(&service), rate);
    caller.advance(200);
    let mut records: Vec<PathBuf> = servers.each_ref().map(|server| server.records.clone()).into();
    for incarnation in 1..=rounds {
        for (server, pod) in servers.iter_mut().zip(ENDPOINTS) {
            match end {
                End::Graceful => {
                    let leaving = |endpoint: Endpoint| endpoint.terminating(true);
                    publish(&scene, &service, pod, leaving);
                    server.process.signal(Signal::SIGTERM);
                    let status = server.process.wait(PATIENCE);
                    assert!(status.success(), "{}", server.process.log());
                }
                End::Killed => {
                    server.process.signal(Signal::SIGKILL);
                    server.process.wait(PATIENCE);
                    caller.advance(50);
                    publish(&scene, &service, pod, Endpoint::not_ready);
                }
            }
            // Else its readiness would not come back for an agent that had no time to look, and it
            // might be passed over for as long as it is ejected.
            let others = ENDPOINTS.into_iter().filter(|other| *other != pod).collect::<Vec<_>>();
            scene.wait_until_used(&agent, &service, &others);
            *server = Server::start(&scene, pod, incarnation);
            records.push(server.records.clone());
            scene.publish(&service, &ENDPOINTS);
            eventually("it is used again", PATIENCE, || !server.acted_on().is_empty());
            caller.advance(20);
        }
    }
    let told = caller.stop();
    let acted_on = account(&told, &records);
    assert_eq!(told.again, 0, "{engine}: the client noticed something");
    let (mut held, mut unread) = (0, 0);
    for (id, failure) in &told.failed {
        let endpoint = servers.iter().find(|server| {
            let address = server.host.at(Family::V4, crate::scene::GRPC_PORT);
            failure.message.starts_with(&format!("connection to endpoint {address} of Service "))
        });
        match (acted_on.contains_key(id), endpoint) {
            (true, _) => held += 1,
            // It was written to the killed one's socket, and nobody can know that it was not read.
            (false, Some(_)) => unread += 1,
            (false, None) => panic!("{engine}: call {id} failed at nobody: {failure:?}"),
        }
        assert_eq!((failure.code.as_str(), end), ("Unavailable", End::Killed), "{failure:?}");
    }
    let exhausted = agent.metric("streamvs_replay_budget_exhausted_total", &[]);
    assert_eq!(exhausted.unwrap_or(0.0), 0.0, "{engine}");
    figure::report(&format!(
        "{engine}: {} restarts of endpoints, {end:?}: {} calls at {:.0} a second, {} failed \
         ({held} that the killed one held, {unread} that it had not read), 0 acted on twice",
        rounds * ENDPOINTS.len(),
        told.calls,
        told.rate,
        told.failed.len(),
    ));
}

/// Writes the slice with all endpoints ready but one.
fn publish(scene: &Scene, service: &Service, one: &str, change: impl Fn(Endpoint) -> Endpoint) {
    let endpoint = |pod: &&str| {
        let endpoint = Endpoint::ready(scene.lab.pod(pod), Family::V4);
        if *pod == one { change(endpoint) } else { endpoint }
    };
    let endpoints: Vec<Endpoint> = ENDPOINTS.iter().map(endpoint).collect();
    scene.manifests.endpoints(service, &endpoints);
}
