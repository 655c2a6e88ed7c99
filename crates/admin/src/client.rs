//! The client's side of the unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::Error;
use crate::explain::Explanation;
use crate::list::ServiceView;

/// The longest answer read: 250,000 endpoints at 500 bytes each, four times over.
const LONGEST_ANSWER: usize = 512 << 20;

/// How long the whole exchange may take. The agent needs about a second for the table above.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Asks the agent behind the socket for its ServicePorts.
///
/// # Errors
///
/// [`Error::Unreachable`] when nobody answers there, which is mostly since no agent runs.
pub async fn fetch(socket: &Path) -> Result<Vec<ServiceView>, Error> {
    let body = get(socket, "/services").await?;
    serde_json::from_slice(&body)
        .map_err(|source| Error::BadAnswer { path: socket.to_owned(), source })
}

/// Asks the agent behind the socket about a Service.
///
/// # Errors
///
/// As [`fetch`].
///
/// # Panics
///
/// A name that is no part of a URL: the caller has looked.
pub async fn explanation(socket: &Path, namespace: &str, name: &str) -> Result<Explanation, Error> {
    let body = get(socket, &format!("/explain/{namespace}/{name}")).await?;
    serde_json::from_slice(&body)
        .map_err(|source| Error::BadAnswer { path: socket.to_owned(), source })
}

/// Asks the agent behind the socket for its metrics, in their text form.
///
/// # Errors
///
/// As [`fetch`].
pub async fn metrics_page(socket: &Path) -> Result<String, Error> {
    Ok(String::from_utf8_lossy(&get(socket, "/metrics").await?).into_owned())
}

async fn get(socket: &Path, target: &str) -> Result<Bytes, Error> {
    let path = || PathBuf::from(socket);
    match timeout(TIMEOUT, exchange(socket, target)).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::NoAnswer { path: path(), waited: TIMEOUT }),
    }
}

async fn exchange(socket: &Path, target: &str) -> Result<Bytes, Error> {
    let path = || socket.to_owned();
    let broken = |source| Error::BrokenAnswer { path: path(), source };
    let connected = UnixStream::connect(socket).await;
    let connected = connected.map_err(|source| Error::Unreachable { path: path(), source })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(connected)).await.map_err(broken)?;
    let request = Request::get(target)
        .header(header::HOST, "localhost")
        .body(Body::empty())
        .expect("a path of plain names and a constant header make a request");
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(Error::Status { path: path(), status: status.as_u16() });
        }
        match Limited::new(response.into_body(), LONGEST_ANSWER).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) => match error.downcast::<hyper::Error>() {
                Ok(source) => Err(broken(*source)),
                Err(other) => {
                    debug_assert!(other.is::<LengthLimitError>());
                    Err(Error::LongAnswer { path: path(), limit: LONGEST_ANSWER })
                }
            },
        }
    };
    // The connection moves the bytes and ends by itself; what went wrong shows in the answer.
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    }
}
