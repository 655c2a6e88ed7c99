//! The smallest HTTP/1.1 client that can read health and metrics pages, and post to a server.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::lab::Netns;

/// Longer than any page takes to be made.
const PATIENCE: Duration = Duration::from_secs(5);

/// An answer: the status code, the header lines and the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header lines, without the status line.
    pub headers: String,
    /// The body, joined where it came in chunks.
    pub body: String,
}

/// Asks for one page from inside a namespace.
///
/// # Errors
/// When nobody answers there, or not in HTTP/1.1.
pub fn get(netns: &Netns, address: SocketAddr, path: &str) -> io::Result<Answer> {
    netns.run(|| send_here("GET", address, path, ""))
}

/// Posts a body from inside a namespace.
///
/// # Errors
/// As [`get`].
pub fn post(netns: &Netns, address: SocketAddr, path: &str, body: &str) -> io::Result<Answer> {
    netns.run(|| send_here("POST", address, path, body))
}

fn send_here(method: &str, address: SocketAddr, path: &str, body: &str) -> io::Result<Answer> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )?;
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP/1.1 answer"))
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let (status_line, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = status_line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let chunked = headers
        .lines()
        .any(|line| line.to_ascii_lowercase().replace(' ', "") == "transfer-encoding:chunked");
    let body = if chunked { join_chunks(body)? } else { body.to_owned() };
    Some(Answer { status, headers: headers.to_owned(), body })
}

fn join_chunks(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_chunked_bodies_are_read() {
        let plain = parse("HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\nbody").unwrap();
        assert_eq!(
            (plain.status, plain.headers.as_str(), plain.body.as_str()),
            (503, "a: b", "body")
        );
        let chunked = parse(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        );
        assert_eq!(chunked.unwrap().body, "abcde");
        assert_eq!(parse("SSH-2.0-x\r\n\r\n"), None);
    }
}
