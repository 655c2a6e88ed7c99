//! Aim: each scheduler does what its name says, asked for by flag and by live annotation, for
//! streams and for whole connections, and heeds weights where it says so.
//! Method: one connection, three pods, and for each name what it must and must not do; then plain
//! connections that are held open, counted by pod.

use std::collections::BTreeMap;
use std::net::TcpStream;

use streamvs_support::agent::{Agent, PATIENCE};
use streamvs_support::grpc::load::Load;
use streamvs_support::grpc::{self, Conduct};
use streamvs_support::manifest::Service;
use streamvs_support::tcp::load::{self, First};
use streamvs_support::wait::eventually_equals;
use streamvs_support::{Family, tcp};

use crate::scene::{ON_ITS_WAY, PODS, SERVICE_PORT, Scene, address, grpc_service, needs_node};

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

fn listed(agent: &Agent, service: &str) -> String {
    let list = agent.list();
    let port = list.iter().find(|port| port["name"] == service).expect("the Service is listed");
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
        eventually_equals("list shows it", PATIENCE, &(*name).to_owned(), || {
            listed(&agent, "echo")
        });
        std::thread::sleep(ON_ITS_WAY);
        check(&scene, &endpoints, name, *promise);
    }
    // Without the annotation: the default again.
    scene
        .cluster
        .kubectl(&["annotate", "service/echo", "streamvs.io/scheduler=sh", "--overwrite"], "");
    eventually_equals("list shows sh", PATIENCE, &"sh".to_owned(), || listed(&agent, "echo"));
    scene.cluster.kubectl(&["annotate", "service/echo", "streamvs.io/scheduler-"], "");
    eventually_equals("list shows rr", PATIENCE, &"rr".to_owned(), || listed(&agent, "echo"));
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
        eventually_equals("list shows it", PATIENCE, &(*name).to_owned(), || {
            listed(&agent, "echo")
        });
        check(&scene, &endpoints, name, *promise);
        agent.kill();
    }
}

/// Where plain endpoints listen.
const TCP_PORT: u16 = 8080;

/// A Service whose connections are balanced as a whole.
struct Plain {
    scene: Scene,
    agent: Agent,
    service: Service,
    _endpoints: [tcp::Endpoint; 3],
}

/// Open connections, by the pod that answered.
type Held = BTreeMap<String, Vec<TcpStream>>;

impl Plain {
    fn start() -> Self {
        let scene = Scene::new();
        let service = Service::new("plain", &[Family::V4], 11).port("tcp", SERVICE_PORT, TCP_PORT);
        let start = |pod| {
            let host = scene.lab.pod(pod);
            tcp::Endpoint::start(host, Family::V4, TCP_PORT, tcp::Speak::Echo)
        };
        let _endpoints = PODS.map(start);
        scene.publish(&service, &PODS);
        let agent = scene.agent(&[]);
        Self { scene, agent, service, _endpoints }
    }

    /// Asks for a scheduler, and waits until it is in force.
    #[track_caller]
    fn schedule(&self, name: &str) {
        let annotation = format!("streamvs.io/scheduler={name}");
        let arguments = ["annotate", "--overwrite", "service/plain", &annotation];
        self.scene.cluster.kubectl(&arguments, "");
        eventually_equals("list shows it", PATIENCE, &name.to_owned(), || {
            listed(&self.agent, "plain")
        });
    }

    /// Opens so many connections, one after the other, and holds them.
    #[track_caller]
    fn hold(&self, count: usize) -> Held {
        let target = address(&self.service, Family::V4);
        let mut held = Held::new();
        for _ in 0..count {
            let opened = self.scene.client().run(|| load::open(target, First::Client));
            let (socket, pod) = opened.expect("an endpoint answers");
            held.entry(pod).or_default().push(socket);
        }
        held
    }

    /// Waits until the agent has as many open connections to each pod.
    #[track_caller]
    fn expect_open(&self, counts: [u64; 3]) {
        eventually_equals("open connections by pod", PATIENCE, &counts, || {
            let endpoints = self.agent.endpoints("plain");
            PODS.map(|pod| {
                let endpoint = &endpoints[&self.scene.lab.pod(pod).at(Family::V4, TCP_PORT)];
                endpoint["activeConnections"].as_u64().expect("list counts them")
            })
        });
    }

    /// Opens twelve connections under a scheduler and demands who gets how many.
    #[track_caller]
    fn expect_twelve(&self, name: &str, counts: [usize; 3]) {
        self.expect_open([0; 3]);
        self.schedule(name);
        assert_eq!(counts_of(&self.hold(12)), counts, "{name}");
    }
}

fn counts_of(held: &Held) -> [usize; 3] {
    PODS.map(|pod| held.get(pod).map_or(0, Vec::len))
}

#[test]
fn connections_are_scheduled_as_streams_are_and_weights_count_where_they_should() {
    needs_node!();
    let plain = Plain::start();
    plain.expect_twelve("rr", [4; 3]);

    // Whoever has the fewest open connections gets the next.
    plain.expect_open([0; 3]);
    plain.schedule("lc");
    let mut held = plain.hold(6);
    assert_eq!(counts_of(&held), [2; 3]);
    held.remove("b");
    plain.expect_open([2, 0, 2]);
    let more = plain.hold(2);
    assert_eq!(counts_of(&more), [0, 2, 0], "lc: the idle pod gets them");
    drop((held, more));

    plain.expect_open([0; 3]);
    plain.schedule("sh");
    assert_eq!(plain.hold(12).len(), 1, "sh: a client has one pod");

    // A slice for each pod, as a weight is said of a slice.
    let slice = |number: usize| {
        let ready = plain.scene.ready(&plain.service, &[PODS[number]]);
        let mut slice = plain.service.slices(&ready).remove(0);
        slice["metadata"]["name"] = format!("plain-{}", PODS[number]).into();
        slice["metadata"]["annotations"] =
            serde_json::json!({ "streamvs.io/weight": (number + 1).to_string() });
        slice
    };
    plain.scene.cluster.apply(&[slice(0), slice(1), slice(2)]);
    plain.scene.cluster.delete(&plain.service.slices(&[])[0]);
    let weights = || {
        let endpoints = plain.agent.endpoints("plain");
        endpoints.into_values().map(|endpoint| endpoint["weight"].as_u64()).collect::<Vec<_>>()
    };
    eventually_equals("the weights", PATIENCE, &vec![Some(1), Some(2), Some(3)], weights);
    for (name, counts) in [("wrr", [2, 4, 6]), ("wlc", [2, 4, 6]), ("rr", [4; 3]), ("lc", [4; 3])] {
        plain.expect_twelve(name, counts);
    }
    let annotate = ["annotate", "--overwrite", "endpointslice/plain-c", "streamvs.io/weight=0"];
    plain.scene.cluster.kubectl(&annotate, "");
    eventually_equals("the weights", PATIENCE, &vec![Some(1), Some(2), Some(0)], weights);
    plain.expect_twelve("wrr", [4, 8, 0]);
}
