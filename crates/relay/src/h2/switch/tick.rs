//! What happens because time has passed.

use std::time::{Duration, Instant};

use super::connection::{Connection, Over, Role, Stage};
use super::frame::Code;
use super::{ConnectionKey, Switch, limits};
use crate::h2::settings;

/// What is due on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    /// The peer is gone.
    Fail(Code),
    /// The peer has been too slow.
    TooSlow(Code),
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
        self.expire_waits(now);
        let count = self.endpoints.values().map(|leg| leg.connections.len()).sum();
        let idle = settings::upstream_idle(count, self.crowd);
        let mut due: Vec<(ConnectionKey, Due)> = Vec::new();
        for (key, connection) in self.connections.iter_mut() {
            connection.shrink();
            if connection.output.len() >= limits::OUTPUT_PAUSE_OCTETS {
                connection.inbound.excuse();
            }
            match connection.due(now, idle) {
                Due::Nothing => {}
                what => due.push((key, what)),
            }
        }
        for (key, what) in due {
            match what {
                Due::Nothing => {}
                Due::Fail(code) => self.fail(key, code),
                Due::TooSlow(code) => self.end(key, Over::TooSlow(code), code),
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
    fn due(&mut self, now: Instant, idle: Duration) -> Due {
        let since = |then: Instant| now.saturating_duration_since(then);
        let passed = |then: Instant, most: Duration| since(then) >= most;
        if self.is_over() {
            return Due::Nothing;
        }
        let block = self.inbound.partial.as_ref().map_or(Duration::ZERO, |it| since(it.since));
        // In tenths of a second, of which a connection has enough for years.
        let tenths = u32::try_from(since(self.opened).as_millis() / 100).unwrap_or(u32::MAX - 1);
        let frame = Duration::from_millis(100 * u64::from(self.inbound.waits(tenths)));
        if block.max(frame) >= limits::BLOCK_TIMEOUT {
            return Due::TooSlow(Code::ENHANCE_YOUR_CALM);
        }
        match (self.role, self.stage) {
            (Role::Downstream { .. }, _)
                if !self.peer.known && passed(self.opened, settings::HANDSHAKE_TIMEOUT) =>
            {
                Due::TooSlow(Code::SETTINGS_TIMEOUT)
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
        if self.awaits_settings() && passed(self.opened, settings::SETTINGS_TIMEOUT) {
            return Due::AssumeStreams;
        }
        if self.streams.is_empty() {
            return if passed(self.idle_since, idle) { Due::Close } else { Due::Nothing };
        }
        // Anything that was received answers a PING as well.
        let asked = self.pinged.filter(|then| self.received < *then);
        match asked {
            Some(then) if passed(then, limits::KEEPALIVE_TIMEOUT) => Due::Fail(Code::NO_ERROR),
            None if passed(self.received, limits::KEEPALIVE_AFTER) => Due::Ping,
            Some(_) | None => Due::Nothing,
        }
    }
}
