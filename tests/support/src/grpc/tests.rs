//! Aim: client, endpoint and their counts are right before anything stands between them.
//! Method: both in one lab, connected directly.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::load::Load;
use super::*;
use crate::lab::{Lab, block_on_local};
use crate::needs;
use crate::wait::{eventually, eventually_equals};
use crate::{Family, lab::Host};

const PATIENCE: Duration = Duration::from_secs(10);

fn pair() -> (Lab, Host) {
    let lab = Lab::builder().pods(["client", "a"]).build();
    let client = lab.pod("client").clone();
    (lab, client)
}

#[test]
fn every_kind_is_answered_and_counted() {
    needs!("ip", "nsenter");
    let (lab, client) = pair();
    for family in Family::BOTH {
        let endpoint = Endpoint::start(lab.pod("a"), family, 0);
        let address = endpoint.address();
        client.block_on(|| async {
            let connection = Client::connect(address).await.unwrap();
            for kind in Kind::ALL {
                assert_eq!(connection.ask(kind).await.unwrap().endpoint, "a");
            }
        });
        for kind in Kind::ALL {
            assert_eq!(endpoint.calls_of(kind), 1, "{family:?} {kind:?}");
        }
        assert_eq!((endpoint.calls(), endpoint.connections()), (4, 1));
    }
}

#[test]
fn a_load_makes_exactly_its_calls() {
    needs!("ip", "nsenter");
    let (lab, client) = pair();
    let endpoint = Endpoint::start(lab.pod("a"), Family::V4, 0);
    let report = Load::unary(endpoint.address(), 3).calls(1000).run(&client).without_failure();
    assert_eq!((report.total(), report.of("a"), report.of("b")), (1000, 1000, 0));
    assert_eq!((endpoint.calls(), endpoint.connections()), (1000, 3));
    assert!(report.quantile(0.5) <= report.quantile(0.99));
}

#[test]
fn each_conduct_is_seen_by_the_caller_as_what_it_is() {
    needs!("ip", "nsenter");
    let (lab, client) = pair();
    let endpoint = Endpoint::start(lab.pod("a"), Family::V4, 0);
    let address = endpoint.address();
    let ask = || {
        client.block_on(|| async {
            let connection = Client::connect(address).await.unwrap();
            connection.ask(Kind::Unary).await
        })
    };

    endpoint.conduct(Conduct::Refusing);
    let refused = ask().unwrap_err();
    assert!(refused.is_untouched(), "{refused}");
    assert_eq!(endpoint.calls(), 0);

    endpoint.conduct(Conduct::TrailersOnly(8, "too much".to_owned()));
    let status = ask().unwrap_err();
    assert_eq!(status.to_string(), "grpc-status 8: too much");
    assert!(!status.is_untouched());

    endpoint.conduct(Conduct::Slow(Duration::from_millis(50)));
    let start = Instant::now();
    ask().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(50));

    endpoint.conduct(Conduct::Stuck);
    std::thread::scope(|scope| {
        let stuck = scope.spawn(ask);
        eventually_equals("the call arrives", PATIENCE, &1, || endpoint.active());
        endpoint.conduct(Conduct::Steady);
        stuck.join().unwrap().unwrap();
    });
    eventually_equals("the call ends", PATIENCE, &0, || endpoint.active());
}

#[test]
fn goaway_moves_the_load_to_a_new_connection_without_a_failure() {
    needs!("ip", "nsenter");
    let (lab, client) = pair();
    let endpoint = Endpoint::start(lab.pod("a"), Family::V4, 0);
    let load = Load::unary(endpoint.address(), 1).start(&client);
    load.advance(100);
    endpoint.go_away();
    eventually("a second connection", PATIENCE, || endpoint.connections() == 2);
    load.advance(100);
    let report = load.stop().without_failure();
    assert_eq!(report.reconnected, 1);
}

#[test]
fn a_drained_endpoint_finishes_its_streams_and_takes_no_connection() {
    needs!("ip", "nsenter");
    let (lab, client) = pair();
    let endpoint = Endpoint::start(lab.pod("a"), Family::V4, 0);
    let address = endpoint.address();
    client.block_on(|| async {
        let connection = Client::connect(address).await.unwrap();
        let mut open = connection.open(Kind::Bidi).await.unwrap();
        open.send(b"before").await.unwrap();
        assert_eq!(open.next().await.unwrap().unwrap(), "before");
        endpoint.drain();
        open.send(b"after").await.unwrap();
        assert_eq!(open.next().await.unwrap().unwrap(), "after");
        open.end().unwrap();
        assert_eq!(open.next().await.unwrap(), None);
        assert_eq!(open.finish().await.unwrap(), "a");
        assert!(matches!(Client::connect(address).await, Err(Failure::Connect(_))));
    });
}

#[test]
fn a_stopped_endpoint_is_gone_at_once() {
    needs!("ip", "nsenter");
    let (lab, client) = pair();
    let mut endpoint = Endpoint::start(lab.pod("a"), Family::V4, 0);
    let address = endpoint.address();
    let load = Load::unary(address, 1).start(&client);
    load.advance(10);
    endpoint.stop();
    let refused = client.block_on(|| async { Client::connect(address).await.map(drop) });
    assert!(matches!(refused, Err(Failure::Connect(_))), "{refused:?}");
    eventually("a call fails", PATIENCE, || load.failed() > 0);
    assert!(load.stop().failed > 0);
}

#[test]
fn a_limited_endpoint_never_holds_more_streams() {
    needs!("ip", "nsenter");
    let (lab, client) = pair();
    let endpoint = Endpoint::start_limited(lab.pod("a"), Family::V4, 0, Some(3));
    endpoint.conduct(Conduct::Slow(Duration::from_millis(2)));
    let report = Load::unary(endpoint.address(), 1).calls(100).run(&client);
    report.without_failure();
    assert!(endpoint.most_active() <= 3, "{}", endpoint.most_active());
}

#[test]
fn an_observer_is_shown_each_message_and_puts_off_its_answer() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let wait = Duration::from_millis(20);
    let also_seen = Arc::clone(&seen);
    let observer = move |message: &[u8]| {
        also_seen.lock().unwrap().push(message.to_vec());
        wait
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::on(listener, "a", None, Arc::new(observer));
    let address = endpoint.address();
    let start = Instant::now();
    block_on_local(async {
        let client = Client::connect(address).await.unwrap();
        assert_eq!(client.ask(Kind::Unary).await.unwrap().endpoint, "a");
        client.ask(Kind::Bidi).await.unwrap();
    });
    assert!(start.elapsed() >= 3 * wait, "{:?}", start.elapsed());
    assert_eq!(*seen.lock().unwrap(), [&b"ping"[..], b"a", b"b"]);
}
