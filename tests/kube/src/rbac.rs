//! Aim: the agent runs with nothing more than the chart grants, and the chart grants nothing that
//! the agent does not use. Method: the API server's own audit log of what the agent asked for.

use std::collections::BTreeSet;

use serde_json::Value;
use streamvs_support::Family;
use streamvs_support::agent::PATIENCE;
use streamvs_support::grpc::load::Load;
use streamvs_support::wait::eventually;

use crate::cluster::Reach;
use crate::manifests::rendered;
use crate::scene::{PODS, Scene, address, grpc_service, needs_node};

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/streamvs";

/// Group, resource and verb.
type Right = (String, String, String);

/// What the role on the server grants.
fn granted(scene: &Scene) -> BTreeSet<Right> {
    let role = scene.cluster.block_on(|api| async move { api.get(ROLE).await });
    let role = role.expect("the role is there");
    let texts = |value: &Value| -> Vec<String> {
        let texts = value.as_array().into_iter().flatten();
        texts.filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().expect("a role has rules") {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    rights.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    rights
}

#[test]
fn the_chart_grants_what_the_agent_uses_and_no_more() {
    needs_node!();
    let mut scene = Scene::new();
    scene.cluster.kubectl(&["apply", "-f", "-"], &rendered(&[]));
    let _endpoints = scene.grpc(Family::V4);
    let service = grpc_service(&[Family::V4]);
    scene.publish(&service, &PODS);
    let agent = scene.agent(&[]);
    let load = Load::unary(address(&service, Family::V4), 1).calls(30);
    load.run(scene.client()).without_failure();
    let requests = scene.cluster.requests_of("kube-system", "streamvs");
    let refused: Vec<_> = requests.iter().filter(|request| request.status == 403).collect();
    assert!(refused.is_empty(), "{refused:#?}");

    // An outage too, so that everything is asked for that ever is. A server that has just started
    // may refuse everybody until it has read its roles.
    scene.cluster.kill_server();
    scene.cluster.start_server(Reach::Lab);
    scene.publish(&service, &["a"]);
    scene.wait_until_used(&agent, &service, &["a"]);

    let used: BTreeSet<Right> = scene
        .cluster
        .requests_of("kube-system", "streamvs")
        .into_iter()
        .filter(|request| !request.resource.is_empty() && request.status < 300)
        .map(|request| (request.group, request.resource, request.verb))
        .collect();
    let mut unused: Vec<Right> = granted(&scene).difference(&used).cloned().collect();
    // This server sends the list as the beginning of a watch, one before 1.34 need not; and an
    // event is patched when it happens again.
    unused.retain(|(_, _, verb)| verb != "list");
    unused.retain(|unused| *unused != right("events.k8s.io", "events", "patch"));
    assert!(unused.is_empty(), "granted and never used: {unused:#?}");
}

#[test]
fn a_right_that_is_missing_is_named_and_its_coming_is_noticed() {
    needs_node!();
    let scene = Scene::new();
    let _endpoints = scene.grpc(Family::V4);
    let service = grpc_service(&[Family::V4]);
    scene.publish(&service, &PODS);
    // The rules stand in the order of deploy/: the second one is for EndpointSlices.
    let patch = |operation: &str| {
        let arguments = ["patch", "clusterrole", "streamvs", "--type=json", "-p", operation];
        scene.cluster.kubectl(&arguments, "");
    };
    assert!(granted(&scene).contains(&right("discovery.k8s.io", "endpointslices", "list")));
    patch(r#"[{"op":"replace","path":"/rules/1/resources","value":["none"]}]"#);
    let mut agent = scene.agent_without_waiting(&[]);
    eventually("the log names what is forbidden", PATIENCE, || {
        let log = agent.log();
        log.lines().any(|line| line.contains("forbidden") && line.contains("endpointslices"))
    });
    assert_eq!(agent.ended(), None, "it stays and tries again");
    patch(r#"[{"op":"replace","path":"/rules/1/resources","value":["endpointslices"]}]"#);
    let agent = agent.wait_until_healthy();
    scene.wait_until_used(&agent, &service, &PODS);
}

fn right(group: &str, resource: &str, verb: &str) -> Right {
    (group.to_owned(), resource.to_owned(), verb.to_owned())
}
