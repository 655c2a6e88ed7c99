//! Aim: a load balancer hears what kube-proxy would say. Method: the answer as text, the count by
//! cases, and real sockets on loopback.

use std::net::TcpListener as Taken;
use std::sync::Mutex;

use streamvs_table::{Endpoint, Protocol, Usability};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::health::{DEFAULT_TIMEOUT, NodeState};
use crate::testing::{endpoint, service};

const PATIENCE: Duration = Duration::from_secs(20);

fn here(address: &str) -> Endpoint {
    endpoint(address, Usability::Ready)
}

/// A Service with a health check node port; its endpoints are as given.
fn checked(name: &str, number: u16, endpoints: Vec<Endpoint>) -> Arc<ServicePort> {
    let mut port = service(name, Protocol::Tcp, 80, &["10.96.0.1"], endpoints);
    port.health_check_node_port = Some(number);
    Arc::new(port)
}

#[test]
fn the_answer_is_kube_proxys_to_the_letter() {
    let service = ServiceName::new("shop", "web");
    let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\
                \"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
    let (status, text) = say(&service, 2, true);
    assert_eq!((status, String::from_utf8(text).as_deref()), (StatusCode::OK, Ok(body)));
    for (count, healthy) in [(0, true), (2, false), (0, false)] {
        assert_eq!(say(&service, count, healthy).0, StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[test]
fn ready_endpoints_on_this_node_count_once_each() {
    let count = |endpoints: Vec<Endpoint>| {
        let twice =
            [checked("shop/web", 1, endpoints.clone()), checked("shop/web:b", 1, endpoints)];
        (local_endpoints(&twice, Family::V4), local_endpoints(&twice, Family::V6))
    };
    assert_eq!(count(vec![]), (0, 0));
    assert_eq!(count(vec![here("10.244.1.1:80"), here("10.244.1.2:80")]), (2, 0));
    assert_eq!(count(vec![here("10.244.1.1:80"), here("[fd00::1]:80")]), (1, 1));
    let elsewhere = Endpoint { local: false, ..here("10.244.2.1:80") };
    assert_eq!(count(vec![elsewhere]), (0, 0));
    let terminating = Endpoint { terminating: true, ready: false, ..here("10.244.1.1:80") };
    assert_eq!(count(vec![terminating.clone()]), (0, 0), "though it serves");
    assert_eq!(count(vec![Endpoint { ready: true, ..terminating }]), (0, 0));
    assert_eq!(count(vec![Endpoint { ready: false, ..here("10.244.1.1:80") }]), (0, 0));
}

#[test]
fn only_families_with_an_address_of_the_service_are_served() {
    let service = [checked("shop/web", 31_000, vec![])];
    assert_eq!(port_of(&service, Family::V4), Some(31_000));
    assert_eq!(port_of(&service, Family::V6), None);
    assert_eq!(port_of(&[], Family::V4), None);
}

/// The answer's status line and weight; none where nobody listens.
async fn ask(port: u16) -> Option<(String, String)> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    socket.write_all(b"GET /any HTTP/1.1\r\nHost: lb\r\n\r\n").await.ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).await.ok()?;
    let status = text.split(' ').nth(1)?.to_owned();
    let (_, rest) = text.split_once("x-load-balancing-endpoint-weight: ")?;
    Some((status, rest.split_once("\r\n")?.0.to_owned()))
}

/// Waits for an answer, or for the want of one.
async fn expect(port: u16, expected: Option<(&str, &str)>) {
    let wait = async {
        let expected = expected.map(|(status, weight)| (status.to_owned(), weight.to_owned()));
        while ask(port).await != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the answer comes");
}

/// Holds a free port of loopback for the test, without listening: others cannot have it, and a
/// server beside it can.
fn reserved() -> (Socket, u16) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.set_reuse_port(true).expect("an option");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
    let address = socket.local_addr().expect("an address").as_socket().expect("of IP");
    (socket, address.port())
}

fn loopback(_: &NodeFacts) -> BTreeSet<IpAddr> {
    [IpAddr::from(Ipv4Addr::LOCALHOST)].into()
}

/// Serves tables, and lists the Services of which failures were told.
fn start(tables: watch::Receiver<Arc<Snapshot>>, most: usize) -> (JoinSet<()>, Told) {
    let told = Told::default();
    let tell = {
        let told = Arc::clone(&told);
        move |service: &ServiceName, _| told.lock().expect("whole").push(service.to_string())
    };
    let health = Arc::new(Health::new(DEFAULT_TIMEOUT, NodeState::Absent));
    let mut serving = JoinSet::new();
    serving.spawn(serve(tables, health, loopback, most, tell));
    (serving, told)
}

type Told = Arc<Mutex<Vec<String>>>;

/// Two Services, the ports of their health checks, and the endpoints of the second.
fn table(generation: u64, dns: u16, web: u16, endpoints: Vec<Endpoint>) -> Arc<Snapshot> {
    let mut services = vec![checked("shop/dns", dns, vec![]), checked("shop/web", web, endpoints)];
    // They cannot have one address.
    Arc::make_mut(&mut services[0]).cluster_ips = vec![IpAddr::from([10, 96, 0, 2])];
    Arc::new(Snapshot::new(generation, services).0)
}

#[tokio::test]
async fn ports_follow_the_table_and_one_that_is_taken_harms_no_other() {
    let taken = Taken::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let dns = taken.local_addr().expect("an address").port();
    let (_reserved, web) = reserved();
    let (tables, changed) = watch::channel(table(1, dns, web, vec![]));
    let (mut serving, told) = start(changed, 16);

    expect(web, Some(("503", "0"))).await;
    assert_eq!(*told.lock().expect("whole"), ["shop/dns"]);
    tables.send_replace(table(2, dns, web, vec![here("10.244.1.1:80")]));
    expect(web, Some(("200", "1"))).await;
    drop(taken);
    expect(dns, Some(("503", "0"))).await;
    assert_eq!(*told.lock().expect("whole"), ["shop/dns"], "once");
    tables.send_replace(Arc::new(Snapshot::default()));
    expect(web, None).await;
    drop(tables);
    serving.join_next().await.expect("a task").expect("it ends with its tables");
}

#[tokio::test]
async fn a_port_is_one_services_until_that_gives_it_back() {
    let ((_one, port), (_other, free)) = (reserved(), reserved());
    let (tables, changed) = watch::channel(table(1, port, port, vec![here("10.244.1.1:80")]));
    let (_serving, told) = start(changed, 16);
    for _ in 0..20 {
        expect(port, Some(("503", "0"))).await;
    }
    assert_eq!(*told.lock().expect("whole"), ["shop/web"]);
    tables.send_replace(table(2, free, port, vec![here("10.244.1.1:80")]));
    expect(port, Some(("200", "1"))).await;
    expect(free, Some(("503", "0"))).await;
}

#[tokio::test]
async fn no_more_sockets_listen_than_may() {
    let ((_one, dns), (_other, web)) = (reserved(), reserved());
    let (tables, changed) = watch::channel(table(1, dns, web, vec![]));
    let (_serving, told) = start(changed, 1);
    expect(dns, Some(("503", "0"))).await;
    expect(web, None).await;
    assert_eq!(*told.lock().expect("whole"), ["shop/web"]);
    // One that comes before all others is one too many too.
    let mut first = checked("shop/a", web, vec![]);
    Arc::make_mut(&mut first).cluster_ips = vec![IpAddr::from([10, 96, 0, 3])];
    let services = table(2, dns, web, vec![]).services().cloned().chain([first]).collect();
    tables.send_replace(Arc::new(Snapshot::new(3, services).0));
    let wait = async {
        while *told.lock().expect("whole") != ["shop/web", "shop/a"] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it is told");
    expect(web, None).await;
}
