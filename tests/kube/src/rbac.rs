//! Aim: the agent runs with nothing more than the chart grants, and the chart grants nothing that
//! the agent does not use. Method: the API server's own audit log of what the agent asked for.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use streamvs_support::Family;
use streamvs_support::agent::PATIENCE;
use streamvs_support::grpc::load::Load;
use streamvs_support::wait::{eventually, eventually_equals};

use crate::cluster::{Reach, Request};
use crate::manifests::rendered;
use crate::scene::{PODS, Scene, address, grpc_service, needs_node};

/// The agent's ServiceAccount.
const NAMESPACE: &str = "kube-system";
const NAME: &str = "streamvs";

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

/// What the agent asked for so far, with the status of the answer, in the order of the answers.
fn answers(scene: &Scene) -> Vec<(Right, u64)> {
    let requests = scene.cluster.requests_of(NAMESPACE, NAME).into_iter();
    requests
        .filter(|request| !request.resource.is_empty())
        .map(|Request { group, resource, verb, status, .. }| ((group, resource, verb), status))
        .collect()
}

/// Each watch leaves out on the server what the agent would throw away, and has bookmarks, without
/// which a quiet kind falls behind what the server remembers.
fn expect_only_what_is_needed(requests: &[Request]) {
    for (resource, parameter, value) in [
        ("services", "labelSelector", "%21service.kubernetes.io%2Fservice-proxy-name"),
        ("services", "fieldSelector", "spec.clusterIP%21%3DNone"),
        ("endpointslices", "labelSelector", "%21service.kubernetes.io%2Fheadless"),
        ("nodes", "fieldSelector", "metadata.name%3Dnode"),
        ("servicecidrs", "allowWatchBookmarks", "true"),
    ] {
        let of_kind = requests.iter().filter(|request| request.resource == resource);
        let watches: Vec<_> = of_kind.filter(|request| request.verb == "watch").collect();
        assert!(!watches.is_empty(), "{resource} are watched");
        for watch in watches {
            assert!(watch.asks(parameter, value), "{parameter}: {watch:?}");
            assert!(watch.asks("allowWatchBookmarks", "true"), "{watch:?}");
        }
    }
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
    let requests = scene.cluster.requests_of(NAMESPACE, NAME);
    let refused: Vec<_> = requests.iter().filter(|request| request.status == 403).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    expect_only_what_is_needed(&requests);

    // An outage too, so that everything is asked for that ever is.
    scene.cluster.kill_server();
    scene.cluster.start_server(Reach::Lab);
    scene.publish(&service, &["a"]);
    scene.wait_until_used(&agent, &service, &["a"]);
    // A server that has just started may refuse everybody until it has read its roles. So what
    // counts of a right is the last answer.
    eventually_equals("what is still refused", PATIENCE, &BTreeSet::new(), || {
        let last: BTreeMap<Right, u64> = answers(&scene).into_iter().collect();
        last.into_iter().filter(|(_, status)| *status == 403).map(|(right, _)| right).collect()
    });

    let answers = answers(&scene).into_iter();
    let used: BTreeSet<Right> =
        answers.filter(|(_, status)| *status < 300).map(|(right, _)| right).collect();
    let mut unused: Vec<Right> = granted(&scene).difference(&used).cloned().collect();
    // This server sends the list as the beginning of a watch, one before 1.34 need not.
    unused.retain(|(_, _, verb)| verb != "list");
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
