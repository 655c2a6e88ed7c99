//! Aim: replays end where the client's patience or the Service's budget does, and what waits for
//! room on an endpoint is moved as what waits for a dial. Method: one worker, endpoints that turn
//! calls away or are full, calls with a deadline; on both engines.
#![allow(clippy::unwrap_used)] // Tests, though the compiler sees functions that tests call.

use std::time::{Duration, Instant};

use http::Request;
use streamvs_balance::{ReplayReason, SchedulerName};
use streamvs_relay::Options;
use streamvs_relay::connect::DialOptions;
use streamvs_relay::h2::{Engine, settings};
use streamvs_test_flow::endpoint::{EndpointServer, Script, addresses, start_all};
use streamvs_test_flow::raw::FullBacklog;
use streamvs_test_flow::{Node, call, eventually, grpc_request, on_both_engines, options};
use tokio::task::JoinSet;

const PATH: &str = "/test.Echo/Unary";

/// The longest that anything here may take.
const MOST: Duration = Duration::from_secs(10);

/// A call whose client waits for this long.
fn within(timeout: &str) -> Request<()> {
    let mut request = grpc_request(PATH);
    request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
    request
}

/// Dials last longer than anybody waits.
fn patient(http2_engine: Engine) -> Options {
    let dial = DialOptions { timeout: MOST, ..DialOptions::default() };
    Options { dial, ..options(http2_engine) }
}

async fn a_call_that_waits_for_a_connection_is_answered_at_its_deadline(engine: Engine) {
    let (full, mute) = (FullBacklog::new(), EndpointServer::start(Script::Mute).await);
    for endpoint in [full.address, mute.address] {
        let node = Node::start_with(&[endpoint], SchedulerName::Rr, patient(engine));
        let client = node.connect().await;
        let called = call(&client, within("50m"), b"x");
        let answer = tokio::time::timeout(MOST, called).await.expect("in time").unwrap();
        assert_eq!(answer.grpc_status(), "4");
        assert!(answer.header("grpc-message").starts_with("deadline passed"));
        let server = node.server();
        assert_eq!(server.targets()[0].stats().streams.get(), 0, "nobody has had it");
        eventually("nothing is outstanding", || server.targets()[0].outstanding() == 0).await;
    }
}

async fn a_call_past_its_deadline_is_not_given_to_another_endpoint(engine: Engine) {
    let (full, good) = (FullBacklog::new(), EndpointServer::start(Script::Echo).await);
    let node = Node::start_engine(engine, &[full.address, good.address]);
    let client = node.connect().await;
    // A dial is given up after 300 ms; whose turn it was has no time left for another one.
    let mut statuses = Vec::new();
    for timeout in ["100m", "100m", "60S", "60S"] {
        statuses.push(call(&client, within(timeout), b"x").await.unwrap().grpc_status().to_owned());
    }
    statuses[..2].sort();
    assert_eq!(statuses, ["0", "4", "0", "0"]);
}

async fn a_service_that_turns_all_calls_away_gets_no_more_than_twice_its_load(engine: Engine) {
    const CALLS: usize = 1000;
    let endpoints = start_all(5, Script::Refuse).await;
    let node = Node::start_engine(engine, &addresses(&endpoints));
    let client = node.connect().await;
    let mut messages = Vec::new();
    let start = Instant::now();
    for _ in 0..CALLS {
        let answer = call(&client, grpc_request(PATH), b"x").await.unwrap();
        assert_eq!(answer.grpc_status(), "14");
        messages.push(answer.header("grpc-message").to_owned());
    }
    let attempts: usize = endpoints.iter().map(EndpointServer::streams).sum();
    let server = node.server();
    let replays = server.stats().replays[ReplayReason::Refused.index()].get();
    // What is counted is a move to another endpoint.
    assert_eq!(attempts as u64, CALLS as u64 + replays);
    // As many as there are calls, and 100 in ten seconds are free.
    let most = CALLS as u64 + 100 * (1 + start.elapsed().as_secs() / 10);
    assert!((100..=most).contains(&replays), "{replays} replays");
    let refused = server.stats().replays_refused.get();
    let over = messages.iter().filter(|message| message.contains("too many calls")).count();
    assert_eq!(refused, over as u64);
    assert!(refused > 0);

    // Who is answered by one of two loses no call to the budget.
    let good = EndpointServer::start(Script::Echo).await;
    node.publish(&[endpoints[0].address, good.address]);
    let before = server.stats().replays_refused.get();
    for _ in 0..CALLS {
        let answer = call(&client, grpc_request(PATH), b"x").await.unwrap();
        assert_eq!(answer.grpc_status(), "0");
    }
    assert_eq!(server.stats().replays_refused.get(), before);
}

async fn what_waits_for_room_leaves_a_removed_endpoint(engine: Engine) {
    let limited = EndpointServer::start(Script::MaxStreams(1)).await;
    let good = EndpointServer::start(Script::Echo).await;
    let node = Node::start_engine(engine, &[limited.address]);
    let client = node.connect().await;
    let mut calls = JoinSet::new();
    let count = settings::UPSTREAM_CONNECTIONS + 10;
    for _ in 0..count {
        let client = client.clone();
        calls.spawn(async move { call(&client, grpc_request(PATH), b"x").await.unwrap() });
    }
    eventually("all connections are full", || limited.streams() == settings::UPSTREAM_CONNECTIONS)
        .await;
    let target = node.server().targets()[0].clone();
    eventually("the others wait", || target.active_streams() as usize == count).await;
    node.publish(&[good.address]);
    let mut elsewhere = 0;
    while !calls.is_empty() {
        limited.release();
        tokio::time::sleep(Duration::from_millis(5)).await;
        while let Some(answer) = calls.try_join_next() {
            let answer = answer.unwrap();
            assert_eq!(answer.grpc_status(), "0");
            elsewhere += usize::from(answer.header("endpoint") == good.address.to_string());
        }
    }
    assert_eq!((elsewhere, limited.streams()), (10, settings::UPSTREAM_CONNECTIONS));
    assert_eq!(node.server().stats().last_stream_after_removal.snapshot().count, 0);
}

async fn room_goes_to_who_waits_for_it(engine: Engine) {
    let limited = EndpointServer::start(Script::MaxStreams(1)).await;
    let node = Node::start_engine(engine, &[limited.address]);
    let client = node.connect().await;
    let mut calls = JoinSet::new();
    for _ in 0..3 * settings::UPSTREAM_CONNECTIONS {
        let client = client.clone();
        calls.spawn(async move { call(&client, grpc_request(PATH), b"x").await.unwrap() });
    }
    eventually("all connections are full", || limited.streams() == settings::UPSTREAM_CONNECTIONS)
        .await;
    while !calls.is_empty() {
        limited.release();
        tokio::time::sleep(Duration::from_millis(2)).await;
        while let Some(answer) = calls.try_join_next() {
            assert_eq!(answer.unwrap().grpc_status(), "0");
        }
    }
    assert_eq!(limited.connections(), settings::UPSTREAM_CONNECTIONS);
    assert_eq!(limited.streams(), 3 * settings::UPSTREAM_CONNECTIONS);
}

on_both_engines!(
    a_call_that_waits_for_a_connection_is_answered_at_its_deadline,
    a_call_past_its_deadline_is_not_given_to_another_endpoint,
    a_service_that_turns_all_calls_away_gets_no_more_than_twice_its_load,
    what_waits_for_room_leaves_a_removed_endpoint,
    room_goes_to_who_waits_for_it,
);
