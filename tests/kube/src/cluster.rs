//! A control plane on a host of a lab: etcd and kube-apiserver.

mod credentials;
mod etcd;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use streamvs_support::Family;
use streamvs_support::lab::{Host, Lab};
use streamvs_support::process::Process;
use tempfile::TempDir;

use self::credentials::Credentials;
use self::etcd::Etcd;
use crate::{Api, programs};

/// Where the API server listens on its host.
const PORT: u16 = 6443;

/// How long a start may take. Alone on two cores it takes about four seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often its state is looked at: each look is a TLS handshake.
const PERIOD: Duration = Duration::from_millis(50);

/// Who reaches the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Everybody in the lab.
    Lab,
    /// Only processes of its own host: it works, but no agent sees it.
    Host,
}

/// A request to the API server, as its audit log has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// The API group; empty for the core one.
    pub group: String,
    /// The plural; empty for what is no resource.
    pub resource: String,
    /// `get`, `list`, `watch`, `create`, `patch` ...
    pub verb: String,
    /// Path and query, as it came.
    pub uri: String,
    /// The HTTP status of the answer.
    pub status: u64,
}

impl Request {
    /// It asked for all there is, in one of the two ways, and not only for changes.
    pub fn lists(&self) -> bool {
        self.verb == "list" || (self.verb == "watch" && self.asks("sendInitialEvents", "true"))
    }

    /// The query has this parameter, with the value as it is written there.
    pub fn asks(&self, parameter: &str, value: &str) -> bool {
        let (_, query) = self.uri.split_once('?').unwrap_or_default();
        query.split('&').any(|pair| pair.split_once('=') == Some((parameter, value)))
    }
}

/// A running control plane. Ended when dropped.
#[derive(Debug)]
pub struct Cluster {
    // In the order of their ends: the server would complain of an etcd that is gone.
    server: Option<Process>,
    etcd: Etcd,
    host: Host,
    credentials: Credentials,
    kubeconfig: PathBuf,
    flags: Vec<String>,
    folder: TempDir,
}

impl Cluster {
    /// Starts it on the lab's host for it, and waits until it takes Services.
    ///
    /// # Panics
    /// When a program is missing or does not come up: with its log.
    #[track_caller]
    pub fn start(lab: &Lab) -> Self {
        Self::start_with(lab, &[])
    }

    /// The same with more flags for kube-apiserver, which it has at each later start too.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[track_caller]
    pub fn start_with(lab: &Lab, flags: &[&str]) -> Self {
        let host = lab.control().clone();
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let addresses = [
            host.ip(Family::V4),
            host.ip(Family::V6),
            Ipv4Addr::LOCALHOST.into(),
            Lab::service_address(Family::V4, 1),
        ];
        let credentials = Credentials::make(folder.path(), &addresses);
        let kubeconfig = folder.path().join("admin.kubeconfig");
        // By its own loopback, so that the host may always do everything.
        let own = format!("https://127.0.0.1:{PORT}");
        std::fs::write(&kubeconfig, credentials.kubeconfig(&own, None))
            .expect("a new folder can be written to");
        let etcd = Etcd::start(&host, folder.path());
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut cluster = Self { server: None, etcd, host, credentials, kubeconfig, flags, folder };
        cluster.start_server(Reach::Lab);
        cluster
    }

    /// Starts the API server on what etcd holds, and waits until it takes Services.
    ///
    /// # Panics
    /// When it runs already, or does not come up: with its log.
    #[track_caller]
    pub fn start_server(&mut self, reach: Reach) {
        assert!(self.server.is_none(), "the API server runs already");
        let bind = match reach {
            Reach::Lab => "0.0.0.0",
            Reach::Host => "127.0.0.1",
        };
        let mut command = self.host.command(programs::path("kube-apiserver"));
        let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        command
            .arg(format!("--etcd-servers=http://{}", etcd::ADDRESS))
            .arg(format!("--bind-address={bind}"))
            .arg(format!("--secure-port={PORT}"))
            .arg(format!("--advertise-address={}", self.host.ip(Family::V4)))
            .arg(file("tls-cert-file", &self.credentials.certificate))
            .arg(file("tls-private-key-file", &self.credentials.key))
            .arg(file("token-auth-file", &self.credentials.tokens))
            .arg("--authorization-mode=RBAC")
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(file("service-account-key-file", &self.credentials.account_public_key))
            .arg(file("service-account-signing-key-file", &self.credentials.account_key))
            .arg("--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112")
            .arg(file("audit-policy-file", &self.credentials.audit_policy))
            .arg(file("audit-log-path", &self.audit_log()))
            .arg("--allow-privileged")
            .arg("--profiling=false")
            .args(&self.flags)
            .current_dir(self.folder.path());
        let log = self.folder.path().join("kube-apiserver.log");
        self.server = Some(Process::start(command, &log));
        self.wait_until_it_takes_services();
    }

    /// Kills the API server as a crash would; etcd goes on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_server(&mut self) {
        let mut server = self.server.take().expect("the API server runs");
        server.signal(Signal::SIGKILL);
        server.wait(PATIENCE);
    }

    /// Has etcd forget all but the newest state: who asks for changes since an older one is told
    /// to list anew.
    pub fn compact(&self) {
        self.etcd.compact();
    }

    /// Its address for the lab.
    pub fn url(&self) -> String {
        format!("https://{}", SocketAddr::new(self.host.ip(Family::V4), PORT))
    }

    /// The process of the API server.
    pub fn server(&self) -> Option<&Process> {
        self.server.as_ref()
    }

    /// Gives a Node its InternalIPs, as its kubelet would. Without one kube-proxy asks for it for
    /// half a minute before it starts.
    #[track_caller]
    pub fn set_node_addresses(&self, node: &str, ips: &[IpAddr]) {
        let address = |ip| json!({ "type": "InternalIP", "address": ip });
        let addresses: Vec<Value> = ips.iter().map(address).collect();
        let patch = json!({ "status": { "addresses": addresses } }).to_string();
        self.kubectl(&["patch", "node", node, "--subresource=status", "-p", &patch], "");
    }

    /// A kubeconfig for the lab, of the user who may do everything.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.kubeconfig_for(&self.url())
    }

    /// The same for another way to the server.
    pub fn kubeconfig_for(&self, url: &str) -> PathBuf {
        let name = format!("admin-{}.kubeconfig", url.replace([':', '/'], "-"));
        self.write(&name, &self.credentials.kubeconfig(url, None))
    }

    /// A kubeconfig for the lab, of a ServiceAccount that is there, with a token of one hour.
    ///
    /// # Panics
    /// When there is no such account.
    pub fn account_kubeconfig(&self, namespace: &str, name: &str) -> PathBuf {
        let token = self.token(namespace, name);
        let text = self.credentials.kubeconfig(&self.url(), Some(&token));
        self.write(&format!("{namespace}-{name}.kubeconfig"), &text)
    }

    /// A folder with `token`, `ca.crt` and `namespace`, as the kubelet mounts it into a pod of this
    /// ServiceAccount. Asked for again it has another token, which comes in one step.
    ///
    /// # Panics
    /// When there is no such account.
    pub fn account_folder(&self, namespace: &str, name: &str) -> PathBuf {
        let folder = self.folder.path().join(format!("{namespace}-{name}"));
        std::fs::create_dir_all(&folder).expect("the folder can be written to");
        let authority = self.credentials.authority();
        for (file, text) in [
            ("token", &*self.token(namespace, name)),
            ("ca.crt", &*authority),
            ("namespace", namespace),
        ] {
            let beside = folder.join(format!("..{file}.new"));
            std::fs::write(&beside, text).expect("the folder can be written to");
            std::fs::rename(&beside, folder.join(file)).expect("a file can be renamed in place");
        }
        folder
    }

    /// A token of one hour.
    #[track_caller]
    fn token(&self, namespace: &str, name: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": { "expirationSeconds": 3600 },
        });
        let answer = self.block_on(|api| async move { api.post(&path, &request).await });
        let answer = answer.expect("the API server gives a token");
        answer["status"]["token"].as_str().expect("the answer has a token").to_owned()
    }

    /// What a ServiceAccount has asked for so far, in the order of the answers' beginnings.
    pub fn requests_of(&self, namespace: &str, name: &str) -> Vec<Request> {
        let user = format!("system:serviceaccount:{namespace}:{name}");
        let log = std::fs::read_to_string(self.audit_log()).unwrap_or_default();
        // Of a watch the log has the end too.
        let mut known = BTreeSet::new();
        log.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|event| event["user"]["username"] == *user)
            .filter(|event| known.insert(event["auditID"].to_string()))
            .map(|event| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                Request {
                    group: text(&event["objectRef"]["apiGroup"]),
                    resource: text(&event["objectRef"]["resource"]),
                    verb: text(&event["verb"]),
                    uri: text(&event["requestURI"]),
                    status: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
                }
            })
            .collect()
    }

    fn audit_log(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    /// Uses the API from its own host, as the user who may do everything.
    pub fn block_on<T: Send, F: Future<Output = T>>(
        &self,
        work: impl FnOnce(Api) -> F + Send,
    ) -> T {
        self.host.block_on(|| async { work(Api::new(&self.kubeconfig).await).await })
    }

    /// Makes objects, or changes them to this.
    ///
    /// # Panics
    /// When the server refuses one.
    #[track_caller]
    pub fn apply(&self, objects: &[Value]) {
        self.block_on(|api| async move {
            for object in objects {
                api.apply(object).await.unwrap_or_else(|error| panic!("{object:#}: {error}"));
            }
        });
    }

    /// Deletes an object.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn delete(&self, object: &Value) {
        self.block_on(|api| async move {
            api.delete(object).await.unwrap_or_else(|error| panic!("{object:#}: {error}"));
        });
    }

    /// Runs `kubectl` on the server's host with `input` as its standard input, as the user who
    /// may do everything. Returns its standard output.
    ///
    /// # Panics
    /// When it fails, with what it said.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let mut command = self.kubectl_command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("its input is a pipe");
        // A kubectl that ends early closes the pipe; its exit status tells why.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("a child can be waited for");
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {arguments:?}: {}\n{out}{err}", output.status);
        out.into_owned()
    }

    /// A `kubectl` still to be told what to do.
    pub fn kubectl_command(&self) -> Command {
        let mut command = self.host.command(programs::path("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .env("KUBECACHEDIR", self.folder.path().join("kubectl-cache"))
            .env("HOME", self.folder.path());
        command
    }

    /// Waits for all that a first Service needs: the checks of `/readyz`, the namespace
    /// `default`, and the address ranges.
    #[track_caller]
    fn wait_until_it_takes_services(&mut self) {
        let start = Instant::now();
        loop {
            let server = self.server.as_mut().expect("the API server was started");
            if let Some(status) = server.ended() {
                panic!("kube-apiserver ended with {status}:\n{}", server.log());
            }
            let ready = self.block_on(|api| async move {
                api.text("/readyz").await?;
                api.get("/api/v1/namespaces/default").await?;
                api.get("/api/v1/namespaces/default/services/kubernetes").await?;
                let ranges = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";
                let ranges = api.get(ranges).await?;
                Ok::<_, kube::Error>(ranges["status"]["conditions"][0]["status"] == "True")
            });
            if matches!(ready, Ok(true)) {
                return;
            }
            if start.elapsed() > PATIENCE {
                let log = self.server.as_ref().map(Process::log).unwrap_or_default();
                panic!("not within {PATIENCE:?}: the API server takes Services: {ready:?}\n{log}");
            }
            std::thread::sleep(PERIOD);
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("the folder can be written to");
        path
    }
}

#[cfg(test)]
mod tests;
