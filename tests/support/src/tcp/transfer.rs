//! Long transfers that prove themselves: a pattern to send and a sum to compare.

use std::fmt;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Octets moved at a time.
const PIECE: usize = 64 * 1024;

/// A prime, so that the pattern never lines up with a buffer.
const PERIOD: u64 = 65_521;

/// How many octets came and a checksum that depends on their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// FNV-1a over all of them.
    pub hash: u64,
}

impl Default for Sum {
    fn default() -> Self {
        Self { count: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:016x}", self.count, self.hash)
    }
}

impl Sum {
    fn add(&mut self, octets: &[u8]) {
        self.count += octets.len() as u64;
        for octet in octets {
            self.hash = (self.hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The sum of the first `count` octets of the pattern.
    pub fn of_pattern(count: u64) -> Self {
        let mut sum = Self::default();
        let mut piece = Vec::new();
        while sum.count < count {
            fill(&mut piece, sum.count, count);
            sum.add(&piece);
        }
        sum
    }

    /// Reads exactly `count` octets.
    ///
    /// # Errors
    /// When the other side ends or breaks off before.
    pub async fn of(from: &mut (impl AsyncRead + Unpin), count: u64) -> io::Result<Self> {
        let sum = Self::of_all(&mut from.take(count)).await?;
        if sum.count < count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(sum)
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// When the other side breaks off.
    pub async fn of_all(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut sum = Self::default();
        let mut piece = vec![0; PIECE];
        loop {
            let count = from.read(&mut piece).await?;
            if count == 0 {
                return Ok(sum);
            }
            sum.add(&piece[..count]);
        }
    }
}

/// Sends the first `count` octets of the pattern.
///
/// # Errors
/// When the other side breaks off.
pub async fn send_pattern(to: &mut (impl AsyncWrite + Unpin), count: u64) -> io::Result<()> {
    let mut piece = Vec::new();
    let mut sent = 0;
    while sent < count {
        fill(&mut piece, sent, count);
        to.write_all(&piece).await?;
        sent += piece.len() as u64;
    }
    Ok(())
}

/// The next piece of the pattern from `position`, not going beyond `end`.
fn fill(piece: &mut Vec<u8>, position: u64, end: u64) {
    let length = (end - position).min(PIECE as u64);
    piece.clear();
    piece.extend((position..position + length).map(|at| {
        let at = at % PERIOD;
        (at ^ (at >> 8)) as u8
    }));
}
