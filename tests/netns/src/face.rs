//! Aim: who knows kube-proxy knows this program: its configuration file and its pages; and why
//! things are as they are is told.
//! Method: the ConfigMap of a kubeadm cluster is given unchanged, and the pages are read.

use std::net::SocketAddr;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;
use streamvs_support::Family;
use streamvs_support::agent::{Agent, METRICS_PORT, PATIENCE};
use streamvs_support::grpc::load::Load;
use streamvs_support::wait::{eventually, eventually_equals};

use crate::scene::{PODS, SERVICE_PORT, Scene, grpc_service, needs_node};

const KUBEADM: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/node/testdata/kubeadm/config.conf");

fn page(agent: &Agent, path: &str) -> String {
    let answer = agent.page(METRICS_PORT, path).expect("the metrics port is served");
    assert_eq!(answer.status, 200, "{path}");
    answer.body
}

fn configz(agent: &Agent) -> Value {
    let page: Value = serde_json::from_str(&page(agent, "/configz")).expect("is JSON");
    page["kubeproxy.config.k8s.io"].clone()
}

#[test]
fn a_kubeadm_clusters_file_starts_the_agent_and_shows_in_its_pages() {
    needs_node!();
    let scene = Scene::new();
    let agent = scene.agent(&["--config", KUBEADM, "--oom-score-adj=500"]);
    let configuration = configz(&agent);
    assert_eq!(configuration["kind"], "KubeProxyConfiguration");
    assert_eq!(configuration["clusterCIDR"], "10.244.0.0/16");
    assert_eq!(configuration["hostnameOverride"], "node");
    assert_eq!(configuration["iptables"]["syncPeriod"], "30s");
    assert_eq!(page(&agent, "/proxyMode"), "streamvs");
    assert_eq!(page(&agent, "/healthz"), "ok");
    assert!(page(&agent, "/flagz").contains("\nipvs-scheduler=rr\n"));
    assert!(page(&agent, "/statusz").contains("Paths: /configz "));
    eventually("the log names what has no effect", PATIENCE, || {
        agent.log().contains("clientConnection.kubeconfig has no effect")
    });
    let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", agent.id()));
    // Raised, which needs no privilege; lowering is refused in many containers.
    assert_eq!(score.expect("the agent runs").trim(), "500");
}

#[test]
fn a_hangup_changes_the_scheduler_and_names_what_it_cannot_change() {
    needs_node!();
    let scene = Scene::new();
    let service = grpc_service(Family::V4);
    scene.publish(&service, &PODS);
    let file = scene.folder.path().join("config.conf");
    write(&file, "{scheduler: lc}", "0.0.0.0:10249");
    let config = file.to_str().expect("is text");
    let agent = scene.agent(&["--config", config]);
    let scheduler = || agent.list()[0]["scheduler"].clone();
    eventually_equals("the file's scheduler", PATIENCE, &Value::from("lc"), scheduler);

    write(&file, "{scheduler: sed}", "0.0.0.0:10300");
    hang_up(&agent);
    eventually_equals("the new scheduler", PATIENCE, &Value::from("sed"), scheduler);
    assert_eq!(configz(&agent)["ipvs"]["scheduler"], "sed");
    assert_eq!(configz(&agent)["metricsBindAddress"], "0.0.0.0:10249");
    assert!(agent.log().contains("takes effect at the next start only"), "{}", agent.log());

    write(&file, "{scheduler: fastest}", "0.0.0.0:10249");
    hang_up(&agent);
    eventually("the fault is told", PATIENCE, || {
        agent.log().contains("ipvs.scheduler cannot be \"fastest\"")
    });
    assert_eq!(scheduler(), "sed");
}

#[test]
fn explain_tells_of_a_service_and_of_one_that_is_not_there() {
    needs_node!();
    let scene = Scene::new();
    scene.publish(&grpc_service(Family::V4), &PODS);
    let agent = scene.agent(&[]);
    let asked = |service: &str| {
        let output = agent.command(&["explain", service]);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = asked("echo");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("balance: 3 of 3 endpoints are used"), "{text}");
    assert_eq!(text.matches("ready (conditions.ready, KEP-752)").count(), 3, "{text}");
    let (code, text) = asked("default/ehco");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("like it are: default/echo"), "{text}");
    assert_eq!(asked("a/b/c").0, Some(2));
}

#[test]
fn top_shows_the_service_that_has_work_and_slis_that_all_is_well() {
    needs_node!();
    let scene = Scene::new();
    let service = grpc_service(Family::V4);
    scene.publish(&service, &PODS);
    let agent = scene.agent(&[]);
    let top = || {
        let output = agent.command(&["top", "--once", "--interval", "200ms"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(top().starts_with("0 of 1 Service ports busy"), "{}", top());
    let _endpoints = scene.grpc(Family::V4, PODS);
    let target = SocketAddr::new(service.ip(Family::V4), SERVICE_PORT);
    let load = Load::unary(target, 1).start(scene.client());
    load.advance(100);
    let text = top();
    load.stop().without_failure();
    assert!(text.starts_with("1 of 1 Service ports busy"), "{text}");
    assert!(text.contains(" default/echo"), "{text}");
    assert!(!text.contains('\u{1b}'), "no control codes where there is no terminal: {text}");
    let slis = page(&agent, "/metrics/slis");
    assert!(
        slis.contains("kubernetes_healthcheck{name=\"streamvs\",type=\"healthz\"} 1"),
        "{slis}"
    );
}

pub(crate) fn write(file: &Path, ipvs: &str, metrics: &str) {
    let text = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         metricsBindAddress: {metrics}\nipvs: {ipvs}\n"
    );
    std::fs::write(file, text).expect("a file can be written");
}

fn hang_up(agent: &Agent) {
    agent.signal(Signal::SIGHUP);
}
