//! Aim: what has lived long enough ends so that its client begins anew, by flag and by Service, and
//! what is young or whole is left alone. Method: ages of a second, on real sockets; the switch.
#![allow(clippy::unwrap_used)] // Tests, though the compiler sees functions that tests call.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use streamvs_balance::{ConnectionLimit, StreamLimit};
use streamvs_relay::Options;
use streamvs_table::{MaxAge, ProtocolHint};
use streamvs_test_flow::endpoint::{EndpointServer, Script, addresses, start_all};
use streamvs_test_flow::{Limits, Node, call, eventually, grpc_request, service_port};

const PATH: &str = "/test.Echo/Watch";

/// The longest that anything here may take.
const MOST: Duration = Duration::from_secs(30);

const AGE: Duration = Duration::from_secs(2);

/// Less than an age of two seconds can be.
const YOUNG: Duration = Duration::from_millis(1700);

/// A stream that says one message each way.
struct Watch {
    to_upstream: SendStream<Bytes>,
    body: RecvStream,
    endpoint: String,
    began: Instant,
}

impl Watch {
    async fn begin(client: &SendRequest<Bytes>) -> Self {
        let began = Instant::now();
        let mut client = client.clone().ready().await.unwrap();
        let (response, mut to_upstream) = client.send_request(grpc_request(PATH), false).unwrap();
        to_upstream.send_data(message(b"hello"), false).unwrap();
        let response = response.await.unwrap();
        let endpoint = response.headers()["endpoint"].to_str().unwrap().to_owned();
        let mut watch = Self { to_upstream, body: response.into_body(), endpoint, began };
        assert_eq!(watch.next().await, Some(message(b"hello")));
        watch
    }

    async fn next(&mut self) -> Option<Bytes> {
        let data = tokio::time::timeout(MOST, self.body.data()).await.expect("something comes");
        data.map(|data| data.expect("the stream is not reset"))
    }

    async fn status(&mut self) -> (String, String) {
        let trailers = self.body.trailers().await.unwrap().expect("trailers end it");
        let text = |name| trailers.get(name).map_or("", |it| it.to_str().unwrap()).to_owned();
        (text("grpc-status"), text("grpc-message"))
    }

    async fn assert_expires(mut self) {
        assert_eq!(self.next().await, None);
        let told = ("14".to_owned(), "the stream has reached its maximum age".to_owned());
        assert_eq!(self.status().await, told);
        assert!(self.began.elapsed() >= YOUNG, "after {:?}", self.began.elapsed());
    }

    async fn still_talks(&mut self) {
        self.to_upstream.send_data(message(b"more"), false).unwrap();
        assert_eq!(self.next().await, Some(message(b"more")));
    }

    async fn ends_well(mut self) {
        self.to_upstream.send_data(message(b"last"), true).unwrap();
        assert_eq!(self.next().await, Some(message(b"last")));
        assert_eq!(self.next().await, None);
        assert_eq!(self.status().await.0, "0");
    }
}

fn message(text: &[u8]) -> Bytes {
    [&[0], &(text.len() as u32).to_be_bytes()[..], text].concat().into()
}

fn ages(stream: Option<Duration>, connection: Option<Duration>) -> MaxAge {
    MaxAge { stream, connection }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_stream_ends_with_a_status_and_begins_anew_elsewhere() {
    let endpoints = start_all(2, Script::Stream).await;
    let relay = Options { max_age: ages(Some(AGE), None), ..Options::default() };
    let node = Node::start_limited(&addresses(&endpoints), relay, Limits::default());
    let client = node.connect().await;
    let first = Watch::begin(&client).await;
    let before = first.endpoint.clone();
    first.assert_expires().await;
    let second = Watch::begin(&client).await;
    assert_ne!(second.endpoint, before, "it is the other's turn");
    second.ends_well().await;
    let limited = || node.server().stats().limited_streams[StreamLimit::Age.index()].get();
    assert_eq!(limited(), 1);
    let outstanding =
        || endpoints.iter().map(|it| node.target(it.address).outstanding()).sum::<u32>();
    eventually("nothing is left", || outstanding() == 0).await;
    // The connection is as good as before.
    let answer = call(&client, grpc_request(PATH), b"x").await.unwrap();
    assert_eq!(answer.grpc_status(), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_says_otherwise_than_the_flag_and_at_once() {
    let endpoint = EndpointServer::start(Script::Stream).await;
    let relay = Options { max_age: ages(Some(AGE), None), ..Options::default() };
    let node = Node::start_limited(&[endpoint.address], relay, Limits::default());
    let mut service = service_port(&[endpoint.address], ProtocolHint::Auto);
    service.max_age = ages(Some(Duration::ZERO), None);
    node.publish_service(service.clone());
    let client = node.connect().await;
    let mut watch = Watch::begin(&client).await;
    tokio::time::sleep(2 * AGE).await;
    watch.still_talks().await;
    // It was not followed from its beginning, so its message is given a while to end.
    service.max_age = MaxAge::default();
    node.publish_service(service);
    watch.assert_expires().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_connection_is_asked_to_go_and_its_streams_end_well() {
    let endpoint = EndpointServer::start(Script::Stream).await;
    let relay = Options { max_age: ages(None, Some(AGE)), ..Options::default() };
    let node = Node::start_limited(&[endpoint.address], relay, Limits::default());
    let began = Instant::now();
    let client = node.connect().await;
    let mut watch = Watch::begin(&client).await;
    loop {
        let Ok(mut ready) = client.clone().ready().await else { break };
        let Ok((response, _)) = ready.send_request(grpc_request(PATH), true) else { break };
        // What was sent before GOAWAY was read is served, or refused by its last stream.
        let _ = response.await;
        assert!(began.elapsed() < MOST, "it is never asked to go");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() >= YOUNG);
    tokio::time::sleep(AGE).await;
    watch.still_talks().await;
    watch.ends_well().await;
    let limited = || node.server().stats().limited_connections[ConnectionLimit::Age.index()].get();
    assert_eq!(limited(), 1);
    let active = || node.server().stats().active_connections.get();
    eventually("it is closed", || active() == 0).await;
    Watch::begin(&node.connect().await).await.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_an_old_connection_have_their_grace() {
    let endpoint = EndpointServer::start(Script::Stream).await;
    let relay = Options {
        max_age: ages(None, Some(AGE)),
        max_connection_age_grace: Some(Duration::from_secs(1)),
        ..Options::default()
    };
    let node = Node::start_limited(&[endpoint.address], relay, Limits::default());
    let watch = Watch::begin(&node.connect().await).await;
    watch.assert_expires().await;
    let active = || node.server().stats().active_connections.get();
    eventually("its connection is closed", || active() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_streams_are_counted_while_they_are_open() {
    let endpoint = EndpointServer::start(Script::Stream).await;
    let relay = Options { old_stream_age: AGE, ..Options::default() };
    let node = Node::start_limited(&[endpoint.address], relay, Limits::default());
    let client = node.connect().await;
    let old = || node.target(endpoint.address).stats().old_streams.get();
    let (mut one, two) = (Watch::begin(&client).await, Watch::begin(&client).await);
    assert_eq!(old(), 0);
    eventually("both are old", || old() == 2).await;
    let young = Watch::begin(&client).await;
    one.still_talks().await;
    two.ends_well().await;
    eventually("one is left", || old() == 1).await;
    young.ends_well().await;
    drop((one, client));
    eventually("none is left", || old() == 0).await;
}
