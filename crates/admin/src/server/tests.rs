//! The doors over real sockets on loopback and in a temporary directory: answers to the byte,
//! bounds, and what is left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use streamvs_table::Family;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::list::{fetch, views};
use crate::testing::{admin, plan, shop};
use crate::{Moment, NodeState};

/// A served agent.
struct Served {
    admin: Admin,
    bound: Bound,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Served {
    async fn start(addresses: Addresses) -> Self {
        let (admin, publisher) = admin(shop());
        // The published plan stays readable.
        drop(publisher);
        let server = Server::bind(addresses).await.unwrap();
        let bound = server.bound();
        let (stop, stopped) = oneshot::channel();
        let serve = server.serve(admin.clone(), async {
            let _ = stopped.await;
            Closing::Remove
        });
        Self { admin, bound, stop, serving: tokio::spawn(serve) }
    }

    async fn tcp() -> Self {
        let any = Some("127.0.0.1:0".parse().unwrap());
        Self::start(Addresses { healthz: any, metrics: any, ..Addresses::default() }).await
    }

    async fn unix(path: &Path) -> Self {
        Self::start(Addresses { socket: Some(path.into()), ..Addresses::default() }).await
    }

    fn healthz(&self) -> SocketAddr {
        self.bound.healthz.unwrap()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap();
    }
}

/// An HTTP answer, taken apart.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    /// Header names are compared without case.
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Sends a request without body and reads until the server closes.
async fn ask(address: SocketAddr, method: &str, path: &str) -> Reply {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: node\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}

#[tokio::test]
async fn health_answers_have_kube_proxys_headers_and_body_by_any_method() {
    let served = Served::tcp().await;
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "FROBNICATE"] {
        for (path, keys) in [
            ("/healthz", &["lastUpdated", "currentTime", "nodeEligible", "healthy"][..]),
            ("/livez", &["lastUpdated", "currentTime", "healthy"][..]),
        ] {
            let reply = ask(served.healthz(), method, path).await;
            assert_eq!(reply.status, 200, "{method} {reply:?}");
            assert_eq!(reply.header("content-type"), Some("application/json"), "{reply:?}");
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{reply:?}");
            let body: Value = serde_json::from_str(&reply.body).unwrap();
            let mut expected = keys.to_vec();
            expected.sort_unstable();
            let found: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(found, expected, "{reply:?}");
            for time in ["lastUpdated", "currentTime"] {
                body[time].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
            }
        }
    }
    let head = ask(served.healthz(), "HEAD", "/healthz").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(ask(served.healthz(), "GET", "/healthz/").await.status, 404);
    assert_eq!(ask(served.healthz(), "GET", "/metrics").await.status, 404);
    served.stop().await;
}

#[tokio::test]
async fn a_late_update_is_503_on_both_and_a_leaving_node_on_healthz_only() {
    let served = Served::tcp().await;
    let codes = async || {
        let healthz = ask(served.healthz(), "GET", "/healthz").await;
        let livez = ask(served.healthz(), "GET", "/livez").await;
        (healthz.status, livez.status)
    };
    let health = &served.admin.health;
    health.applied(Family::V4, Moment::now());
    assert_eq!(codes().await, (200, 200));

    health.set_node(NodeState::known(false, [crate::health::TO_BE_DELETED_TAINT]));
    assert_eq!(codes().await, (503, 200));
    health.set_node(NodeState::known(false, []));

    let now = Moment::now();
    let ago = Duration::from_secs(60);
    let since = Moment { monotonic: now.monotonic - ago, wall: now.wall - ago };
    health.applied(Family::V4, since);
    health.queued(Family::V4, since);
    assert_eq!(codes().await, (503, 503));
    let reply = ask(served.healthz(), "GET", "/healthz").await;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(body["healthy"], json!(false));
    assert_eq!(body["lastUpdated"], json!(since.wall.to_string()));
    assert_eq!(body["status"]["IPv4"]["healthy"], json!(false));

    let metrics = ask(served.bound.metrics.unwrap(), "GET", "/metrics").await.body;
    assert!(metrics.contains("\nkubeproxy_proxy_healthz_total{code=\"503\"} 3\n"), "{metrics}");
    assert!(metrics.contains("\nkubeproxy_proxy_livez_total{code=\"200\"} 2\n"), "{metrics}");
    served.stop().await;
}

#[tokio::test]
async fn the_metrics_port_answers_as_kube_proxys() {
    let served = Served::tcp().await;
    let address = served.bound.metrics.unwrap();
    let metrics = ask(address, "GET", "/metrics").await;
    assert_eq!(metrics.status, 200);
    assert_eq!(metrics.header("content-type"), Some(crate::metrics::CONTENT_TYPE));
    assert!(metrics.body.ends_with("# EOF\n"));

    // Here it says that the process answers, whatever becomes of the node.
    served.admin.health.set_node(NodeState::Absent);
    for (path, body) in [("/proxyMode", "streamvs"), ("/healthz", "ok")] {
        let reply = ask(address, "GET", path).await;
        assert_eq!((reply.status, reply.body.as_str()), (200, body));
        assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    }
    assert_eq!(
        ask(address, "GET", "/livez").await.header("content-type"),
        Some("application/json")
    );
    assert_eq!(ask(address, "GET", "/services").await.status, 404, "the table is for root only");
    served.stop().await;
}

#[tokio::test]
async fn the_socket_is_roots_own_and_goes_with_the_agent() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("run/streamvs/admin.sock");
    let served = Served::unix(&path).await;
    assert_eq!(served.bound.socket.as_deref(), Some(&*path));
    assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");

    assert_eq!(fetch(&path).await.unwrap(), views(&shop()));
    served.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn the_socket_shows_the_newest_table() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("admin.sock");
    let (admin, publisher) = admin(shop());
    let server = Server::bind(Addresses { socket: Some(path.clone()), ..Addresses::default() });
    let server = server.await.unwrap();
    let serving = tokio::spawn(server.serve(admin, std::future::pending()));
    assert_eq!(fetch(&path).await.unwrap().len(), 3);
    publisher.publish(plan(Vec::new()).into());
    assert_eq!(fetch(&path).await.unwrap(), []);
    serving.abort();
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let served = Served::unix(&path).await;
    assert_eq!(fetch(&path).await.unwrap().len(), 3);
    served.stop().await;
}

#[tokio::test]
async fn what_others_own_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let hard = |path: &Path| Addresses {
        socket: Some(path.into()),
        bind_hard_fail: true,
        ..Addresses::default()
    };

    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    let error = Server::bind(hard(&file)).await.unwrap_err();
    assert!(matches!(error, Error::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");

    let path = directory.path().join("admin.sock");
    let served = Served::unix(&path).await;
    let error = Server::bind(hard(&path)).await.unwrap_err();
    assert!(matches!(error, Error::SocketInUse { .. }), "{error}");
    assert_eq!(fetch(&path).await.unwrap().len(), 3);

    // A successor that took the place over keeps it when the predecessor ends.
    fs::remove_file(&path).unwrap();
    let successor = Served::unix(&path).await;
    served.stop().await;
    assert_eq!(fetch(&path).await.unwrap().len(), 3);
    successor.stop().await;

    let below_a_file = file.join("admin.sock");
    let error = Server::bind(hard(&below_a_file)).await.unwrap_err();
    assert!(matches!(error, Error::Socket { .. }), "{error}");
}

#[tokio::test]
async fn asking_nobody_says_what_to_do() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("admin.sock");
    let error = fetch(&path).await.unwrap_err().to_string();
    assert!(error.ends_with("is streamvs running on this node?"), "{error}");
    assert!(error.contains(path.to_str().unwrap()), "{error}");

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = fetch(&path).await.unwrap_err().to_string();
    assert!(error.ends_with("is streamvs running on this node?"), "{error}");
}

#[tokio::test]
async fn a_foreign_answer_is_an_error_that_names_the_socket() {
    let directory = TempDir::new().unwrap();
    for (name, answer, wanted) in [
        ("status", "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "HTTP status 404"),
        ("json", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "cannot be read"),
        ("short", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[", "broken answer"),
        ("other", "SSH-2.0-OpenSSH_9.2\r\n", "broken answer"),
        ("silent", "", "broken answer"),
    ] {
        let path = directory.path().join(name);
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let answering = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 16];
            socket.read_exact(&mut request).await.unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
        });
        let error = fetch(&path).await.unwrap_err().to_string();
        answering.await.unwrap();
        assert!(error.contains(wanted) && error.contains(name), "{error}");
    }
}

#[tokio::test]
async fn dawdlers_do_not_keep_a_probe_out() {
    let served = Served::tcp().await;
    let mut dawdlers = Vec::new();
    for _ in 0..2 * door::MOST_CONNECTIONS {
        let mut socket = TcpStream::connect(served.healthz()).await.unwrap();
        socket.write_all(b"GET /healthz HTTP/1.1\r\nX-Slow:").await.unwrap();
        dawdlers.push(socket);
    }
    let begin = Instant::now();
    assert_eq!(ask(served.healthz(), "GET", "/healthz").await.status, 200);
    assert!(begin.elapsed() < door::LONGEST_HEAD, "waited for a dawdler");

    // The oldest had to go.
    let mut rest = Vec::new();
    let _ = dawdlers[0].read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    assert!(begin.elapsed() < door::LONGEST_HEAD, "the oldest was kept");
    served.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_never_finished_ends_by_itself() {
    let served = Served::tcp().await;
    let begin = tokio::time::Instant::now();
    let mut socket = TcpStream::connect(served.healthz()).await.unwrap();
    socket.write_all(b"GET /healthz HT").await.unwrap();
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await.unwrap();
    let waited = begin.elapsed();
    assert!(waited <= door::LONGEST_HEAD + Duration::from_millis(100), "{waited:?}");
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
    served.stop().await;
}

#[tokio::test]
async fn garbage_is_refused_and_harms_nobody() {
    let served = Served::tcp().await;
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"[..], &[0xff; 64 << 10], b"\r\n\r\nx"] {
        let mut socket = TcpStream::connect(served.healthz()).await.unwrap();
        // The server may hang up in the middle.
        let _ = socket.write_all(garbage).await;
        let _ = socket.shutdown().await;
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(ask(served.healthz(), "GET", "/healthz").await.status, 200);
    served.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_taken_port_is_tried_again_and_does_not_stop_the_others() {
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = holder.local_addr().unwrap();
    let metrics = Some("127.0.0.1:0".parse().unwrap());
    let served =
        Served::start(Addresses { healthz: Some(taken), metrics, ..Addresses::default() }).await;
    assert_eq!(served.bound.healthz, None);
    assert_eq!(ask(served.bound.metrics.unwrap(), "GET", "/healthz").await.status, 200);

    drop(holder);
    let begin = tokio::time::Instant::now();
    while TcpStream::connect(taken).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(begin.elapsed() < 2 * RETRY, "not tried again");
    }
    assert_eq!(ask(taken, "GET", "/healthz").await.status, 200);
    served.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_an_error_when_asked_so() {
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = holder.local_addr().unwrap();
    let directory = TempDir::new().unwrap();
    let error = Server::bind(Addresses {
        healthz: Some("127.0.0.1:0".parse().unwrap()),
        metrics: Some(taken),
        socket: Some(directory.path().join("admin.sock")),
        bind_hard_fail: true,
    })
    .await
    .unwrap_err();
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_all_doors_also_those_not_open_yet() {
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("admin.sock");
    let served = Served::start(Addresses {
        healthz: Some(holder.local_addr().unwrap()),
        metrics: Some("127.0.0.1:0".parse().unwrap()),
        socket: Some(path.clone()),
        bind_hard_fail: false,
    })
    .await;
    let metrics = served.bound.metrics.unwrap();
    // A client that says nothing holds the stop up by no more than the grace.
    let idle = UnixStream::connect(&path).await.unwrap();
    let begin = tokio::time::Instant::now();
    served.stop().await;
    assert!(begin.elapsed() <= door::GRACE + Duration::from_millis(100), "{:?}", begin.elapsed());
    assert!(TcpStream::connect(metrics).await.is_err());
    assert!(!path.exists());
    drop(idle);
}

#[tokio::test]
async fn pages_of_the_configuration_are_on_the_metrics_port_only() {
    let served = Served::tcp().await;
    let metrics = served.bound.metrics.unwrap();
    for (path, kind) in [
        ("/configz", "application/json"),
        ("/flagz", "text/plain; charset=utf-8"),
        ("/statusz", "text/plain; charset=utf-8"),
    ] {
        let reply = ask(metrics, "GET", path).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.header("content-type"), Some(kind), "{reply:?}");
        assert_eq!(ask(served.healthz(), "GET", path).await.status, 404);
    }
    assert_eq!(ask(metrics, "GET", "/debug/pprof/").await.status, 404);
    served.stop().await;
}
