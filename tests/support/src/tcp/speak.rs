//! How a TCP endpoint speaks.

mod banner;
mod echo;
mod half_close;
mod reset;
mod shout;
mod silent;
mod who;

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;

/// What a TCP endpoint does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speak {
    /// Waits for the first octets, sends its name as a line, then sends back all that came.
    Echo,
    /// Sends `<version>-<name>` as a line at once, before it reads, then sends back what comes: as
    /// MySQL, SMTP and SSH do, it never gets an octet from a client that waits for it.
    Banner,
    /// Reads to the client's end, then sends a line with its name, the octets' count and their
    /// checksum, and ends.
    HalfClose,
    /// Resets the connection at the first octet.
    Reset,
    /// Sends this many patterned octets while it reads as many from the client, at the same time;
    /// then ends with a line as [`HalfClose`](Self::HalfClose) does.
    Shout(u64),
    /// Never sends anything.
    Silent,
    /// Sends its name and the client's address as it sees it, with a space between them, at once;
    /// then ends. The same as [`udp::Endpoint`](crate::udp::Endpoint) answers.
    Who,
}

pub(super) async fn speak(how: Speak, name: &Arc<str>, socket: TcpStream) -> io::Result<()> {
    match how {
        Speak::Echo => echo::speak(name, socket).await,
        Speak::Banner => banner::speak(name, socket).await,
        Speak::HalfClose => half_close::speak(name, socket).await,
        Speak::Reset => reset::speak(socket).await,
        Speak::Shout(count) => shout::speak(name, socket, count).await,
        Speak::Silent => silent::speak(socket).await,
        Speak::Who => who::speak(name, socket).await,
    }
}

/// Sends back what comes until the end, then ends.
async fn echo_all(socket: &mut TcpStream) -> io::Result<()> {
    let (mut from, mut to) = socket.split();
    tokio::io::copy(&mut from, &mut to).await?;
    tokio::io::AsyncWriteExt::shutdown(&mut to).await
}
