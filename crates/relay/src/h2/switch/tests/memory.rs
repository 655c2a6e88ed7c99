//! Aim: what a connection and a stream cost while nothing happens on them.

use super::lab::{CALL, Lab, OK, TRAILERS};
use crate::h2::switch::connection::Connection;
use crate::h2::switch::exchange::Exchange;

#[test]
fn state_of_a_connection_and_of_a_stream_is_small() {
    let sizes = (size_of::<Connection>(), size_of::<Exchange>());
    assert!(sizes.0 <= 640 && sizes.1 <= 512, "{sizes:?} octets");
}

#[test]
fn an_idle_connection_keeps_no_buffer() {
    let mut lab = Lab::new(1);
    let (mut client, mut endpoint) = lab.call(true);
    let done = [endpoint.headers(1, &OK, false), endpoint.headers(1, &TRAILERS, true)].concat();
    lab.send(&endpoint, &done);
    lab.heard(&mut client);
    let head = client.headers(3, &CALL, true);
    lab.send(&client, &head[..head.len() - 1]);
    lab.send(&client, &head[head.len() - 1..]);
    lab.send(&client, &super::lab::reset(3, crate::h2::switch::Code::CANCEL));
    lab.heard(&mut endpoint);
    lab.wait(std::time::Duration::from_millis(500));
    let heap = lab.switch.connections.get(client.key).map(|connection| {
        let streams = connection.streams.capacity() * 16 + connection.ready.memory_octets();
        usize::from(connection.output.has_memory()) + connection.inbound.held.capacity() + streams
    });
    assert_eq!(heap, Some(0));
}

fn future_octets<A, B, C, D, E, G, F: Future>(_: fn(A, B, C, D, E, G) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn future_of_an_idle_connection_is_small() {
    let octets = future_octets(crate::h2::switch::driver::serve);
    assert!(octets <= 640, "{octets} octets");
}
