//! Aim: one connection's streams reach all pods, as the scheduler says. Method: the article's two
//! tests with exact counts, then each scheduler with an endpoint that misbehaves or leaves.

use std::time::Duration;

use streamvs_support::agent::Agent;
use streamvs_support::grpc::load::{Load, Report};
use streamvs_support::grpc::{Conduct, Kind};
use streamvs_support::lab::{Host, Lab, Shape};
use streamvs_support::manifest::Service;
use streamvs_support::wait::{eventually, eventually_equals};
use streamvs_support::{Family, grpc};

use crate::scene::{
    CAPTURES, PODS, Scene, address, address_of, dual_stack_grpc_service, engines, grpc_service,
    needs_node,
};

/// Far above what any of this takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The article's test, with each engine: `connections` connections, 3000 unary calls, exact
/// rotation.
fn check_even(family: Family, connections: usize) {
    for engine in engines() {
        check_even_with(&engine, family, connections);
    }
}

fn check_even_with(engine: &str, family: Family, connections: usize) {
    let scene = Scene::new();
    let endpoints = scene.grpc(family, PODS);
    let service = grpc_service(family);
    scene.publish(&service, &PODS);
    let agent = scene.agent(&["--http2-engine", engine]);

    let report = Load::unary(address(&service), connections).calls(3000).run(scene.client());
    let report = report.without_failure();
    assert!(report.spread(&PODS) <= 1, "{:?}", report.calls);
    // The endpoints' own counts agree, so nothing was sent twice.
    let counts: Vec<u64> = endpoints.iter().map(grpc::Endpoint::calls).collect();
    assert_eq!(counts.iter().sum::<u64>(), 3000);
    assert_eq!(counts, PODS.map(|pod| report.of(pod)));

    let listed: u64 = agent
        .endpoints(service.name())
        .values()
        .map(|endpoint| endpoint["streams"].as_u64().expect("streams is a number"))
        .sum();
    assert_eq!(listed, 3000, "list counts the same streams");
    let captured = agent.metric("streamvs_connections_total", &[("protocol", "http2")]);
    assert_eq!(captured, Some(connections as f64));
}

#[test]
fn one_connection_reaches_three_pods_evenly_v4() {
    needs_node!();
    check_even(Family::V4, 1);
}

#[test]
fn one_connection_reaches_three_pods_evenly_v6() {
    needs_node!();
    check_even(Family::V6, 1);
}

#[test]
fn three_connections_reach_three_pods_evenly_v4() {
    needs_node!();
    check_even(Family::V4, 3);
}

#[test]
fn three_connections_reach_three_pods_evenly_v6() {
    needs_node!();
    check_even(Family::V6, 3);
}

#[test]
fn a_hundred_thousand_calls_are_spread_exactly() {
    needs_node!();
    let scene = Scene::new();
    let endpoints = scene.grpc(Family::V4, PODS);
    let service = grpc_service(Family::V4);
    scene.publish(&service, &PODS);
    let _agent = scene.agent(&[]);
    for connections in [1, 64] {
        let before: u64 = endpoints.iter().map(grpc::Endpoint::calls).sum();
        let load = Load::unary(address(&service), connections).calls(100_000);
        let report = load.run(scene.client()).without_failure();
        println!("{connections} connections: {:?} in {:?}", report.calls, report.elapsed);
        assert!(report.spread(&PODS) <= 1, "{connections} connections: {:?}", report.calls);
        let after: u64 = endpoints.iter().map(grpc::Endpoint::calls).sum();
        assert_eq!(after - before, 100_000);
    }
}

/// One family of a Service on an agent with one engine.
struct Case<'a> {
    scene: &'a Scene,
    agent: &'a Agent,
    service: &'a Service,
    family: Family,
    /// Those of the family.
    endpoints: &'a [grpc::Endpoint],
}

impl Case<'_> {
    fn load(&self, connections: usize) -> Load {
        Load::unary(address_of(self.service, self.family), connections)
    }

    fn run(&self, load: Load) -> Report {
        load.run(self.scene.client()).without_failure()
    }
}

/// Does a check with each engine in each family, all on one node.
fn each_case(service: &Service, flags: &[&str], check: impl Fn(&Case<'_>)) {
    let scene = Scene::new();
    let endpoints = Family::BOTH.map(|family| scene.grpc(family, PODS));
    for engine in engines() {
        scene.publish(service, &PODS);
        let agent = &scene.agent(&[flags, &["--http2-engine", &engine]].concat());
        for (family, endpoints) in Family::BOTH.into_iter().zip(&endpoints) {
            println!("{engine}, {family:?}");
            check(&Case { scene: &scene, agent, service, family, endpoints });
        }
    }
}

#[test]
fn all_four_kinds_of_calls_are_spread() {
    needs_node!();
    each_case(&dual_stack_grpc_service(), &[], |case| {
        for (kind, connections) in Kind::ALL.into_iter().flat_map(|kind| [(kind, 1), (kind, 3)]) {
            let counts = || case.endpoints.iter().map(|endpoint| endpoint.calls_of(kind));
            let before: Vec<u64> = counts().collect();
            let report = case.run(case.load(connections).calls(300).kind(kind));
            assert!(report.spread(&PODS) <= 1, "{kind:?}, {connections}: {:?}", report.calls);
            assert!(counts().zip(before).all(|(now, before)| now - before == 100));
        }
    });
}

#[test]
fn lc_steers_around_a_stuck_pod() {
    needs_node!();
    each_case(&dual_stack_grpc_service().scheduler("lc"), &[], |case| {
        let stuck = &case.endpoints[0];
        let before = stuck.calls();
        stuck.conduct(Conduct::Stuck);
        let load = case.load(1).start(case.scene.client());
        load.advance(500);
        // Ten calls are under way at most, so the stuck pod can hold no more than its third of
        // them and one: with more on it than on another it is never the least.
        let held = stuck.active();
        assert!((1..=4).contains(&held), "the stuck pod holds {held} calls");
        assert_eq!(stuck.calls() - before, held, "nothing but those went to it");

        stuck.conduct(Conduct::Steady);
        eventually_equals("the stuck calls end", PATIENCE, &0, || stuck.active().min(1));
        load.advance(100);
        load.stop().without_failure();
    });
}

#[test]
fn rr_does_not_look_at_a_stuck_pod() {
    needs_node!();
    // The opposite of the test above: it could not fail if every scheduler steered around.
    each_case(&dual_stack_grpc_service(), &[], |case| {
        let stuck = &case.endpoints[0];
        stuck.conduct(Conduct::Stuck);
        let load = case.load(1).start(case.scene.client());
        eventually_equals("all ten calls are stuck", PATIENCE, &10, || stuck.active());
        stuck.conduct(Conduct::Steady);
        load.advance(100);
        load.stop().without_failure();
    });
}

#[test]
fn random_stays_within_four_sigma() {
    needs_node!();
    each_case(&dual_stack_grpc_service(), &["--ipvs-scheduler", "random"], |case| {
        let reports = [(); 3].map(|()| case.run(case.load(1).calls(3000)));
        // Of 3000 fair choices among three each gets 1000, sigma = sqrt(3000 * 1/3 * 2/3) = 25.8.
        for report in &reports {
            for pod in PODS {
                assert!(report.of(pod).abs_diff(1000) <= 104, "{:?}", report.calls);
            }
        }
        // And it is not rotation: chance alone makes three runs that even once in 10^10 times.
        assert!(reports.iter().any(|report| report.spread(&PODS) > 1));
    });
}

#[test]
fn session_affinity_pins_every_stream_of_a_client() {
    needs_node!();
    each_case(&dual_stack_grpc_service().affinity(600), &[], |case| {
        let Case { scene, agent, service, .. } = case;
        scene.publish(service, &PODS);
        scene.wait_until_used(agent, service, &PODS);
        let load = || case.run(case.load(3).calls(300));
        let first = load();
        assert_eq!(first.calls.len(), 1, "three connections, one pod: {:?}", first.calls);
        let pinned = first.calls.keys().next().expect("there is one").clone();
        assert_eq!(load().calls, first.calls, "and the same one later");

        // Its pod goes: another one is picked, and kept.
        let left: Vec<&str> = PODS.into_iter().filter(|pod| *pod != pinned).collect();
        scene.publish(service, &left);
        scene.wait_until_used(agent, service, &left);
        let second = load();
        assert_eq!(second.calls.len(), 1, "{:?}", second.calls);
        assert_eq!(second.of(&pinned), 0);
    });
}

#[test]
fn the_annotation_changes_the_scheduler_of_open_connections() {
    needs_node!();
    let scene = Scene::new();
    let endpoints = scene.grpc(Family::V4, PODS);
    let service = grpc_service(Family::V4);
    scene.publish(&service, &PODS);
    let agent = scene.agent(&[]);
    let counts = || endpoints.iter().map(grpc::Endpoint::calls).collect::<Vec<_>>();
    let scheduler = || agent.list()[0]["scheduler"].as_str().unwrap_or_default().to_owned();

    let load = Load::unary(address(&service), 1).start(scene.client());
    load.advance(300);
    assert!(counts().iter().all(|count| *count > 0), "rr reaches all: {:?}", counts());

    // By the client's address: all streams of this client go to one pod.
    scene.manifests.service(&service.clone().scheduler("sh"));
    eventually_equals("list shows sh", PATIENCE, &"sh".to_owned(), scheduler);
    std::thread::sleep(crate::scene::ON_ITS_WAY);
    let before = counts();
    load.advance(300);
    let grown = counts().iter().zip(&before).filter(|(now, then)| now > then).count();
    assert_eq!(grown, 1, "sh pins: {before:?} -> {:?}", counts());

    // A name nobody knows keeps the default.
    scene.manifests.service(&service.clone().scheduler("fastest"));
    eventually_equals("list shows rr", PATIENCE, &"rr".to_owned(), scheduler);
    eventually("the log names it", PATIENCE, || agent.log().contains("fastest"));
    let before = counts();
    load.advance(300);
    assert!(counts().iter().zip(&before).all(|(now, then)| now > then), "rr reaches all again");
    let report = load.stop().without_failure();
    assert_eq!(report.reconnected, 0, "all of it on one connection");
}

/// One connection from `client`, evenly to all three pods.
fn check_from(scene: &Scene, client: &Host) {
    for family in Family::BOTH {
        let service = grpc_service(family);
        let load = Load::unary(address(&service), 1).calls(300);
        let report = load.run(client).without_failure();
        assert!(
            report.spread(&PODS) <= 1,
            "{family:?} from {} in {:?}: {:?}",
            client.name(),
            scene.lab.node().name(),
            report.calls
        );
    }
}

/// Every kind of client a node has, both families, in one shape.
fn check_shape(shape: Shape) {
    let scene =
        Scene::of(Lab::builder().shape(shape).pod("client").pods(["a", "b"]).remote_pod("c"));
    let _endpoints = Family::BOTH.map(|family| scene.grpc(family, PODS));
    scene.publish(&dual_stack_grpc_service(), &PODS);
    for capture in ["iptables", "nftables"] {
        let _agent = scene.agent(&["--capture", capture]);
        check_from(&scene, scene.client());
        // A pod that is an endpoint itself may be given itself.
        check_from(&scene, scene.lab.pod("a"));
        // A process of the node, which has no default route.
        check_from(&scene, scene.lab.node());
    }
}

#[test]
fn every_client_of_a_point_to_point_node_is_served() {
    needs_node!();
    check_shape(Shape::PointToPoint);
}

#[test]
fn every_client_of_a_bridge_node_is_served() {
    needs_node!();
    check_shape(Shape::Bridge);
}

#[test]
fn every_client_of_an_unnumbered_node_is_served() {
    needs_node!();
    check_shape(Shape::Unnumbered);
}

#[test]
fn every_way_to_capture_captures() {
    needs_node!("iptables-nft", "iptables-legacy", "nft");
    for capture in CAPTURES {
        let scene = Scene::new();
        let _endpoints = Family::BOTH.map(|family| scene.grpc(family, PODS));
        scene.publish(&dual_stack_grpc_service(), &PODS);
        let _agent = scene.agent(capture);
        check_from(&scene, scene.client());
        let mut counts = Vec::new();
        for (program, arguments) in [
            ("iptables-nft-save", &["-t", "nat"][..]),
            ("iptables-legacy-save", &["-t", "nat"]),
            ("nft", &["list", "tables", "ip"]),
        ] {
            let output = scene.lab.node().output(program, arguments);
            let is_ours = output.contains("STREAMVS") || output.contains("streamvs-capture");
            counts.push(usize::from(is_ours));
        }
        assert_eq!(counts.iter().sum::<usize>(), 1, "{capture:?}: in one place: {counts:?}");
    }
}
