//! Aim: programs nobody here wrote work through the capture as they do without it.
//! Method: each is started in a pod of its own and used by its own client from another.

mod calls;
mod h2spec;
mod interop;
mod languages;
mod replays;
mod restarts;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use streamvs_support::lab::Host;
use streamvs_support::manifest::Service;
use streamvs_support::process::Process;
use streamvs_support::wait::eventually;
use streamvs_support::{Family, figure};

use crate::scene::{PODS, Scene, needs_node};

const PATIENCE: Duration = Duration::from_secs(30);

/// A Service in front of one port of some pods.
fn service(scene: &Scene, port: u16, pods: &[&str]) -> Service {
    let service = Service::new("peer", &[Family::V4], 20).port("", port, port);
    scene.publish(&service, pods);
    service
}

fn start(scene: &Scene, host: &Host, name: &str, command: Command) -> Process {
    let log = scene.folder.path().join(format!("{name}-{}.log", host.name()));
    Process::start(command, &log)
}

/// A certificate for the name `peer`, which is its own authority.
struct Certificate {
    file: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn make(scene: &Scene) -> Self {
        let folder = scene.folder.path();
        let made = Self { file: folder.join("certificate.pem"), key: folder.join("key.pem") };
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=peer", "-addext", "subjectAltName=DNS:peer", "-keyout"])
            .arg(&made.key)
            .arg("-out")
            .arg(&made.file)
            .output()
            .expect("openssl starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        made
    }
}

fn wait_for_port(host: &Host, port: u16) {
    let address = host.at(Family::V4, port);
    eventually("the peer listens", PATIENCE, || {
        host.netns().run(|| std::net::TcpStream::connect(address).is_ok())
    });
}

#[test]
fn redis_answers_through_the_service() {
    needs_node!("redis-server", "redis-cli");
    let scene = Scene::new();
    let pod = scene.lab.pod("a");
    let mut command = pod.netns().command("redis-server");
    command.args(["--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]);
    let _server = start(&scene, pod, "redis", command);
    wait_for_port(pod, 6379);
    let service = service(&scene, 6379, &["a"]);
    let _agent = scene.agent(&[]);
    let ip = service.ip(Family::V4).to_string();
    let client = scene.client().netns();
    assert_eq!(client.output("redis-cli", &["-h", &ip, "set", "k", "v"]).trim(), "OK");
    assert_eq!(client.output("redis-cli", &["-h", &ip, "get", "k"]).trim(), "v");
}

#[test]
fn mariadb_greets_first_and_is_not_kept_waiting() {
    needs_node!("mariadbd", "mariadb", "mariadb-install-db");
    let scene = Scene::new();
    let pod = scene.lab.pod("a");
    let data = scene.folder.path().join("mariadb");
    let installed = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"])
        .arg("--user=root")
        .arg(format!("--datadir={}", data.display()))
        .output()
        .expect("mariadb-install-db starts");
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let init = scene.folder.path().join("init.sql");
    std::fs::write(&init, "CREATE USER 'pod'@'%' IDENTIFIED BY 'word';\nFLUSH PRIVILEGES;\n")
        .expect("is written");
    let mut command = pod.netns().command("mariadbd");
    command
        .args(["--no-defaults", "--user=root", "--bind-address=0.0.0.0", "--skip-name-resolve"])
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--init-file={}", init.display()))
        .arg(format!("--socket={}", scene.folder.path().join("mariadb.sock").display()));
    let _server = start(&scene, pod, "mariadb", command);
    wait_for_port(pod, 3306);
    let service = service(&scene, 3306, &["a"]);
    let _agent = scene.agent(&[]);

    let login = |host: &str| {
        let arguments = ["-h", host, "-u", "pod", "-pword", "--skip-ssl", "-N", "-e", "SELECT 6*7"];
        scene.client().netns().output("mariadb", &arguments)
    };
    let (direct, through) = (pod.ip(Family::V4), service.ip(Family::V4));
    assert_eq!(login(&through.to_string()).trim(), "42");

    // From connect to the greeting, 200 times each, in turn.
    let greet = |address: std::net::SocketAddr| {
        use std::io::Read as _;
        let started = Instant::now();
        let mut socket = std::net::TcpStream::connect(address).expect("is accepted");
        assert_ne!(socket.read(&mut [0; 128]).expect("greets"), 0);
        started.elapsed()
    };
    let (mut at_pod, mut at_service) = scene.client().netns().run(|| {
        let mut times = (Vec::new(), Vec::new());
        for _ in 0..200 {
            times.0.push(greet((direct, 3306).into()));
            times.1.push(greet((through, 3306).into()));
        }
        times
    });
    at_pod.sort();
    at_service.sort();
    let (at_pod, at_service) = (at_pod[100], at_service[100]);
    let ratio = at_service.as_secs_f64() / at_pod.as_secs_f64();
    figure::report(&format!(
        "MariaDB, connect to greeting, median of 200: direct {at_pod:.2?}, through streamvs \
         {at_service:.2?}, ratio {ratio:.2}"
    ));
    // No timer that anybody would wait with is as short, and no machine so busy that half of the
    // connects would take longer for it.
    assert!(at_service < at_pod + Duration::from_millis(5), "the server was kept waiting");
}

#[test]
fn http1_keep_alive_passes_and_so_does_an_upgrade_that_is_not_taken() {
    needs_node!("curl", "python3");
    let scene = Scene::new();
    let pod = scene.lab.pod("a");
    let mut command = pod.netns().command("python3");
    command.args(["-m", "http.server", "8000", "--protocol", "HTTP/1.1", "--directory"]);
    command.arg(scene.manifests.folder());
    let _server = start(&scene, pod, "http", command);
    wait_for_port(pod, 8000);
    let service = service(&scene, 8000, &["a"]);
    let agent = scene.agent(&[]);
    let url = format!("http://{}:8000/", service.ip(Family::V4));
    let format = "%{http_code} %{num_connects}\\n";
    let client = scene.client().netns();
    let quiet = ["-s", "-o", "/dev/null", "-o", "/dev/null", "-w", format, &url, &url];
    assert_eq!(client.output("curl", &quiet), "200 1\n200 0\n", "one connection carried both");
    // A server that does not know the upgrade answers in HTTP/1.1, and is heard.
    let upgrade = ["-s", "-o", "/dev/null", "--http2", "-w", "%{http_code}", &url];
    assert_eq!(client.output("curl", &upgrade), "200");
    let http2 = agent.metric("streamvs_connections_total", &[("protocol", "http2")]);
    assert_eq!(http2.unwrap_or(0.0), 0.0);
}

#[test]
fn h2c_upgrade_switches_and_stays_one_connection() {
    needs_node!("curl");
    let server = built("h2c");
    let scene = Scene::new();
    let _servers = PODS.map(|name| {
        let pod = scene.lab.pod(name);
        let mut command = pod.command(&server);
        command.args(["-upgrade", "-listen", "0.0.0.0:8080"]);
        let process = start(&scene, pod, "h2c", command);
        wait_for_port(pod, 8080);
        process
    });
    let service = service(&scene, 8080, &PODS);
    let agent = scene.agent(&[]);
    let url = format!("http://{}:8080/", service.ip(Family::V4));
    // The first answer is the one to `Upgrade: h2c`; the second goes by HTTP/2 from the start.
    let format = "%{http_code} %{http_version} %{num_connects}\\n";
    let arguments =
        ["-s", "--http2", "-o", "/dev/null", "-o", "/dev/null", "-w", format, &url, &url];
    let answers = scene.client().netns().output("curl", &arguments);
    assert_eq!(answers, "200 2 1\n200 2 0\n", "one connection carried both");
    for (protocol, wanted) in [("tcp", 1.0), ("http2", 0.0)] {
        let found = agent.metric("streamvs_connections_total", &[("protocol", protocol)]);
        assert_eq!(found.unwrap_or(0.0), wanted, "{protocol}");
    }
}

#[test]
fn tls_passes_and_is_counted() {
    needs_node!("openssl", "curl");
    let scene = Scene::new();
    let pod = scene.lab.pod("a");
    let certificate = Certificate::make(&scene);
    let mut command = pod.netns().command("openssl");
    command.args(["s_server", "-www", "-quiet", "-accept", "0.0.0.0:8443", "-alpn", "http/1.1"]);
    command.arg("-key").arg(&certificate.key).arg("-cert").arg(&certificate.file);
    let _server = start(&scene, pod, "tls", command);
    wait_for_port(pod, 8443);
    let service = service(&scene, 8443, &["a"]);
    let agent = scene.agent(&[]);
    let url = format!("https://{}:8443/", service.ip(Family::V4));
    let arguments = ["-sk", "--http1.1", "-o", "/dev/null", "-w", "%{http_code}", &url];
    assert_eq!(scene.client().netns().output("curl", &arguments), "200");
    assert_eq!(agent.metric("streamvs_connections_total", &[("protocol", "tls")]), Some(1.0));
    assert_eq!(agent.metric("streamvs_tls_h2_connections_total", &[]), Some(0.0));
}

/// `target/peers`, filled by `scripts/peers`.
pub(crate) fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers")
}

/// One of the programs in [`peers`].
#[track_caller]
pub(crate) fn built(program: &str) -> PathBuf {
    let path = peers().join(program);
    assert!(path.exists(), "{program} is missing: run scripts/peers");
    path
}
