//! Aim: installed for labelled Services, the agent serves those and leaves all others to
//! kube-proxy. Method: the overlay's own command line; the label of KEP-2447 goes and comes on two
//! Services alike, and that of headless Services on a slice.

use std::io::ErrorKind;

use serde_json::Value;
use streamvs_support::Family;
use streamvs_support::agent::{Agent, PATIENCE};
use streamvs_support::grpc::load::Load;
use streamvs_support::lab::Lab;
use streamvs_support::manifest::Service;
use streamvs_support::wait::eventually_equals;

use crate::scene::{
    PODS, SERVICE_PORT, Scene, TARGET_PORT, address, connect, grpc_service, needs_node,
};

const OVERLAY: &str = "alongside-labelled";
const LABEL: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// The flag that makes the difference, as the cluster's DaemonSet has it.
fn flag(scene: &Scene) -> String {
    let path = "-o=jsonpath={.spec.template.spec.containers[0].args}";
    let arguments = ["get", "daemonset", "streamvs", "--namespace=kube-system", path];
    let printed = scene.cluster.kubectl(&arguments, "");
    let printed: Vec<String> = serde_json::from_str(&printed).expect("a list of texts");
    let mut flags = printed.into_iter().filter(|flag| flag.starts_with("--service-proxy-name"));
    flags.next().expect("the overlay has the flag")
}

/// Puts a label on an object, or takes it away: `KEY=VALUE` or `KEY-`.
fn label(scene: &Scene, object: &str, label: &str) {
    scene.cluster.kubectl(&["label", "--overwrite", object, label], "");
}

/// Demands that one of two Services is in the table and answers, or none, and that nobody answers
/// for the others.
#[track_caller]
fn expect(scene: &Scene, agent: &Agent, what: &str, services: [&Service; 2], ours: Option<&str>) {
    let wanted: Vec<String> = ours.into_iter().map(str::to_owned).collect();
    eventually_equals(&format!("{what}: all that is served"), PATIENCE, &wanted, || {
        let text = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
        agent.list().iter().map(text).collect()
    });
    for service in services {
        let target = address(service, Family::V4);
        if ours == Some(service.name()) {
            scene.wait_until_used(agent, service, &PODS);
            eventually_equals(what, PATIENCE, &Ok(()), || connect(scene, target));
            let report = Load::unary(target, 1).calls(30).run(scene.client()).without_failure();
            assert!(PODS.iter().all(|pod| report.of(pod) > 0), "{what}: {:?}", report.calls);
        } else {
            let nobody = Err(ErrorKind::TimedOut);
            eventually_equals(what, PATIENCE, &nobody, || connect(scene, target));
        }
    }
}

#[test]
fn the_overlay_for_labelled_services_serves_those_and_no_other() {
    needs_node!();
    let scene = Scene::of(Lab::builder().pod("client").pods(PODS), OVERLAY);
    let _endpoints = scene.grpc(Family::V4);
    let echo = grpc_service(&[Family::V4]);
    let chosen = Service::new("chosen", &[Family::V4], 20).port("grpc", SERVICE_PORT, TARGET_PORT);
    let ours = format!("{LABEL}=streamvs");
    for service in [&echo, &chosen] {
        scene.publish(service, &PODS);
    }
    label(&scene, "service/chosen", &ours);
    let agent = scene.agent(&[&flag(&scene)]);
    let expect =
        |what: &str, ours: Option<&str>| expect(&scene, &agent, what, [&echo, &chosen], ours);
    expect("one is labelled", Some("chosen"));
    label(&scene, "service/chosen", &format!("{LABEL}-"));
    expect("its label is gone", None);
    label(&scene, "service/echo", &ours);
    expect("the other is labelled", Some("echo"));
    label(&scene, "service/chosen", &format!("{LABEL}=other"));
    expect("one is another proxy's", Some("echo"));
    label(&scene, "service/echo", &format!("{LABEL}=other"));
    expect("both are", None);
    label(&scene, "service/chosen", &ours);
    expect("back", Some("chosen"));

    // The label of headless Services marks slices that are nothing to a proxy.
    let mut headless = chosen.slices(&scene.ready(&chosen, &["c"])).remove(0);
    headless["metadata"]["name"] = "headless".into();
    scene.write(&chosen, &scene.ready(&chosen, &["a", "b"]));
    scene.cluster.apply(&[headless]);
    scene.wait_until_used(&agent, &chosen, &PODS);
    label(&scene, "endpointslice/headless", &format!("{HEADLESS}="));
    scene.wait_until_used(&agent, &chosen, &["a", "b"]);
    label(&scene, "endpointslice/headless", &format!("{HEADLESS}-"));
    scene.wait_until_used(&agent, &chosen, &PODS);
}
