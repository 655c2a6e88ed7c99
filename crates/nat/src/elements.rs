//! Elements of maps and sets, and changes of them as messages of nf_tables. Pure.
//!
//! ```text
//!  key:    protocol . address . port      each padded to four octets, as in the kernel's registers
//!  value:  address . port                 the same; or a verdict
//! ```
//!
//! Sources: linux/netfilter/nf_tables.h; concatenations as `nft` makes them.

use std::fmt::{self, Display};
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList,
    SetElementMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use streamvs_table::{Family, Protocol};

use crate::key::{Key, Value};
use crate::layout::TABLE;

/// Elements that go into a batch. One of IPv6 has at most 64 octets, or 108 with the verdict of our
/// longest chain's name, so that all fit into one attribute (65,535) and into what a socket sends
/// at once (212,992 by default).
pub(crate) const MAX_ELEMENTS: usize = 500;

/// `NFNL_SUBSYS_NFTABLES`, to which a batch is addressed.
const NFTABLES: u16 = 10;

/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;

/// What is done with elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Delete,
}

/// As nft reads it.
impl Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "add",
            Self::Delete => "delete",
        })
    }
}

/// A key, or a key with its value. Displayed as nft reads it.
pub(crate) trait Element: Display {
    /// As the kernel reads it.
    fn attributes(&self) -> Vec<SetElementAttribute>;
}

impl Element for &Key {
    fn attributes(&self) -> Vec<SetElementAttribute> {
        let mut octets = Vec::new();
        let (protocol, port) = match **self {
            Key::Address { protocol, port, .. } | Key::Node { protocol, port } => (protocol, port),
        };
        field(&mut octets, &[number(protocol)]);
        if let Key::Address { ip, .. } = self {
            address(&mut octets, *ip);
        }
        field(&mut octets, &port.to_be_bytes());
        vec![key(octets)]
    }
}

/// An element of a map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapped<'a>(pub(crate) &'a Key, pub(crate) &'a Value);

impl Display for Mapped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} : {}", self.0, self.1)
    }
}

impl Element for Mapped<'_> {
    fn attributes(&self) -> Vec<SetElementAttribute> {
        let verdict = |code, chain: Option<&String>| {
            let chain = chain.map(|chain| VerdictAttribute::Chain(chain.clone()));
            let code = VerdictAttribute::Code(code);
            DataAttribute::Verdict([code].into_iter().chain(chain).collect())
        };
        let data = match self.1 {
            Value::Goto(chain) => verdict(Verdict::Goto, Some(chain)),
            Value::Accept => verdict(Verdict::Other(ACCEPT), None),
            Value::Endpoint(endpoint) => {
                let mut octets = Vec::new();
                address(&mut octets, endpoint.ip());
                field(&mut octets, &endpoint.port().to_be_bytes());
                DataAttribute::Value(octets)
            }
        };
        let mut attributes = self.0.attributes();
        attributes.push(SetElementAttribute::Data(data));
        attributes
    }
}

/// An element of the set of hairpins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hairpin(pub(crate) IpAddr);

impl Display for Hairpin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{0} . {0}", self.0)
    }
}

impl Element for Hairpin {
    fn attributes(&self) -> Vec<SetElementAttribute> {
        let mut octets = Vec::new();
        address(&mut octets, self.0);
        address(&mut octets, self.0);
        vec![key(octets)]
    }
}

fn key(octets: Vec<u8>) -> SetElementAttribute {
    SetElementAttribute::Key(DataAttribute::Value(octets))
}

fn field(octets: &mut Vec<u8>, value: &[u8]) {
    octets.extend_from_slice(value);
    octets.resize(octets.len().next_multiple_of(4), 0);
}

fn address(octets: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => field(octets, &ip.octets()),
        IpAddr::V6(ip) => field(octets, &ip.octets()),
    }
}

/// Source: the IANA registry of protocol numbers.
fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// Changes that the kernel does all or none of.
#[derive(Debug)]
pub(crate) struct Batch {
    messages: Vec<NetlinkMessage<NetfilterMessage>>,
    element_count: usize,
}

impl Batch {
    pub(crate) fn new() -> Self {
        let begin = message(NetfilterProtoFamily::Unspec, NFTABLES, ControlMessage::BatchBegin);
        Self { messages: vec![begin], element_count: 0 }
    }

    /// The same with elements of one map or set more; none where those are too many.
    pub(crate) fn with(
        mut self,
        verb: Verb,
        family: Family,
        set: &str,
        elements: Vec<Vec<SetElementAttribute>>,
    ) -> Option<Self> {
        self.element_count += elements.len();
        if self.element_count > MAX_ELEMENTS {
            return None;
        }
        let attributes = vec![
            SetElementList::Table(TABLE.to_owned()),
            SetElementList::Set(set.to_owned()),
            SetElementList::Elements(elements.into_iter().map(ListAttribute::Element).collect()),
        ];
        let list = SetElementMessage { attributes };
        let (change, flags) = match verb {
            Verb::Add => (NfTablesMessage::NewSetElement(list), NLM_F_CREATE),
            Verb::Delete => (NfTablesMessage::DeleteSetElement(list), 0),
        };
        let family = match family {
            Family::V4 => NetfilterProtoFamily::IPv4,
            Family::V6 => NetfilterProtoFamily::IPv6,
        };
        let mut message = message(family, 0, change);
        message.header.flags |= flags;
        self.messages.push(message);
        Some(self)
    }

    /// The octets to send: the last change asks for an acknowledgement.
    pub(crate) fn octets(&self) -> Vec<u8> {
        let mut messages = self.messages.clone();
        if let Some(last) = messages.last_mut() {
            last.header.flags |= NLM_F_ACK;
        }
        messages.push(message(NetfilterProtoFamily::Unspec, NFTABLES, ControlMessage::BatchEnd));
        let mut octets = Vec::new();
        for mut message in messages {
            message.finalize();
            let start = octets.len();
            octets.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut octets[start..]);
        }
        octets
    }
}

fn message(
    family: NetfilterProtoFamily,
    resource: u16,
    inner: impl Into<NetfilterMessageInner>,
) -> NetlinkMessage<NetfilterMessage> {
    let header = NetfilterHeader::new(family, 0, resource);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, inner));
    message.header.flags = NLM_F_REQUEST;
    message
}

#[cfg(test)]
mod tests {
    //! Aim: octets are as the kernel's headers say. That the kernel takes them for what the text says
    //! is tested in namespaces.

    use netlink_packet_core::{Emitable as _, NetlinkPayload};

    use super::*;
    use crate::netlink::Messages;

    fn octets(element: &impl Element) -> Vec<u8> {
        let attributes = element.attributes();
        let mut octets = vec![0; attributes.as_slice().buffer_len()];
        attributes.as_slice().emit(&mut octets);
        octets
    }

    fn udp(ip: &str) -> Key {
        let ip = ip.parse().expect("an address");
        Key::Address { protocol: Protocol::Udp, ip, port: 53 }
    }

    /// An attribute of native order (`struct nlattr`).
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).expect("it is short");
        [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
    }

    const NESTED: u16 = 0x8000;

    #[test]
    fn fields_are_padded_to_registers() {
        let key = |value: &[u8]| attribute(1 | NESTED, &attribute(1, value));
        let v4 = [17, 0, 0, 0, 10, 96, 0, 10, 0, 53, 0, 0];
        assert_eq!(octets(&&udp("10.96.0.10")), key(&v4));
        let node = Key::Node { protocol: Protocol::Sctp, port: 30_053 };
        assert_eq!(octets(&&node), key(&[132, 0, 0, 0, 117, 101, 0, 0]));
        let mut v6 = [0; 24];
        (v6[0], v6[4], v6[19], v6[21]) = (17, 0xfd, 0x10, 53);
        assert_eq!(octets(&&udp("fd00::10")), key(&v6));
        let hairpin = Hairpin("10.244.1.10".parse().expect("an address"));
        assert_eq!(octets(&hairpin), key(&[10, 244, 1, 10, 10, 244, 1, 10]));
    }

    #[test]
    fn values_are_endpoints_and_verdicts() {
        let key = udp("10.96.0.10");
        let of_key = octets(&&key).len();
        let data = |value: Value| octets(&Mapped(&key, &value)).split_off(of_key);
        let to = "10.244.1.10:5353".parse().expect("an address with a port");
        let endpoint = attribute(1, &[10, 244, 1, 10, 20, 233, 0, 0]);
        assert_eq!(data(Value::Endpoint(to)), attribute(2 | NESTED, &endpoint));
        let goto = [
            attribute(1, &0xffff_fffc_u32.to_be_bytes()),
            // Four octets with the zero at its end.
            attribute(2, b"abc\0"),
        ];
        let verdict = |parts: &[u8]| attribute(2 | NESTED, &attribute(2 | NESTED, parts));
        assert_eq!(data(Value::Goto("abc".into())), verdict(&goto.concat()));
        assert_eq!(data(Value::Accept), verdict(&attribute(1, &1u32.to_be_bytes())));
    }

    #[test]
    fn a_batch_has_a_beginning_an_end_and_a_bound() {
        let key = udp("10.96.0.10");
        let elements = |count| vec![(&key).attributes(); count];
        let batch = || Batch::new().with(Verb::Delete, Family::V4, "services", elements(1));
        let octets = batch()
            .and_then(|batch| batch.with(Verb::Add, Family::V6, "services", elements(2)))
            .expect("there is room")
            .octets();
        assert_eq!(octets.len() % 4, 0);
        let inner: Vec<NetfilterMessageInner> = Messages(&octets)
            .map(|message| match message.expect("lengths are right") {
                Some(NetlinkPayload::InnerMessage(message)) => message.inner,
                other => panic!("{other:?}"),
            })
            .collect();
        use NetfilterMessageInner::{NfTables, None as Control};
        assert!(matches!(
            &inner[..],
            [
                Control(ControlMessage::BatchBegin),
                NfTables(NfTablesMessage::DeleteSetElement(_)),
                NfTables(NfTablesMessage::NewSetElement(_)),
                Control(ControlMessage::BatchEnd)
            ]
        ));
        let more = |count| {
            let batch = batch().expect("there is room");
            batch.with(Verb::Add, Family::V4, "services", elements(count)).is_some()
        };
        assert_eq!([more(MAX_ELEMENTS - 1), more(MAX_ELEMENTS)], [true, false]);
    }
}
