//! etcd, and the two requests that tests make to it.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use streamvs_support::http;
use streamvs_support::lab::Host;
use streamvs_support::process::Process;
use streamvs_support::wait::eventually;

use crate::programs;

/// Where it listens on its host's loopback.
pub(super) const ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 2379));

/// How long a start may take on a machine that builds something beside it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running etcd. Killed when dropped.
#[derive(Debug)]
pub(super) struct Etcd {
    process: Process,
    host: Host,
}

impl Etcd {
    /// Starts it with its data in a folder and waits until it accepts connections.
    #[track_caller]
    pub(super) fn start(host: &Host, folder: &Path) -> Self {
        let client = format!("http://{ADDRESS}");
        let peer = "http://127.0.0.1:2380";
        let mut command = host.command(programs::path("etcd"));
        command
            .arg("--data-dir")
            .arg(folder.join("etcd"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "warn"])
            // The data need not outlive the machine.
            .arg("--unsafe-no-fsync");
        let process = Process::start(command, &folder.join("etcd.log"));
        let mut etcd = Self { process, host: host.clone() };
        eventually("etcd accepts connections", PATIENCE, || {
            if let Some(status) = etcd.process.ended() {
                panic!("etcd ended with {status}:\n{}", etcd.process.log());
            }
            etcd.host.run(|| TcpStream::connect(ADDRESS).is_ok())
        });
        etcd
    }

    /// Forgets all but the newest state of each key.
    pub(super) fn compact(&self) {
        let any_key = self.post("/v3/kv/range", &json!({ "key": "AA==" }));
        let newest = &any_key["header"]["revision"];
        self.post("/v3/kv/compaction", &json!({ "revision": newest, "physical": true }));
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let answer = http::post(&self.host, ADDRESS, path, &body.to_string())
            .unwrap_or_else(|error| panic!("etcd {path}: {error}"));
        assert_eq!(answer.status, 200, "etcd {path}: {}", answer.body);
        serde_json::from_str(&answer.body).expect("etcd answers in JSON")
    }
}
