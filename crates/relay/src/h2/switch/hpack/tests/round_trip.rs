//! What we write, we read; sizes change on the way.

use super::*;

proptest! {
    #[test]
    fn what_was_written_is_read(acts in any_acts()) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
        for act in acts {
            match act {
                Act::SetMaxTable(octets) => encoder.set_max_table(octets),
                Act::Block(fields) => {
                    let block = encode_all(&mut encoder, &fields);
                    let read = decode_all(&mut decoder, &block);
                    let read = read.expect("our own block");
                    prop_assert_eq!(read.len(), fields.len());
                    for (read, (name, value, indexing)) in read.iter().zip(&fields) {
                        prop_assert_eq!((&read.0, &read.1), (name, value));
                        // A wish never to index is passed on, and nobody else is said to have it.
                        let never = *indexing == Indexing::Never;
                        prop_assert_eq!(read.2 == Indexing::Never, never);
                    }
                    assert_in_sync(&mut encoder, &mut decoder);
                }
            }
        }
    }

    #[test]
    fn what_the_sender_did_not_index_is_not_indexed(
        fields in prop::collection::vec(any_field(), 0..20),
    ) {
        let mut encoder = Encoder::new();
        let mut shy = fields;
        shy.retain(|field| field.2 != Indexing::Incremental);
        encode_all(&mut encoder, &shy);
        prop_assert_eq!(encoder.table().size(), 0);
    }
}

#[test]
fn rfc7541_4_2_the_smallest_size_between_two_blocks_is_told_too() {
    let field = (b"x-a".to_vec(), b"1".to_vec(), Indexing::Incremental);
    /// After a block with one entry these settings arrive: the next block begins so.
    fn check(field: &Owned, settings: &[u32], expected: &[u8]) {
        let mut encoder = Encoder::new();
        let mut decoder = Decoder::new(4096);
        let first = encode_all(&mut encoder, std::slice::from_ref(field));
        decode_all(&mut decoder, &first).expect("our own block");
        settings.iter().for_each(|&octets| encoder.set_max_table(octets));
        let second = encode_all(&mut encoder, &[]);
        assert_eq!(second, expected, "{settings:?}");
        assert_eq!(decode_all(&mut decoder, &second), Ok(vec![]));
        assert_in_sync(&mut encoder, &mut decoder);
        assert_eq!(encode_all(&mut encoder, &[]), [], "it is told once");
    }
    check(&field, &[], &[]);
    check(&field, &[4096], &[]);
    check(&field, &[0], &[0x20]);
    check(&field, &[10], &[0x2a]);
    check(&field, &[0, 10], &[0x20, 0x2a]);
    check(&field, &[10, 0], &[0x20]);
    check(&field, &[10, 0, 20], &[0x20, 0x34]);
    check(&field, &[0, 4096], &[0x20, 0x3f, 0xe1, 0x1f]);
    // We use no more than this of what is offered.
    check(&field, &[1 << 20], &[]);
    check(&field, &[0, u32::MAX], &[0x20, 0x3f, 0xe1, 0x1f]);
}

#[test]
fn fields_that_differ_from_call_to_call_stay_out_of_the_table() {
    let mut encoder = Encoder::new();
    let timeout = |value: &str| (b"grpc-timeout".to_vec(), value.into(), Indexing::Incremental);
    let block = encode_all(&mut encoder, &[timeout("100m"), timeout("101m")]);
    assert_eq!(encoder.table().size(), 0);
    let read = decode_all(&mut Decoder::new(4096), &block).expect("our own block");
    assert_eq!(read[1].1, b"101m");
}
