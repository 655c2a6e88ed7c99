//! Integers with a prefix (RFC 7541 section 5.1).

use super::Error;

/// No integer above this is taken: it is far above any table or string that could fit a block, and
/// what is computed from integers (a string's decoded length, an entry's size) stays below 2^32.
pub(super) const GREATEST: u32 = (1 << 28) - 1;

/// Takes one integer off the front of `octets`, whose first octet holds it in its low `prefix` bits.
///
/// # Errors
/// [`Error::Truncated`] and [`Error::IntegerTooLarge`]; how much was taken is then unknown.
#[inline]
pub(super) fn take(octets: &mut &[u8], prefix: u32) -> Result<u32, Error> {
    let (&first, rest) = octets.split_first().ok_or(Error::Truncated)?;
    *octets = rest;
    let mask = (1u32 << prefix) - 1;
    let low = u32::from(first) & mask;
    if low < mask { Ok(low) } else { take_rest(octets, mask) }
}

fn take_rest(octets: &mut &[u8], mask: u32) -> Result<u32, Error> {
    let mut value = mask;
    // Four octets of seven bits reach the greatest integer. A fifth one is refused even if it adds
    // nothing, so an integer's length is bounded too.
    for shift in [0, 7, 14, 21] {
        let (&octet, rest) = octets.split_first().ok_or(Error::Truncated)?;
        *octets = rest;
        value += u32::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return if value <= GREATEST { Ok(value) } else { Err(Error::IntegerTooLarge) };
        }
    }
    Err(Error::IntegerTooLarge)
}

/// Appends `value`, its first octet marked with `pattern` above the prefix.
#[inline]
pub(super) fn put(value: u32, prefix: u32, pattern: u8, out: &mut Vec<u8>) {
    let mask = (1u32 << prefix) - 1;
    if value < mask {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The octets stand for the value, both ways.
    fn check(value: u32, prefix: u32, octets: &[u8]) {
        let mut out = Vec::new();
        put(value, prefix, 0, &mut out);
        assert_eq!(out, octets);
        let mut rest = octets;
        assert_eq!(take(&mut rest, prefix), Ok(value));
        assert!(rest.is_empty());
        for cut in 0..octets.len() {
            assert_eq!(take(&mut &octets[..cut], prefix), Err(Error::Truncated));
        }
    }

    #[test]
    fn rfc7541_c1_integers_have_their_octets() {
        check(10, 5, &[0x0a]);
        check(1337, 5, &[0x1f, 0x9a, 0x0a]);
        check(42, 8, &[0x2a]);
    }

    #[test]
    fn integers_at_the_edges_have_their_octets() {
        check(0, 7, &[0]);
        check(126, 7, &[0x7e]);
        check(127, 7, &[0x7f, 0]);
        check(127 + 0x7f, 7, &[0x7f, 0x7f]);
        check(127 + 0x80, 7, &[0x7f, 0x80, 0x01]);
        check(GREATEST, 5, &[0x1f, 0xe0, 0xff, 0xff, 0x7f]);
    }

    #[test]
    fn integers_that_are_too_large_or_too_long_are_refused() {
        for octets in [
            &[0x1f, 0xe1, 0xff, 0xff, 0x7f][..],
            &[0x1f, 0xff, 0xff, 0xff, 0x7f],
            &[0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            // A value in reach, made longer than it need be.
            &[0x1f, 0x80, 0x80, 0x80, 0x80, 0x00],
        ] {
            assert_eq!(take(&mut &octets[..], 5), Err(Error::IntegerTooLarge));
        }
    }

    #[test]
    fn bits_above_the_prefix_do_not_count() {
        assert_eq!(take(&mut &[0xea][..], 5), Ok(10));
        let mut out = Vec::new();
        put(10, 5, 0xe0, &mut out);
        assert_eq!(out, [0xea]);
    }
}
