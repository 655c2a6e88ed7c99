//! Batches of nfnetlink messages, and the socket they go through.
//!
//! Small on purpose: what the gate needs and no more. `nft` cannot do it for us, since the kernel
//! ties an owned table to the socket that made it, and ours must be this process's.
//!
//! Source: linux/netfilter/nfnetlink.h, linux/netlink.h.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The kernel answers a batch at once; this bounds what nobody expects, such as a batch of
/// another program that takes this long.
const DEADLINE: Duration = Duration::from_secs(10);

/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10;

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// Flags of a request: `NLM_F_REQUEST`, `NLM_F_ACK`, and for what is made `NLM_F_CREATE`,
/// `NLM_F_EXCL` (it must not exist) and `NLM_F_APPEND`.
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

/// `NLMSG_ERROR`: an errno, or an acknowledgement where that is 0.
const ERROR: u16 = 2;

/// Octets of `struct nlmsghdr`.
const HEADER: usize = 16;

/// An attribute holds others (`NLA_F_NESTED`).
const NESTED: u16 = 0x8000;

/// Messages that the kernel does all or none of.
#[derive(Debug)]
pub(super) struct Batch {
    octets: Vec<u8>,
    message_count: u32,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut batch = Self { octets: Vec::new(), message_count: 0 };
        batch.append(BATCH_BEGIN, REQUEST, 0, NFTABLES, |_| {});
        batch
    }

    /// Adds a message of nf_tables, for a family (`NFPROTO_*`).
    pub(super) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.message_count += 1;
        self.append(NFTABLES << 8 | kind, REQUEST | ACK | flags, family, 0, attributes);
    }

    fn append(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.octets.len();
        let sequence = self.message_count;
        self.octets.extend_from_slice(&0u32.to_ne_bytes());
        self.octets.extend_from_slice(&kind.to_ne_bytes());
        self.octets.extend_from_slice(&flags.to_ne_bytes());
        self.octets.extend_from_slice(&sequence.to_ne_bytes());
        self.octets.extend_from_slice(&0u32.to_ne_bytes());
        // struct nfgenmsg: family, version 0, resource.
        self.octets.extend_from_slice(&[family, 0]);
        self.octets.extend_from_slice(&resource.to_be_bytes());
        attributes(&mut Attributes { octets: &mut self.octets });
        let length = u32::try_from(self.octets.len() - start).expect("messages are short");
        self.octets[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// The attributes of a message, or within another attribute.
#[derive(Debug)]
pub(super) struct Attributes<'a> {
    octets: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    pub(super) fn octets(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |octets| octets.extend_from_slice(value));
    }

    /// A number in network order, as nf_tables has nearly all of them.
    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.octets(kind, &value.to_be_bytes());
    }

    /// The same with 64 bits.
    pub(super) fn long(&mut self, kind: u16, value: u64) {
        self.octets(kind, &value.to_be_bytes());
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |octets| {
            octets.extend_from_slice(value.as_bytes());
            octets.push(0);
        });
    }

    pub(super) fn nest(&mut self, kind: u16, within: impl FnOnce(&mut Attributes<'_>)) {
        self.attribute(kind | NESTED, |octets| within(&mut Attributes { octets }));
    }

    /// `struct nlattr`: length, kind, value, and padding to four octets.
    fn attribute(&mut self, kind: u16, value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.octets.len();
        self.octets.extend_from_slice(&[0; 2]);
        self.octets.extend_from_slice(&kind.to_ne_bytes());
        value(self.octets);
        let length = u16::try_from(self.octets.len() - start).expect("attributes are short");
        self.octets[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.octets.resize(self.octets.len().next_multiple_of(4), 0);
    }
}

/// A netfilter socket in the network namespace of the thread that opened it. Children do not
/// inherit it.
#[derive(Debug)]
pub(super) struct Channel {
    socket: OwnedFd,
}

impl Channel {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let deadline = TimeVal::seconds(i64::try_from(DEADLINE.as_secs()).expect("is short"));
        setsockopt(&socket, sockopt::ReceiveTimeout, &deadline)?;
        Ok(Self { socket })
    }

    /// The number by which the kernel knows this socket: no other netfilter socket of the
    /// namespace has it.
    pub(super) fn id(&self) -> io::Result<u32> {
        Ok(getsockname::<NetlinkAddr>(self.socket.as_raw_fd())?.pid())
    }

    /// Has the kernel do a batch, and waits until it has.
    ///
    /// # Errors
    /// The kernel refused a message, and did none of them.
    pub(super) fn commit(&self, mut batch: Batch) -> io::Result<()> {
        batch.append(BATCH_END, REQUEST, 0, NFTABLES, |_| {});
        let mut answer = [0; 8192];
        // The kernel answers each message of a batch that it refuses, and we heard the first.
        while recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT).is_ok() {}
        send(self.socket.as_raw_fd(), &batch.octets, MsgFlags::empty())?;
        let mut left = batch.message_count;
        while left > 0 {
            let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            left = left.saturating_sub(acknowledged(&answer[..length])?);
        }
        Ok(())
    }
}

/// How many messages an answer acknowledges.
fn acknowledged(mut answer: &[u8]) -> io::Result<u32> {
    let mut count = 0;
    while let Some((header, body)) = answer.split_at_checked(HEADER) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if u16::from_ne_bytes([header[4], header[5]]) == ERROR {
            let errno = body.first_chunk().ok_or(io::ErrorKind::InvalidData)?;
            match i32::from_ne_bytes(*errno) {
                0 => count += 1,
                errno => return Err(io::Error::from_raw_os_error(errno.wrapping_neg())),
            }
        }
        let next = length.next_multiple_of(4).max(HEADER);
        answer = answer.get(next..).unwrap_or_default();
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    //! Aim: what is written has the layout of linux/netlink.h; what is read is not trusted.

    use super::*;

    #[test]
    fn lengths_count_what_is_nested_and_padding_follows() {
        let mut octets = Vec::new();
        let mut attributes = Attributes { octets: &mut octets };
        attributes.nest(1, |within| within.text(2, "ab"));
        let mut expected = vec![];
        expected.extend(12u16.to_ne_bytes());
        expected.extend((1u16 | NESTED).to_ne_bytes());
        expected.extend(7u16.to_ne_bytes());
        expected.extend(2u16.to_ne_bytes());
        expected.extend([b'a', b'b', 0, 0]);
        assert_eq!(octets, expected);
    }

    fn answer(errno: i32) -> Vec<u8> {
        let mut octets = vec![];
        octets.extend(36u32.to_ne_bytes());
        octets.extend(ERROR.to_ne_bytes());
        octets.extend([0; 10]);
        octets.extend(errno.to_ne_bytes());
        octets.extend([0; 16]);
        octets
    }

    #[test]
    fn acknowledgements_are_counted_and_the_first_error_is_told() {
        let two = [answer(0), answer(0)].concat();
        assert_eq!(acknowledged(&two).expect("no error"), 2);
        let refused = acknowledged(&[answer(0), answer(-95)].concat()).expect_err("an error");
        assert_eq!(refused.raw_os_error(), Some(95));
    }

    #[test]
    fn an_answer_cut_anywhere_is_read_without_panic() {
        let whole = [answer(0), answer(-1)].concat();
        for length in 0..whole.len() {
            let _ = acknowledged(&whole[..length]);
        }
        let _ = acknowledged(&[0; 64]);
        let _ = acknowledged(&[0xff; 64]);
    }
}
