//! TLS is recognised to be counted and reported, never to be opened.

use tls_parser::{
    TlsExtension, TlsMessage, TlsMessageHandshake, TlsRecordType,
    parse_tls_client_hello_extensions, parse_tls_plaintext,
};

/// What the first bytes of a TLS client say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// ALPN offers `h2`: very likely gRPC, which nobody can balance by stream from outside.
    pub offers_h2: bool,
}

/// Recognises a TLS handshake record (RFC 8446 section 5.1) at the start of `octets`.
///
/// A ClientHello that came whole is searched for ALPN (RFC 7301); of one that came in pieces, or
/// that does not parse, only its being TLS is reported. None: not TLS.
pub fn client_hello(octets: &[u8]) -> Option<ClientHello> {
    let is_tls =
        octets.len() >= 3 && octets[0] == u8::from(TlsRecordType::Handshake) && octets[1] == 3;
    is_tls.then(|| ClientHello { offers_h2: offers_h2(octets).unwrap_or(false) })
}

fn offers_h2(octets: &[u8]) -> Option<bool> {
    let (_, record) = parse_tls_plaintext(octets).ok()?;
    let hello = record.msg.iter().find_map(|message| match message {
        TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)) => Some(hello),
        _ => None,
    })?;
    let (_, extensions) = parse_tls_client_hello_extensions(hello.ext?).ok()?;
    Some(extensions.iter().any(|extension| match extension {
        TlsExtension::ALPN(protocols) => protocols.contains(&&b"h2"[..]),
        _ => false,
    }))
}

#[cfg(test)]
mod tests {
    //! Aim: TLS is seen from its first three bytes, ALPN only where it is whole.

    use proptest::prelude::*;

    use super::{ClientHello, client_hello};

    /// A minimal TLS 1.2 ClientHello with an ALPN extension of `protocols`.
    fn hello(protocols: &[&[u8]]) -> Vec<u8> {
        let mut list = Vec::new();
        for protocol in protocols {
            list.push(protocol.len() as u8);
            list.extend_from_slice(protocol);
        }
        let mut alpn = (list.len() as u16).to_be_bytes().to_vec();
        alpn.extend(list);
        let mut extensions = vec![0, 16];
        extensions.extend((alpn.len() as u16).to_be_bytes());
        extensions.extend(alpn);
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut message = vec![1, 0];
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(body);
        let mut record = vec![22, 3, 1];
        record.extend((message.len() as u16).to_be_bytes());
        record.extend(message);
        record
    }

    #[test]
    fn alpn_h2_is_reported() {
        let offer = hello(&[b"http/1.1", b"h2"]);
        assert_eq!(client_hello(&offer), Some(ClientHello { offers_h2: true }));
        assert_eq!(client_hello(&hello(&[b"http/1.1"])), Some(ClientHello { offers_h2: false }));
        let cut = &offer[..offer.len() - 4];
        assert_eq!(client_hello(cut), Some(ClientHello { offers_h2: false }), "cut short");
    }

    #[test]
    fn other_bytes_are_not_tls() {
        for octets in [&b"GET / HTTP/1.1"[..], b"\x16\x03", b"\x15\x03\x01", b""] {
            assert_eq!(client_hello(octets), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(octets in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = client_hello(&octets);
            let mut record = vec![22, 3, 1];
            record.extend(octets);
            prop_assert!(client_hello(&record).is_some());
        }
    }
}
