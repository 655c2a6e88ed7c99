//! The client speaks first.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) async fn speak(name: &str, mut socket: TcpStream) -> io::Result<()> {
    let mut first = vec![0; 64 * 1024];
    let count = socket.read(&mut first).await?;
    if count == 0 {
        return Ok(());
    }
    socket.write_all(format!("{name}\n").as_bytes()).await?;
    socket.write_all(&first[..count]).await?;
    super::echo_all(&mut socket).await
}
