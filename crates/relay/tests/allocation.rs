//! Aim: a call whose header blocks were met before, and a frame of DATA, allocate nothing. Method:
//! an allocator that counts for this thread alone; a warm switch with a client and an endpoint
//! that repeat themselves.
#![allow(unsafe_code)] // An allocator cannot be written without.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use streamvs_relay::h2::switch::hpack::{Encoder, Field, Indexing};
use streamvs_relay::h2::switch::{ConnectionKey, Event, Switch};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and nobody reads it.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing, since
// the counter is a plain cell made at compile time.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the ones System asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from System.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as above; the pointer came from System.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn block(fields: &[(&str, &str)], encoder: &mut Encoder) -> Vec<u8> {
    let mut block = Vec::new();
    let mut writer = encoder.begin(&mut block);
    for (name, value) in fields {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        writer.field(&Field::new(name, value, Indexing::Incremental));
    }
    block
}

const CALL: [(&str, &str); 7] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Echo/Unary"),
    (":authority", "echo.default"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("user-agent", "grpc-go/1.70"),
];

/// A client, and one endpoint that every stream goes to.
struct Lab {
    switch: Switch,
    now: Instant,
    client: ConnectionKey,
    endpoint: Option<ConnectionKey>,
    ended: u64,
    /// What is read lies there.
    chunk: Rc<[u8]>,
}

impl Lab {
    fn new() -> Self {
        let now = Instant::now();
        let mut switch = Switch::new(now);
        let client = switch.open_downstream(false, now);
        let chunk = vec![0; 16_384].into();
        let mut lab = Self { switch, now, client, endpoint: None, ended: 0, chunk };
        lab.send(client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        lab.send(client, &frame(SETTINGS, 0, 0, &[]));
        lab
    }

    fn send(&mut self, key: ConnectionKey, octets: &[u8]) {
        let chunk = Rc::get_mut(&mut self.chunk).expect("what was lent has gone on");
        chunk[..octets.len()].copy_from_slice(octets);
        let mut start = 0;
        while start < octets.len() {
            let range = start..octets.len();
            start += self.switch.receive_chunk(key, &self.chunk, range, self.now);
            self.follow();
        }
    }

    fn follow(&mut self) {
        while let Some(event) = self.switch.next_event() {
            match event {
                Event::Pick { exchange, .. } => {
                    let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 80));
                    self.switch.assign(exchange, address, self.now);
                }
                Event::Dial { leg } => {
                    self.endpoint = Some(self.switch.open_upstream(leg, self.now));
                }
                Event::Ended { .. } => self.ended += 1,
                Event::Sent { .. } | Event::Responds { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Everything is read on both sides. Says how much it was.
    fn flush(&mut self) -> usize {
        let mut octets = 0;
        while let Some(key) = self.switch.next_dirty() {
            let length = self.switch.output_octets(key);
            octets += length;
            self.switch.written(key, length, self.now);
            self.follow();
        }
        octets
    }

    fn endpoint(&self) -> ConnectionKey {
        self.endpoint.expect("a stream made the switch ask for a connection")
    }
}

#[test]
fn a_repeated_unary_call_allocates_nothing() {
    let mut lab = Lab::new();
    let (mut client, mut endpoint) = (Encoder::new(), Encoder::new());
    let mut blocks = || {
        [
            block(&CALL, &mut client),
            block(&[(":status", "200"), ("content-type", "application/grpc")], &mut endpoint),
            block(&[("grpc-status", "0"), ("grpc-message", "")], &mut endpoint),
        ]
    };
    let (first, repeated) = (blocks(), blocks());
    let mut stream = 1;
    let mut allocations = 0;
    for round in 0..4000 {
        let [head, response, trailers] = if round == 0 { &first } else { &repeated };
        let mut request = frame(HEADERS, END_HEADERS, stream, head);
        request.extend(frame(DATA, END_STREAM, stream, &[7; 21]));
        let mut answer = frame(HEADERS, END_HEADERS, stream, response);
        answer.extend(frame(DATA, 0, stream, &[7; 21]));
        answer.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers));
        let before = ALLOCATIONS.get();
        lab.send(lab.client, &request);
        if round == 0 {
            lab.send(lab.endpoint(), &frame(SETTINGS, 0, 0, &[]));
            // Enough for all calls.
            for key in [lab.client, lab.endpoint()] {
                lab.send(key, &frame(WINDOW_UPDATE, 0, 0, &1_000_000u32.to_be_bytes()));
            }
        }
        assert!(lab.flush() > 0);
        lab.send(lab.endpoint(), &answer);
        assert!(lab.flush() > 0);
        if round >= 2000 {
            allocations += ALLOCATIONS.get() - before;
        }
        stream += 2;
    }
    assert_eq!(lab.ended, 4000);
    assert_eq!(allocations, 0, "of 2000 calls");
}

#[test]
fn a_frame_of_data_allocates_nothing_either_way() {
    let mut lab = Lab::new();
    let (mut client, mut endpoint) = (Encoder::new(), Encoder::new());
    lab.send(lab.client, &frame(HEADERS, END_HEADERS, 1, &block(&CALL, &mut client)));
    lab.send(lab.endpoint(), &frame(SETTINGS, 0, 0, &[]));
    let head = block(&[(":status", "200")], &mut endpoint);
    lab.send(lab.endpoint(), &frame(HEADERS, END_HEADERS, 1, &head));
    let data = frame(DATA, 0, 1, &[7; 10_000]);
    let credit = 10_000u32.to_be_bytes();
    let update = [0, 1].map(|stream| frame(WINDOW_UPDATE, 0, stream, &credit)).concat();
    let mut allocations = 0;
    for round in 0..2000 {
        let before = ALLOCATIONS.get();
        for (from, to) in [(lab.client, lab.endpoint()), (lab.endpoint(), lab.client)] {
            lab.send(from, &data);
            assert!(lab.flush() >= 10_000, "it went on");
            lab.send(to, &update);
            lab.flush();
        }
        if round >= 1000 {
            allocations += ALLOCATIONS.get() - before;
        }
    }
    assert_eq!(allocations, 0, "of 2000 frames");
}

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(vec![0u8; 100]));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}
