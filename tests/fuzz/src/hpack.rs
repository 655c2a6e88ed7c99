//! Clients send any octets as header blocks, and what can be read goes on to endpoints.
//!
//! Claims: nothing panics; a block is read the same with a memory as without; it is written the
//! same; the endpoint reads the fields that the client sent, and what must never be indexed still
//! says so; what a decoder hands out is bounded.

use streamvs_relay::h2::switch::hpack::{Decoder, Encoder, Error, Indexing, Translator};

use crate::script::Script;

const CLIENTS: usize = 2;
const ENDPOINTS: usize = 2;
/// Small, so that lists above it are easily found.
const MAX_LIST_OCTETS: usize = 1000;

type Fields = Vec<(Vec<u8>, Vec<u8>, bool)>;

/// A connection from a client: our decoder, and one that reads the same without a memory.
struct Client {
    ours: Decoder,
    plain: Decoder,
}

/// A connection to an endpoint: our encoder, one without a memory, and the endpoint's decoder.
struct Endpoint {
    ours: Encoder,
    plain: Encoder,
    receiver: Decoder,
}

/// Runs one script.
pub fn check(octets: &[u8]) {
    let mut script = Script::new(octets);
    let mut translator = Translator::new();
    let mut clients = [(); CLIENTS].map(|()| client());
    let mut endpoints = [(); ENDPOINTS].map(|()| Endpoint {
        ours: Encoder::new(),
        plain: Encoder::new(),
        receiver: Decoder::new(4096),
    });
    let mut last: &[u8] = &[];
    while !script.is_over() {
        let act = script.octet();
        let client = &mut clients[usize::from(act) % CLIENTS];
        let endpoint = &mut endpoints[usize::from(act >> 1) % ENDPOINTS];
        match act >> 2 & 0x07 {
            0 => {
                let octets = u32::from(script.octet()) * 33;
                endpoint.ours.set_max_table(octets);
                endpoint.plain.set_max_table(octets);
            }
            // The same block again, as real clients send it.
            1 => carry(&mut translator, client, endpoint, last),
            _ => {
                last = script.octets();
                carry(&mut translator, client, endpoint, last);
            }
        }
    }
}

fn client() -> Client {
    Client { ours: Decoder::new(8192), plain: Decoder::new(8192) }
}

fn carry(
    translator: &mut Translator<usize>,
    client: &mut Client,
    endpoint: &mut Endpoint,
    block: &[u8],
) {
    let expected = read(&mut client.plain, block);
    let list = translator.read(&mut client.ours, block, MAX_LIST_OCTETS, 0, |fields| fields.len());
    let (list, fields) = match (list, expected) {
        (Ok(list), Ok(fields)) => (list, fields),
        (Err(ours), Err(plain)) => {
            assert_eq!(ours, plain);
            if !ours.leaves_tables_in_sync() {
                *client = self::client();
            }
            return;
        }
        (ours, plain) => panic!("with a memory {ours:?}, without {plain:?}"),
    };
    let never = |indexing| indexing == Indexing::Never;
    let said: Fields =
        list.fields().map(|it| (it.name.to_vec(), it.value.to_vec(), never(it.indexing))).collect();
    assert_eq!(said, fields);
    assert_eq!(*list.facts(), fields.len());

    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    translator.write(&list, &mut endpoint.ours, &mut ours);
    let mut writer = endpoint.plain.begin(&mut plain);
    list.fields().for_each(|field| writer.field(&field));
    assert_eq!(ours, plain);
    assert_eq!(read(&mut endpoint.receiver, &ours), Ok(fields));
}

fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, Error> {
    let (mut fields, mut scratch, mut octets) = (Vec::new(), Vec::new(), 0);
    let result = decoder.decode(block, MAX_LIST_OCTETS, &mut scratch, |field| {
        octets += field.name.len() + field.value.len() + 32;
        assert!(octets <= MAX_LIST_OCTETS);
        fields.push((field.name.to_vec(), field.value.to_vec(), field.indexing == Indexing::Never));
    });
    result.map(|()| fields)
}
