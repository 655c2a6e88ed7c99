//! What happens because time has passed.

use std::time::{Duration, Instant};

use super::connection::{Connection, Role, Stage};
use super::frame::Code;
use super::{ConnectionKey, Switch, limits};
use crate::h2::settings;

/// What is due on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    /// The peer has been too slow, or is gone.
    Fail(Code),
    /// The endpoint has sent no SETTINGS: it is taken to allow what everybody should.
    AssumeStreams,
    /// The client has not answered the PING after the first GOAWAY.
    StopStreams,
    /// It was without a stream for long.
    Close,
    /// Ask whether the endpoint is there.
    Ping,
}

impl Switch {
    /// Does what is due. To be called every half second or so; looks at each connection once.
    pub fn tick(&mut self, now: Instant) {
        self.now = now;
        let count = self.endpoints.values().map(|leg| leg.connections.len()).sum();
        let idle = settings::upstream_idle(count);
        let mut due: Vec<(ConnectionKey, Due)> = Vec::new();
        for (key, connection) in self.connections.iter_mut() {
            connection.shrink();
            match connection.due(now, idle) {
                Due::Nothing => {}
                what => due.push((key, what)),
            }
        }
        for (key, what) in due {
            match what {
                Due::Nothing => {}
                Due::Fail(code) => self.fail(key, code),
                Due::AssumeStreams => self.assume_streams(key),
                Due::StopStreams => self.stop_streams(key),
                Due::Close => self.close(key),
                Due::Ping => {
                    if let Some(connection) = self.connections.writer(key) {
                        connection.ping(now);
                    }
                }
            }
        }
        self.endpoints.retain(|_, endpoint| {
            !endpoint.connections.is_empty() || endpoint.dialling || !endpoint.waiting.is_empty()
        });
    }

    fn assume_streams(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.assumed_streams = true;
        if let Role::Upstream { leg } = connection.role {
            self.serve_waiting(leg);
        }
    }
}

impl Connection {
    fn due(&self, now: Instant, idle: Duration) -> Due {
        let since = |then: Instant| now.saturating_duration_since(then);
        let passed = |then: Instant, most: Duration| since(then) >= most;
        if self.is_over() {
            return Due::Nothing;
        }
        if self.inbound.partial_since.is_some_and(|then| passed(then, limits::BLOCK_TIMEOUT)) {
            return Due::Fail(Code::ENHANCE_YOUR_CALM);
        }
        match (self.role, self.stage) {
            (Role::Downstream { .. }, _)
                if !self.peer.known && passed(self.opened, settings::HANDSHAKE_TIMEOUT) =>
            {
                Due::Fail(Code::SETTINGS_TIMEOUT)
            }
            (Role::Downstream { .. }, Stage::Announced(then))
                if passed(then, limits::GOAWAY_TIMEOUT) =>
            {
                Due::StopStreams
            }
            (Role::Downstream { .. }, _) => Due::Nothing,
            (Role::Upstream { .. }, _) => self.upstream_due(now, idle),
        }
    }

    fn upstream_due(&self, now: Instant, idle: Duration) -> Due {
        let passed = |then: Instant, most: Duration| now.saturating_duration_since(then) >= most;
        if self.streams.is_empty() {
            return if passed(self.idle_since, idle) { Due::Close } else { Due::Nothing };
        }
        // Anything that was received answers a PING as well.
        let asked = self.pinged.filter(|then| self.received < *then);
        match asked {
            Some(then) if passed(then, limits::KEEPALIVE_TIMEOUT) => {
                return Due::Fail(Code::NO_ERROR);
            }
            None if passed(self.received, limits::KEEPALIVE_AFTER) => return Due::Ping,
            Some(_) | None => {}
        }
        let silent = !self.peer.known && !self.assumed_streams;
        if silent && passed(self.opened, settings::SETTINGS_TIMEOUT) {
            return Due::AssumeStreams;
        }
        Due::Nothing
    }
}
