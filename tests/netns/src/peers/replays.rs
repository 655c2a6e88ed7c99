//! Aim: a client without retries sees no error, and no call is acted on twice, while endpoints turn
//! calls away in each way that proves they have not acted on them.
//! Method: grpc-go calls two grpc-go endpoints and three that are at fault, none of them ejected.

use std::path::PathBuf;

use streamvs_support::lab::Lab;
use streamvs_support::{Family, figure};

use super::calls::{Caller, Server, account};
use crate::scene::{Scene, address, engines, grpc_service, needs_node};

const ENDPOINTS: [&str; 5] = ["goaway", "refuse", "close", "good1", "good2"];

/// Calls, unless `STREAMVS_REPLAYS` says another number.
const CALLS: u64 = 3000;

#[test]
fn what_endpoints_turn_away_succeeds_elsewhere_once() {
    needs_node!();
    let calls = std::env::var("STREAMVS_REPLAYS").ok().and_then(|count| count.parse().ok());
    for engine in engines() {
        let scene = Scene::of(Lab::builder().pod("client").pods(ENDPOINTS));
        let servers = ENDPOINTS.map(|pod| match pod {
            "good1" | "good2" => Server::start(&scene, pod, 0),
            fault => Server::faulty(&scene, pod, fault),
        });
        let service = grpc_service(Family::V4);
        scene.publish(&service, &ENDPOINTS);
        let agent = scene.agent(&["--http2-engine", &engine, "--outlier-detection=false"]);
        let caller = Caller::start(&scene, address(&service), 1000);
        caller.advance(calls.unwrap_or(CALLS));
        let told = caller.stop();
        assert!(told.failed.is_empty(), "{engine}: {:#?}\n{}", told.failed, agent.log());
        assert_eq!(told.again, 0, "{engine}: the client noticed something");
        let records: Vec<PathBuf> = servers.iter().map(|server| server.records.clone()).collect();
        account(&told, &records);
        let replays = |reason| agent.metric("streamvs_replays_total", &[("reason", reason)]);
        let counts = ["goaway", "refused_stream", "dial_failed"]
            .map(|reason| replays(reason).unwrap_or_else(|| panic!("{engine}: none as {reason}")));
        assert_eq!(servers[2].acted_on(), [0; 0], "who closes at once acts on nothing");
        for server in servers.iter().filter(|server| server.host.name() != "close") {
            assert!(!server.acted_on().is_empty(), "{} has had no call", server.host.name());
        }
        let exhausted = agent.metric("streamvs_replay_budget_exhausted_total", &[]);
        assert_eq!(exhausted.unwrap_or(0.0), 0.0, "{engine}");
        figure::report(&format!(
            "{engine}: {} calls, given to another endpoint for GOAWAY {}, for REFUSED_STREAM {}, \
             for a closed connection {}: 0 failed, 0 acted on twice",
            told.calls, counts[0], counts[1], counts[2],
        ));
    }
}
