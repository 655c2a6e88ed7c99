//! Whether a kube-proxy runs on this node: does somebody who is not us answer on its ports?

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Loopback answers at once; this bounds a process that does not.
const PATIENCE: Duration = Duration::from_secs(2);

/// More than any answer to these questions has.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// What is asked on which of kube-proxy's ports. Our own answers name us.
const QUESTIONS: [(u16, &str); 2] = [(10249, "/proxyMode"), (10256, "/healthz")];

/// The first of kube-proxy's ports on which somebody else answers.
pub(crate) fn kube_proxy_port() -> Option<u16> {
    let asked = QUESTIONS.into_iter().map(|(port, path)| (port, ask(port, path)));
    let mut answered = asked.filter_map(|(port, answer)| Some((port, answer.ok()?)));
    answered.find(|(_, answer)| is_of_others(answer)).map(|(port, _)| port)
}

fn ask(port: u16, path: &str) -> std::io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    socket.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn is_of_others(answer: &str) -> bool {
    answer.starts_with("HTTP/") && !answer.contains("streamvs")
}

#[cfg(test)]
mod tests {
    use super::is_of_others;

    #[test]
    fn an_answer_that_does_not_name_us_is_kube_proxys() {
        assert!(is_of_others("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\niptables"));
        assert!(!is_of_others("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nstreamvs"));
        assert!(!is_of_others("SSH-2.0-OpenSSH\r\n"));
    }
}
