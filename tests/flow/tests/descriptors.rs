//! Aim: a process without descriptors tells new clients so, and goes on with those it has. Method:
//! this process opens files until there is no descriptor left, with sockets made before; alone in
//! its program, as the limit is of the whole process.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use streamvs_accept::RefusalReason;
use streamvs_test_flow::endpoint::{EndpointServer, Script};
use streamvs_test_flow::{Node, call, eventually, grpc_request};

const PATH: &str = "/test.Echo/Unary";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_descriptor_left_new_connections_are_reset_and_old_ones_go_on() {
    let endpoint = EndpointServer::start(Script::Echo).await;
    let node = Node::start(&[endpoint.address]);
    let client = node.connect().await;
    let serves = || async {
        let answer = call(&client, grpc_request(PATH), b"x").await.unwrap();
        assert_eq!(answer.grpc_status(), "0");
    };
    serves().await;
    let late: Vec<Socket> =
        (0..5).map(|_| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()).collect();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 256, hard).unwrap();
    let files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(files.len() < 256, "the limit counts");
    for socket in late {
        socket.connect(&node.address.into()).unwrap();
        let mut socket: TcpStream = socket.into();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let error = socket.read(&mut [0; 1]).expect_err("nobody serves it");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        // Its descriptor is free now, and must not be.
        std::mem::forget(socket);
    }
    assert_eq!(node.refusals(), [RefusalReason::Descriptors; 5]);
    serves().await;
    drop(files);
    let other = node.connect().await;
    let answer = call(&other, grpc_request(PATH), b"x").await.unwrap();
    assert_eq!(answer.grpc_status(), "0");
    eventually("nothing was refused since", || node.refusals().len() == 5).await;
}
