//! Aim: each scheduler does what its name says, asked for by flag and by live annotation.
//! Method: one connection, three pods, and for each name what it must and must not do.

use streamvs_support::Family;
use streamvs_support::agent::{Agent, PATIENCE};
use streamvs_support::grpc::load::Load;
use streamvs_support::grpc::{self, Conduct};
use streamvs_support::wait::eventually_equals;

use crate::scene::{ON_ITS_WAY, PODS, Scene, address, grpc_service, needs_node};

/// What a scheduler promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    /// Exact rotation; it looks at nothing.
    Rotates,
    /// Fair chance.
    Random,
    /// A pod that does not answer gets no more than its share of what is open.
    Avoids,
    /// All of a client's streams to one pod.
    Pins,
    /// One pod as long as it has room: a weight of 1 is room for one stream at a time.
    Fills,
}

/// Every name of `--ipvs-scheduler`.
const SCHEDULERS: &[(&str, Promise)] = &[
    ("rr", Promise::Rotates),
    ("wrr", Promise::Rotates),
    ("random", Promise::Random),
    ("lc", Promise::Avoids),
    ("wlc", Promise::Avoids),
    ("sed", Promise::Avoids),
    ("nq", Promise::Avoids),
    ("twos", Promise::Avoids),
    ("sh", Promise::Pins),
    ("mh", Promise::Pins),
    ("fo", Promise::Pins),
    ("ovf", Promise::Fills),
    // Of no use with one address a Service: accepted, and they do as `rr` does.
    ("dh", Promise::Rotates),
    ("lblc", Promise::Rotates),
    ("lblcr", Promise::Rotates),
];

fn listed(agent: &Agent) -> String {
    let list = agent.list();
    let port = list.iter().find(|port| port["name"] == "echo").expect("the Service is listed");
    port["scheduler"].as_str().unwrap_or_default().to_owned()
}

/// Holds a running agent to a promise.
#[track_caller]
fn check(scene: &Scene, endpoints: &[grpc::Endpoint], name: &str, promise: Promise) {
    let target = address(&grpc_service(&[Family::V4]), Family::V4);
    let run = |calls| Load::unary(target, 1).calls(calls).run(scene.client()).without_failure();
    match promise {
        Promise::Rotates => {
            let report = run(300);
            assert!(report.spread(&PODS) <= 1, "{name}: {:?}", report.calls);
        }
        Promise::Random => {
            let report = run(3000);
            // Each gets 1000, sigma = sqrt(3000 * 1/3 * 2/3) = 25.8; four of them.
            assert!(PODS.iter().all(|pod| report.of(pod).abs_diff(1000) <= 104), "{report:?}");
        }
        Promise::Avoids => {
            let before = endpoints[0].calls();
            endpoints[0].conduct(Conduct::Stuck);
            let load = Load::unary(target, 1).start(scene.client());
            load.advance(500);
            let stuck = endpoints[0].calls() - before;
            endpoints[0].conduct(Conduct::Steady);
            load.stop().without_failure();
            // Ten are open at most. `twos` compares two at random, so it may let in a few more
            // than the least loaded of all would have; never a third of 500.
            assert!(stuck <= 10, "{name}: {stuck} calls went to the pod that does not answer");
        }
        Promise::Pins => {
            let report = run(300);
            assert_eq!(report.calls.len(), 1, "{name}: {:?}", report.calls);
        }
        Promise::Fills => {
            let one = Load::unary(target, 1).streams(1).calls(300).run(scene.client());
            assert_eq!(one.without_failure().calls.len(), 1, "{name}");
            assert_eq!(run(300).calls.len(), 3, "{name}");
        }
    }
}

#[test]
fn the_annotation_asks_for_each_while_the_agent_runs() {
    needs_node!();
    let scene = Scene::new();
    let endpoints = scene.grpc(Family::V4);
    let service = grpc_service(&[Family::V4]);
    scene.publish(&service, &PODS);
    let agent = scene.agent(&[]);
    for (name, promise) in SCHEDULERS {
        let annotation = format!("streamvs.io/scheduler={name}");
        scene.cluster.kubectl(&["annotate", "--overwrite", "service/echo", &annotation], "");
        eventually_equals("list shows it", PATIENCE, &(*name).to_owned(), || listed(&agent));
        std::thread::sleep(ON_ITS_WAY);
        check(&scene, &endpoints, name, *promise);
    }
    // Without the annotation: the default again.
    scene
        .cluster
        .kubectl(&["annotate", "service/echo", "streamvs.io/scheduler=sh", "--overwrite"], "");
    eventually_equals("list shows sh", PATIENCE, &"sh".to_owned(), || listed(&agent));
    scene.cluster.kubectl(&["annotate", "service/echo", "streamvs.io/scheduler-"], "");
    eventually_equals("list shows rr", PATIENCE, &"rr".to_owned(), || listed(&agent));
}

#[test]
fn the_flag_asks_for_each() {
    needs_node!();
    let scene = Scene::new();
    let endpoints = scene.grpc(Family::V4);
    let service = grpc_service(&[Family::V4]);
    scene.publish(&service, &PODS);
    for (name, promise) in SCHEDULERS {
        let mut agent = scene.agent(&["--ipvs-scheduler", name]);
        eventually_equals("list shows it", PATIENCE, &(*name).to_owned(), || listed(&agent));
        check(&scene, &endpoints, name, *promise);
        agent.kill();
    }
}
