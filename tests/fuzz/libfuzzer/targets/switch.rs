#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| streamvs_test_fuzz::switch::check(octets));
