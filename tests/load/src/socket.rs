//! Sockets that never block, and waiting for them where a client has nothing else to do.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;
use socket2::{Domain, Protocol, Socket, Type};

/// How long one step of an exchange may take before it is an error. Far above any of them.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections that may wait to be accepted: more than any client opens at once.
const BACKLOG: i32 = 16_384;

/// A listener that does not block.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts a connection, if one waits.
pub(crate) fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    let Some((socket, _)) = unless_blocked(listener.accept())? else { return Ok(None) };
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    Ok(Some(socket))
}

/// Begins to connect; the socket is writable when that is done.
pub(crate) fn begin_connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Connects.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = begin_connect(address)?;
    wait(&socket, PollFlags::POLLOUT)?;
    match socket.take_error()? {
        Some(error) => Err(error),
        None => Ok(socket),
    }
}

/// Reads what is there; none when nothing is, 0 at the end.
pub(crate) fn receive(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    unless_blocked((&mut &*socket).read(buffer))
}

/// As [`receive`], but the octets are dropped by the kernel and only counted.
pub(crate) fn discard(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let received = nix::sys::socket::recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC);
    unless_blocked(received.map_err(io::Error::from))
}

/// Writes what there is room for; none when there is none.
pub(crate) fn send(socket: &TcpStream, octets: &[u8]) -> io::Result<Option<usize>> {
    unless_blocked((&mut &*socket).write(octets))
}

/// Writes everything.
pub(crate) fn send_all(socket: &TcpStream, mut octets: &[u8]) -> io::Result<()> {
    while !octets.is_empty() {
        match send(socket, octets)? {
            Some(count) => octets = &octets[count..],
            None => wait(socket, PollFlags::POLLOUT)?,
        }
    }
    Ok(())
}

/// Fills the buffer.
pub(crate) fn receive_exact(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match receive(socket, &mut buffer[filled..])? {
            Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Some(count) => filled += count,
            None => wait(socket, PollFlags::POLLIN)?,
        }
    }
    Ok(())
}

fn wait(socket: &TcpStream, flags: PollFlags) -> io::Result<()> {
    let mut polled = [PollFd::new(socket.as_fd(), flags)];
    let timeout = PollTimeout::try_from(PATIENCE).expect("five seconds fit a timeout");
    match poll(&mut polled, timeout)? {
        0 => Err(ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

fn unless_blocked<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
