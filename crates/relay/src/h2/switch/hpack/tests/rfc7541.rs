//! RFC 7541 appendix C.

use super::*;

fn octets(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

/// One block: what it reads as, then the table, newest first, and its size.
struct Step<'a> {
    raw: &'a str,
    coded: &'a str,
    fields: &'a [(&'a str, &'a str)],
    table: &'a [(&'a str, &'a str)],
    size: u32,
}

/// Both forms are decoded to the same, each with a table of its own, and we write the raw one.
fn check(max_table: Option<u32>, steps: &[Step<'_>]) {
    for coded in [false, true] {
        let mut decoder = Decoder::new(4096);
        let mut encoder = Encoder::new();
        if let Some(octets) = max_table {
            // The examples begin with tables of this size, without an update on the wire.
            decoder.table().set_max(octets);
            encoder.table().set_max(octets);
        }
        for step in steps {
            let block = octets(if coded { step.coded } else { step.raw });
            let fields = decode_all(&mut decoder, &block).expect("the example is valid");
            let said: Vec<_> = fields.iter().map(|field| (&field.0[..], &field.1[..])).collect();
            let expected = step.fields.iter().map(|it| (it.0.as_bytes(), it.1.as_bytes()));
            assert_eq!(said, expected.collect::<Vec<_>>());
            assert_eq!(encode_all(&mut encoder, &fields), octets(step.raw));
            for table in [decoder.table(), encoder.table()] {
                assert_eq!(table.size(), step.size);
                for (place, entry) in step.table.iter().enumerate() {
                    let (name, value, _) = table.get(place as u32).expect("the entry is there");
                    assert_eq!((name, value), (entry.0.as_bytes(), entry.1.as_bytes()));
                }
                assert_eq!(table.get(step.table.len() as u32), None);
            }
        }
    }
}

/// One field in one block, with what the sender said about indexing.
fn check_field(hex: &str, name: &str, value: &str, indexing: Indexing, size: u32) {
    let (mut decoder, mut encoder) = (Decoder::new(4096), Encoder::new());
    let field = (name.into(), value.into(), indexing);
    assert_eq!(decode_all(&mut decoder, &octets(hex)), Ok(vec![field.clone()]));
    assert_eq!(decoder.table().size(), size);
    assert_eq!(encode_all(&mut encoder, &[field]), octets(hex));
    assert_in_sync(&mut encoder, &mut decoder);
}

#[test]
fn c2_1_literal_with_indexing() {
    let hex = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    check_field(hex, "custom-key", "custom-header", Indexing::Incremental, 55);
}

#[test]
fn c2_2_literal_without_indexing() {
    let hex = "040c 2f73 616d 706c 652f 7061 7468";
    check_field(hex, ":path", "/sample/path", Indexing::Without, 0);
}

#[test]
fn c2_3_literal_never_indexed() {
    let hex = "1008 7061 7373 776f 7264 0673 6563 7265 74";
    check_field(hex, "password", "secret", Indexing::Never, 0);
}

#[test]
fn c2_4_indexed() {
    check_field("82", ":method", "GET", Indexing::Incremental, 0);
}

#[test]
fn c3_and_c4_requests() {
    let authority = (":authority", "www.example.com");
    let (cache, custom) = (("cache-control", "no-cache"), ("custom-key", "custom-value"));
    check(
        None,
        &[
            Step {
                raw: "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                coded: "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                fields: &[(":method", "GET"), (":scheme", "http"), (":path", "/"), authority],
                table: &[authority],
                size: 57,
            },
            Step {
                raw: "8286 84be 5808 6e6f 2d63 6163 6865",
                coded: "8286 84be 5886 a8eb 1064 9cbf",
                fields: &[
                    (":method", "GET"),
                    (":scheme", "http"),
                    (":path", "/"),
                    authority,
                    cache,
                ],
                table: &[cache, authority],
                size: 110,
            },
            Step {
                raw: "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                coded: "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
                fields: &[
                    (":method", "GET"),
                    (":scheme", "https"),
                    (":path", "/index.html"),
                    authority,
                    custom,
                ],
                table: &[custom, cache, authority],
                size: 164,
            },
        ],
    );
}

#[test]
fn c5_and_c6_responses_evict() {
    let date = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    let later = ("date", "Mon, 21 Oct 2013 20:13:22 GMT");
    let location = ("location", "https://www.example.com");
    let private = ("cache-control", "private");
    let gzip = ("content-encoding", "gzip");
    let cookie = ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");
    check(
        Some(256),
        &[
            Step {
                raw: "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 \
                      3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 \
                      7861 6d70 6c65 2e63 6f6d",
                coded: "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 \
                        82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                fields: &[(":status", "302"), private, date, location],
                table: &[location, date, private, (":status", "302")],
                size: 222,
            },
            Step {
                raw: "4803 3330 37c1 c0bf",
                coded: "4883 640e ffc1 c0bf",
                fields: &[(":status", "307"), private, date, location],
                table: &[(":status", "307"), location, date, private],
                size: 222,
            },
            Step {
                raw: "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 \
                      474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 \
                      454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 \
                      6572 7369 6f6e 3d31",
                coded: "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b \
                        d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 \
                        0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                fields: &[(":status", "200"), private, later, location, gzip, cookie],
                table: &[cookie, gzip, later],
                size: 215,
            },
        ],
    );
}
