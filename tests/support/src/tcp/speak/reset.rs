//! Resets what it was spoken to on.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

pub(super) async fn speak(mut socket: TcpStream) -> io::Result<()> {
    socket.read_u8().await?;
    // No lingering: the close is a reset.
    socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO))
}
