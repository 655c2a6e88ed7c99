//! Aim: the API server's absence costs no call, and its return no gap. Method: kill it under
//! load, start the agent without it, and take its history away.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use streamvs_support::agent::{Agent, HEALTH_PORT, PATIENCE};
use streamvs_support::grpc::load::Load;
use streamvs_support::grpc::{Client, Kind};
use streamvs_support::manifest::Service;
use streamvs_support::wait::{eventually, eventually_equals};
use streamvs_support::{Family, figure};

use crate::cluster::{Reach, Request};
use crate::health::GOING;
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
        // Those who connect meanwhile are served as well.
        under.call_on_new_connections(&PODS);
        for path in ["/healthz", "/livez"] {
            let answer = agent.page(HEALTH_PORT, path).expect("is served");
            assert_eq!(answer.status, 200, "an outage changes no answer: {path}: {}", answer.body);
        }
    }
    for kind in ["services", "endpointslices", "nodes", "servicecidrs"] {
        let works = agent.metric("streamvs_watch_works", &[("kind", kind)]);
        assert_eq!(works, Some(0.0), "the agent missed the server: {kind}");
    }
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

    let listed_before = lists(&under.scene);

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
    let listed = lists(&under.scene);
    for (before, after) in listed_before.into_iter().zip(listed) {
        assert!(before < after, "a watch went on over a compaction: {listed_before:?} {listed:?}");
    }
    // And the watches are whole again.
    under.scene.write(&under.service, &["a", "b"].map(|name| under.pod(name)));
    under.expect(&agent, &["a", "b"]);
    under.finish();
}

/// How often the agent has been given all Services, and all EndpointSlices.
fn lists(scene: &Scene) -> [usize; 2] {
    let requests = scene.cluster.requests_of("kube-system", "streamvs");
    ["services", "endpointslices"].map(|resource| {
        let given = |request: &&Request| request.lists() && request.status < 300;
        requests.iter().filter(|request| request.resource == resource).filter(given).count()
    })
}

/// What an agent that starts without the server says in its log.
const FROM_THE_STATE: &str = "serving the table of the state file until the api server answers";

/// How long the fastest of three starts without the server may take to the first answer; where the
/// machine is too busy for that, and may become busier, four times what a start with it takes.
const FROM_START_TO_ANSWER: Duration = Duration::from_secs(1);

#[test]
fn an_agent_that_starts_without_the_server_serves_the_kept_table() {
    needs_node!();
    let mut scene = Scene::new();
    let _endpoints = scene.grpc(Family::V4);
    let service = grpc_service(&[Family::V4]);
    scene.publish(&service, &PODS);
    let target = address(&service, Family::V4);
    let (mut agent, usual) = start_until_served(&scene, target);
    Load::unary(target, 1).calls(300).run(scene.client()).without_failure();
    expect_source(&agent, "api", json!(true));
    let state = scene.folder.path().join("streamvs.state");
    eventually("the state is kept", PATIENCE, || state.is_file());
    // A change that makes no table is kept too.
    scene.cluster.kubectl(&["taint", "node", "node", &format!("{GOING}:NoSchedule")], "");
    expect_source(&agent, "api", json!(false));
    agent.stop(PATIENCE);
    drop(agent);
    scene.cluster.kill_server();

    let mut starts = Vec::new();
    let agent = loop {
        let (mut agent, took) = start_until_served(&scene, target);
        starts.push(took);
        if starts.len() == 3 {
            break agent;
        }
        agent.kill();
    };
    figure::report(&format!(
        "process start to first answer: {starts:.1?} without the api server, {usual:.1?} with it"
    ));
    let fastest = starts.iter().min().expect("there were three");
    assert!(*fastest < FROM_START_TO_ANSWER.max(usual * 4), "{starts:?}, {usual:?}");
    assert_eq!(agent.log().matches(FROM_THE_STATE).count(), starts.len(), "{}", agent.log());
    expect_source(&agent, "state", json!(false));
    let report = Load::unary(target, 1).calls(300).run(scene.client()).without_failure();
    assert!(report.spread(&PODS) <= 1, "{:?}", report.calls);

    scene.cluster.start_server(Reach::Lab);
    let endpoints = scene.ready(&service, &["a"]);
    scene.write(&service, &endpoints);
    scene.wait_until_used(&agent, &service, &["a"]);
    expect_source(&agent, "api", json!(false));
    scene.cluster.kubectl(&["taint", "node", "node", &format!("{GOING}-")], "");
    expect_source(&agent, "api", json!(true));
    drop(agent);
    a_damaged_state_is_told_of_and_not_used(&mut scene, &service);
}

fn a_damaged_state_is_told_of_and_not_used(scene: &mut Scene, service: &Service) {
    let state = scene.folder.path().join("streamvs.state");
    let mut content = fs::read(&state).expect("it was written");
    content[0] ^= 1;
    fs::write(&state, content).expect("it is ours");
    scene.cluster.kill_server();
    let agent = scene.agent_without_waiting(&[]);
    eventually("the damage is told", PATIENCE, || {
        agent.log().contains("its first line is none of a state file")
    });
    eventually("pages are served", PATIENCE, || agent.page(HEALTH_PORT, "/livez").is_ok());
    // A table at hand would be in use when a request has failed.
    eventually("the server is asked in vain", PATIENCE, || {
        agent.metric("streamvs_watch_works", &[("kind", "services")]) == Some(0.0)
    });
    let (_, body) = probe(&agent);
    assert_eq!(body.get("tableSource"), None, "there is no table: {body}");
    assert!(agent.list().is_empty(), "nothing is served");
    scene.cluster.start_server(Reach::Lab);
    scene.wait_until_used(&agent, service, &["a"]);
    expect_source(&agent, "api", json!(true));
}

/// Starts an agent, and tells how long it took until a call was answered.
fn start_until_served(scene: &Scene, target: SocketAddr) -> (Agent, Duration) {
    let start = Instant::now();
    let agent = scene.agent_without_waiting(&[]);
    scene.client().block_on(|| async {
        loop {
            // Until the rules are in place nobody answers at all, and a connection that was begun
            // then is not captured later.
            let connect = tokio::time::timeout(CONNECT, Client::connect(target)).await;
            if let Ok(Ok(client)) = connect
                && client.ask(Kind::Unary).await.is_ok()
            {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "not served at all:\n{}", agent.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    (agent, start.elapsed())
}

/// Status and body of `/healthz`.
fn probe(agent: &Agent) -> (u16, Value) {
    let answer = agent.page(HEALTH_PORT, "/healthz").expect("health is served");
    (answer.status, serde_json::from_str(&answer.body).expect("the body is JSON"))
}

/// Waits until health and metrics say where the table is from, and whether the node is eligible.
#[track_caller]
fn expect_source(agent: &Agent, source: &str, eligible: Value) {
    let wanted = (json!(source), eligible);
    eventually_equals("source and eligibility", PATIENCE, &wanted, || {
        let (_, body) = probe(agent);
        (body["tableSource"].clone(), body["nodeEligible"].clone())
    });
    let alive = agent.page(HEALTH_PORT, "/livez").expect("health is served");
    assert_eq!(alive.status, 200, "{}", alive.body);
    assert!(alive.body.contains(&format!(r#""tableSource":"{source}""#)), "{}", alive.body);
    for each in ["api", "state"] {
        let value = agent.metric("streamvs_table_source", &[("source", each)]);
        assert_eq!(value, Some(f64::from(u8::from(each == source))), "{each}");
    }
}
