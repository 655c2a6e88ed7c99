//! What is always true between two calls, for tests to look at after each.

use super::Switch;
use super::connection::Role;
use super::exchange::Toward;
use super::frame::MAX_PAYLOAD_OCTETS;
use super::limits;
use super::state::State;
use crate::h2::settings;

impl Switch {
    /// Looks at everything.
    ///
    /// # Panics
    /// An invariant is broken.
    pub fn check_invariants(&self) {
        let mut open_sides = 0;
        for (key, exchange) in &self.exchanges {
            let down = exchange.down;
            let client = self.connections.get(down.connection);
            let named = client.and_then(|client| client.streams.get(&down.stream));
            assert_eq!(named, Some(&key), "a client knows its stream");
            // The endpoint may still be taking what the client has sent to its end.
            let done = down.state == State::Closed && exchange.up.is_none();
            assert!(!done, "a closed stream has no exchange");
            open_sides += 1;
            if let Some(up) = exchange.up {
                let endpoint = self.connections.get(up.connection);
                let named = endpoint.and_then(|endpoint| endpoint.streams.get(&up.stream));
                assert_eq!(named, Some(&key), "an endpoint's connection knows its stream");
                assert_ne!(up.state, State::Closed, "a closed stream is left");
                open_sides += 1;
            }
            // A frame's credit is spent when its head comes, and what has not come of it does not
            // wait yet, so that credit for it may be given again.
            let most = settings::STREAM_WINDOW_OCTETS as usize + MAX_PAYLOAD_OCTETS;
            for toward in [Toward::Upstream, Toward::Downstream] {
                let flow = &exchange[toward];
                assert!(flow.again <= flow.queue.len());
                // What is sent a second time has been granted again.
                let waiting = flow.queue.len() - flow.again;
                assert!(waiting <= most, "{waiting} octets wait");
            }
            assert!(exchange.replay.octets.len() <= limits::REPLAY_OCTETS);
        }
        let mut streams = 0;
        for (key, connection) in self.connections.iter() {
            streams += connection.streams.len();
            let outstanding = connection.unreturned as usize;
            let most = settings::CONNECTION_WINDOW_OCTETS as usize;
            let credit = connection.receive_window.available() + outstanding;
            assert!(credit <= most, "{:?} got {} octets too many", connection.role, credit - most);
            if let Role::Upstream { leg } = connection.role
                && let Some(endpoint) = self.endpoints.get(&leg)
            {
                let listed = endpoint.connections.contains(&key);
                assert!(!listed || !connection.is_over(), "what is over takes no streams");
            }
        }
        assert_eq!(streams, open_sides, "no stream is orphaned");
    }
}
