//! Aim: a change of objects is live for the next stream of every open connection, and costs no
//! call. Method: change them through the API under load.

use streamvs_support::Family;
use streamvs_support::agent::Agent;
use streamvs_support::grpc::load::{Load, Running};
use streamvs_support::manifest::{Endpoint, Service};

use crate::scene::{ON_ITS_WAY, PODS, Scene, address, grpc_service, needs_node};

/// A load on one connection over a Service of three gRPC pods, known from the API.
pub(crate) struct UnderLoad {
    pub(crate) scene: Scene,
    pub(crate) service: Service,
    endpoints: Vec<streamvs_support::grpc::Endpoint>,
    load: Running,
}

impl UnderLoad {
    /// Starts it with `pods` as ready endpoints, and the agent that serves it.
    pub(crate) fn start(pods: &[&str]) -> (Self, Agent) {
        let scene = Scene::new();
        let endpoints = scene.grpc(Family::V4);
        let service = grpc_service(&[Family::V4]);
        scene.publish(&service, pods);
        let agent = scene.agent(&[]);
        let load = Load::unary(address(&service, Family::V4), 1).start(scene.client());
        load.advance(100);
        (Self { scene, endpoints, service, load }, agent)
    }

    pub(crate) fn pod(&self, name: &str) -> Endpoint {
        Endpoint::ready(self.scene.lab.pod(name), Family::V4)
    }

    /// Waits until `list` shows these in use, and then demands that these alone get streams.
    #[track_caller]
    pub(crate) fn expect(&self, agent: &Agent, pods: &[&str]) {
        self.scene.wait_until_used(agent, &self.service, pods);
        std::thread::sleep(ON_ITS_WAY);
        let counts = || self.endpoints.iter().map(|pod| pod.calls()).collect::<Vec<_>>();
        let before = counts();
        self.load.advance(300);
        let after = counts();
        let grown = before.iter().zip(after).map(|(before, after)| after > *before);
        let receiving: Vec<&str> =
            PODS.into_iter().zip(grown).filter_map(|(pod, grown)| grown.then_some(pod)).collect();
        assert_eq!(receiving, pods);
    }

    /// Demands that calls go on ending well.
    #[track_caller]
    pub(crate) fn advance(&self, calls: u64) {
        self.load.advance(calls);
    }

    /// Demands that calls on connections of their own end well, and that these alone answer them.
    #[track_caller]
    pub(crate) fn call_on_new_connections(&self, pods: &[&str]) {
        let load = Load::unary(address(&self.service, Family::V4), 3).calls(90);
        let report = load.run(self.scene.client()).without_failure();
        assert_eq!((report.total(), report.reconnected), (90, 0), "{report:?}");
        assert!(report.calls.keys().eq(pods), "{:?}", report.calls);
    }

    /// The end: not one call failed, and all were on the first connection.
    #[track_caller]
    pub(crate) fn finish(self) {
        let report = self.load.stop().without_failure();
        assert_eq!((report.reconnected, report.retried), (0, 0), "one connection carried it all");
    }
}

#[test]
fn endpoints_come_and_go_under_load() {
    needs_node!();
    let (under, agent) = UnderLoad::start(&["a", "b"]);
    under.expect(&agent, &["a", "b"]);
    let write = |endpoints: &[Endpoint]| under.scene.write(&under.service, endpoints);
    write(&PODS.map(|name| under.pod(name)));
    under.expect(&agent, &PODS);
    // Removed; not ready; terminating while others are ready (KEP-1672); the last ones to serve.
    write(&["b", "c"].map(|name| under.pod(name)));
    under.expect(&agent, &["b", "c"]);
    write(&[under.pod("a"), under.pod("b").not_ready(), under.pod("c")]);
    under.expect(&agent, &["a", "c"]);
    write(&[under.pod("a").terminating(true), under.pod("b"), under.pod("c")]);
    under.expect(&agent, &["b", "c"]);
    write(&[under.pod("a").terminating(true), under.pod("b").terminating(false)]);
    under.expect(&agent, &["a"]);
    let late = agent.metric("streamvs_last_stream_after_removal_seconds_count", &[]);
    assert_eq!(late.unwrap_or(0.0), 0.0, "a stream started on a removed endpoint");
    under.finish();
}

#[test]
fn endpoints_move_between_slices_without_a_gap() {
    needs_node!();
    let (under, agent) = UnderLoad::start(&PODS);
    let slice = |name: &str, pods: &[&str]| {
        let endpoints: Vec<Endpoint> = pods.iter().map(|pod| under.pod(pod)).collect();
        let mut slice = under.service.slices(&endpoints).remove(0);
        slice["metadata"]["name"] = name.into();
        slice
    };
    // As a controller that repacks them does: first twice, then once.
    under.scene.cluster.apply(&[slice("echo-x", &["c"])]);
    under.scene.cluster.apply(&[slice("echo-v4", &["a", "b"])]);
    under.expect(&agent, &PODS);
    under.scene.cluster.apply(&[slice("echo-x", &["b", "c"])]);
    under.scene.cluster.apply(&[slice("echo-v4", &["a"])]);
    under.expect(&agent, &PODS);
    under.scene.cluster.apply(&[slice("echo-x", &PODS)]);
    under.scene.cluster.delete(&slice("echo-v4", &[]));
    under.expect(&agent, &PODS);
    under.finish();
}
