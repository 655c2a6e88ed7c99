//! Reading and writing a nonblocking socket with no system call that only says "not now".
//!
//! tokio's driver is edge-triggered: it reports once that something came, and the socket counts as
//! ready until a call is refused. A read that does not fill its buffer has emptied the socket, so
//! the refused call after it can be spared: what comes later is reported anew. The end of a peer's
//! bytes is no edge that could be lost by this, for tokio never forgets it.

use std::io;

use tokio::io::Interest;
use tokio::net::TcpStream;

/// Reads what there is, once. `Ok(0)` is the end of the peer's bytes (or an empty `buffer`).
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when nothing has come: await readability. Else as recv(2).
pub fn read_once(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let count = socket.try_read(buffer)?;
    if 0 < count && count < buffer.len() {
        not_ready(socket, Interest::READABLE);
    }
    Ok(count)
}

/// Writes what the kernel takes, once.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when it takes nothing: await writability. Else as send(2).
pub fn write_once(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let count = socket.try_write(bytes)?;
    if count < bytes.len() {
        not_ready(socket, Interest::WRITABLE);
    }
    Ok(count)
}

/// Tells the driver what a refused call would tell it.
fn not_ready(socket: &TcpStream, interest: Interest) {
    let refused = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
    // Its only effect is the one wanted; the result is the refusal made here.
    let _ = socket.try_io(interest, refused);
}
