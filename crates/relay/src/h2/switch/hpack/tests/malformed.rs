//! Blocks that are not valid, and blocks that ask for too much.

use super::*;

/// A fresh decoder says this of the block.
fn check(block: &[u8], expected: Error) {
    let result = decode_all(&mut Decoder::new(4096), block);
    assert_eq!(result, Err(expected), "{block:x?}");
    assert!(!expected.leaves_tables_in_sync());
}

#[test]
fn rfc7541_2_3_3_indices_beyond_the_tables_are_refused() {
    check(&[0x80], Error::UnknownIndex(0));
    check(&[0xbe], Error::UnknownIndex(62));
    check(&[0xff, 0xff, 0xff, 0x03], Error::UnknownIndex(127 + 127 + (127 << 7) + (3 << 14)));
    // As a name, in each kind of literal.
    check(&[0x7e, 0x00], Error::UnknownIndex(62));
    check(&[0x0f, 0x2f, 0x00], Error::UnknownIndex(62));
    check(&[0x1f, 0x2f, 0x00], Error::UnknownIndex(62));
}

#[test]
fn rfc7541_4_2_table_updates_stand_only_at_the_beginning_and_below_the_limit() {
    check(&[0x82, 0x20], Error::LateTableUpdate);
    check(&[0x20, 0x82, 0x20], Error::LateTableUpdate);
    check(&[0x3f, 0xe2, 0x1f], Error::TableTooLarge(4097));
    let mut decoder = Decoder::new(5000);
    assert_eq!(decode_all(&mut decoder, &[0x20, 0x3f, 0xe9, 0x26]), Ok(vec![]));
    assert_eq!(decoder.table().max(), 5000);
    assert_eq!(decode_all(&mut decoder, &[0x3f, 0xea, 0x26]), Err(Error::TableTooLarge(5001)));
}

#[test]
fn a_decoder_of_a_small_table_still_takes_what_was_sent_before_the_peer_knew() {
    let mut decoder = Decoder::new(0);
    decode_all(&mut decoder, &[0x40, 0x01, b'a', 0x01, b'b']).expect("the default is allowed");
    assert_eq!(decoder.table().size(), 34);
}

#[test]
fn an_entry_may_take_its_name_from_one_that_it_evicts() {
    let mut decoder = Decoder::new(4096);
    let mut block = vec![0x3f, 0x09]; // 40 octets: room for one.
    block.extend([0x40, 0x04, b'n', b'a', b'm', b'e', 0x01, b'1']);
    block.extend([0x7e, 0x02, b'2', b'2']);
    let fields = decode_all(&mut decoder, &block).expect("valid");
    assert_eq!(fields[1], (b"name".to_vec(), b"22".to_vec(), Indexing::Incremental));
    assert_eq!(decoder.table().size(), 38);
}

#[test]
fn a_list_that_is_too_large_leaves_the_table_as_the_peer_has_it() {
    let mut encoder = Encoder::new();
    let field = |value: &str| (b"name".to_vec(), value.into(), Indexing::Incremental);
    let block = encode_all(&mut encoder, &[field("1"), field("2"), field("3")]);
    for (limit, given, fits) in
        [(0, 0, false), (36, 0, false), (37, 1, false), (110, 2, false), (111, 3, true)]
    {
        let mut decoder = Decoder::new(4096);
        let (result, sunk) = decode_up_to(&mut decoder, &block, limit);
        assert_eq!((sunk, result.is_ok()), (given, fits), "{limit}");
        if let Err(error) = result {
            assert_eq!(error, Error::ListTooLarge);
            assert!(error.leaves_tables_in_sync());
        }
        assert_in_sync(&mut encoder, &mut decoder);
    }
}

#[test]
fn a_bomb_of_references_to_a_large_entry_is_counted_and_not_copied() {
    let mut block = vec![0x40, 0x01, b'a', 0x7f, 0xa1, 0x1e];
    block.extend([b'v'; 4000]);
    block.extend([0xbe; 100_000]);
    let mut decoder = Decoder::new(4096);
    assert_eq!(decode_up_to(&mut decoder, &block, 65_536), (Err(Error::ListTooLarge), 16));
    assert_eq!(decoder.table().size(), 4033);
}

proptest! {
    #[test]
    fn a_block_cut_anywhere_is_truncated_or_shorter(
        fields in prop::collection::vec(any_field(), 1..8),
    ) {
        let block = encode_all(&mut Encoder::new(), &fields);
        for cut in 0..block.len() {
            match decode_all(&mut Decoder::new(4096), &block[..cut]) {
                Ok(read) => {
                    prop_assert!(read.len() < fields.len());
                    for (read, whole) in read.iter().zip(&fields) {
                        prop_assert_eq!((&read.0, &read.1), (&whole.0, &whole.1));
                    }
                }
                Err(error) => prop_assert_eq!(error, Error::Truncated),
            }
        }
    }

    #[test]
    fn any_octets_are_read_or_refused(blocks: Vec<Vec<u8>>) {
        let mut decoder = Decoder::new(4096);
        for block in blocks {
            let (result, given) = decode_up_to(&mut decoder, &block, 1000);
            prop_assert!(given <= block.len());
            prop_assert!(decoder.table().size() <= decoder.table().max());
            if result.is_err_and(|error| !error.leaves_tables_in_sync()) {
                break;
            }
        }
    }
}
