//! Checks gRPC calls octet by octet, with an HTTP/2 client that nobody here wrote (the `h2` crate).

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::pattern::grpc_message;

/// How long the calls of one connection may take together.
const PATIENCE: Duration = Duration::from_secs(15);

/// Calls in flight on a connection.
const CONCURRENCY: u64 = 8;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where the calls go
    #[arg(long)]
    address: SocketAddr,
    /// Connections, one after the other
    #[arg(long, default_value_t = 1)]
    connections: u64,
    /// Calls on each
    #[arg(long, default_value_t = 1)]
    calls: u64,
    /// Octets of the message sent
    #[arg(long, default_value_t = 16)]
    request: u32,
    /// Octets of the message that has to come
    #[arg(long, default_value_t = 16)]
    response: u32,
}

pub(crate) fn run(options: &Options) -> io::Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for _ in 0..options.connections {
            timeout(PATIENCE, connection(options)).await??;
        }
        Ok(json!({ "n": options.connections * options.calls, "errors": 0 }))
    })
}

async fn connection(options: &Options) -> io::Result<()> {
    let socket = TcpStream::connect(options.address).await?;
    socket.set_nodelay(true)?;
    let (mut client, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .handshake(socket)
        .await
        .map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let request = Bytes::from(grpc_message(options.request));
    let response = grpc_message(options.response);
    let mut left = options.calls;
    while left > 0 {
        let mut calls = Vec::new();
        for _ in 0..left.min(CONCURRENCY) {
            client = client.ready().await.map_err(io::Error::other)?;
            calls.push(begin(&mut client, &request).map_err(io::Error::other)?);
            left -= 1;
        }
        for call in calls {
            check(call, &response).await?;
        }
    }
    drop(client);
    connection.await.map_err(io::Error::other)?.map_err(io::Error::other)
}

fn begin(client: &mut SendRequest<Bytes>, message: &Bytes) -> Result<ResponseFuture, h2::Error> {
    let request = Request::post("http://bench:50051/bench.Bench/Get")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("these are a valid request");
    let (response, mut body) = client.send_request(request, false)?;
    body.send_data(message.clone(), true)?;
    Ok(response)
}

async fn check(call: ResponseFuture, message: &[u8]) -> io::Result<()> {
    let response = call.await.map_err(io::Error::other)?;
    let (head, mut body) = response.into_parts();
    let mut found = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(io::Error::other)?;
        body.flow_control().release_capacity(chunk.len()).map_err(io::Error::other)?;
        found.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await.map_err(io::Error::other)?.unwrap_or_default();
    let field = |name: &str| trailers.get(name).map(|value| value.as_bytes().to_vec());
    let fine = head.status == 200
        && head.headers.get("content-type").is_some_and(|value| value == "application/grpc")
        && found == message
        && field("grpc-status").as_deref() == Some(b"0");
    if fine {
        return Ok(());
    }
    let what = format!("{head:?}, {} octets of {}, {trailers:?}", found.len(), message.len());
    Err(io::Error::new(ErrorKind::InvalidData, what))
}
