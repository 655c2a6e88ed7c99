//! Aim: an agent that is short of memory gives up work in order, loses nothing that it has, and
//! takes all of it back. Method: kube-proxy's rules behind ours, a small limit, and calls whose
//! heads the agent has to keep; then these calls end.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};
use streamvs_support::agent::{Agent, PATIENCE};
use streamvs_support::grpc::client::Open;
use streamvs_support::grpc::load::Load;
use streamvs_support::grpc::{Client, Failure, Kind};
use streamvs_support::wait::eventually;
use streamvs_support::{Family, figure};

use crate::gate::BesideKubeProxy;
use crate::scene::{PODS, Scene, address, grpc_service, needs_node};

/// What the agent may have: more than twice what it needs when idle.
const LIMIT: &str = "64Mi";

/// Octets of a head. The agent keeps it until the stream ends.
const HEAD_OCTETS: usize = 48 * 1024;

/// As `eventually`, while the connections of this thread go on.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn gives_up(agent: &Agent, what: &str) -> bool {
    agent.metric("streamvs_memory_shed", &[("what", what)]) == Some(1.0)
}

/// A call that waits for more of its request, with a large head.
async fn large_call(client: &Client, number: usize) -> Result<Open, Failure> {
    let mut headers = HeaderMap::new();
    let value = format!("{number:08}").repeat(HEAD_OCTETS / 8);
    headers.insert("large", HeaderValue::from_str(&value).expect("digits are legal"));
    client.open_with(Kind::Bidi, &headers).await
}

#[test]
fn short_of_memory_new_work_is_given_up_in_order_and_taken_back() {
    needs_node!();
    let node = BesideKubeProxy::new();
    let agent = node.agent(&["--memory-limit", LIMIT]);
    let target = address(&node.echo);
    eventually("by call", PATIENCE, || node.reached() == PODS.len());
    let idle = agent.metric("streamvs_memory_counted_bytes", &[]).expect("is measured");
    assert_eq!(agent.metric("streamvs_memory_limit_bytes", &[]), Some(f64::from(64 << 20)));
    assert!(!gives_up(&agent, "capture"), "{idle} octets when idle");

    let netns = node.scene.client().netns();
    netns.block_on(|| async {
        let steady = Client::connect(target).await.expect("is captured");
        let mut talk = steady.open(Kind::Bidi).await.expect("there is room");
        talk.send(b"before").await.expect("goes on");
        assert!(talk.next().await.expect("is answered").is_some());

        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(Client::connect(target).await.expect("is captured"));
        }
        let mut held = Vec::new();
        // A few more each time than are looked at, so that all steps are met.
        while !gives_up(&agent, "streams") {
            assert!(held.len() < 4000, "it holds all of them: {}", agent.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
            for _ in 0..25 {
                let number = held.len();
                match large_call(&clients[number % clients.len()], number).await {
                    Ok(call) => held.push(call),
                    Err(error) => assert!(error.is_untouched(), "{error}"),
                }
            }
        }
        assert!(gives_up(&agent, "capture") && gives_up(&agent, "connections"));
        let most = agent.metric("streamvs_memory_counted_bytes", &[]).expect("is measured");
        let mib = |octets: f64| octets / f64::from(1 << 20);
        let (idle, most) = (mib(idle), mib(most));
        let count = held.len();
        figure::report(&format!(
            "memory limit of {LIMIT}: {idle:.0} MiB when idle, {most:.0} MiB when new streams were \
             refused, with {count} large calls"
        ));

        // What is open goes on, what is new is told that nobody has looked at it.
        talk.send(b"meanwhile").await.expect("goes on");
        assert!(talk.next().await.expect("is answered").is_some());
        let refused = steady.unary(b"x").await.expect_err("memory is short");
        assert!(refused.is_untouched(), "{refused}");
        // New connections are somebody else's; until the lease has run out they are reset.
        let pass_by = || {
            let report = Load::unary(target, 1).calls(30).run(node.scene.client().netns());
            report.failed == 0 && report.calls.len() == 1
        };
        until("they pass by", pass_by).await;

        for call in held {
            call.cancel();
        }
        for step in ["streams", "connections", "capture"] {
            until(step, || !gives_up(&agent, step)).await;
        }
        steady.unary(b"x").await.expect("there is room again");
        talk.send(b"after").await.expect("goes on");
        assert!(talk.next().await.expect("is answered").is_some());
    });
    eventually("by call again", PATIENCE, || node.reached() == PODS.len());
    let refused = [("reason", "memory")];
    assert!(agent.metric("streamvs_limited_streams_total", &refused).is_some_and(|it| it >= 1.0));
    let log = agent.log();
    assert!(log.contains("memory is short") && log.contains("memory is less short"), "{log}");
    assert!(!log.contains("the data path was late"), "the gate was held on purpose");
}

/// A client that watches, and begins anew whenever its stream ends, as watches do. Says how it
/// ended when that was otherwise than by its age.
async fn watch(client: Client, ended: Rc<Cell<usize>>) -> Failure {
    loop {
        let mut stream = match client.open(Kind::Bidi).await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        let opened = async {
            stream.send(b"first").await?;
            stream.next().await
        };
        if let Err(error) = opened.await {
            return error;
        }
        match stream.next().await {
            Ok(None) => {}
            Ok(Some(more)) => panic!("nobody asked for {more:?}"),
            Err(error) => return error,
        }
        match stream.finish().await {
            Err(Failure::Status { code: 14, message }) if message.contains("maximum age") => {
                ended.set(ended.get() + 1);
            }
            Err(error) => return error,
            Ok(endpoint) => panic!("{endpoint} ended it"),
        }
    }
}

#[test]
fn watches_are_spread_anew_over_endpoints_that_came_later() {
    const WATCHES: usize = 12;
    needs_node!();
    let scene = Scene::new();
    let endpoints = scene.grpc(Family::V4, PODS);
    let service = grpc_service(Family::V4);
    scene.publish(&service, &PODS[..1]);
    let agent = scene.agent(&["--http2-engine", "switch"]);
    let target = address(&service);
    let active = || endpoints.iter().map(|it| it.active() as usize).collect::<Vec<_>>();
    scene.client().netns().block_on(|| async {
        let client = Client::connect(target).await.expect("is captured");
        let ended = Rc::new(Cell::new(0));
        let watches: Vec<_> = (0..WATCHES)
            .map(|_| tokio::task::spawn_local(watch(client.clone(), Rc::clone(&ended))))
            .collect();
        until("all watch", || active() == [WATCHES, 0, 0]).await;
        scene.publish(&service, &PODS);
        until("the table is live", || agent.usable(service.name()).len() == PODS.len()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(active(), [WATCHES, 0, 0], "nobody moves them");

        let aged = grpc_service(Family::V4).annotation("streamvs.io/max-stream-age", "2s");
        scene.publish(&aged, &PODS);
        until("they are spread", || active().iter().all(|count| *count >= 2)).await;
        until("all have begun anew", || ended.get() >= 2 * WATCHES).await;
        for watch in watches {
            if watch.is_finished() {
                panic!("a watch failed: {}", watch.await.expect("does not panic"));
            }
            watch.abort();
        }
    });
    let aged = agent.metric("streamvs_limited_streams_total", &[("reason", "max_age")]);
    assert!(aged.is_some_and(|count| count >= (2 * WATCHES) as f64), "{aged:?}");
}
