//! What a connect from somewhere to somewhere comes to.

use std::fmt::Debug;
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::agent::PATIENCE;
use crate::lab::Host;

/// What a client gets that waits for a server to speak first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// An endpoint's greeting.
    Served,
    /// A reset at once.
    Refused,
    /// A reset by the agent, which knew of a change before the kernel did. Never the last word.
    Overtaken,
    /// Nothing at all.
    Silence,
}

/// How long a client waits for an answer that must not come; an answer that must come has longer.
pub const SILENCE: Duration = Duration::from_millis(1500);

/// Connects to an endpoint that speaks first, and says what came of it.
///
/// # Panics
/// When the connect fails in another way than these.
#[track_caller]
pub fn ask(host: &Host, to: SocketAddr) -> Got {
    host.netns().run(move || {
        let connected = TcpStream::connect_timeout(&to, SILENCE);
        let mut socket = match connected {
            Ok(socket) => socket,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::HostUnreachable
                        | io::ErrorKind::NetworkUnreachable
                ) =>
            {
                return Got::Refused;
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Got::Silence,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Got::Overtaken,
            Err(error) => panic!("{to}: {error}"),
        };
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
        let mut first = [0; 1];
        match read(&mut socket, &mut first) {
            Ok(1) => Got::Served,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Got::Overtaken,
            other => panic!("{to}: {other:?}"),
        }
    })
}

/// Reads once. A read with a time-out that a signal ends, as of a child, is not begun anew by the
/// kernel; here it is.
///
/// # Errors
/// As the read.
pub fn read(socket: &mut TcpStream, octets: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(octets) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Connects until the answer is the expected one.
///
/// # Panics
/// When it never is.
#[track_caller]
pub fn expect(host: &Host, to: SocketAddr, expected: Got, what: &str) {
    expect_by(ask, host, to, expected, what);
}

/// Asks until the answer is the expected one: the kernel learns of a change a little after it was
/// written. What must be silence is asked last, and once.
///
/// # Panics
/// When it never is.
#[track_caller]
pub fn expect_by<G: PartialEq + Debug>(
    ask: impl Fn(&Host, SocketAddr) -> G,
    host: &Host,
    to: SocketAddr,
    expected: G,
    what: &str,
) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let got = ask(host, to);
        if got == expected {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: {} asks {to} and gets {got:?}, not {expected:?}",
            host.name()
        );
    }
}
