//! Aim: an endpoint that is dead while the table calls it ready costs no call but those it held,
//! gets no dial while it is ejected, and is used again when it lives.
//! Method: under load, with the resets counted that its pod's kernel sends to who dials.

use std::time::Duration;

use streamvs_support::Family;
use streamvs_support::agent::Agent;
use streamvs_support::grpc;
use streamvs_support::grpc::load::{Load, Running};
use streamvs_support::lab::Host;
use streamvs_support::wait::eventually;

use crate::scene::{PODS, Scene, address, engines, grpc_service, needs_node};

const PATIENCE: Duration = Duration::from_secs(30);

/// Calls that are under way at a time.
const IN_FLIGHT: u64 = 6;

struct UnderLoad {
    scene: Scene,
    agent: Agent,
    load: Running,
}

impl UnderLoad {
    /// A metric of the Service.
    fn metric(&self, name: &str) -> f64 {
        self.agent.metric(name, &[("service", "echo")]).unwrap_or(0.0)
    }

    fn ejections(&self) -> f64 {
        self.metric("streamvs_endpoint_ejections_total")
    }

    /// What `list` says of the time that pod c is ejected for yet.
    fn seconds_left(&self) -> Option<f64> {
        let endpoints = self.agent.endpoints("echo");
        let address = self.scene.lab.pod("c").at(Family::V4, crate::scene::GRPC_PORT);
        endpoints[&address]["ejectedSeconds"].as_f64()
    }

    /// Waits for one more ejection, and finds that there is no dial while it lasts.
    #[track_caller]
    fn expect_peace(&self, ejections: f64) {
        eventually("it is ejected", PATIENCE, || {
            self.ejections() > ejections && self.seconds_left().is_some()
        });
        // On a slow machine it may end while we look; then there is a longer one.
        eventually("an ejection is seen from within", PATIENCE, || {
            let before = (self.ejections(), refusals(self.scene.lab.pod("c")));
            self.load.advance(200);
            let after = refusals(self.scene.lab.pod("c"));
            let lasted = self.seconds_left().is_some() && self.ejections() == before.0;
            assert!(!lasted || after == before.1, "{} dials", after - before.1);
            lasted
        });
    }

    /// Waits until pod c has calls again.
    #[track_caller]
    fn expect_return(&self, endpoint: &grpc::Endpoint) {
        eventually("it is used again", PATIENCE, || endpoint.calls() > 20);
        eventually("nobody is ejected", PATIENCE, || {
            self.metric("streamvs_ejected_endpoints") == 0.0
        });
    }
}

/// Resets that a pod has sent: one for each dial to a port where nobody listens.
fn refusals(pod: &Host) -> u64 {
    let snmp = pod.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"));
    let snmp = snmp.expect("the kernel counts");
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|name| name == "OutRsts").expect("resets are counted");
    values.split(' ').nth(place).unwrap().parse().unwrap()
}

#[test]
fn a_dead_endpoint_costs_no_call_and_is_used_again_when_it_lives() {
    needs_node!();
    for engine in engines() {
        let scene = Scene::new();
        let mut endpoints = scene.grpc(Family::V4, ["a", "b"]);
        let service = grpc_service(Family::V4);
        scene.publish(&service, &PODS);
        let agent = scene.agent(&[
            "--http2-engine",
            &engine,
            "--outlier-base-ejection-time",
            "3s",
            "--outlier-max-ejection-time",
            "6s",
        ]);
        let load = Load::unary(address(&service), 2).streams(3).start(scene.client());
        let under = UnderLoad { scene, agent, load };

        // Nobody listens in pod c: its kernel refuses.
        under.expect_peace(0.0);
        assert_eq!(under.load.failed(), 0, "{engine}: each went on to another one");
        eventually("it is explained", PATIENCE, || {
            let explained = under.agent.command(&["explain", "default/echo"]).stdout;
            String::from_utf8_lossy(&explained).contains("ejected for ")
        });
        let log = under.agent.log();
        assert!(log.contains("endpoint has failed in a row"), "{log}");

        endpoints.extend(under.scene.grpc(Family::V4, ["c"]));
        under.expect_return(&endpoints[2]);
        assert_eq!(under.load.failed(), 0, "{engine}");
        assert!(under.agent.log().contains("endpoint is used again"));

        // It dies as a killed process does, with the calls that it has.
        let ejections = under.ejections();
        endpoints[2].stop();
        under.expect_peace(ejections);
        let held = under.load.failed();
        assert!(held <= IN_FLIGHT, "{engine}: {held} calls failed");
        endpoints[2] = under.scene.grpc(Family::V4, ["c"]).remove(0);
        under.expect_return(&endpoints[2]);
        let UnderLoad { load, mut agent, .. } = under;
        let report = load.stop();
        assert_eq!(report.failed, held, "{engine}: {:#?}", report.failures);
        println!(
            "{engine}: {} calls, {held} of them on the endpoint when it was killed",
            report.total() + report.failed
        );
        agent.stop(PATIENCE);
    }
}

#[test]
fn an_agent_that_is_told_not_to_ejects_nobody() {
    needs_node!();
    let scene = Scene::new();
    let _endpoints = scene.grpc(Family::V4, ["a", "b"]);
    let service = grpc_service(Family::V4);
    scene.publish(&service, &PODS);
    let agent = scene.agent(&["--outlier-detection=false"]);
    let load = Load::unary(address(&service), 1).streams(3).start(scene.client());
    load.advance(100);
    let before = refusals(scene.lab.pod("c"));
    load.advance(100);
    assert!(refusals(scene.lab.pod("c")) > before, "it is dialled again and again");
    assert_eq!(agent.metric("streamvs_endpoint_ejections_total", &[]), None);
    load.stop().without_failure();
}
