//! Aim: octets pass a pipe in order, and no more pipes are open than allowed.
//! Method: real pipes between Unix socket pairs.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use super::*;

#[test]
fn octets_pass_in_order_whatever_the_sink_takes() {
    let pipes = Pipes::new(1);
    let mut pipe = pipes.take().expect("is allowed");
    let (mut writer, source) = UnixStream::pair().expect("a pair");
    let (sink, mut reader) = UnixStream::pair().expect("a pair");
    let sent: Vec<u8> = (0..50_000u32).map(|index| (index % 251) as u8).collect();
    writer.write_all(&sent).expect("fits the queue");
    drop(writer);
    let mut got = Vec::new();
    loop {
        if pipe.fill(&source).expect("is spliced") == 0 {
            break;
        }
        while !pipe.is_empty() {
            let count = pipe.drain(&sink).expect("is spliced");
            let start = got.len();
            got.resize(start + count, 0);
            reader.read_exact(&mut got[start..]).expect("has come");
        }
    }
    assert!(got == sent, "{} of {} octets, or others", got.len(), sent.len());
}

#[test]
fn no_more_pipes_are_open_than_allowed_and_a_closed_one_makes_room() {
    let pipes = Pipes::new(2);
    let (one, two) = (pipes.take().expect("is allowed"), pipes.take().expect("is allowed"));
    assert!(pipes.take().is_none());
    drop(one);
    let three = pipes.take().expect("there is room again");
    assert!(pipes.take().is_none());
    pipes.give(two);
    pipes.give(three);
    assert_eq!(pipes.counts(), (2, 2));
    assert!(pipes.take().is_some());
    assert_eq!(Pipes::new(0).take().map(|_| ()), None);
}

#[test]
fn pipe_with_octets_is_never_lent_again() {
    let pipes = Pipes::new(1);
    let mut pipe = pipes.take().expect("is allowed");
    let (mut writer, source) = UnixStream::pair().expect("a pair");
    writer.write_all(b"of another connection").expect("fits the queue");
    assert_eq!(pipe.fill(&source), Ok(21));
    pipes.give(pipe);
    assert_eq!(pipes.counts(), (0, 0));
    assert!(pipes.take().is_some_and(|pipe| pipe.is_empty()));
}

#[test]
fn pipe_is_large_enough_to_be_worth_it() {
    let pipe = Pipes::new(1).take().expect("is allowed");
    assert!(pipe.capacity >= LEAST_PIPE_OCTETS as usize, "{pipe:?}");
}
