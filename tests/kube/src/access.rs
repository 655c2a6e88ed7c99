//! Aim: the API server is reached as the environment, the flags or kube-proxy's own files say, and
//! by its ClusterIP past our capture. Method: the agent with the files and variables of a pod, next
//! to what kube-proxy has for `default/kubernetes`; the connections that were captured are counted.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use streamvs_support::agent::{Agent, PATIENCE, Source, program};
use streamvs_support::kube_rules::{self, ServicePort};
use streamvs_support::lab::Lab;
use streamvs_support::wait::{eventually, eventually_equals};
use streamvs_support::{Family, needs};

use crate::cluster::Reach;
use crate::scene::{PODS, Scene, grpc_service, needs_node};

/// The files of a kubeadm cluster's ConfigMap `kube-proxy`, unchanged.
const KUBEADM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/node/testdata/kubeadm");

/// The file system of a container: with a ServiceAccount's files, a ConfigMap's, and the node's
/// hosts. The node's own is not touched.
const CONTAINER: &str = r#"set -e
mount -t tmpfs none /var/run
mkdir -p /var/run/secrets/kubernetes.io/serviceaccount
mount --bind "$1" /var/run/secrets/kubernetes.io/serviceaccount
mount -t tmpfs none /var/lib
mkdir /var/lib/kube-proxy
mount --bind "$2" /var/lib/kube-proxy
mount --bind "$3" /etc/hosts
shift 3
exec "$@"
"#;

/// The program in a container of the agent's ServiceAccount.
fn container(scene: &Scene) -> Command {
    let hosts = scene.folder.path().join("hosts");
    let server = scene.lab.control().ip(Family::V4);
    std::fs::write(&hosts, format!("127.0.0.1 localhost\n{server} controlplane\n"))
        .expect("a new folder can be written to");
    let mut command = scene.lab.node().command("unshare");
    command
        .args(["--mount", "sh", "-c", CONTAINER, "sh"])
        .arg(scene.cluster.account_folder("kube-system", "streamvs"))
        .args([Path::new(KUBEADM), &hosts])
        .arg(program())
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env_remove("KUBERNETES_SERVICE_PORT");
    command
}

/// The same with what the kubelet tells every pod, which is all that `deploy/` gives.
fn pod(scene: &Scene) -> Agent {
    let mut command = container(scene);
    command
        .env("KUBERNETES_SERVICE_HOST", Lab::service_address(Family::V4, 1).to_string())
        .env("KUBERNETES_SERVICE_PORT", "443");
    // Of an outage's failures only the first is told at the usual level.
    start(scene, command, Source::Surroundings, &["-v=debug"])
}

#[track_caller]
fn start(scene: &Scene, command: Command, source: Source<'_>, flags: &[&str]) -> Agent {
    let agent = Agent::spawn_by(command, scene.lab.node(), scene.folder.path(), source, flags);
    let agent = agent.wait_until_healthy();
    let server = scene.lab.control().at(Family::V4, 6443);
    assert_eq!(agent.usable("kubernetes"), [server], "{}", agent.log());
    agent
}

/// Connections to the API server's ClusterIP that went through the agent.
fn carried(agent: &Agent) -> f64 {
    agent.metric("streamvs_connections_total", &[("service", "kubernetes")]).unwrap_or(0.0)
}

/// What kube-proxy has for `default/kubernetes`.
fn serve_by_kube_proxy(scene: &Scene) {
    let port = ServicePort {
        name: "default/kubernetes:https".to_owned(),
        address: (Lab::service_address(Family::V4, 1), 443).into(),
        endpoints: vec![scene.lab.control().at(Family::V4, 6443)],
    };
    kube_rules::apply(scene.lab.node(), &[port]);
}

#[test]
fn the_server_is_reached_as_told_and_never_through_a_capture_of_ours() {
    needs_node!();
    needs!("unshare", "mount");
    let mut scene = Scene::new();
    serve_by_kube_proxy(&scene);
    let service = grpc_service(&[Family::V4]);
    scene.publish(&service, &PODS);
    let mut agent = pod(&scene);
    scene.wait_until_used(&agent, &service, &PODS);

    // Who asks from this node by the same address is captured; the agent is not, though its watches
    // come back when all is captured.
    let server = format!("https://{}", Lab::service_address(Family::V4, 1));
    let kubeconfig = scene.cluster.kubeconfig_for(&server);
    scene.lab.node().block_on(|| async {
        let api = crate::Api::new(&kubeconfig).await;
        let nodes = tokio::time::timeout(PATIENCE, api.get("/api/v1/nodes")).await;
        nodes.expect("in time").expect("the API server answers");
    });
    eventually_equals("one connection is captured", PATIENCE, &1.0, || carried(&agent));
    let publish = |scene: &Scene, agent: &Agent, pods: &[&str]| {
        scene.publish(&service, pods);
        scene.wait_until_used(agent, &service, pods);
    };
    restart_server(&mut scene);
    publish(&scene, &agent, &["a"]);
    assert_eq!(carried(&agent), 1.0, "a watch that came back is captured");

    // The account is another one of the same name: its old tokens are worth nothing.
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": "streamvs", "namespace": "kube-system" },
    });
    scene.cluster.delete(&account);
    scene.cluster.apply(&[account]);
    restart_server(&mut scene);
    eventually("the token is refused", PATIENCE, || {
        agent.log().contains("401: the server does not accept our credentials")
    });
    scene.cluster.account_folder("kube-system", "streamvs");
    publish(&scene, &agent, &["b"]);
    assert_eq!(carried(&agent), 1.0, "a watch with a new token is captured");

    // A start without a table of its own, where the rules of one that crashed still are.
    agent.kill();
    std::fs::remove_file(scene.folder.path().join("streamvs.state")).expect("it was written");
    let mut agent = pod(&scene);
    scene.wait_until_used(&agent, &service, &["b"]);
    assert_eq!(carried(&agent), 0.0, "the way to the first table is captured");
    agent.kill();

    // The URL of a flag is used in place of the kubeconfig's, at which nobody is.
    let elsewhere = scene.cluster.kubeconfig_for("https://192.0.2.1:6443");
    let command = scene.lab.node().command(program());
    let flags = ["--master", &scene.cluster.url()];
    start(&scene, command, Source::Kubeconfig(&elsewhere), &flags).kill();

    let flags = ["--config=/var/lib/kube-proxy/config.conf"];
    let mut agent = start(&scene, container(&scene), Source::Surroundings, &flags);
    assert!(agent.log().contains("https://controlplane:6443"), "{}", agent.log());
    agent.kill();
}

fn restart_server(scene: &mut Scene) {
    scene.cluster.kill_server();
    scene.cluster.start_server(Reach::Lab);
}
