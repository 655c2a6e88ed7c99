//! Huffman-coded strings, read only (RFC 7541 section 5.2 and appendix B).
//!
//! There is no encoder: strings are written raw. What is said often is in a table and costs an
//! octet or two in either form; what is said once costs more time to code, here and at the peer,
//! than its few octets are worth between a node and a pod.

use super::Error;

/// The length in bits of each octet's code.
///
/// The code is canonical: codes of one length follow each other in the order of their octets, and
/// longer ones follow shorter ones. So the lengths say all of it. EOS has the last code, thirty
/// ones.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// Codes up to this length are found by one look-up: all of printable ASCII but eleven octets.
const SHORT_BITS: u32 = 10;
const LONGEST_BITS: u32 = 30;

struct Codes {
    /// By the next [`SHORT_BITS`] bits: the octet, and the code's length or 0 if it is longer.
    short: [(u8, u8); 1 << SHORT_BITS],
    /// By length: the first code, how many there are, and where their octets begin in `sorted`.
    long: [(u32, u32, u32); LONGEST_BITS as usize + 1],
    /// All octets in the order of their codes.
    sorted: [u8; 256],
}

static CODES: Codes = codes();

const fn codes() -> Codes {
    let mut codes = Codes {
        short: [(0, 0); 1 << SHORT_BITS],
        long: [(0, 0, 0); LONGEST_BITS as usize + 1],
        sorted: [0; 256],
    };
    let mut code = 0u32;
    let mut place = 0;
    let mut length = 1;
    while length <= LONGEST_BITS {
        code <<= 1;
        codes.long[length as usize] = (code, 0, place as u32);
        let mut octet = 0;
        while octet < 256 {
            if LENGTHS[octet] as u32 == length {
                codes.sorted[place] = octet as u8;
                place += 1;
                codes.long[length as usize].1 += 1;
                if length <= SHORT_BITS {
                    let spare = SHORT_BITS - length;
                    let mut low = 0;
                    while low < 1 << spare {
                        codes.short[((code << spare) | low) as usize] = (octet as u8, length as u8);
                        low += 1;
                    }
                }
                code += 1;
            }
            octet += 1;
        }
        length += 1;
    }
    codes
}

/// Appends to `out` what `coded` stands for, at most 8/5 of its length.
///
/// # Errors
/// [`Error::Huffman`] for EOS within the string, and for padding that is longer than seven bits or
/// not all ones. `out` then holds what came before.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    out.reserve(coded.len() * 8 / 5);
    let mut rest = coded;
    // The next bits, the first one on top; `have` of them count, those below are zeros or the same
    // bits that `rest` begins with.
    let mut bits = 0u64;
    let mut have = 0u32;
    loop {
        if have < LONGEST_BITS {
            if let Some(word) = rest.first_chunk::<8>() {
                bits |= u64::from_be_bytes(*word) >> have;
                let octets = (63 - have) / 8;
                have += 8 * octets;
                rest = &rest[octets as usize..];
            } else {
                while let Some((&octet, after)) = rest.split_first()
                    && have <= 56
                {
                    bits |= u64::from(octet) << (56 - have);
                    have += 8;
                    rest = after;
                }
            }
        }
        let (mut octet, length) = CODES.short[(bits >> (64 - SHORT_BITS)) as usize];
        let mut length = u32::from(length);
        if length == 0 {
            match long(bits) {
                Some(found) if found.1 <= have => (octet, length) = found,
                _ => return padding(bits, have),
            }
        } else if length > have {
            return padding(bits, have);
        }
        out.push(octet);
        bits <<= length;
        have -= length;
    }
}

/// The octet and length of a code longer than [`SHORT_BITS`].
#[cold]
fn long(bits: u64) -> Option<(u8, u32)> {
    (SHORT_BITS + 1..=LONGEST_BITS).find_map(|length| {
        let (first, count, place) = CODES.long[length as usize];
        let behind = ((bits >> (64 - length)) as u32).checked_sub(first)?;
        (behind < count).then(|| (CODES.sorted[(place + behind) as usize], length))
    })
}

/// What is left over is the beginning of EOS and shorter than an octet.
fn padding(bits: u64, have: u32) -> Result<(), Error> {
    let ones = bits.leading_ones();
    if have < 8 && ones >= have { Ok(()) } else { Err(Error::Huffman) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bit by bit, from the lengths alone, with as many padding bits as given.
    fn encode(octets: &[u8], padding: usize) -> Option<Vec<u8>> {
        let mut bits = Vec::new();
        for &octet in octets {
            let length = u32::from(LENGTHS[usize::from(octet)]);
            let (first, _, place) = CODES.long[length as usize];
            let place = place as usize;
            let behind = CODES.sorted[place..].iter().position(|&sorted| sorted == octet)?;
            let code = first + behind as u32;
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        bits.extend(std::iter::repeat_n(true, padding));
        let octets = bits.chunks_exact(8);
        if !octets.remainder().is_empty() {
            return None;
        }
        let octet = |bits: &[bool]| bits.iter().fold(0, |octet, &bit| octet << 1 | u8::from(bit));
        Some(octets.map(octet).collect())
    }

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn codes_fill_the_space_and_eos_is_thirty_ones() {
        let (first, count, _) = CODES.long[LONGEST_BITS as usize];
        assert_eq!(first + count, (1 << LONGEST_BITS) - 1, "one code is left, for EOS");
        // A few of appendix B.
        assert_eq!(CODES.long[5], (0x0, 10, 0));
        assert_eq!(CODES.long[6].0, 0x14);
        assert_eq!(CODES.long[15].0, 0x7ffc);
        assert_eq!(CODES.long[30].0, 0x3fff_fffc);
    }

    #[test]
    fn every_octet_is_decoded() {
        for octet in 0..=255 {
            let coded = (0..8).find_map(|padding| encode(&[octet], padding));
            assert_eq!(decoded(&coded.expect("some padding fits")), Ok(vec![octet]));
        }
    }

    #[test]
    fn rfc7541_c4_1_example_is_decoded() {
        let coded = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&coded), Ok(b"www.example.com".to_vec()));
    }

    #[test]
    fn rfc7541_5_2_bad_padding_is_refused() {
        // "a" is 00011: three bits of padding.
        assert_eq!(decoded(&[0b0001_1111]), Ok(b"a".to_vec()));
        for last in [0b0001_1110, 0b0001_1011, 0b0001_1000] {
            assert_eq!(decoded(&[last]), Err(Error::Huffman), "{last:#b}");
        }
        assert_eq!(decoded(&[0b0001_1111, 0xff]), Err(Error::Huffman), "eleven bits");
        assert_eq!(decoded(&[0xff]), Err(Error::Huffman), "eight bits");
        assert_eq!(decoded(&[]), Ok(Vec::new()));
    }

    #[test]
    fn rfc7541_5_2_eos_is_refused() {
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xfc]), Err(Error::Huffman));
        assert_eq!(decoded(&[0xff; 4]), Err(Error::Huffman));
        assert_eq!(decoded(&[0xff; 40]), Err(Error::Huffman));
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(octets: Vec<u8>) {
            for padding in 0..16 {
                if let Some(coded) = encode(&octets, padding) {
                    let expected = if padding < 8 { Ok(octets.clone()) } else { Err(Error::Huffman) };
                    prop_assert_eq!(decoded(&coded), expected);
                }
            }
        }

        #[test]
        fn any_octets_have_a_bounded_reading(coded: Vec<u8>) {
            if let Ok(octets) = decoded(&coded) {
                prop_assert!(octets.len() <= coded.len() * 8 / 5);
                let again = (0..8).find_map(|padding| encode(&octets, padding));
                prop_assert_eq!(again, Some(coded));
            }
        }
    }
}
