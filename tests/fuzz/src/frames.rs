//! A client sends any octets, cut into any pieces.
//!
//! Claims: nothing panics; what the switch does and says does not depend on how the octets were
//! cut; what it says are whole frames; it takes something from each piece.

use std::rc::Rc;
use std::time::Instant;

use streamvs_relay::h2::switch::{ConnectionKey, Event, Switch};

use crate::script::Script;
use crate::wire::{Frame, PREFACE, frames, put};

/// Runs one script: first how to cut, then the octets.
pub fn check(octets: &[u8]) {
    let mut script = Script::new(octets);
    let cuts = script.octets();
    let mut sent = if script.octet() & 1 == 0 { PREFACE.to_vec() } else { Vec::new() };
    if !sent.is_empty() {
        put(&mut sent, 4, 0, 0, &[]);
    }
    sent.extend_from_slice(script.rest());
    let whole = run(&sent, &[]);
    let cut = run(&sent, cuts);
    assert_eq!(whole.said, cut.said, "said in other words");
    assert_eq!(whole.events, cut.events);
    assert_eq!(whole.over, cut.over);
    // Credit that is returned in one update or in two is the same credit.
    assert_eq!(whole.returned, cut.returned);
}

#[derive(Debug, PartialEq)]
struct Seen {
    said: Vec<Frame>,
    returned: u64,
    events: Vec<String>,
    over: String,
}

/// Feeds the octets in pieces of the lengths that `cuts` says, over and over.
fn run(octets: &[u8], cuts: &[u8]) -> Seen {
    let now = Instant::now();
    let mut switch = Switch::new(now);
    let key = switch.open_downstream(true, now);
    let mut lengths = cuts.iter().map(|&cut| usize::from(cut) + 1).cycle();
    let (mut rest, mut output, mut events) = (octets, Vec::new(), Vec::new());
    while !rest.is_empty() && switch.wants_input(key) {
        let length = lengths.next().unwrap_or(usize::MAX).min(rest.len());
        let (piece, after) = rest.split_at(length);
        rest = after;
        let (chunk, mut start) = (Rc::<[u8]>::from(piece), 0);
        while start < length {
            let taken = switch.receive_chunk(key, &chunk, start..length, now);
            assert!(taken > 0 && start + taken <= length);
            start += taken;
            follow(&mut switch, now, &mut events);
            take_output(&mut switch, key, now, &mut output);
        }
    }
    let over = format!("{:?}", switch.over(key));
    switch.closed(key, now);
    follow(&mut switch, now, &mut events);
    let left = format!("{switch:?}");
    assert!(left.contains("connection_count: 0") && left.contains("exchange_count: 0"), "{left}");
    let mut said = frames(&output);
    let returned = said
        .iter()
        .filter(|frame| frame.kind == 8 && frame.stream == 0)
        .map(|frame| u64::from(frame.number()))
        .sum();
    said.retain(|frame| frame.kind != 8);
    Seen { said, returned, events, over }
}

fn follow(switch: &mut Switch, now: Instant, events: &mut Vec<String>) {
    while let Some(event) = switch.next_event() {
        events.push(format!("{event:?}"));
        if let Event::Pick { exchange, .. } = event {
            switch.answer(exchange, 503, "nobody", now);
        }
    }
}

/// The socket takes everything at once.
fn take_output(switch: &mut Switch, key: ConnectionKey, now: Instant, output: &mut Vec<u8>) {
    while switch.next_dirty().is_some() {}
    loop {
        let octets = switch.output_octets(key);
        if octets == 0 {
            return;
        }
        output.extend(switch.output(key).flatten());
        switch.written(key, octets, now);
    }
}
