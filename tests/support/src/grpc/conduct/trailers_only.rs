//! Ends every call with a status and no message, in one block of headers ("Trailers-Only").

use http::{HeaderValue, Response};

use crate::grpc::call::Call;

pub(super) fn answer(mut call: Call, status: u8, message: &str) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    headers.insert(
        "grpc-message",
        HeaderValue::from_str(message).expect("a test's message is plain text"),
    );
    headers.insert("x-endpoint", call.name_header());
    call.respond.send_response(response, true).map(drop)
}
