//! Says nothing, until the client ends.

use std::io;

use tokio::net::TcpStream;

use crate::tcp::transfer::Sum;

pub(super) async fn speak(mut socket: TcpStream) -> io::Result<()> {
    Sum::of_all(&mut socket).await.map(drop)
}
