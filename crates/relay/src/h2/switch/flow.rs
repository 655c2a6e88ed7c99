//! Credit (RFC 9113 sections 5.2 and 6.9).

/// The window of every stream and connection before anybody said otherwise.
pub(super) const DEFAULT_WINDOW: u32 = 65_535;

/// No window is larger: 2^31 - 1.
pub(super) const MAX_WINDOW: i64 = 0x7fff_ffff;

/// More was used than granted, or granted than there can be: FLOW_CONTROL_ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Breach;

/// How much a sender may still send. Below zero after the receiver has lowered
/// SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 section 6.9.2).
///
/// Invariant: never above 2^31 - 1, and never lowered below zero by sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window(i32);

impl Window {
    pub(super) fn new(octets: u32) -> Self {
        Self(i32::try_from(octets).unwrap_or(i32::MAX))
    }

    /// Octets that may be sent.
    pub(super) fn available(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Uses credit.
    ///
    /// # Errors
    /// There is not so much; nothing is used.
    pub(super) fn spend(&mut self, octets: usize) -> Result<(), Breach> {
        if octets > self.available() {
            return Err(Breach);
        }
        // At most `available`, so it fits and does not go below zero.
        self.0 -= octets as i32;
        Ok(())
    }

    /// Grants credit.
    ///
    /// # Errors
    /// It would be more than there can be; nothing is granted.
    pub(super) fn grow(&mut self, octets: u32) -> Result<(), Breach> {
        self.shift(i64::from(octets))
    }

    /// Follows a change of SETTINGS_INITIAL_WINDOW_SIZE, which may take credit back.
    ///
    /// # Errors
    /// As [`Window::grow`].
    pub(super) fn shift(&mut self, octets: i64) -> Result<(), Breach> {
        let shifted = i64::from(self.0) + octets;
        if shifted > MAX_WINDOW {
            return Err(Breach);
        }
        self.0 = i32::try_from(shifted).map_err(|_| Breach)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9113_6_9_1_no_more_than_2_31_minus_1() {
        let mut window = Window::new(0x7fff_fffe);
        assert_eq!(window.grow(1), Ok(()));
        assert_eq!(window.grow(1), Err(Breach));
        assert_eq!(window.available(), 0x7fff_ffff, "a breach changes nothing");
    }

    #[test]
    fn rfc9113_6_9_2_window_may_go_below_zero_and_comes_back() {
        let mut window = Window::new(10);
        window.spend(10).unwrap();
        window.shift(-30).unwrap();
        assert_eq!((window.available(), window.spend(1)), (0, Err(Breach)));
        window.grow(30).unwrap();
        assert_eq!(window.available(), 0);
        window.grow(5).unwrap();
        assert_eq!((window.spend(5), window.available()), (Ok(()), 0));
        assert_eq!(window.shift(i64::MIN / 2), Err(Breach), "no wrap");
    }
}
