//! Hashes that every node computes alike.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

/// A hash function out of a family: two with different keys agree on nothing.
///
/// SipHash over octets in network order, so that the result depends on neither the machine nor the
/// version of the standard library. What nodes must agree on uses keys that are constants here;
/// what they should not march in step with uses random ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddressHash {
    keys: (u64, u64),
}

impl AddressHash {
    pub(crate) const fn new(first: u64, second: u64) -> Self {
        Self { keys: (first, second) }
    }

    /// Of an address and a number that belongs to it: a port, or how often it was asked for.
    pub(crate) fn of(self, ip: IpAddr, number: u16) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.keys.0, self.keys.1);
        match ip {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()),
        }
        hasher.write(&number.to_be_bytes());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    /// Old and new nodes of one cluster must agree during a roll-out, so these never change.
    #[test]
    fn known_addresses_keep_their_hash() {
        let hash = AddressHash::new(1, 2);
        let v4 = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let v6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
        assert_eq!(hash.of(v4, 80), 348_113_105_037_726_939);
        assert_eq!(hash.of(v6, 80), 8_991_025_679_266_495_593);
        assert_ne!(hash.of(v4, 80), hash.of(v4, 81));
        assert_ne!(hash.of(v4, 80), AddressHash::new(2, 1).of(v4, 80));
    }
}
