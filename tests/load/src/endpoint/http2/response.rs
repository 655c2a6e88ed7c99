//! Answers: what of them the windows and the room in memory allow, and the rest later.

use super::{
    Counters, DATA, END_HEADERS, END_STREAM, FRAME_MAX, HEADERS, Http2, PENDING_MAX, frame,
};

/// The two fields that are worth an entry of the dynamic table, as any server would put them there
/// (RFC 7541); the younger entry has index 62.
#[derive(Debug)]
pub(super) struct HeaderTable {
    allowed: bool,
    /// The peer has to be told that no table is used, once.
    announce: bool,
    content_type: bool,
    grpc_status: bool,
    /// The header block made last.
    block: Vec<u8>,
}

/// Below this a peer's table is not used.
const TABLE_MIN: u32 = 4096;

impl Default for HeaderTable {
    fn default() -> Self {
        Self {
            allowed: true,
            announce: false,
            content_type: false,
            grpc_status: false,
            block: Vec::new(),
        }
    }
}

impl HeaderTable {
    /// The peer's SETTINGS_HEADER_TABLE_SIZE, which comes before its first request.
    pub(super) fn limit(&mut self, size: u32) {
        if size < TABLE_MIN && self.allowed {
            self.allowed = false;
            self.announce = true;
        }
    }

    fn headers(&mut self) -> &[u8] {
        let block = &mut self.block;
        block.clear();
        if std::mem::take(&mut self.announce) {
            block.push(0x20); // A dynamic table of size 0.
        }
        block.push(0x88); // :status 200
        if !self.allowed {
            block.extend_from_slice(b"\x0f\x10\x10application/grpc");
        } else if self.content_type {
            block.push(if self.grpc_status { 0xbf } else { 0xbe });
        } else {
            self.content_type = true;
            block.extend_from_slice(b"\x5f\x10application/grpc");
        }
        block
    }

    fn trailers(&mut self) -> &[u8] {
        let block = &mut self.block;
        block.clear();
        if !self.allowed {
            block.extend_from_slice(b"\x00\x0bgrpc-status\x010");
        } else if self.grpc_status {
            block.push(0xbe);
        } else {
            self.grpc_status = true;
            block.extend_from_slice(b"\x40\x0bgrpc-status\x010");
        }
        block
    }
}

impl Http2 {
    /// Goes on with an answer; true when it is complete, or nobody wants it any more.
    pub(super) fn respond(&mut self, id: u32, counters: &mut Counters) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return true };
        if !stream.headers_sent {
            stream.headers_sent = true;
            frame(&mut self.pending, HEADERS, END_HEADERS, id, self.table.headers());
        }
        while stream.left > 0 {
            let credit = usize::try_from(stream.window.min(self.window)).unwrap_or(0);
            let length = stream.left.min(FRAME_MAX).min(credit);
            if length == 0 || self.pending.len() - self.sent > PENDING_MAX {
                return false;
            }
            let from = self.message.len() - stream.left;
            frame(&mut self.pending, DATA, 0, id, &self.message[from..from + length]);
            stream.left -= length;
            stream.window -= length as i64;
            self.window -= length as i64;
        }
        let flags = END_HEADERS | END_STREAM;
        frame(&mut self.pending, HEADERS, flags, id, self.table.trailers());
        self.streams.remove(&id);
        counters.requests += 1;
        true
    }

    /// Goes on with the answers that wait, each once.
    pub(super) fn resume(&mut self, counters: &mut Counters) {
        for _ in 0..self.waiting.len() {
            if self.window <= 0 || self.pending.len() - self.sent > PENDING_MAX {
                return;
            }
            let Some(id) = self.waiting.pop_front() else { return };
            if !self.respond(id, counters) {
                self.waiting.push_back(id);
            }
        }
    }
}
