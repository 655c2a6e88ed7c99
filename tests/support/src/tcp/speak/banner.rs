//! The server speaks first, as MySQL's does.

use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

pub(super) async fn speak(name: &str, mut socket: TcpStream) -> io::Result<()> {
    socket.write_all(format!("8.0.0-{name}\n").as_bytes()).await?;
    super::echo_all(&mut socket).await
}
