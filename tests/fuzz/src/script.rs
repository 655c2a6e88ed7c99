//! Octets read as choices.

/// What is left of a script. Beyond its end everything is zero or empty.
#[derive(Debug)]
pub(crate) struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    pub(crate) fn new(octets: &'a [u8]) -> Self {
        Self { rest: octets }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn octet(&mut self) -> u8 {
        let Some((&octet, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        octet
    }

    /// All that is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// As many octets as the next octet says, or what there is.
    pub(crate) fn octets(&mut self) -> &'a [u8] {
        let length = usize::from(self.octet()).min(self.rest.len());
        let (octets, rest) = self.rest.split_at(length);
        self.rest = rest;
        octets
    }
}
