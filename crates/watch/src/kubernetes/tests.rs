//! Aim: what happens without an API server. Method: addresses where none is, and state files.
//! What happens with one is tried with a real one, in `tests/kube`.

use std::net::TcpListener;
use std::path::Path;
use std::pin::pin;

use streamvs_table::{Protocol, ServiceName};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;

fn resolver() -> Config {
    Config { node_name: "node-1".into(), service_proxy_name: None, allow_external_ips: Vec::new() }
}

fn config(master: &str, state_file: Option<&Path>) -> KubernetesConfig {
    let access = Access { master: Some(master.to_owned()), ..Access::default() };
    let state_file = state_file.map(Path::to_owned);
    KubernetesConfig { access, resolver: resolver(), state_file }
}

/// A URL where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", listener.local_addr().expect("it is bound"))
}

/// A URL where connections are accepted by the kernel and nobody answers.
fn silence() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    (url, listener)
}

/// Writes a state file with one Service, as an agent of that server would.
async fn saved(directory: &Path, master: &str) -> PathBuf {
    let path = directory.join("state");
    let server = Server::new(config(master, None).access).await.expect("a URL");
    let place = Place {
        cluster: server.identity().to_owned(),
        node: "node-1".into(),
        service_proxy_name: None,
    };
    let mut resolver = streamvs_resolve::Resolver::new(resolver());
    let service = serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]},
    }));
    resolver.apply(streamvs_resolve::Change::Service(Box::new(service.expect("a Service"))));
    let (snapshot, _) = resolver.resolve().expect("the first table");
    let node = NodeStatus::Present { deleting: false, taints: vec![] };
    let (reports, mut reported) = mpsc::channel(1);
    let saver = Saver::start(path.clone(), place, move |report| {
        reports.try_send(report).expect("there is room");
    });
    saver.offer(State { snapshot, node, service_cidrs: vec![] });
    drop(saver);
    reported.recv().await.expect("it wrote").expect("it went well");
    path
}

fn watching(config: KubernetesConfig) -> (JoinSet<()>, UnboundedReceiver<Update>) {
    let (updates, received) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let tell = |update| drop(updates.send(update));
        let Err(error) = kubernetes(config, watch::channel(false).1, tell).await;
        panic!("{error}");
    });
    (tasks, received)
}

/// The first table told of, and after how long.
async fn first_table(received: &mut UnboundedReceiver<Update>) -> (Snapshot, Origin, Duration) {
    let started = Instant::now();
    let table = async {
        loop {
            let update = received.recv().await.expect("it goes on");
            if let Update::Table { snapshot, origin, .. } = update {
                return (snapshot, origin, started.elapsed());
            }
        }
    };
    timeout(Duration::from_secs(20), table).await.expect("a table comes")
}

async fn serves_from_the_state(master: &str) -> Duration {
    let directory = tempfile::tempdir().expect("a directory");
    let path = saved(directory.path(), master).await;
    let (_tasks, mut received) = watching(config(master, Some(&path)));
    let (snapshot, origin, after) = first_table(&mut received).await;
    assert_eq!(origin, Origin::State);
    let ip = "10.96.0.9".parse().expect("an address");
    let found = snapshot.lookup(ip, 80, Protocol::Tcp).expect("it is found");
    assert_eq!(found.name.service, ServiceName::new("shop", "web"));
    after
}

#[tokio::test]
async fn a_server_that_refuses_connections_is_replaced_by_the_state_at_once() {
    let after = serves_from_the_state(&nobody()).await;
    assert!(after < Duration::from_secs(1), "{after:?}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_replaced_by_the_state_after_the_patience() {
    let (url, _listener) = silence();
    let after = serves_from_the_state(&url).await;
    assert!(after >= PATIENCE && after < Duration::from_secs(1), "{after:?}");
}

#[tokio::test]
async fn without_a_usable_state_there_is_no_table_and_no_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let master = nobody();
    let path = saved(directory.path(), &master).await;
    let mut content = std::fs::read(&path).expect("it is there");
    content[100] ^= 1;
    std::fs::write(&path, content).expect("it is written");
    let (mut tasks, mut received) = watching(config(&master, Some(&path)));
    let mut failures = 0;
    while failures < 8 {
        match timeout(Duration::from_secs(20), received.recv()).await.expect("it is tried again") {
            Some(Update::Broken(_)) => failures += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(tasks.try_join_next().is_none(), "it goes on");
}

#[tokio::test]
async fn a_start_without_saying_where_the_server_is_is_refused_with_what_is_needed() {
    let refused = async |access: Access| {
        let config = KubernetesConfig { access, ..config("", None) };
        let told = |update| panic!("{update:?}");
        let watching = pin!(kubernetes(config, watch::channel(false).1, told));
        let Err(error) = timeout(Duration::from_secs(5), watching).await.expect("it ends");
        error.to_string()
    };
    let master = |url: &str| Access { master: Some(url.to_owned()), ..Access::default() };
    for (access, wanted) in [
        (Access::default(), "--kubeconfig, --master or --manifests is needed"),
        (master("192.0.2.1:6443"), "https://HOST:PORT or http://HOST:PORT is needed"),
        (master("ftp://x"), "https://HOST:PORT or http://HOST:PORT is needed"),
        (master("https://a b"), "is no URL"),
        (
            Access { kubeconfig: Some("/no/such/file".into()), ..Access::default() },
            "kubeconfig /no/such/file cannot be used: failed to read kubeconfig",
        ),
        (
            Access { kubeconfig: Some("Cargo.toml".into()), ..Access::default() },
            "kubeconfig Cargo.toml cannot be used: ",
        ),
    ] {
        let error = refused(access).await;
        assert!(error.contains(wanted), "{wanted:?} in {error:?}");
    }
}
