//! Aim: endpoints see each client by its alias, and no two clients share an upstream connection.
//! Method: every address of 127.0.0.0/8 is the node's own, so that clients and aliases are
//! taken from it without privilege; each test runs on both engines.
#![allow(clippy::unwrap_used)] // Tests, though the compiler sees functions that tests call.

use std::net::{IpAddr, Ipv4Addr};

use streamvs_relay::h2::Engine;
use streamvs_table::{Alias, Aliases, ProtocolHint};
use streamvs_test_flow::endpoint::{EndpointServer, Script, addresses, start_all};
use streamvs_test_flow::{Node, call, grpc_request, service_port};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

const PATH: &str = "/test.Echo/Unary";

const ENGINES: [Engine; 2] = [Engine::Switch, Engine::H2];

/// Two clients that have aliases, and one that has none.
const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 2, 1);

fn aliases() -> Aliases {
    let alias = Alias::new("127.0.1.0/24".parse().unwrap(), "127.9.0.0/16".parse().unwrap());
    Aliases::new(alias)
}

fn ips<const N: usize>(texts: [&str; N]) -> Vec<IpAddr> {
    texts.map(|text| text.parse().unwrap()).into()
}

/// Each once: an early dial that is not needed is a connection too.
fn peers(endpoint: &EndpointServer) -> Vec<IpAddr> {
    let mut peers = endpoint.peers();
    peers.sort();
    peers.dedup();
    peers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_client_has_upstream_connections_of_its_own_under_its_alias() {
    for engine in ENGINES {
        let endpoints = start_all(2, Script::Echo).await;
        let node = Node::start_engine(engine, &addresses(&endpoints));
        node.publish_aliases(aliases());
        // Two connections of each client, which share.
        for client in [ONE, TWO, OTHER, ONE, TWO, OTHER] {
            let client = node.connect_from(client).await;
            for _ in 0..4 {
                let answer = call(&client, grpc_request(PATH), b"hello").await.unwrap();
                assert_eq!(answer.grpc_status(), "0");
            }
        }
        for endpoint in &endpoints {
            let seen = ips(["127.0.0.1", "127.9.0.1", "127.9.0.2"]);
            assert_eq!(peers(endpoint), seen, "{engine:?}");
            assert_eq!(endpoint.streams(), 12, "{engine:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_streams_of_an_open_connection_follow_the_aliases_in_force() {
    for engine in ENGINES {
        let endpoint = EndpointServer::start(Script::Echo).await;
        let node = Node::start_engine(engine, &[endpoint.address]);
        let client = node.connect_from(ONE).await;
        for aliases in [Aliases::default(), aliases(), Aliases::default()] {
            node.publish_aliases(aliases);
            call(&client, grpc_request(PATH), b"hello").await.unwrap();
        }
        assert_eq!(peers(&endpoint), ips(["127.0.0.1", "127.9.0.1"]), "{engine:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_connection_and_an_early_dial_come_from_the_alias() {
    for (hint, client, seen) in [
        (ProtocolHint::Tcp, ONE, "127.9.0.1"),
        // Dialled before the client has spoken.
        (ProtocolHint::Auto, TWO, "127.9.0.2"),
        (ProtocolHint::Auto, OTHER, "127.0.0.1"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let node = Node::start(&[address]);
        node.publish_aliases(aliases());
        node.publish_service(service_port(&[address], hint));
        let mut socket = node.dial_from(client).await;
        if hint == ProtocolHint::Tcp {
            socket.write_all(b"hello").await.unwrap();
        }
        let (_upstream, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip(), seen.parse::<IpAddr>().unwrap(), "{client}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_the_client_itself_sees_the_node() {
    let listener = TcpListener::bind((ONE, 0)).await.unwrap();
    let node = Node::start(&[listener.local_addr().unwrap()]);
    node.publish_aliases(aliases());
    let _socket = node.dial_from(ONE).await;
    let (_upstream, peer) = listener.accept().await.unwrap();
    assert!(![IpAddr::from(ONE), ips(["127.9.0.1"])[0]].contains(&peer.ip()), "{peer}");
}
