//! The examples of RFC 7541 appendix C octet by octet, and random connections against ourselves
//! and against a codec of other hands (fluke-hpack).

use proptest::prelude::*;

use super::*;

mod foreign;
mod malformed;
mod rfc7541;
mod round_trip;

type Owned = (Vec<u8>, Vec<u8>, Indexing);

fn decode_all(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Owned>, Error> {
    decode_up_to(decoder, block, usize::MAX).0
}

/// What came of it, and how many fields the sink got.
fn decode_up_to(
    decoder: &mut Decoder,
    block: &[u8],
    max_list_octets: usize,
) -> (Result<Vec<Owned>, Error>, usize) {
    let mut fields = Vec::new();
    let mut scratch = b"what was here before".to_vec();
    let result = decoder.decode(block, max_list_octets, &mut scratch, |field| {
        fields.push((field.name.to_vec(), field.value.to_vec(), field.indexing));
    });
    let count = fields.len();
    (result.map(|()| fields), count)
}

fn encode_all(encoder: &mut Encoder, fields: &[Owned]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = encoder.begin(&mut out);
    for (name, value, indexing) in fields {
        writer.field(&Field::new(name, value, *indexing));
    }
    out
}

/// The dynamic tables of two connections' ends say the same.
fn assert_in_sync(encoder: &mut Encoder, decoder: &mut Decoder) {
    let (ours, theirs) = (encoder.table(), decoder.table());
    assert_eq!(ours.size(), theirs.size());
    for place in 0.. {
        assert_eq!(ours.get(place), theirs.get(place));
        if ours.get(place).is_none() {
            break;
        }
    }
}

/// Names and values from few, so that they repeat, and now and then anything at all.
fn any_field() -> impl Strategy<Value = Owned> {
    let name = prop_oneof![
        6 => prop::sample::select(vec![
            ":method", ":path", ":scheme", ":status", "te", "content-type", "grpc-status",
            "grpc-timeout", "user-agent", "authorization", "x-a", "x-b",
        ])
        .prop_map(|name| name.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..60),
    ];
    let value = prop_oneof![
        6 => prop::sample::select(vec!["", "GET", "POST", "/", "https", "200", "0", "trailers"])
            .prop_map(|value| value.as_bytes().to_vec()),
        2 => prop::collection::vec(any::<u8>(), 0..300),
    ];
    let indexing = prop_oneof![
        4 => Just(Indexing::Incremental),
        1 => Just(Indexing::Without),
        1 => Just(Indexing::Never),
    ];
    (name, value, indexing)
}

#[derive(Clone, Debug)]
enum Act {
    Block(Vec<Owned>),
    SetMaxTable(u32),
}

fn any_acts() -> impl Strategy<Value = Vec<Act>> {
    let size = prop_oneof![Just(0), 0u32..300, 0u32..6000];
    let act = prop_oneof![
        4 => prop::collection::vec(any_field(), 0..12).prop_map(Act::Block),
        1 => size.prop_map(Act::SetMaxTable),
    ];
    prop::collection::vec(act, 1..30)
}
