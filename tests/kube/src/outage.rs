//! Aim: the API server's absence costs no call, and its return no gap. Method: kill it under
//! load, start the agent without it, and take its history away.

use std::time::{Duration, Instant};

use streamvs_support::Family;
use streamvs_support::agent::{HEALTH_PORT, PATIENCE};
use streamvs_support::grpc::load::Load;
use streamvs_support::grpc::{Client, Kind};
use streamvs_support::manifest::Service;
use streamvs_support::wait::eventually;

use crate::cluster::Reach;
use crate::scene::{PODS, SERVICE_PORT, Scene, TARGET_PORT, address, grpc_service, needs_node};
use crate::updates::UnderLoad;

/// How long the API server is away in every run. `STREAMVS_OUTAGE` names more, in seconds.
const OUTAGE: Duration = Duration::from_secs(5);

/// How long a client waits for a connection before it begins another.
const CONNECT: Duration = Duration::from_millis(100);

fn outage() -> Duration {
    let seconds = std::env::var("STREAMVS_OUTAGE").ok().and_then(|text| text.parse().ok());
    seconds.map_or(OUTAGE, Duration::from_secs)
}

#[test]
fn an_api_server_that_is_killed_costs_no_call() {
    needs_node!();
    let (mut under, agent) = UnderLoad::start(&PODS);
    under.scene.cluster.kill_server();
    let start = Instant::now();
    while start.elapsed() < outage() {
        under.expect(&agent, &PODS);
    }
    let alive = agent.page(HEALTH_PORT, "/livez").expect("is served");
    assert_eq!(alive.status, 200, "an outage is no reason to restart the agent: {}", alive.body);
    under.scene.cluster.start_server(Reach::Lab);
    // What is written afterwards is seen: the watch is back, without a gap before it.
    under.scene.write(&under.service, &["a", "b"].map(|name| under.pod(name)));
    under.expect(&agent, &["a", "b"]);
    under.finish();
}

#[test]
fn a_watch_whose_past_is_compacted_lists_anew_without_a_gap() {
    needs_node!();
    let (mut under, agent) = UnderLoad::start(&PODS);
    let second = Service::new("second", &[Family::V4], 20).port("grpc", SERVICE_PORT, TARGET_PORT);
    under.scene.publish(&second, &PODS);
    under.scene.wait_until_used(&agent, &second, &PODS);

    // While the agent cannot see it: one Service goes, one comes, one changes.
    let cluster = &mut under.scene.cluster;
    cluster.kill_server();
    cluster.start_server(Reach::Host);
    let third = Service::new("third", &[Family::V4], 30).port("grpc", SERVICE_PORT, TARGET_PORT);
    let cluster = &under.scene.cluster;
    cluster.delete(&second.object());
    cluster.delete(&second.slices(&[])[0]);
    under.scene.publish(&third, &["c"]);
    under.scene.write(&under.service, &["b", "c"].map(|name| under.pod(name)));
    under.advance(300);
    let cluster = &mut under.scene.cluster;
    cluster.kill_server();
    cluster.compact();
    cluster.start_server(Reach::Lab);

    under.expect(&agent, &["b", "c"]);
    under.scene.wait_until_used(&agent, &third, &["c"]);
    eventually("the deleted Service is gone", PATIENCE, || agent.usable("second").is_empty());
    // And the watches are whole again.
    under.scene.write(&under.service, &["a", "b"].map(|name| under.pod(name)));
    under.expect(&agent, &["a", "b"]);
    under.finish();
}

#[test]
fn an_agent_that_starts_without_the_server_serves_the_kept_table() {
    needs_node!();
    let mut scene = Scene::new();
    let _endpoints = scene.grpc(Family::V4);
    let service = grpc_service(&[Family::V4]);
    scene.publish(&service, &PODS);
    let mut agent = scene.agent(&[]);
    let target = address(&service, Family::V4);
    Load::unary(target, 1).calls(300).run(scene.client()).without_failure();
    let state = scene.folder.path().join("streamvs.state");
    eventually("the state is kept", PATIENCE, || state.is_file());
    scene.cluster.kill_server();
    agent.kill();
    drop(agent);

    let start = Instant::now();
    let agent = scene.agent_without_waiting(&[]);
    let served = scene.client().block_on(|| async {
        loop {
            // Until the rules are in place nobody answers at all, and a connection that was begun
            // then is not captured later.
            let connect = tokio::time::timeout(CONNECT, Client::connect(target)).await;
            if let Ok(Ok(client)) = connect
                && client.ask(Kind::Unary).await.is_ok()
            {
                return start.elapsed();
            }
            assert!(start.elapsed() < PATIENCE, "not served at all:\n{}", agent.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    println!("process start to first answer: {served:?}");
    let report = Load::unary(target, 1).calls(300).run(scene.client()).without_failure();
    assert!(report.spread(&PODS) <= 1, "{:?}", report.calls);

    scene.cluster.start_server(Reach::Lab);
    let endpoints = scene.ready(&service, &["a"]);
    scene.write(&service, &endpoints);
    scene.wait_until_used(&agent, &service, &["a"]);
}
