//! Random connections, translated with a memory and without: the peers read the same, and where
//! nothing changed a table the octets are the same.

use proptest::prelude::*;

use super::super::{Field, Indexing};
use super::*;

const LIMIT: usize = 65_536;

type Read = Vec<(Vec<u8>, Vec<u8>, bool)>;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Read {
    let mut fields = Vec::new();
    let mut scratch = Vec::new();
    let result = decoder.decode(block, LIMIT, &mut scratch, |field| {
        let never = field.indexing == Indexing::Never;
        fields.push((field.name.to_vec(), field.value.to_vec(), never));
    });
    assert_eq!(result, Ok(()));
    fields
}

fn encode(encoder: &mut Encoder, fields: &[(&str, &str, Indexing)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = encoder.begin(&mut out);
    for (name, value, indexing) in fields {
        writer.field(&Field::new(name.as_bytes(), value.as_bytes(), *indexing));
    }
    out
}

const CALL: [(&str, &str, Indexing); 5] = [
    (":method", "POST", Indexing::Incremental),
    (":path", "/helloworld.Greeter/SayHello", Indexing::Incremental),
    (":scheme", "http", Indexing::Incremental),
    ("content-type", "application/grpc", Indexing::Incremental),
    ("te", "trailers", Indexing::Without),
];

/// Reads and writes one block, and says if `facts` were asked for.
fn translate(
    translator: &mut Translator<usize>,
    decoder: &mut Decoder,
    encoder: &mut Encoder,
    block: &[u8],
) -> (Vec<u8>, bool) {
    let mut asked = false;
    let list = translator.read(decoder, block, LIMIT, 0, |fields| {
        asked = true;
        fields.len()
    });
    let list = list.expect("valid");
    assert_eq!(*list.facts(), list.fields().len());
    let mut out = b"before".to_vec();
    translator.write(&list, encoder, &mut out);
    assert!(out.starts_with(b"before"));
    (out.split_off(6), asked)
}

#[test]
fn a_call_from_many_clients_is_one_list_and_one_block_for_each_endpoint() {
    let mut translator = Translator::new();
    let mut encoders = [Encoder::new(), Encoder::new()];
    let mut lists = Vec::new();
    for _client in 0..3 {
        let (mut sender, mut decoder) = (Encoder::new(), Decoder::new(4096));
        for _call in 0..3 {
            let block = encode(&mut sender, &CALL);
            let list = translator.read(&mut decoder, &block, LIMIT, 0, |_| 0);
            lists.push(list.expect("valid"));
        }
    }
    assert!(lists.iter().all(|list| Rc::ptr_eq(list, &lists[0])));
    for encoder in &mut encoders {
        let sizes = [(); 4].map(|()| {
            let mut out = Vec::new();
            translator.write(&lists[0], encoder, &mut out);
            out.len()
        });
        // First the entries; then an octet each, but for the one that is not to be indexed.
        assert!(sizes[0] > 60);
        assert_eq!(sizes[1..], [4 + 1 + 3 + 9; 3]);
    }
}

#[test]
fn the_same_fields_are_two_lists_for_two_kinds_of_block() {
    let mut translator = Translator::new();
    let (mut sender, mut decoder) = (Encoder::new(), Decoder::new(4096));
    for _ in 0..3 {
        let block = encode(&mut sender, &CALL);
        // The second reading of an inserting block would insert again, so the tables part here;
        // what counts is that the kinds do not mix.
        for tag in [1, 2] {
            let list = translator.read(&mut decoder, &block, LIMIT, tag, |_| tag);
            assert_eq!(*list.expect("valid").facts(), tag);
        }
    }
}

#[test]
fn a_known_list_is_still_refused_when_it_is_too_large() {
    let mut translator = Translator::new();
    let mut decoder = Decoder::new(4096);
    for (limit, fits) in [(42, true), (42, true), (41, false), (42, true)] {
        let list = translator.read(&mut decoder, &[0x82], limit, 0, |_| ());
        assert_eq!(list.is_ok(), fits);
        assert!(list.is_ok() || list.is_err_and(Error::leaves_tables_in_sync));
    }
}

#[test]
fn lists_that_are_too_large_are_not_kept() {
    let mut translator = Translator::new();
    let value = "v".repeat(LIST_OCTETS);
    let block = encode(&mut Encoder::new(), &[("name", &value, Indexing::Without)]);
    for _ in 0..2 {
        let list = translator.read(&mut Decoder::new(4096), &block, LIMIT, 0, |_| ());
        assert_eq!(Rc::strong_count(&list.expect("valid")), 1);
    }
}

#[derive(Clone, Debug)]
enum Act {
    /// From a client to an endpoint, this list.
    Block(usize, usize, usize),
    ClientTable(usize, u32),
    EndpointTable(usize, u32),
}

const CLIENTS: usize = 3;
const ENDPOINTS: usize = 2;

fn lists() -> Vec<Vec<(&'static str, &'static str, Indexing)>> {
    let mut lists = vec![CALL.to_vec(), CALL[..4].to_vec(), Vec::new()];
    lists.push(vec![(":status", "200", Indexing::Incremental), CALL[3]]);
    lists.push(vec![("grpc-status", "0", Indexing::Incremental)]);
    lists.push(vec![("grpc-status", "0", Indexing::Never)]);
    for indexing in [Indexing::Incremental, Indexing::Without, Indexing::Never] {
        let mut list = CALL.to_vec();
        list.push(("grpc-timeout", "100m", indexing));
        list.push(("x-token", "a token that is a little longer than the others", indexing));
        lists.push(list);
    }
    lists
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let size = || prop_oneof![Just(0), 0u32..300, Just(4096)];
    let act = prop_oneof![
        30 => (0..CLIENTS, 0..ENDPOINTS, 0..lists().len()).prop_map(|(c, e, l)| Act::Block(c, e, l)),
        1 => (0..CLIENTS, size()).prop_map(|(client, octets)| Act::ClientTable(client, octets)),
        1 => (0..ENDPOINTS, size()).prop_map(|(endpoint, octets)| Act::EndpointTable(endpoint, octets)),
    ];
    prop::collection::vec(act, 0..150)
}

proptest! {
    #[test]
    fn memory_makes_no_difference(acts in acts()) {
        let mut translator = Translator::new();
        let lists = lists();
        // Each client and endpoint, our end of its connection, and a twin of that without memory.
        let mut clients: Vec<_> = (0..CLIENTS)
            .map(|_| (Encoder::new(), Decoder::new(4096), Decoder::new(4096)))
            .collect();
        let mut endpoints: Vec<_> = (0..ENDPOINTS)
            .map(|_| (Encoder::new(), Encoder::new(), Decoder::new(4096)))
            .collect();
        for act in acts {
            match act {
                Act::ClientTable(client, octets) => clients[client].0.set_max_table(octets),
                Act::EndpointTable(endpoint, octets) => {
                    endpoints[endpoint].0.set_max_table(octets);
                    endpoints[endpoint].1.set_max_table(octets);
                }
                Act::Block(client, endpoint, list) => {
                    let (sender, ours, twin) = &mut clients[client];
                    let block = encode(sender, &lists[list]);
                    let (encoder, twin_encoder, receiver) = &mut endpoints[endpoint];
                    let (out, _) = translate(&mut translator, ours, encoder, &block);

                    let mut expected = Vec::new();
                    let mut writer = twin_encoder.begin(&mut expected);
                    let mut scratch = Vec::new();
                    let result = twin.decode(&block, LIMIT, &mut scratch, |field| {
                        writer.field(&field);
                    });
                    prop_assert_eq!(result, Ok(()));
                    prop_assert_eq!(&out, &expected);
                    let said: Read = lists[list]
                        .iter()
                        .map(|(name, value, indexing)| {
                            (name.as_bytes().to_vec(), value.as_bytes().to_vec(), *indexing == Indexing::Never)
                        })
                        .collect();
                    prop_assert_eq!(decode(receiver, &out), said);
                }
            }
        }
    }
}

#[test]
fn a_repeated_call_is_not_read_again() {
    let mut translator = Translator::new();
    let (mut sender, mut decoder, mut encoder) =
        (Encoder::new(), Decoder::new(4096), Encoder::new());
    let asked = [(); 4].map(|()| {
        let block = encode(&mut sender, &CALL);
        translate(&mut translator, &mut decoder, &mut encoder, &block).1
    });
    assert_eq!(asked, [true, false, false, false]);
}
