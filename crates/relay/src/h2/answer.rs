//! Answers we make ourselves, in the words the client understands.

use bytes::Bytes;
use h2::server::SendResponse;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

/// `UNAVAILABLE`: clients may try again (gRPC status codes).
pub(super) const GRPC_UNAVAILABLE: &str = "14";

/// `DEADLINE_EXCEEDED`: the time that the client gave is over.
pub(super) const DEADLINE_EXCEEDED: &str = "4";

/// [`GRPC_UNAVAILABLE`] as a number.
pub(super) const UNAVAILABLE: u32 = 14;

/// What a gRPC client is told when its endpoint was lost in the middle of the response.
pub(super) const LOST: &str = "connection to the endpoint was lost";

/// What a gRPC client is told when its stream has lived long enough.
pub(super) const EXPIRED: &str = "the stream has reached its maximum age";

/// The request is gRPC (gRPC over HTTP/2, "Content-Type").
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Answers that no endpoint can serve the request: for gRPC trailers-only with `grpc-status: 14`,
/// else `status` with the message as text. A client that is gone already is no error.
pub(super) fn unavailable(
    respond: &mut SendResponse<Bytes>,
    grpc: bool,
    status: StatusCode,
    message: &str,
) {
    if grpc {
        return trailers_only(respond, unavailable_trailers(message));
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    if let Ok(mut body) = respond.send_response(response, false) {
        let _ = body.send_data(Bytes::from(format!("{message}\n")), true);
    }
}

/// Answers a gRPC call whose deadline has passed.
pub(super) fn deadline_exceeded(respond: &mut SendResponse<Bytes>, message: &str) {
    trailers_only(respond, trailers(DEADLINE_EXCEEDED, message));
}

fn trailers_only(respond: &mut SendResponse<Bytes>, trailers: HeaderMap) {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().extend(trailers);
    let _ = respond.send_response(response, true);
}

/// The trailers that end a gRPC call whose endpoint was lost.
pub(super) fn unavailable_trailers(message: &str) -> HeaderMap {
    trailers(GRPC_UNAVAILABLE, message)
}

fn trailers(status: &'static str, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    if let Ok(message) = HeaderValue::try_from(percent_encode(message)) {
        trailers.insert("grpc-message", message);
    }
    trailers
}

/// `grpc-message` is percent-encoded: printable ASCII but for `%` stands for itself.
pub(super) fn percent_encode(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for octet in message.bytes() {
        match octet {
            b'%' => encoded.push_str("%25"),
            b' '..=b'~' => encoded.push(char::from(octet)),
            _ => encoded.push_str(&format!("%{octet:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    //! Aim: what we answer is legal in a header.

    use super::{percent_encode, unavailable_trailers};

    #[test]
    fn message_is_percent_encoded() {
        assert_eq!(percent_encode("no endpoint"), "no endpoint");
        assert_eq!(percent_encode("100% größe\n"), "100%25 gr%C3%B6%C3%9Fe%0A");
    }

    #[test]
    fn trailers_say_unavailable_and_why() {
        let trailers = unavailable_trailers("Service default/echo has no usable endpoint");
        assert_eq!(trailers["grpc-status"], "14");
        assert_eq!(trailers["grpc-message"], "Service default/echo has no usable endpoint");
    }
}
