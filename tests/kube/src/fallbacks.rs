//! Aim: a server that cannot stream lists, does not know a field to select by, or has no
//! ServiceCIDRs, as those of Kubernetes 1.21, is asked otherwise, for the same table. Method: a
//! server without the feature; for what every server of today has, the agent's questions are
//! changed on their way to ones about what no server has, so that the refusals are the server's own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use streamvs_support::Family;
use streamvs_support::agent::PATIENCE;
use streamvs_support::lab::{Host, Lab, block_on_local};
use streamvs_support::process::Process;
use streamvs_support::wait::eventually;
use streamvs_support::{http, needs};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use crate::Cluster;
use crate::cluster::{Reach, Request};
use crate::watch::{KINDS, READER, Watched, reader};

/// More than a page holds.
const SERVICES: usize = 260;

/// Where `kubectl proxy` listens, on the server's host.
const PROXY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8001));

/// Where the old server seems to listen there.
const OLD_SERVER_PORT: u16 = 8002;

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": { "ports": [{ "port": 80 }] },
    })
}

/// What the reader asked of Services, from one request on.
fn of_services(cluster: &Cluster, from: usize) -> Vec<Request> {
    let [namespace, name] = READER;
    let requests = cluster.requests_of(namespace, name).into_iter();
    requests.filter(|request| request.resource == "services").skip(from).collect()
}

/// Demands that all Services came in pages, and that who asked for a stream was refused.
#[track_caller]
fn expect_pages(requests: &[Request]) {
    let lists: Vec<_> = requests.iter().filter(|request| request.verb == "list").collect();
    let good = |list: &&&Request| list.status == 200 && list.asks("limit", "250");
    assert_eq!(lists.iter().filter(good).count(), lists.len(), "{lists:?}");
    assert!(lists.iter().any(|list| !list.uri.contains("continue=")), "the first page: {lists:?}");
    assert!(lists.iter().any(|list| list.uri.contains("continue=")), "another page: {lists:?}");
    let streams = requests.iter().filter(|request| request.verb == "watch" && request.lists());
    for stream in streams {
        assert_eq!(stream.status, 422, "{stream:?}");
    }
}

#[test]
fn a_server_without_streamed_lists_fields_and_service_ranges_gives_the_same_table() {
    needs!("ip", "nsenter");
    let lab = Lab::builder().control().build();
    let mut cluster = Cluster::start_with(&lab, &["--feature-gates=WatchList=false"]);
    let names: Vec<String> = (0..SERVICES).map(|number| format!("echo-{number}")).collect();
    cluster.apply(&names.iter().map(|name| service(name)).collect::<Vec<_>>());
    let watched = Watched::start(lab.node(), reader(&cluster, &KINDS), None);
    // The server's own is one more.
    watched.until("all Services", |table| table.len() == SERVICES + 1);
    let asked = of_services(&cluster, 0);
    expect_pages(&asked);
    let refused = asked.iter().filter(|request| request.status == 422).count();
    assert_eq!(refused, 1, "who cannot is not asked again: {asked:?}");

    // A list in pages after a compaction too takes away what is gone and nothing else.
    cluster.kill_server();
    cluster.start_server(Reach::Host);
    cluster.delete(&service("echo-0"));
    cluster.apply(&[service("new")]);
    cluster.kill_server();
    cluster.compact();
    cluster.start_server(Reach::Lab);
    let arrived = |table: &crate::watch::Table| table.contains_key("new");
    for table in watched.until("the new table", arrived) {
        assert_eq!(table.len(), SERVICES + 1, "all at once");
        assert!(table.contains_key("echo-0") != table.contains_key("new"), "{table:?}");
    }
    expect_pages(&of_services(&cluster, asked.len()));
    drop(watched);

    let old = OldServer::start(&lab, &cluster);
    let kubeconfig = cluster.kubeconfig_for(&old.url);
    let watched = Watched::start(lab.node(), kubeconfig, None);
    let seen = watched.until("all Services", |table| table.len() == SERVICES + 1);
    assert_eq!(seen.len(), 1, "the first table is whole");
    cluster.delete(&service("new"));
    watched.until("changes are seen", |table| table.len() == SERVICES);
}

/// The cluster's server, asked about a field of Services and a kind of objects that it does not
/// have where it has both.
struct OldServer {
    url: String,
    /// Held for its drop.
    _proxy: Process,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl OldServer {
    fn start(lab: &Lab, cluster: &Cluster) -> Self {
        let host: Host = lab.control().clone();
        let mut command = cluster.kubectl_command();
        command.args(["proxy", &format!("--port={}", PROXY.port()), "--accept-hosts=.*"]);
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let proxy = Process::start(command, &folder.path().join("proxy.log"));
        eventually("kubectl answers", PATIENCE, || http::get(&host, PROXY, "/readyz").is_ok());
        let address = host.at(Family::V4, OLD_SERVER_PORT);
        let listener = host.run(|| std::net::TcpListener::bind(address)).expect("nobody has it");
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || {
            block_on_local(async {
                listener.set_nonblocking(true).expect("a socket can be set so");
                let listener = TcpListener::from_std(listener).expect("the runtime takes it");
                tokio::select! {
                    () = accept(listener) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = host.spawn(serve);
        let (stop, thread) = (Some(stop), Some(thread));
        Self { url: format!("http://{address}"), _proxy: proxy, stop, thread }
    }
}

impl Drop for OldServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "it ended well");
        }
    }
}

async fn accept(listener: TcpListener) {
    while let Ok((client, _)) = listener.accept().await {
        // A client that goes is no failure: the table tells what arrived.
        spawn_local(async { drop(pass_on(client).await) });
    }
}

/// Passes on one request, changed, and what follows it unchanged.
async fn pass_on(mut client: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    let (line, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
    let line = line.replace("spec.clusterIP", "spec.unknown").replace("servicecidrs", "unknown");
    let mut server = TcpStream::connect(PROXY).await?;
    // One request a connection, so that each is seen here.
    server.write_all(format!("{line}\r\nConnection: close\r\n{fields}").as_bytes()).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
