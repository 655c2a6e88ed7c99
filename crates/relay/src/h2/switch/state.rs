//! The states of a stream on one connection (RFC 9113 section 5.1).

/// One stream as one of its two connections sees it.
///
/// ```text
///              idle                 an id above the last one opened
///               |  HEADERS
///               v
///             open ------------------ END_STREAM received --+
///               |                                           |
///               | END_STREAM sent                           v
///               v                                     half-closed
///         half-closed                                  (remote)
///           (local)                                         |
///               |  END_STREAM received       END_STREAM sent|
///               v                                           |
///            closed <---------------------------------------+
///               ^
///               +-- RST_STREAM, from any of the above
/// ```
///
/// Idle and closed streams are not stored: the connection tells them apart by the last id it has
/// seen. "Reserved" does not occur, because push is never allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    HalfClosedLocal,
    HalfClosedRemote,
    Closed,
}

impl State {
    /// We may still send HEADERS and DATA.
    pub(super) fn can_send(self) -> bool {
        matches!(self, Self::Open | Self::HalfClosedRemote)
    }

    /// The peer may still send HEADERS and DATA.
    pub(super) fn can_receive(self) -> bool {
        matches!(self, Self::Open | Self::HalfClosedLocal)
    }

    /// We sent END_STREAM.
    pub(super) fn sent_end(&mut self) {
        *self = match self {
            Self::Open => Self::HalfClosedLocal,
            Self::HalfClosedLocal => Self::HalfClosedLocal,
            Self::HalfClosedRemote | Self::Closed => Self::Closed,
        };
    }

    /// The peer sent END_STREAM.
    pub(super) fn received_end(&mut self) {
        *self = match self {
            Self::Open => Self::HalfClosedRemote,
            Self::HalfClosedRemote => Self::HalfClosedRemote,
            Self::HalfClosedLocal | Self::Closed => Self::Closed,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn rfc9113_5_1_a_stream_is_closed_when_both_sides_have_ended() {
        let mut state = State::Open;
        state.received_end();
        assert!(state.can_send() && !state.can_receive());
        state.received_end();
        assert_eq!(state, State::HalfClosedRemote);
        state.sent_end();
        assert_eq!(state, State::Closed);

        let mut state = State::Open;
        state.sent_end();
        assert!(!state.can_send() && state.can_receive());
        state.received_end();
        assert!(!state.can_send() && !state.can_receive());
    }
}
