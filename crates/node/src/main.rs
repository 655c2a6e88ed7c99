//! streamvs.
fn main() {}
