//! Aim: what the API server is told becomes the table, whatever comes in whatever order. Method:
//! `watch` alone, without the program, on the node of a lab; each table it publishes is noted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use streamvs_support::Family;
use streamvs_support::lab::{Host, Lab};
use streamvs_support::manifest::{Endpoint, Service, node};
use streamvs_support::needs;
use streamvs_watch::{Access, Kind, KubernetesConfig, Origin, Update, kubernetes};
use tokio::sync::oneshot;

use crate::Cluster;
use crate::cluster::Reach;

/// For whatever must happen at all. An API server may take this long to come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Services by name: ClusterIPs, and how many endpoints are used.
pub(crate) type Table = BTreeMap<String, (Vec<IpAddr>, usize)>;

/// `watch` at work in a thread of its own.
pub(crate) struct Watched {
    updates: Receiver<Update>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watched {
    pub(crate) fn start(host: &Host, kubeconfig: PathBuf, state_file: Option<PathBuf>) -> Self {
        let (sender, updates) = channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let config = KubernetesConfig {
            access: Access { kubeconfig: Some(kubeconfig), ..Access::default() },
            resolver: streamvs_resolve::Config {
                node_name: "node".into(),
                service_proxy_name: None,
                allow_external_ips: Vec::new(),
            },
            state_file,
        };
        let host = host.clone();
        let watch = move || {
            host.block_on(|| async {
                let tell = |update| drop(sender.send(update));
                tokio::select! {
                    Err(error) = kubernetes(config, tokio::sync::watch::channel(false).1, tell) => panic!("{error}"),
                    _ = stopped => {}
                }
            });
        };
        Self { updates, stop: Some(stop), thread: Some(std::thread::spawn(watch)) }
    }

    /// The next table, and where it is from.
    #[track_caller]
    pub(crate) fn next(&self) -> (Table, Origin) {
        let start = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(start.elapsed());
            let update = self.updates.recv_timeout(left).expect("a table comes");
            if let Update::Table { snapshot, origin, .. } = update {
                snapshot.check_invariants();
                let line = |service: &std::sync::Arc<streamvs_table::ServicePort>| {
                    let used =
                        service.endpoints.iter().filter(|endpoint| service.may_use(endpoint));
                    let name = service.name.service.name.to_string();
                    (name, (service.cluster_ips.clone(), used.count()))
                };
                return (snapshot.services().map(line).collect(), origin);
            }
        }
    }

    /// Waits for a table, and returns those on the way to it.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&Table) -> bool) -> Vec<Table> {
        let start = Instant::now();
        let mut seen = Vec::new();
        while start.elapsed() < PATIENCE {
            let (table, _) = self.next();
            let found = wanted(&table);
            seen.push(table);
            if found {
                return seen;
            }
        }
        panic!("{what} did not come: {seen:?}");
    }

    #[track_caller]
    fn until_update(&self, what: &str, wanted: impl Fn(&Update) -> bool) {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let update = self.updates.recv_timeout(PATIENCE).expect("it goes on");
            if wanted(&update) {
                return;
            }
        }
        panic!("{what} did not come");
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "it ended well");
        }
    }
}

fn service(name: &str, number: u8) -> Service {
    Service::new(name, &Family::BOTH, number).port("grpc", 80, 9000)
}

fn endpoints(count: u16) -> Vec<Endpoint> {
    let address = |number: u16| {
        let [high, low] = number.to_be_bytes();
        Endpoint::at(IpAddr::from([10, 244, high, low]))
    };
    (1..=count).map(address).collect()
}

fn has(name: &str, service: &Service, used: usize) -> impl Fn(&Table) -> bool {
    let wanted = (service.ips().to_vec(), used);
    let name = name.to_owned();
    move |table| table.get(&name) == Some(&wanted)
}

/// All kinds that are watched.
pub(crate) const KINDS: [&str; 4] = ["services", "endpointslices", "nodes", "servicecidrs"];

/// The namespace and name of the ServiceAccount of [`reader`].
pub(crate) const READER: [&str; 2] = ["kube-system", "agent"];

/// A kubeconfig of a ServiceAccount that may list and watch these, and nothing else any more.
pub(crate) fn reader(cluster: &Cluster, resources: &[&str]) -> PathBuf {
    let [namespace, name] = READER;
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": name, "namespace": namespace },
    });
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": name },
        "rules": [{
            "apiGroups": ["", "discovery.k8s.io", "networking.k8s.io"],
            "resources": resources,
            "verbs": ["list", "watch"],
        }],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
        "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": namespace }],
    });
    cluster.apply(&[account, role, binding]);
    cluster.account_kubeconfig(namespace, name)
}

/// How often the reader was given all Services.
fn service_lists(cluster: &Cluster) -> usize {
    let [namespace, name] = READER;
    let requests = cluster.requests_of(namespace, name);
    let services = requests.iter().filter(|request| request.resource == "services");
    services.filter(|request| request.lists() && request.status < 300).count()
}

#[test]
fn what_is_told_becomes_the_table_in_whatever_order() {
    needs!("ip", "nsenter");
    let lab = Lab::builder().control().build();
    let cluster = Cluster::start(&lab);
    let watched = Watched::start(lab.node(), cluster.admin_kubeconfig(), None);
    let (first, origin) = watched.next();
    assert_eq!((first.len(), origin), (1, Origin::Server), "default/kubernetes: {first:?}");

    // A slice before its Service.
    let echo = service("echo", 10);
    cluster.apply(&echo.slices(&endpoints(2)));
    cluster.apply(&[echo.object()]);
    watched.until("echo", has("echo", &echo, 2));

    // Deleted and made again with another address.
    let other = service("echo", 20);
    cluster.delete(&echo.object());
    watched.until("no echo", |table| !table.contains_key("echo"));
    cluster.apply(&[other.object()]);
    watched.until("echo elsewhere", has("echo", &other, 2));

    // A slice as large as they get is one change.
    let [all, ..] = &*other.slices(&endpoints(1000)) else { panic!("it has slices") };
    assert_eq!(all["endpoints"].as_array().unwrap().len(), 1000);
    cluster.apply(std::slice::from_ref(all));
    let seen = watched.until("1,000 endpoints", has("echo", &other, 1000));
    assert_eq!(seen.len(), 1, "{seen:?}");

    // Endpoints that move to a new slice, which is told of before the old one loses them.
    let mut old = all.clone();
    let mut new = all.clone();
    new["metadata"]["name"] = json!("echo-new");
    let moved = old["endpoints"].as_array_mut().unwrap().split_off(500);
    new["endpoints"] = Value::from(moved);
    cluster.apply(&[new.clone(), old]);
    cluster.delete(&new);
    let seen = watched.until("the rest", has("echo", &other, 500));
    for table in &seen[..seen.len() - 1] {
        assert_eq!(table["echo"].1, 1000, "an endpoint in two slices counts once");
    }
}

#[test]
fn a_list_after_a_compaction_takes_away_what_is_gone_and_nothing_else() {
    needs!("ip", "nsenter");
    let lab = Lab::builder().control().build();
    let mut cluster = Cluster::start(&lab);
    let (stays, goes, comes) = (service("stays", 10), service("goes", 20), service("comes", 20));
    cluster.apply(&[stays.object(), goes.object(), node("node", "zone-a")]);
    cluster.apply(&stays.slices(&endpoints(3)));
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let kubeconfig = reader(&cluster, &KINDS);
    let watched = Watched::start(lab.node(), kubeconfig.clone(), Some(state.clone()));
    watched.until("the table", |table| has("stays", &stays, 3)(table) && table.len() == 3);
    watched.until_update("the state", |update| matches!(update, Update::Saved(Ok(()))));

    let listed_before = service_lists(&cluster);

    cluster.kill_server();
    let all_broken = |update: &Update| matches!(update, Update::Broken(Kind::Services));
    watched.until_update("the end of the watch", all_broken);
    // An agent that starts now has the table at once.
    let started = Instant::now();
    let second = Watched::start(lab.node(), kubeconfig, Some(copy(&state)));
    let (restored, origin) = second.next();
    println!("start to the table of the state file: {:?}", started.elapsed());
    assert_eq!(origin, Origin::State);
    assert!(has("stays", &stays, 3)(&restored) && restored.len() == 3, "{restored:?}");

    // The cluster changes where the agents do not see it, and forgets how.
    cluster.start_server(Reach::Host);
    cluster.delete(&goes.object());
    cluster.apply(&[comes.object()]);
    cluster.kill_server();
    cluster.compact();
    cluster.start_server(Reach::Lab);
    for watched in [&watched, &second] {
        let arrived = |table: &Table| has("comes", &comes, 0)(table) && !table.contains_key("goes");
        for table in watched.until("the new table", arrived) {
            assert!(has("stays", &stays, 3)(&table), "{table:?}");
            assert!(table.contains_key("goes") != table.contains_key("comes"), "{table:?}");
        }
    }
    // One by the second, which has to; the other by the first, whose watch cannot go on.
    let listed = service_lists(&cluster);
    assert!(listed >= listed_before + 2, "a watch went on over a compaction: {listed}");
}

/// Two agents do not write one file.
fn copy(state: &Path) -> PathBuf {
    let copy = state.with_extension("copy");
    std::fs::copy(state, &copy).unwrap();
    copy
}

#[test]
fn a_kind_that_is_forbidden_is_named_and_comes_when_it_is_allowed() {
    needs!("ip", "nsenter");
    let lab = Lab::builder().control().build();
    let cluster = Cluster::start(&lab);
    // ServiceCIDRs are not among them: those can be done without.
    let kubeconfig = reader(&cluster, &["services", "nodes"]);
    let watched = Watched::start(lab.node(), kubeconfig, None);
    watched.until_update("the refusal", |update| {
        assert!(!matches!(update, Update::Table { .. }), "nothing is published without slices");
        matches!(update, Update::Broken(Kind::EndpointSlices))
    });
    reader(&cluster, &["services", "nodes", "endpointslices"]);
    let (table, origin) = watched.next();
    assert_eq!((table.len(), origin), (1, Origin::Server));
}
