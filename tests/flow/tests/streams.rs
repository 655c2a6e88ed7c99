//! Aim: each HTTP/2 stream gets an endpoint of its own and arrives whole, whatever the endpoints
//! and the client do. Method: one worker, scripted endpoints, a client of the `h2` crate; each test
//! runs on both engines.
#![allow(clippy::unwrap_used)] // Tests, though the compiler sees functions that tests call.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Request;
use streamvs_balance::{ConnectFailure, ReplayReason, Verdict};
use streamvs_relay::h2::Engine;
use streamvs_test_flow::endpoint::{EndpointServer, Script, addresses, start_all};
use streamvs_test_flow::{Answer, Node, call, collect, eventually, grpc_request, on_both_engines};
use tokio::net::TcpListener;

const PATH: &str = "/test.Echo/Unary";

/// Calls per endpoint, by the header each endpoint puts on its answers.
fn count<'a>(answers: impl IntoIterator<Item = &'a Answer>) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for answer in answers {
        assert_eq!(answer.grpc_status(), "0");
        *counts.entry(answer.header("endpoint").to_owned()).or_default() += 1;
    }
    counts
}

async fn one_connection_is_spread_evenly(engine: Engine) {
    for connection_count in [1, 3] {
        let endpoints = start_all(3, Script::Echo).await;
        let node = Node::start_engine(engine, &addresses(&endpoints));
        let mut clients = Vec::new();
        for _ in 0..connection_count {
            clients.push(node.connect().await);
        }
        let mut answers = Vec::new();
        for index in 0..300 {
            let client = &clients[index % connection_count];
            answers.push(call(client, grpc_request(PATH), b"hello").await.unwrap());
        }
        let counts = count(&answers);
        let (least, most) = (counts.values().min(), counts.values().max());
        assert_eq!(counts.len(), 3);
        assert!(most.unwrap() - least.unwrap() <= 1, "{connection_count} connections: {counts:?}");
        assert!(answers.iter().all(|answer| answer.body == b"hello"));
    }
}

async fn hundreds_of_tiny_messages_in_flight_do_not_kill_a_connection(engine: Engine) {
    let endpoints = start_all(1, Script::Stream).await;
    let node = Node::start_engine(engine, &addresses(&endpoints));
    let client = node.connect().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..90 {
        let mut client = client.clone().ready().await.unwrap();
        calls.spawn(async move {
            let (response, mut stream) = client.send_request(grpc_request(PATH), false).unwrap();
            for octet in 0..100u8 {
                stream.send_data(Bytes::copy_from_slice(&[octet]), false).unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
            collect(response).await.unwrap()
        });
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap().body, (0..100).collect::<Vec<u8>>());
    }
    assert_eq!(endpoints[0].connections(), 1, "one upstream connection carried all");
}

async fn large_bodies_arrive_whole_both_ways(engine: Engine) {
    let endpoints = start_all(2, Script::Stream).await;
    let node = Node::start_engine(engine, &addresses(&endpoints));
    let client = node.connect().await;
    let body: Vec<u8> = (0..3_000_000u32).map(|index| (index % 251) as u8).collect();
    let (response, mut stream) =
        client.clone().ready().await.unwrap().send_request(grpc_request(PATH), false).unwrap();
    let sent = body.clone();
    let sender = tokio::spawn(async move {
        let mut rest = Bytes::from(sent);
        while !rest.is_empty() {
            stream.reserve_capacity(rest.len());
            let credit = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
            let chunk = rest.split_to(credit.unwrap().unwrap().min(rest.len()));
            stream.send_data(chunk, rest.is_empty()).unwrap();
        }
    });
    let answer = collect(response).await.unwrap();
    sender.await.unwrap();
    assert!(answer.body == body, "{} of {} octets", answer.body.len(), body.len());
    assert_eq!(answer.grpc_status(), "0");
}

async fn a_stalled_stream_does_not_stop_its_siblings(engine: Engine) {
    let endpoints = start_all(1, Script::Stream).await;
    let node = Node::start_engine(engine, &addresses(&endpoints));
    let client = node.connect().await;
    // Answers to this stream are never read, so it stalls with full windows all the way.
    let (stalled, mut stream) =
        client.clone().ready().await.unwrap().send_request(grpc_request(PATH), false).unwrap();
    let _unread = stalled.await.unwrap();
    let flood = tokio::spawn(async move {
        loop {
            stream.reserve_capacity(16_384);
            match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(credit)) => {
                    stream.send_data(Bytes::from(vec![7; credit.min(16_384)]), false).unwrap();
                }
                _ => return,
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..20 {
        let answer = tokio::time::timeout(
            Duration::from_secs(5),
            call(&client, grpc_request(PATH), b"sibling"),
        );
        assert_eq!(answer.await.expect("not stalled").unwrap().body, b"sibling");
    }
    flood.abort();
}

async fn trailers_only_and_informational_answers_pass(engine: Engine) {
    let failing = EndpointServer::start(Script::Fail(5)).await;
    let node = Node::start_engine(engine, &[failing.address]);
    let client = node.connect().await;
    let answer = call(&client, grpc_request(PATH), b"").await.unwrap();
    assert_eq!((answer.grpc_status(), answer.trailers.is_none()), ("5", true));
    let stats = node.server();
    eventually("the status is counted", || {
        stats.targets()[0].stats().grpc_response(Some(5)).get() == 1
    })
    .await;

    let hinting = EndpointServer::start(Script::Informational).await;
    node.publish(&[hinting.address]);
    let mut send = client.clone().ready().await.unwrap();
    let (mut response, _) = send.send_request(grpc_request(PATH), true).unwrap();
    let hint = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
    assert_eq!((hint.status().as_u16(), hint.headers()["link"].to_str().unwrap()), (103, "hint"));
    assert_eq!(collect(response).await.unwrap().grpc_status(), "0");
}

async fn request_without_authority_passes_as_it_is(engine: Engine) {
    let endpoints = start_all(1, Script::Echo).await;
    let node = Node::start_engine(engine, &addresses(&endpoints));
    let client = node.connect().await;
    let request = Request::post(PATH)
        .version(http::Version::HTTP_11)
        .header("host", "echo.default")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let answer = call(&client, request, b"x").await.unwrap();
    assert_eq!((answer.grpc_status(), answer.header("authority")), ("0", "none"));
}

async fn cancelling_reaches_the_endpoint(engine: Engine) {
    let hanging = EndpointServer::start(Script::Hang).await;
    let node = Node::start_engine(engine, &[hanging.address]);
    let client = node.connect().await;
    let (response, mut stream) =
        client.clone().ready().await.unwrap().send_request(grpc_request(PATH), false).unwrap();
    eventually("the endpoint has the stream", || hanging.streams() == 1).await;
    stream.send_reset(Reason::CANCEL);
    eventually("the endpoint is told", || hanging.cancelled() == 1).await;
    drop(response);

    let (_response, _stream) =
        client.clone().ready().await.unwrap().send_request(grpc_request(PATH), false).unwrap();
    eventually("the endpoint has the second stream", || hanging.streams() == 2).await;
    let server = node.server();
    assert_eq!(server.targets()[0].active_streams(), 1);
    drop((client, _response, _stream));
    eventually("a client that goes away cancels too", || hanging.cancelled() == 2).await;
    eventually("nothing is outstanding", || server.targets()[0].outstanding() == 0).await;
}

async fn reset_codes_pass_unchanged(engine: Engine) {
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::ENHANCE_YOUR_CALM] {
        let resetting = EndpointServer::start(Script::Reset(reason)).await;
        let node = Node::start_engine(engine, &[resetting.address]);
        let client = node.connect().await;
        let error = call(&client, grpc_request(PATH), b"x").await.unwrap_err();
        assert_eq!(error.reason(), Some(reason));
        assert_eq!(resetting.streams(), 1, "an endpoint that may have acted gets no replay");
    }
}

async fn refused_stream_goes_to_another_endpoint(engine: Engine) {
    let refusing = EndpointServer::start(Script::Refuse).await;
    let good = EndpointServer::start(Script::Echo).await;
    let node = Node::start_engine(engine, &[refusing.address, good.address]);
    let client = node.connect().await;
    for _ in 0..20 {
        let answer = call(&client, grpc_request(PATH), b"kept body").await.unwrap();
        assert_eq!((answer.grpc_status(), &answer.body[..]), ("0", &b"kept body"[..]));
    }
    assert_eq!(good.streams(), 20, "each call was answered once");
    let refused = node.server().stats().replays[ReplayReason::Refused.index()].get();
    assert_eq!(refused, refusing.streams() as u64);
    assert!(refused > 0);

    node.publish(&[refusing.address]);
    let error = call(&client, grpc_request(PATH), b"x").await;
    let unavailable = error.expect("is answered, for nothing has begun");
    assert_eq!(unavailable.grpc_status(), "14");
}

async fn body_too_large_to_keep_is_not_replayed(engine: Engine) {
    let refusing = EndpointServer::start(Script::Refuse).await;
    let node = Node::start_engine(engine, &[refusing.address]);
    let client = node.connect().await;
    // The endpoint refuses at once, but the client has sent more than is kept by the time that
    // it learns; either way the call must not be answered as if it had worked.
    let outcome = call(&client, grpc_request(PATH), &vec![1; 60_000]).await;
    match outcome {
        Ok(answer) => assert_eq!(answer.grpc_status(), "14"),
        Err(error) => assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM)),
    }
}

async fn goaway_moves_new_streams_and_loses_none(engine: Engine) {
    let leaving = EndpointServer::start(Script::GoAwayAfter(5)).await;
    let node = Node::start_engine(engine, &[leaving.address]);
    let client = node.connect().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let client = client.clone();
        calls.spawn(async move { call(&client, grpc_request(PATH), b"x").await });
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap().unwrap().grpc_status(), "0");
    }
    for _ in 0..5 {
        assert_eq!(call(&client, grpc_request(PATH), b"x").await.unwrap().grpc_status(), "0");
    }
    assert!(leaving.connections() >= 2, "a new connection took over");
}

async fn failed_dial_goes_to_the_next_endpoint(engine: Engine) {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let good = start_all(2, Script::Echo).await;
    let node = Node::start_engine(engine, &[closed, good[0].address, good[1].address]);
    let client = node.connect().await;
    for _ in 0..30 {
        let answer = call(&client, grpc_request(PATH), b"x").await.unwrap();
        assert_eq!(answer.grpc_status(), "0");
    }
    let server = node.server();
    let failed = server.targets().iter().find(|target| target.address() == closed).unwrap();
    for reason in ConnectFailure::ALL {
        let is_counted = failed.stats().failures[reason.index()].get() > 0;
        assert_eq!(is_counted, reason == ConnectFailure::Refused, "{reason:?}");
    }
    assert_eq!(failed.outstanding(), 0);
}

async fn nobody_left_is_answered_in_the_clients_words(engine: Engine) {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let good = EndpointServer::start(Script::Echo).await;
    let node = Node::start_engine(engine, &[good.address]);
    let client = node.connect().await;
    call(&client, grpc_request(PATH), b"x").await.unwrap();
    for (endpoints, message) in [
        (vec![], "Service default/echo:grpc has no usable endpoint"),
        (vec![closed], "Service default/echo:grpc: none of 1 endpoints could be reached"),
    ] {
        node.publish(&endpoints);
        let answer = call(&client, grpc_request(PATH), b"x").await.unwrap();
        assert_eq!((answer.grpc_status(), answer.header("grpc-message")), ("14", message));
        assert!(answer.trailers.is_none(), "trailers-only");
        let plain = Request::get("http://echo.default/").body(()).unwrap();
        let answer = call(&client, plain, b"").await.unwrap();
        assert_eq!((answer.head.status().as_u16(), answer.grpc_status()), (503, "none"));
    }
    node.publish(&[good.address]);
    let answer = call(&client, grpc_request(PATH), b"x").await.unwrap();
    assert_eq!(answer.grpc_status(), "0", "the same connection works again");
}

async fn lost_endpoint_ends_the_call_unavailable_and_is_not_replayed(engine: Engine) {
    for script in [Script::BreakBefore, Script::BreakMidway] {
        let breaking = EndpointServer::start(script.clone()).await;
        let good = EndpointServer::start(Script::Echo).await;
        let node = Node::start_engine(engine, &[breaking.address]);
        let client = node.connect().await;
        let answer = call(&client, grpc_request(PATH), b"x").await.unwrap();
        assert_eq!(answer.grpc_status(), "14", "{script:?}");
        assert_eq!(good.streams(), 0);
        node.publish(&[good.address]);
        let answer = call(&client, grpc_request(PATH), b"x").await.unwrap();
        assert_eq!(answer.grpc_status(), "0", "{script:?}: the client's connection lives on");
    }
}

async fn table_change_moves_new_streams_of_open_connections_at_once(engine: Engine) {
    let endpoints = start_all(3, Script::Echo).await;
    let all = addresses(&endpoints);
    let node = Node::start_engine(engine, &all[..2]);
    let client = node.connect().await;
    for _ in 0..10 {
        call(&client, grpc_request(PATH), b"x").await.unwrap();
    }
    node.publish(&all[1..]);
    let before = endpoints[0].streams();
    let mut answers = Vec::new();
    for _ in 0..10 {
        answers.push(call(&client, grpc_request(PATH), b"x").await.unwrap());
    }
    assert_eq!(endpoints[0].streams(), before, "a removed endpoint gets nothing");
    assert_eq!(count(&answers).values().copied().collect::<Vec<_>>(), [5, 5]);
}

async fn stream_on_a_removed_endpoint_finishes(engine: Engine) {
    let endpoints = start_all(2, Script::Stream).await;
    let node = Node::start_engine(engine, &[endpoints[0].address]);
    let client = node.connect().await;
    let (response, mut stream) =
        client.clone().ready().await.unwrap().send_request(grpc_request(PATH), false).unwrap();
    stream.send_data(Bytes::from_static(b"before "), false).unwrap();
    eventually("the stream is there", || endpoints[0].streams() == 1).await;
    node.publish(&[endpoints[1].address]);
    call(&client, grpc_request(PATH), b"new").await.unwrap();
    stream.send_data(Bytes::from_static(b"after"), true).unwrap();
    let answer = collect(response).await.unwrap();
    assert_eq!((answer.grpc_status(), &answer.body[..]), ("0", &b"before after"[..]));
    assert_eq!((endpoints[0].streams(), endpoints[1].streams()), (1, 1));
    let late = node.server().stats().last_stream_after_removal.snapshot().count;
    assert_eq!(late, 0, "no stream started on a removed endpoint");
}

async fn endpoints_stream_limit_is_kept_by_more_connections(engine: Engine) {
    let limited = EndpointServer::start(Script::MaxStreams(4)).await;
    let node = Node::start_engine(engine, &[limited.address]);
    let client = node.connect().await;
    // Learn the limit: until its SETTINGS have come an endpoint is taken to allow 100.
    let first = tokio::spawn({
        let client = client.clone();
        async move { call(&client, grpc_request(PATH), b"x").await }
    });
    eventually("the first stream is there", || limited.streams() == 1).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..11 {
        let client = client.clone();
        calls.spawn(async move { call(&client, grpc_request(PATH), b"x").await });
    }
    eventually("all streams are open at once", || limited.streams() == 12).await;
    assert_eq!(limited.connections(), 3, "4 streams each");
    while !calls.is_empty() || !first.is_finished() {
        limited.release();
        tokio::time::sleep(Duration::from_millis(5)).await;
        while let Some(answer) = calls.try_join_next() {
            assert_eq!(answer.unwrap().unwrap().grpc_status(), "0");
        }
    }
    assert_eq!(first.await.unwrap().unwrap().grpc_status(), "0");
}

async fn drain_finishes_open_streams_and_takes_no_new_connection(engine: Engine) {
    let endpoints = start_all(1, Script::Stream).await;
    let node = Node::start_engine(engine, &addresses(&endpoints));
    let client = node.connect().await;
    let (response, mut stream) =
        client.clone().ready().await.unwrap().send_request(grpc_request(PATH), false).unwrap();
    stream.send_data(Bytes::from_static(b"x"), false).unwrap();
    eventually("the stream is there", || endpoints[0].streams() == 1).await;
    node.drain();
    let address = node.address;
    eventually("the listener is closed", || std::net::TcpStream::connect(address).is_err()).await;
    stream.send_data(Bytes::from_static(b"y"), true).unwrap();
    let answer = collect(response).await.unwrap();
    assert_eq!((answer.grpc_status(), &answer.body[..]), ("0", &b"xy"[..]));
    assert!(call(&client, grpc_request(PATH), b"x").await.is_err(), "GOAWAY was sent");
    tokio::task::spawn_blocking(|| node.join()).await.unwrap();
}

async fn connection_is_counted_by_what_it_carried(engine: Engine) {
    let endpoints = start_all(1, Script::Echo).await;
    let node = Node::start_engine(engine, &addresses(&endpoints));
    let client = node.connect().await;
    call(&client, grpc_request(PATH), b"x").await.unwrap();
    let server = node.server();
    assert_eq!(server.stats().connections[Verdict::Http2.index()].get(), 1);
    assert_eq!(server.stats().active_connections.get(), 1);
    drop(client);
    eventually("the connection has ended", || server.stats().active_connections.get() == 0).await;
    assert_eq!(server.targets()[0].stats().streams.get(), 1);
    assert_eq!(server.targets()[0].stats().connections.get(), 0, "streams are not connections");
}

on_both_engines!(
    one_connection_is_spread_evenly,
    hundreds_of_tiny_messages_in_flight_do_not_kill_a_connection,
    large_bodies_arrive_whole_both_ways,
    a_stalled_stream_does_not_stop_its_siblings,
    trailers_only_and_informational_answers_pass,
    request_without_authority_passes_as_it_is,
    cancelling_reaches_the_endpoint,
    reset_codes_pass_unchanged,
    refused_stream_goes_to_another_endpoint,
    body_too_large_to_keep_is_not_replayed,
    goaway_moves_new_streams_and_loses_none,
    failed_dial_goes_to_the_next_endpoint,
    nobody_left_is_answered_in_the_clients_words,
    lost_endpoint_ends_the_call_unavailable_and_is_not_replayed,
    table_change_moves_new_streams_of_open_connections_at_once,
    stream_on_a_removed_endpoint_finishes,
    endpoints_stream_limit_is_kept_by_more_connections,
    drain_finishes_open_streams_and_takes_no_new_connection,
    connection_is_counted_by_what_it_carried
);
