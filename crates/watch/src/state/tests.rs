//! Aim: a state comes back as it was, and of a file that is not as it was written only whole parts
//! count.
//! Method: files in memory and in a directory of the test's own.

use std::fs;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use streamvs_table::{
    Disposition, Endpoint, HintSource, MaxAge, PerFamily, PerPolicy, Protocol, ProtocolHint,
    Reasons, ServiceName, ServicePort, ServicePortName, TopologyOutcome, TrafficPolicy, Usability,
};

use super::read::parse;
use super::write::{Journal, write};
use super::*;

fn place() -> Place {
    Place {
        cluster: "https://192.0.2.1:6443 0badcafe".to_owned(),
        node: "node-1".into(),
        service_proxy_name: None,
    }
}

fn now() -> Timestamp {
    "2026-11-24T20:00:00.5Z".parse().expect("a time")
}

fn service(name: &str, number: u8) -> Arc<ServicePort> {
    let endpoint = |last: u8, usability| Endpoint {
        address: format!("10.1.{number}.{last}:8080").parse().expect("an address"),
        node: (last > 1).then(|| "node-2".into()),
        zone: (last > 2).then(|| "z".into()),
        ready: last > 1,
        serving: true,
        terminating: last == 1,
        local: false,
        weight: u16::from(last),
        usability: PerPolicy { cluster: usability, local: Usability::NotLocal },
    };
    Arc::new(ServicePort {
        name: ServicePortName {
            service: ServiceName::new("shop", name),
            port: "grpc\n\"ü".into(),
            protocol: Protocol::Tcp,
        },
        port: 80,
        node_port: Some(30_080),
        cluster_ips: vec![
            format!("10.96.0.{number}").parse().expect("an address"),
            format!("fd00:96::{number}").parse().expect("an address"),
        ],
        load_balancer_ips: vec!["203.0.113.7".parse().expect("an address")],
        external_ips: vec!["2001:db8::7".parse().expect("an address")],
        source_ranges: vec!["198.51.100.0/24".parse().expect("a range")],
        health_check_node_port: Some(31_000),
        app_protocol: Some("kubernetes.io/h2c".into()),
        protocol_hint: ProtocolHint::H2c,
        scheduler: Some("lc".into()),
        max_age: MaxAge { stream: Some(Duration::from_secs(600)), connection: None },
        affinity: Some(Duration::from_secs(10_800)),
        internal_policy: TrafficPolicy::Local,
        external_policy: TrafficPolicy::Local,
        endpoints: vec![
            endpoint(1, Usability::Terminating),
            endpoint(2, Usability::Ready),
            endpoint(3, Usability::HintedToOtherZone),
        ],
        disposition: PerPolicy {
            cluster: PerFamily { v4: Disposition::Balance, v6: Disposition::Reject },
            local: PerFamily { v4: Disposition::Drop, v6: Disposition::Reject },
        },
        reasons: Reasons {
            protocol_hint: HintSource::AppProtocol,
            topology: PerFamily {
                v4: TopologyOutcome::Incomplete {
                    without_hint: "10.1.0.2:8080".parse().expect("an address"),
                },
                v6: TopologyOutcome::NoHints,
            },
        },
    })
}

fn state() -> State {
    let (snapshot, _) = Snapshot::new(7, vec![service("a", 1), service("b", 2)]);
    State {
        snapshot,
        node: NodeStatus::Present { deleting: false, taints: vec!["a".to_owned()] },
        service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
    }
}

fn written() -> Vec<u8> {
    let mut content = Vec::new();
    write(&mut content, &place(), &state(), &Snapshot::default(), now()).expect("memory takes it");
    content
}

#[test]
fn a_state_comes_back_as_it_was() {
    let Loaded { state: read, saved_at, left_out_bytes } =
        parse(&written(), &place()).expect("it is whole");
    assert_eq!((saved_at, left_out_bytes), (now(), 0));
    let state = state();
    assert!(read.snapshot.services().eq(state.snapshot.services()));
    assert_eq!(read.snapshot.generation(), 7);
    assert_eq!(read.node, state.node);
    assert_eq!(read.service_cidrs, state.service_cidrs);
    let ip = "10.96.0.2".parse().expect("an address");
    let found = read.snapshot.lookup(ip, 80, Protocol::Tcp).expect("it is found");
    assert_eq!(&*found.name.service.name, "b");
}

#[test]
fn a_state_without_services_is_a_state() {
    let mut content = Vec::new();
    let state = State { snapshot: Snapshot::default(), ..state() };
    write(&mut content, &place(), &state, &Snapshot::default(), now()).expect("memory takes it");
    let read = parse(&content, &place()).expect("it is whole").state;
    assert!(read.snapshot.services().next().is_none());
}

#[test]
fn every_truncation_is_refused() {
    let content = written();
    for length in 0..content.len() {
        parse(&content[..length], &place()).expect_err("a part is no state");
    }
}

proptest! {
    #[test]
    fn any_flipped_byte_is_refused(at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let mut content = written();
        let at = at.index(content.len());
        content[at] ^= flip;
        prop_assert!(parse(&content, &place()).is_err(), "byte {} xor {}", at, flip);
    }

    #[test]
    fn lines_that_are_missing_moved_or_added_are_refused(
        from in 0..4_usize, to in 0..4_usize, add: bool,
    ) {
        let content = written();
        let mut lines: Vec<&[u8]> = content.split_inclusive(|byte| *byte == b'\n').collect();
        let line = if add { lines[from] } else { lines.remove(from) };
        if add || to < 3 {
            lines.insert(to.min(lines.len()), line);
        }
        let changed = lines.concat();
        // What follows the whole part is left out.
        let followed = |read: Loaded| {
            read.left_out_bytes > 0 && read.state.snapshot.services().eq(state().snapshot.services())
        };
        let added_last_line = add && from == 3 && to == 3;
        prop_assert!(
            changed == content
                || parse(&changed, &place()).is_ok_and(followed) == added_last_line
        );
    }

    #[test]
    fn no_bytes_make_it_panic(mut content: Vec<u8>, whole: bool) {
        if whole {
            content.push(b'\n');
            let lines = content.iter().filter(|byte| **byte == b'\n').count();
            let trailer = trailer(lines, crc32fast::hash(&content));
            content.extend(trailer.bytes());
        }
        prop_assert!(parse(&content, &place()).is_err());
    }
}

#[test]
fn another_version_is_named() {
    let text = String::from_utf8(written()).expect("it is text");
    let other = text.replacen("\"streamvs_state\":2", "\"streamvs_state\":3", 1);
    let error = parse(other.as_bytes(), &place()).expect_err("it is refused");
    assert_eq!(error.to_string(), "it has version 3, and this program reads 2");
}

#[test]
fn fields_of_another_version_are_named() {
    let text = String::from_utf8(written()).expect("it is text");
    let (body, _) = text.rsplit_once("end ").expect("it ends");
    let other = body.replacen("\"weight\"", "\"heft\"", 1);
    let other = other.clone() + &trailer(3, crc32fast::hash(other.as_bytes()));
    let error = parse(other.as_bytes(), &place()).expect_err("it is refused").to_string();
    assert!(error.contains("its line 2: missing field `weight`"), "{error}");
}

#[test]
fn another_place_is_named() {
    let here = Place { node: "node-2".into(), ..place() };
    let error = parse(&written(), &here).expect_err("it is refused").to_string();
    assert_eq!(error, "it is for node node-1, cluster https://192.0.2.1:6443 0badcafe");
    for here in [
        Place { cluster: "https://192.0.2.1:6443 00000000".to_owned(), ..place() },
        Place { service_proxy_name: Some("x".into()), ..place() },
    ] {
        assert!(matches!(parse(&written(), &here), Err(LoadError::OtherPlace { .. })));
    }
}

/// The table of `state()`, then one in which `a` is gone, `b` changed and `c` is new.
fn two_parts() -> (Vec<u8>, usize, State) {
    let mut content = written();
    let first_bytes = content.len();
    let before = state();
    let named = |name: &str| ServiceName::new("shop", name);
    let changes = [
        (named("a"), vec![]),
        (named("b"), vec![service("b", 5)]),
        (named("c"), vec![service("c", 3)]),
    ];
    let after = State { snapshot: before.snapshot.next(&changes), ..before.clone() };
    write(&mut content, &place(), &after, &before.snapshot, now()).expect("memory takes it");
    (content, first_bytes, after)
}

#[test]
fn what_was_appended_counts() {
    let (content, first_bytes, after) = two_parts();
    let text = str::from_utf8(&content[first_bytes..]).expect("it is text");
    assert_eq!(text.lines().count(), 5, "only what changed: {text}");
    let Loaded { state, left_out_bytes, .. } = parse(&content, &place()).expect("it is whole");
    assert!(state.snapshot.services().eq(after.snapshot.services()));
    assert_eq!((state.snapshot.generation(), left_out_bytes), (8, 0));
    state.snapshot.check_invariants();
}

#[test]
fn an_append_that_was_cut_short_leaves_the_table_before_it() {
    let (content, first_bytes, _) = two_parts();
    for length in first_bytes..content.len() {
        let Loaded { state: read, left_out_bytes, .. } =
            parse(&content[..length], &place()).expect("its first part is whole");
        assert!(read.snapshot.services().eq(state().snapshot.services()), "{length}");
        assert_eq!((read.snapshot.generation(), left_out_bytes), (7, length - first_bytes));
    }
}

proptest! {
    #[test]
    fn a_byte_flipped_in_an_append_leaves_the_table_before_it(
        at in any::<prop::sample::Index>(), flip in 1..=255_u8,
    ) {
        let (mut content, first_bytes, _) = two_parts();
        let at = first_bytes + at.index(content.len() - first_bytes);
        content[at] ^= flip;
        let read = parse(&content, &place()).expect("its first part is whole");
        prop_assert!(read.state.snapshot.services().eq(state().snapshot.services()));
        prop_assert_eq!(read.left_out_bytes, content.len() - first_bytes);
    }
}

#[test]
fn changes_are_appended_until_they_are_as_long_as_the_table() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("deep/state");
    assert!(matches!(load(&path, &place()), Err(LoadError::Absent)));
    let mut journal = Journal::new(path.clone(), place());
    let length = || fs::metadata(&path).expect("it is there").len();
    let mut state = state();
    journal.save(&state, now()).expect("it is written");
    let table_bytes = length();
    let (mut grown, mut written_anew) = (0, 0);
    let mut before = table_bytes;
    while written_anew < 2 {
        let number = 1 + (grown % 2) as u8;
        let change = (ServiceName::new("shop", "b"), vec![service("b", number)]);
        state.snapshot = state.snapshot.next(&[change]);
        journal.save(&state, now()).expect("it is written");
        let read = load(&path, &place()).expect("it is whole");
        assert!(read.state.snapshot.services().eq(state.snapshot.services()));
        assert_eq!(read.state.snapshot.generation(), state.snapshot.generation());
        let bytes = length();
        assert!(bytes < 80_000, "64 KiB of changes and one more");
        if bytes > before {
            grown += 1;
        } else {
            written_anew += 1;
            assert!(bytes < table_bytes + 100);
        }
        before = bytes;
    }
    assert!(grown > 50, "{grown} appends for two tables");
    let listed = fs::read_dir(path.parent().expect("it has one")).expect("it is there");
    assert_eq!(listed.count(), 1);
}

#[test]
fn a_file_that_somebody_else_touched_is_written_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state");
    let mut journal = Journal::new(path.clone(), place());
    let damages: [fn(&std::path::Path); 3] = [
        |path| fs::remove_file(path).expect("it is removed"),
        |path| fs::write(path, "x").expect("it is written"),
        |path| {
            let content = fs::read(path).expect("it is read");
            fs::remove_file(path).expect("it is removed");
            fs::write(path, content).expect("it is written");
        },
    ];
    for damage in damages {
        journal.save(&state(), now()).expect("it is written");
        damage(&path);
        journal.save(&state(), now()).expect("it is written");
        let content = fs::read(&path).expect("it is read");
        assert_eq!(content, written());
    }
}

#[test]
fn a_full_disk_is_told_and_keeps_the_last_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state");
    Journal::new(path.clone(), place()).save(&state(), now()).expect("it is written");
    // The file beside cannot be made where a directory is.
    fs::create_dir(directory.path().join("state.new")).expect("it is made");
    let mut journal = Journal::new(path.clone(), place());
    let error = journal.save(&state(), now()).expect_err("it cannot be");
    assert!(error.to_string().contains("state.new"), "{error}");
    load(&path, &place()).expect("the last one is whole");
    // What every write finds on a full disk.
    let full = fs::File::create("/dev/full").expect("it opens");
    assert!(write(full, &place(), &state(), &Snapshot::default(), now()).is_err());
}

#[tokio::test]
async fn the_saver_writes_what_was_offered_last_when_it_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state");
    let (reports, mut reported) = tokio::sync::mpsc::unbounded_channel();
    let report = move |report: Result<(), SaveError>| reports.send(report).expect("it is heard");
    let saver = Saver::start(path.clone(), place(), report);
    saver.offer(State { snapshot: Snapshot::default(), ..state() });
    saver.offer(state());
    let dropped_at = Instant::now();
    drop(saver);
    reported.recv().await.expect("it wrote").expect("it went well");
    assert!(dropped_at.elapsed() < Duration::from_secs(1), "the end waits for nothing");
    assert!(reported.recv().await.is_none(), "it wrote once");
    let read = load(&path, &place()).expect("it is whole").state;
    assert_eq!(read.snapshot.service_port_count(), 2);
}
