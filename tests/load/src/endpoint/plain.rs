//! Plain TCP: the first octet says what the connection is for.

use std::io;
use std::net::TcpStream;

use super::counters::Counters;
use super::{Step, flush};
use crate::pattern::Pattern;
use crate::socket::{discard, receive, send, send_all};

/// Send back what comes.
pub(crate) const ECHO: u8 = b'E';
/// Send as many octets of the pattern as the eight octets after this say, little endian.
pub(crate) const DOWNLOAD: u8 = b'D';
/// Take octets to their end, then give a [`verdict`].
pub(crate) const UPLOAD: u8 = b'U';
/// The same, and compare them with the pattern.
pub(crate) const CHECK: u8 = b'V';

/// What is said first on a greeting port.
pub(crate) const GREETING: &[u8] = b"220 ready\r\n";

/// Answers held back before reading stops.
const PENDING_MAX: usize = 1 << 20;

/// What is given to the kernel at once, and how often in a turn.
const WRITE: usize = 128 * 1024;
const WRITES: usize = 8;

/// How many octets came, and whether they were right.
pub(crate) fn verdict(received: u64, right: bool) -> Vec<u8> {
    [received.to_le_bytes(), u64::from(right).to_le_bytes()].concat()
}

/// A connection.
#[derive(Debug)]
pub(super) struct Plain {
    purpose: Purpose,
    pending: Vec<u8>,
    sent: usize,
}

#[derive(Debug)]
enum Purpose {
    /// Not told yet; what came so far.
    Unknown(Vec<u8>),
    Echo,
    Download {
        moved: u64,
        total: u64,
    },
    Upload {
        moved: u64,
        check: bool,
        right: bool,
    },
}

impl Plain {
    pub(super) fn new() -> Self {
        Self { purpose: Purpose::Unknown(Vec::new()), pending: Vec::new(), sent: 0 }
    }

    /// As if told to echo, after a greeting.
    pub(super) fn greeting() -> Self {
        Self { purpose: Purpose::Echo, pending: GREETING.to_vec(), sent: 0 }
    }

    /// Reads once. False at the end.
    pub(super) fn read(
        &mut self,
        socket: &TcpStream,
        buffer: &mut [u8],
        pattern: &Pattern,
        counters: &mut Counters,
    ) -> io::Result<bool> {
        if self.pending.len() - self.sent > PENDING_MAX {
            return Ok(true);
        }
        if let Purpose::Upload { moved, check: false, .. } = &mut self.purpose {
            let Some(count) = discard(socket, buffer)? else { return Ok(true) };
            *moved += count as u64;
            return if count == 0 { self.conclude(socket) } else { Ok(true) };
        }
        match receive(socket, buffer)? {
            None => Ok(true),
            Some(0) => self.conclude(socket),
            Some(count) => Ok(self.input(&buffer[..count], pattern, counters)),
        }
    }

    /// The client has said all: an upload gets its verdict. Always false.
    fn conclude(&mut self, socket: &TcpStream) -> io::Result<bool> {
        if let Purpose::Upload { moved, right, .. } = self.purpose {
            send_all(socket, &verdict(moved, right))?;
        }
        Ok(false)
    }

    /// Takes what came. False when the connection has to end.
    fn input(&mut self, octets: &[u8], pattern: &Pattern, counters: &mut Counters) -> bool {
        match &mut self.purpose {
            Purpose::Unknown(begun) => {
                begun.extend_from_slice(octets);
                let begun = std::mem::take(begun);
                return self.begin(begun, pattern, counters);
            }
            Purpose::Echo => self.pending.extend_from_slice(octets),
            Purpose::Upload { moved, right, .. } => {
                *right &= octets == pattern.at(*moved, octets.len());
                *moved += octets.len() as u64;
            }
            Purpose::Download { .. } => {
                counters.violation("octets came in the middle of a download");
                return false;
            }
        }
        true
    }

    /// Learns the purpose, once all of it has come.
    fn begin(&mut self, begun: Vec<u8>, pattern: &Pattern, counters: &mut Counters) -> bool {
        let (purpose, rest) = match begun[..] {
            [ECHO, ref rest @ ..] => (Purpose::Echo, rest),
            [kind @ (UPLOAD | CHECK), ref rest @ ..] => {
                (Purpose::Upload { moved: 0, check: kind == CHECK, right: true }, rest)
            }
            [DOWNLOAD, ref rest @ ..] => match rest.split_first_chunk() {
                Some((total, rest)) => {
                    (Purpose::Download { moved: 0, total: u64::from_le_bytes(*total) }, rest)
                }
                None => {
                    self.purpose = Purpose::Unknown(begun);
                    return true;
                }
            },
            _ => {
                counters.violation("an unknown purpose");
                return false;
            }
        };
        self.purpose = purpose;
        rest.is_empty() || self.input(rest, pattern, counters)
    }

    pub(super) fn write(&mut self, socket: &TcpStream, pattern: &Pattern) -> io::Result<Step> {
        if !flush(socket, &mut self.pending, &mut self.sent)? {
            return Ok(Step::Full);
        }
        let Purpose::Download { moved, total } = &mut self.purpose else { return Ok(Step::Idle) };
        for _ in 0..WRITES {
            if moved == total {
                return Ok(Step::Over);
            }
            let left = usize::try_from(*total - *moved).unwrap_or(WRITE).min(WRITE);
            match send(socket, pattern.at(*moved, left))? {
                Some(count) => *moved += count as u64,
                None => break,
            }
        }
        Ok(if moved == total { Step::Over } else { Step::Full })
    }
}
