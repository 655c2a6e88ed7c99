//! Both sides send at once, as much as they like.

use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::tcp::transfer::{Sum, send_pattern};

pub(super) async fn speak(name: &str, mut socket: TcpStream, count: u64) -> io::Result<()> {
    let (mut from, mut to) = socket.split();
    let (sum, sent) = tokio::join!(Sum::of(&mut from, count), send_pattern(&mut to, count));
    sent?;
    to.write_all(format!("{name} {}\n", sum?).as_bytes()).await?;
    to.shutdown().await
}
