//! Aim: the control plane is a real one and does what the other tests ask of it. Method: by
//! kubectl and by the API, with nobody else in the lab.

use serde_json::json;
use streamvs_support::Family;
use streamvs_support::lab::Lab;
use streamvs_support::manifest::{Endpoint, Service};
use streamvs_support::needs;

use super::{Cluster, Reach};

fn service() -> Service {
    Service::new("echo", &Family::BOTH, 10).port("grpc", 80, 9000)
}

#[test]
fn a_service_outlives_the_server_and_an_old_watch_is_told_to_list() {
    needs!("ip", "nsenter");
    let lab = Lab::builder().control().build();
    let mut cluster = Cluster::start(&lab);
    let applied = cluster.kubectl(&["apply", "-f", "-"], &service().object().to_string());
    assert_eq!(applied, "service/echo created\n");
    cluster.apply(&service().slices(&[Endpoint::at("10.244.1.10".parse().unwrap())]));
    let addresses = ["get", "service", "echo", "-o", "jsonpath={.spec.clusterIPs}"];
    assert_eq!(cluster.kubectl(&addresses, ""), r#"["10.96.0.10","fd00:10:96::10"]"#);
    let version = |cluster: &Cluster| {
        cluster.block_on(|api| async move {
            let services = api.get("/api/v1/services").await.unwrap();
            services["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
        })
    };
    let old = version(&cluster);

    cluster.kill_server();
    let refused = cluster.block_on(|api| async move { api.text("/readyz").await });
    assert!(refused.is_err(), "it is dead: {refused:?}");
    cluster.start_server(Reach::Host);
    assert_eq!(cluster.kubectl(&addresses, ""), r#"["10.96.0.10","fd00:10:96::10"]"#);
    let outside =
        lab.node().run(|| std::net::TcpStream::connect(lab.control().at(Family::V4, 6443)));
    assert!(outside.is_err(), "only its own host reaches it");
    cluster.apply(&[service().affinity(600).object()]);
    assert_ne!(version(&cluster), old);
    cluster.kill_server();
    cluster.compact();
    cluster.start_server(Reach::Lab);
    lab.node().run(|| std::net::TcpStream::connect(lab.control().at(Family::V4, 6443))).unwrap();

    let path = format!("/api/v1/services?watch=true&resourceVersion={old}");
    let gone = cluster.block_on(|api| async move { api.text(&path).await });
    let said = format!("{gone:?}");
    assert!(said.contains("410"), "{said}");
}

#[test]
fn an_account_may_do_nothing_until_a_role_says_so() {
    needs!("ip", "nsenter");
    let lab = Lab::builder().control().build();
    let cluster = Cluster::start(&lab);
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": "nobody", "namespace": "kube-system" },
    });
    cluster.apply(&[account]);
    let kubeconfig = cluster.account_kubeconfig("kube-system", "nobody");
    lab.node().block_on(|| async {
        let api = crate::Api::new(&kubeconfig).await;
        let refused = api.get("/api/v1/services").await.unwrap_err().to_string();
        assert!(refused.contains("system:serviceaccount:kube-system:nobody"), "{refused}");
        assert!(refused.contains("forbidden"), "{refused}");
    });
}
