//! Runs every script that the fuzzer kept, on the compiler the product is built with. A script that
//! once broke something stays in its corpus for ever.

use std::fs;
use std::path::Path;

fn run(target: &str, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut scripts: Vec<_> = fs::read_dir(&folder)
        .expect("the corpus is checked in")
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    scripts.sort();
    assert!(scripts.len() >= 10, "{} is nearly empty", folder.display());
    for script in scripts {
        println!("{}", script.display());
        check(&fs::read(&script).expect("the script can be read"));
    }
}

#[test]
fn hpack_claims_hold_for_the_corpus() {
    run("hpack", streamvs_test_fuzz::hpack::check);
}

#[test]
fn frame_claims_hold_for_the_corpus() {
    run("frames", streamvs_test_fuzz::frames::check);
}

#[test]
fn switch_claims_hold_for_the_corpus() {
    run("switch", streamvs_test_fuzz::switch::check);
}
