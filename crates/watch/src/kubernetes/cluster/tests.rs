//! Aim: when tables are made, and what a list takes away. Method: events as informers tell them.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::*;

struct Given {
    cluster: Cluster,
    now: Instant,
    told: Vec<String>,
}

fn service(name: &str, last: u8) -> Object {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIP": format!("10.96.0.{last}"), "ports": [{"port": 80}]},
    }))
    .expect("a Service");
    Object::Service(Box::new(service))
}

fn slice(name: &str, service: &str, addresses: &[&str]) -> Object {
    let endpoints: Vec<_> = addresses.iter().map(|ip| json!({"addresses": [ip]})).collect();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {
            "namespace": "shop", "name": name,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "", "port": 8080}],
    }))
    .expect("a slice");
    Object::Slice(Box::new(slice))
}

fn node(name: &str, taints: &[&str], deleting: bool) -> Object {
    let taints: Vec<_> =
        taints.iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect();
    let mut node: Node = serde_json::from_value(json!({
        "metadata": {"name": name}, "spec": {"taints": taints},
    }))
    .expect("a Node");
    if deleting {
        let at = serde_json::from_value(json!("2026-11-24T20:00:00Z")).expect("a time");
        node.metadata.deletion_timestamp = Some(at);
    }
    Object::Node(Box::new(node))
}

fn cidr(name: &str, cidrs: &[&str]) -> Object {
    let cidr: ServiceCIDR = serde_json::from_value(json!({
        "metadata": {"name": name}, "spec": {"cidrs": cidrs},
    }))
    .expect("a ServiceCIDR");
    Object::ServiceCidr(Box::new(cidr))
}

fn refused(code: u16) -> Failure {
    let status = json!({"code": code, "message": "no", "reason": ""});
    Failure::of_status(serde_json::from_value(status).expect("a status"))
}

impl Given {
    fn new() -> Self {
        let resolver = Config {
            node_name: "node-1".into(),
            service_proxy_name: None,
            allow_external_ips: Vec::new(),
        };
        let now = Instant::now();
        Self { cluster: Cluster::new(resolver, "https://x".to_owned(), now), now, told: vec![] }
    }

    fn tell(&mut self, kind: Kind, event: Event<Object>) -> &mut Self {
        let told = &mut self.told;
        let mut tell = |update: Update| told.push(format!("{update:?}"));
        self.cluster.take(Message { kind, event }, self.now, &mut tell);
        self
    }

    fn list(&mut self, kind: Kind, objects: Vec<Object>) -> &mut Self {
        self.tell(kind, Event::Listing);
        for object in objects {
            self.tell(kind, Event::Applied(object));
        }
        self.tell(kind, Event::Listed).tell(kind, Event::Watching)
    }

    /// Everything is listed: Service a has one endpoint.
    fn synced() -> Self {
        let mut given = Self::new();
        given
            .list(Kind::Services, vec![service("a", 1)])
            .list(Kind::EndpointSlices, vec![slice("a-1", "a", &["10.1.0.1"])])
            .list(Kind::Nodes, vec![node("node-1", &[], false)])
            .list(Kind::ServiceCidrs, vec![]);
        given.now = given.cluster.due().expect("all is known");
        assert_eq!(given.table(), Some(vec!["shop/a 10.1.0.1:8080".to_owned()]));
        given.told.clear();
        given
    }

    /// The next table if it is due: each Service with its endpoints.
    fn table(&mut self) -> Option<Vec<String>> {
        if self.cluster.due()? > self.now {
            return None;
        }
        let (snapshot, _) = self.cluster.make()?;
        let line = |service: &Arc<streamvs_table::ServicePort>| {
            let mut line = service.name.to_string();
            for endpoint in &service.endpoints {
                line += &format!(" {}", endpoint.address);
            }
            line
        };
        Some(snapshot.services().map(line).collect())
    }

    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }
}

#[test]
fn nothing_is_due_before_all_kinds_were_listed_in_whatever_order() {
    for last in Kind::ALL {
        let mut given = Given::new();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != last) {
            given.list(kind, vec![]);
        }
        assert_eq!(given.cluster.due(), None, "{last}");
        given.tell(last, Event::Listing);
        assert_eq!(given.cluster.due(), None, "{last}");
        given.tell(last, Event::Listed);
        given.now = given.cluster.due().expect("all is known");
        assert_eq!(given.table(), Some(vec![]), "that there is nothing is news too");
    }
}

#[test]
fn a_change_after_quiet_is_due_at_once() {
    let mut given = Given::synced();
    assert_eq!(given.cluster.due(), None, "nothing is new");
    given.tell(Kind::EndpointSlices, Event::Applied(slice("a-1", "a", &["10.1.0.2"])));
    assert!(given.cluster.due().is_some_and(|due| due <= given.now));
    assert_eq!(given.table(), Some(vec!["shop/a 10.1.0.2:8080".to_owned()]));
}

#[test]
fn a_later_list_replaces_what_was_there_in_one_step() {
    let mut given = Given::synced();
    given.tell(Kind::Services, Event::Listing);
    given.tell(Kind::Services, Event::Applied(service("b", 1)));
    assert_eq!(given.table(), None, "b has the address of a, which the list may not have");
    given.tell(Kind::Services, Event::Listed);
    assert_eq!(given.table(), Some(vec!["shop/b".to_owned()]));
}

#[test]
fn a_list_that_takes_long_holds_others_back_for_a_bounded_time_only() {
    let mut given = Given::synced();
    given.tell(Kind::EndpointSlices, Event::Listing);
    given.tell(Kind::Services, Event::Applied(service("b", 2)));
    assert_eq!(given.table(), None);
    given.now += MAX_HOLD;
    let wanted = ["shop/a 10.1.0.1:8080".to_owned(), "shop/b".to_owned()];
    assert_eq!(given.table(), Some(wanted.to_vec()), "what the list did not have yet is kept");
}

#[test]
fn a_list_that_breaks_off_takes_nothing_away() {
    let mut given = Given::synced();
    given.tell(Kind::Services, Event::Listing);
    given.tell(Kind::Services, Event::Broken(refused(500)));
    given.tell(Kind::EndpointSlices, Event::Applied(slice("a-2", "a", &["10.1.0.9"])));
    let wanted = "shop/a 10.1.0.1:8080 10.1.0.9:8080".to_owned();
    assert_eq!(given.table(), Some(vec![wanted]));
    assert_eq!(given.told(), ["Broken(Services)"]);
}

#[test]
fn what_is_deleted_between_lists_is_gone() {
    let mut given = Given::synced();
    given.tell(Kind::EndpointSlices, Event::Deleted(slice("a-1", "a", &["10.1.0.1"])));
    assert_eq!(given.table(), Some(vec!["shop/a".to_owned()]));
    given.tell(Kind::Services, Event::Deleted(service("a", 1)));
    assert_eq!(given.table(), Some(vec![]));
}

#[test]
fn the_node_is_told_of_when_it_changes_and_kept_while_the_server_is_away() {
    let mut given = Given::synced();
    given.tell(Kind::Nodes, Event::Applied(node("node-1", &[], false)));
    assert_eq!(given.told(), [""; 0], "a heartbeat is no news");
    given.tell(Kind::Nodes, Event::Applied(node("node-1", &["gone-soon"], true)));
    assert_eq!(given.told(), [r#"Node(Present { deleting: true, taints: ["gone-soon"] })"#]);
    given.tell(Kind::Nodes, Event::Broken(refused(500)));
    assert_eq!(given.told(), ["Broken(Nodes)"]);
    given.list(Kind::Nodes, vec![]);
    assert_eq!(given.told()[0], "Node(Absent)");
}

#[test]
fn what_changes_without_a_table_is_kept_on_disk_too() {
    let mut given = Given::synced();
    let first = given.cluster.unsaved().expect("the first table is news");
    assert_eq!(first.node, NodeStatus::Present { deleting: false, taints: vec![] });
    assert!(given.cluster.unsaved().is_none(), "nothing is new");
    given.tell(Kind::Nodes, Event::Applied(node("node-1", &[], false)));
    assert!(given.cluster.unsaved().is_none(), "a heartbeat is no news");

    given.tell(Kind::Nodes, Event::Applied(node("node-1", &["gone-soon"], true)));
    assert_eq!(given.table(), None, "no Service is served otherwise");
    let tainted = given.cluster.unsaved().expect("a taint is news");
    let taints = vec!["gone-soon".to_owned()];
    assert_eq!(tainted.node, NodeStatus::Present { deleting: true, taints });
    assert!(tainted.snapshot.services().eq(first.snapshot.services()));

    given.tell(Kind::ServiceCidrs, Event::Applied(cidr("more", &["10.97.0.0/16"])));
    let ranges = given.cluster.unsaved().expect("a range is news").service_cidrs;
    assert_eq!(ranges, ["10.97.0.0/16".parse().expect("a range")]);
}

#[test]
fn nothing_is_kept_on_disk_before_the_first_table() {
    let mut given = Given::new();
    given.list(Kind::Nodes, vec![node("node-1", &["gone-soon"], false)]);
    assert!(given.cluster.unsaved().is_none());
}

#[test]
fn a_kind_the_server_does_not_have_or_show_is_done_without_if_it_can_be() {
    for code in [403, 404] {
        let mut given = Given::new();
        for kind in [Kind::Services, Kind::EndpointSlices, Kind::Nodes] {
            given.list(kind, vec![]);
        }
        given.tell(Kind::ServiceCidrs, Event::Broken(refused(500)));
        assert!(!given.cluster.synced());
        given.tell(Kind::ServiceCidrs, Event::Broken(refused(code)));
        assert!(given.cluster.synced(), "{code}");
    }
    let mut given = Given::new();
    for kind in [Kind::EndpointSlices, Kind::Nodes, Kind::ServiceCidrs] {
        given.list(kind, vec![]);
    }
    given.tell(Kind::Services, Event::Broken(refused(403)));
    assert!(!given.cluster.synced() && given.cluster.any_broken());
}

#[test]
fn service_ranges_are_told_of_as_a_whole() {
    let mut given = Given::new();
    let kubernetes = cidr("kubernetes", &["10.96.0.0/16", "fd00:96::/112"]);
    let more = cidr("more", &["10.97.0.0/16", "no range"]);
    given.list(Kind::ServiceCidrs, vec![kubernetes, more]);
    let told = given.told();
    assert_eq!(told[0], "ServiceCidrs([10.96.0.0/16, 10.97.0.0/16, fd00:96::/112])");
    given.tell(Kind::ServiceCidrs, Event::Deleted(cidr("more", &[])));
    assert_eq!(given.told(), ["ServiceCidrs([10.96.0.0/16, fd00:96::/112])"]);
}

#[test]
fn tables_go_on_from_the_state() {
    let (snapshot, _) = Snapshot::new(41, vec![]);
    let state = State { snapshot, node: NodeStatus::Absent, service_cidrs: vec![] };
    let mut given = Given::new();
    given.cluster.follow(&state);
    for kind in Kind::ALL {
        given.list(kind, vec![]);
    }
    let (next, _) = given.cluster.make().expect("the server's first table");
    assert_eq!(next.generation(), 42);
}
