//! The static table (RFC 7541 appendix A), and how a field's place in it is found.

use super::hash::Hashes;

/// How many entries there are; the dynamic table's indices follow.
pub(super) const ENTRIES: u32 = 61;

type Entry = (&'static str, &'static str);

static TABLE: [Entry; ENTRIES as usize] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

static HASHES: [Hashes; ENTRIES as usize] = hashes();

const fn hashes() -> [Hashes; ENTRIES as usize] {
    let mut hashes = [Hashes { name: 0, field: 0 }; ENTRIES as usize];
    let mut place = 0;
    while place < hashes.len() {
        hashes[place] = Hashes::of(TABLE[place].0.as_bytes(), TABLE[place].1.as_bytes());
        place += 1;
    }
    hashes
}

/// Indices by hash, open addressing: an index stands at its hash's slot or soon after it.
const SLOTS: usize = 256;

static FIELDS: [u8; SLOTS] = slots(false);
static NAMES: [u8; SLOTS] = slots(true);

const fn slots(by_name: bool) -> [u8; SLOTS] {
    let hashes = hashes();
    let mut slots = [0; SLOTS];
    let mut place = 0;
    while place < hashes.len() {
        let hash = if by_name { hashes[place].name } else { hashes[place].field };
        let mut slot = hash as usize % SLOTS;
        while slots[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        // Entries with one name stand together, and the first of them is the one to be found.
        let again = by_name && place > 0 && hash == hashes[place - 1].name;
        if !again {
            slots[slot] = place as u8 + 1;
        }
        place += 1;
    }
    slots
}

/// The entry at `index`, which counts from 1.
#[inline]
pub(super) fn get(index: u32) -> Option<(&'static [u8], &'static [u8], Hashes)> {
    let place = (index as usize).wrapping_sub(1);
    let &(name, value) = TABLE.get(place)?;
    Some((name.as_bytes(), value.as_bytes(), HASHES[place]))
}

/// The index of the field, name and value.
#[inline]
pub(super) fn find(name: &[u8], value: &[u8], hashes: Hashes) -> Option<u32> {
    probe(&FIELDS, hashes.field, |place| {
        HASHES[place].field == hashes.field
            && TABLE[place].0.as_bytes() == name
            && TABLE[place].1.as_bytes() == value
    })
}

/// The first index of the name.
#[inline]
pub(super) fn find_name(name: &[u8], hashes: Hashes) -> Option<u32> {
    probe(&NAMES, hashes.name, |place| {
        HASHES[place].name == hashes.name && TABLE[place].0.as_bytes() == name
    })
}

#[inline]
fn probe(slots: &[u8; SLOTS], hash: u32, is: impl Fn(usize) -> bool) -> Option<u32> {
    let mut slot = hash as usize % SLOTS;
    loop {
        let index = slots[slot];
        if index == 0 {
            return None;
        }
        if is(usize::from(index) - 1) {
            return Some(u32::from(index));
        }
        slot = (slot + 1) % SLOTS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_is_found_by_what_it_says() {
        assert_eq!(get(0), None);
        assert_eq!(get(ENTRIES + 1), None);
        for index in 1..=ENTRIES {
            let (name, value, hashes) = get(index).expect("in range");
            assert_eq!(hashes, Hashes::of(name, value));
            assert_eq!(find(name, value, hashes), Some(index));
            let first = (1..).find(|&first| get(first).is_some_and(|entry| entry.0 == name));
            assert_eq!(find_name(name, hashes), first);
        }
    }

    #[test]
    fn other_fields_are_not_found() {
        for (name, value) in [("", ""), (":method", "PUT"), ("grpc-status", "0"), (":path", "")] {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            assert_eq!(find(name, value, Hashes::of(name, value)), None);
        }
        assert_eq!(find_name(b"grpc-status", Hashes::of(b"grpc-status", b"")), None);
        assert_eq!(find_name(b":method", Hashes::of(b":method", b"PUT")), Some(2));
    }

    #[test]
    fn slots_are_found_soon() {
        for slots in [FIELDS, NAMES] {
            let longest = slots.split(|&index| index == 0).map(<[u8]>::len).max();
            assert!(longest <= Some(8), "{longest:?}");
        }
    }
}
