//! Answers only after the client's end: lost if a half-close is passed on as a close.

use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::tcp::transfer::Sum;

pub(super) async fn speak(name: &str, mut socket: TcpStream) -> io::Result<()> {
    let sum = Sum::of_all(&mut socket).await?;
    socket.write_all(format!("{name} {sum}\n").as_bytes()).await?;
    socket.shutdown().await
}
