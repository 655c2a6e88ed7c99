//! Aim: the manifests ask for what the agent needs, and for nothing else.
//! Method: they are read as YAML; a test names what must stand there.

use serde_json::{Value, json};

use crate::files::{deploy, document, documents, read, yaml_files};

fn daemon_set() -> Value {
    document(&deploy().join("base/daemonset.yaml"))
}

fn container() -> Value {
    daemon_set()["spec"]["template"]["spec"]["containers"][0].clone()
}

#[test]
fn every_manifest_is_an_object_with_kind_and_version() {
    let values = |path: &std::path::Path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("values"))
    };
    let files = yaml_files(&deploy());
    assert!(files.len() > 15, "{files:?}");
    for path in files.iter().filter(|path| !values(path) && !path.ends_with("Chart.yaml")) {
        for document in documents(&read(path)) {
            for key in ["kind", "apiVersion"] {
                assert!(document[key].is_string(), "{key} in {}", path.display());
            }
        }
    }
}

#[test]
fn the_role_grants_exactly_what_the_agent_asks_the_server_for() {
    let wanted = json!([
        { "apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"] },
        { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
          "verbs": ["list", "watch"] },
        { "apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"] },
        { "apiGroups": ["networking.k8s.io"], "resources": ["servicecidrs"],
          "verbs": ["list", "watch"] },
        { "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"] },
    ]);
    assert_eq!(document(&deploy().join("base/clusterrole.yaml"))["rules"], wanted);
}

#[test]
fn the_container_has_two_capabilities_and_a_read_only_root() {
    let wanted = json!({
        "runAsUser": 0,
        "runAsGroup": 0,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"] },
    });
    assert_eq!(container()["securityContext"], wanted);
    let pod = &daemon_set()["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let host_paths: Vec<&Value> = pod["volumes"]
        .as_array()
        .expect("volumes")
        .iter()
        .filter_map(|volume| volume.get("hostPath").map(|path| &path["path"]))
        .collect();
    assert_eq!(host_paths, ["/run/streamvs", "/var/lib/streamvs", "/run/xtables.lock"]);
}

#[test]
fn a_restart_is_decided_by_livez_and_readiness_by_healthz() {
    let path = |probe: &str| container()[probe]["httpGet"]["path"].clone();
    assert_eq!(path("livenessProbe"), "/livez");
    assert_eq!(path("readinessProbe"), "/healthz");
}

#[test]
fn the_pod_may_take_longer_to_end_than_the_agent_drains() {
    let arguments = container()["args"].clone();
    let drain: u64 = arguments
        .as_array()
        .expect("arguments")
        .iter()
        .find_map(|argument| argument.as_str()?.strip_prefix("--drain-timeout=")?.strip_suffix('s'))
        .expect("the drain timeout is given")
        .parse()
        .expect("it is in seconds");
    let grace = daemon_set()["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64();
    assert!(grace >= Some(drain + 30), "{grace:?} for {drain}");
}

#[test]
fn a_new_agent_comes_up_beside_the_old_one_and_takes_over() {
    let rolling = daemon_set()["spec"]["updateStrategy"]["rollingUpdate"].clone();
    assert_eq!(rolling["maxUnavailable"], 0);
    assert_eq!(rolling["maxSurge"], "10%");
    // Ports of a pod on the node's network are reserved there, and two pods cannot have the same.
    assert!(container().get("ports").is_none());
    // The old one must not be started again when it has handed over.
    let arguments = container()["args"].clone();
    let arguments = arguments.as_array().expect("arguments");
    assert!(arguments.iter().any(|argument| argument == "--handover=stay"));
}
