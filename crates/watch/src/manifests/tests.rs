//! Aim: what stands in the directory is live soon, and what is broken there harms nothing.
//! Method: a real directory with the kernel's own events; each test awaits the tables it causes.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use streamvs_resolve::{Changes, Config};
use streamvs_table::Snapshot;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{ManifestsConfig, manifests};
use crate::Error;

/// How long a table may take on a machine that builds something besides. What is promised is
/// [`PROMISE`], and `is_prompt` holds the best of several changes to it.
const PATIENCE: Duration = Duration::from_secs(20);
const PROMISE: Duration = Duration::from_millis(100);
/// How long nothing has to happen to be taken for nothing.
const QUIET: Duration = Duration::from_millis(300);

struct Watched {
    dir: TempDir,
    tables: UnboundedReceiver<Snapshot>,
    task: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn config(dir: &Path) -> ManifestsConfig {
    let resolver = Config {
        node_name: "here".into(),
        service_proxy_name: None,
        allow_external_ips: Vec::new(),
    };
    ManifestsConfig { dir: dir.to_owned(), resolver }
}

impl Watched {
    /// Watches a directory that holds these files already.
    async fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a folder can be made");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("is written");
        }
        Self::of(dir).await
    }

    async fn of(dir: TempDir) -> Self {
        let (sender, tables) = unbounded_channel();
        let watching = manifests(config(dir.path()), move |snapshot, _| {
            // The test may have ended.
            let _ = sender.send(snapshot);
        });
        let task = tokio::spawn(async move {
            watching.await.expect("the directory is there");
        });
        Self { dir, tables, task }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("is written");
    }

    /// The Services of the next table.
    async fn next(&mut self) -> Vec<String> {
        let table = timeout(PATIENCE, self.tables.recv()).await.expect("a table comes");
        services(&table.expect("the source goes on"))
    }

    async fn stays_quiet(&mut self) {
        let more = timeout(QUIET, self.tables.recv()).await;
        assert!(
            more.is_err(),
            "no table was due: {:?}",
            more.map(|table| table.as_ref().map(services))
        );
    }
}

fn services(snapshot: &Snapshot) -> Vec<String> {
    snapshot.services().map(|service| service.name.service.name.to_string()).collect()
}

fn service(name: &str, last_octet: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: 192.0.2.{last_octet}, ports: [{{port: 80}}]}}\n"
    )
}

#[tokio::test]
async fn the_first_table_has_all_files_and_an_empty_directory_makes_an_empty_one() {
    let (a, b) = (service("a", 1), service("b", 2));
    let json = "{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"c\"}, \
                \"spec\": {\"clusterIP\": \"192.0.2.3\", \"ports\": [{\"port\": 80}]}}";
    let files = [("a.yaml", &*a), ("b.yml", &b), ("c.json", json), ("d.txt", &a), (".e.yaml", &b)];
    let mut watched = Watched::new(&files).await;
    assert_eq!(watched.next().await, ["a", "b", "c"]);
    let mut watched = Watched::new(&[]).await;
    assert_eq!(watched.next().await, [""; 0]);
    watched.stays_quiet().await;
}

#[tokio::test]
async fn what_statuses_and_nodes_say_is_known_wherever_the_kind_stands() {
    // As kubectl writes it, with the kind last, and in a list whose items do not say their kind.
    let node = "metadata: {name: here}\n\
                spec: {podCIDR: 198.51.100.0/24, podCIDRs: [198.51.100.0/24]}\n\
                status: {addresses: [{type: InternalIP, address: 192.0.2.9}]}\n";
    let service = "metadata: {name: a}\n\
                   spec: {clusterIP: 192.0.2.1, type: LoadBalancer, ports: [{port: 80}]}\n\
                   status: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}\n";
    let (node_head, service_head) =
        ("apiVersion: v1\nkind: Node\n", "apiVersion: v1\nkind: Service\n");
    let listed = |text: &str| format!("- {}", text.trim_end().replace('\n', "\n  "));
    for (form, text) in [
        ("kind first", format!("{node_head}{node}---\n{service_head}{service}")),
        ("kind last", format!("{node}{node_head}---\n{service}{service_head}")),
        (
            "lists",
            format!(
                "apiVersion: v1\nkind: NodeList\nitems:\n{}\n---\n\
                 items:\n{}\nkind: ServiceList\napiVersion: v1\n",
                listed(node),
                listed(service)
            ),
        ),
    ] {
        let mut watched = Watched::new(&[("a.yaml", &text)]).await;
        let table = timeout(PATIENCE, watched.tables.recv()).await.expect("a table comes");
        let table = table.expect("the source goes on");
        let facts = table.node();
        assert_eq!(facts.addresses, ["192.0.2.9".parse::<IpAddr>().expect("one")], "{form}");
        assert_eq!(facts.pod_cidrs.len(), 1, "{form}");
        let ips = &table.services().next().expect("a Service").load_balancer_ips;
        assert_eq!(ips[..], ["203.0.113.1".parse::<IpAddr>().expect("one")], "{form}");
    }
}

#[tokio::test]
async fn a_change_is_live_within_a_tenth_of_a_second() {
    let mut watched = Watched::new(&[]).await;
    watched.next().await;
    let mut fastest = [PATIENCE; 3];
    for turn in 1..=5 {
        let at = |name: &str| watched.path(name);
        let (written, moved) = (at("a.yaml"), at("b.yaml"));
        let started = Instant::now();
        fs::write(&written, service("a", turn)).expect("is written");
        assert_eq!(watched.next().await, ["a"]);
        fastest[0] = fastest[0].min(started.elapsed());
        let aside = watched.path("aside");
        fs::write(&aside, service("b", turn + 100)).expect("is written");
        let started = Instant::now();
        fs::rename(&aside, &moved).expect("is renamed");
        assert_eq!(watched.next().await, ["a", "b"]);
        fastest[1] = fastest[1].min(started.elapsed());
        let started = Instant::now();
        fs::remove_file(&moved).expect("is removed");
        assert_eq!(watched.next().await, ["a"]);
        fastest[2] = fastest[2].min(started.elapsed());
    }
    assert!(fastest.iter().all(|took| *took < PROMISE), "write, rename, removal: {fastest:?}");
}

#[tokio::test]
async fn a_file_that_breaks_keeps_what_it_said_and_stops_nobody() {
    let mut watched = Watched::new(&[("a.yaml", &service("a", 1))]).await;
    assert_eq!(watched.next().await, ["a"]);
    watched.write("a.yaml", "apiVersion: v1\nkind: Service\nmetadata: [\n");
    watched.stays_quiet().await;
    watched.write("b.yaml", &service("b", 2));
    assert_eq!(watched.next().await, ["a", "b"], "a is as it was");
    watched.write("a.yaml", &service("mended", 3));
    assert_eq!(watched.next().await, ["b", "mended"]);
    fs::remove_file(watched.path("a.yaml")).expect("is removed");
    assert_eq!(watched.next().await, ["b"]);
}

#[tokio::test]
async fn a_file_is_not_believed_before_it_is_whole() {
    use std::io::Write as _;

    let mut watched = Watched::new(&[("a.yaml", &service("a", 1))]).await;
    assert_eq!(watched.next().await, ["a"]);
    // As `kubectl get ... > a.yaml` does: emptied at once, filled piece by piece.
    let mut file = fs::File::create(watched.path("a.yaml")).expect("is emptied");
    watched.stays_quiet().await;
    write!(file, "{}", service("b", 2)).expect("is written");
    file.flush().expect("is written");
    watched.stays_quiet().await;
    write!(file, "---\n{}", service("c", 3)).expect("is written");
    drop(file);
    assert_eq!(watched.next().await, ["b", "c"], "one table of the whole file");
}

#[tokio::test]
async fn a_mounted_config_map_swaps_all_its_files_at_once() {
    let dir = tempfile::tempdir().expect("a folder can be made");
    let at = |name: &str| dir.path().join(name);
    // As the kubelet lays it out: files are links through ..data, which is swapped by a rename.
    for (version, octet) in [("..1", 1), ("..2", 2)] {
        fs::create_dir(at(version)).expect("is made");
        for name in ["a", "b"] {
            let file = at(version).join(format!("{name}.yaml"));
            fs::write(
                file,
                service(
                    &format!("{name}{octet}"),
                    octet * 10 + name.len() as u8 + u8::from(name == "b"),
                ),
            )
            .expect("is written");
        }
    }
    symlink("..1", at("..data")).expect("is linked");
    for name in ["a.yaml", "b.yaml"] {
        symlink(Path::new("..data").join(name), at(name)).expect("is linked");
    }
    let mut watched = Watched::of(dir).await;
    assert_eq!(watched.next().await, ["a1", "b1"]);
    symlink("..2", watched.path("..data_tmp")).expect("is linked");
    fs::rename(watched.path("..data_tmp"), watched.path("..data")).expect("is swapped");
    assert_eq!(watched.next().await, ["a2", "b2"], "one table with both");
}

#[tokio::test]
async fn a_directory_that_goes_away_takes_nothing_with_it_and_is_found_again() {
    let parent = tempfile::tempdir().expect("a folder can be made");
    let dir = parent.path().join("manifests");
    fs::create_dir(&dir).expect("is made");
    fs::write(dir.join("a.yaml"), service("a", 1)).expect("is written");
    let (sender, mut tables) = unbounded_channel();
    let task = tokio::spawn({
        let dir = dir.clone();
        async move {
            let publish = |snapshot: Snapshot, _: Changes| drop(sender.send(services(&snapshot)));
            manifests(config(&dir), publish).await.expect("the directory is there");
        }
    });
    let mut next = async || timeout(PATIENCE, tables.recv()).await.expect("in time");
    assert_eq!(next().await.expect("goes on"), ["a"]);
    fs::rename(&dir, parent.path().join("gone")).expect("is moved");
    fs::create_dir(&dir).expect("is made");
    fs::write(dir.join("b.yaml"), service("b", 2)).expect("is written");
    loop {
        // Whether the new directory is seen before or after its file is written is a race.
        let table = next().await.expect("goes on");
        if table == ["b"] {
            break;
        }
        assert!(table.is_empty() || table == ["a", "b"], "{table:?}");
    }
    task.abort();
}

#[tokio::test]
async fn a_directory_that_is_missing_or_none_is_refused_at_the_start() {
    let dir = tempfile::tempdir().expect("a folder can be made");
    let missing = manifests(config(&dir.path().join("missing")), |_, _| {}).await;
    assert!(matches!(missing, Err(Error::Directory { .. })), "{missing:?}");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("is written");
    let none = manifests(config(&file), |_, _| {}).await;
    assert!(matches!(none, Err(Error::NotADirectory { .. })), "{none:?}");
}

#[tokio::test]
async fn what_is_no_file_is_passed_over() {
    let mut watched = Watched::new(&[("a.yaml", &service("a", 1))]).await;
    assert_eq!(watched.next().await, ["a"]);
    fs::create_dir(watched.path("folder.yaml")).expect("is made");
    symlink("nowhere", watched.path("link.yaml")).expect("is linked");
    symlink("/dev/zero", watched.path("endless.yaml")).expect("is linked");
    watched.write("b.yaml", &service("b", 2));
    assert_eq!(watched.next().await, ["a", "b"]);
    watched.stays_quiet().await;
}
