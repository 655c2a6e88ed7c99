//! Where a captured connection was going before it was captured.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use socket2::SockRef;

/// The address the client dialled, from the kernel's connection tracking. IPv4 on a dual-stack
/// socket comes as IPv4, never as IPv4-mapped IPv6. `client` is the address that accept(2) told; it
/// says which family's table to ask, which spares a getsockname(2) for each connection.
///
/// A connection that was not captured has its own local address as destination: whoever calls
/// this must look the result up among the Services and refuse what is none.
///
/// Call it right after `accept`: the entry goes when the connection is closed, or when it is idle
/// longer than `nf_conntrack_tcp_timeout_established`.
///
/// # Errors
/// - [`io::ErrorKind::NotFound`]: connection tracking has no entry: it is off for this
///   connection, or the entry was flushed. `ENOPROTOOPT` (nothing on this node needs it) is told
///   as the same.
/// - what `getsockopt` said otherwise.
///
/// Source: `SO_ORIGINAL_DST` and `IP6T_SO_ORIGINAL_DST`, linux/netfilter_ipv4.h and
/// netfilter_ipv6/ip6_tables.h.
pub fn original_destination(socket: &impl AsFd, client: IpAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    let found = match client.to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    let address = found.map_err(explain)?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

fn explain(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(nix::libc::ENOENT | nix::libc::ENOPROTOOPT) => io::Error::new(
            io::ErrorKind::NotFound,
            "connection tracking does not know this connection: it was not captured, or its entry \
             is gone",
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_entry_is_not_found_and_says_why() {
        for code in [nix::libc::ENOENT, nix::libc::ENOPROTOOPT] {
            let error = explain(io::Error::from_raw_os_error(code));
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            assert!(error.to_string().contains("connection tracking"), "{error}");
        }
        let other = explain(io::Error::from_raw_os_error(nix::libc::EBADF));
        assert_eq!(other.raw_os_error(), Some(nix::libc::EBADF));
    }

    #[test]
    fn socket_that_is_not_ip_has_none() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        for client in ["192.0.2.1", "2001:db8::1"] {
            let client = client.parse().expect("an address");
            let error = original_destination(&one, client).expect_err("no destination");
            assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{error}");
        }
    }
}
