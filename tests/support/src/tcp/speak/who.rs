//! The server says who it is and whom it sees, and ends.

use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

pub(super) async fn speak(name: &str, mut socket: TcpStream) -> io::Result<()> {
    let client = socket.peer_addr()?;
    socket.write_all(format!("{name} {client}").as_bytes()).await?;
    socket.shutdown().await
}
