//! Aim: what came in between two tables is counted, and the times slices carry come out once.
//! Method: objects in, `take_changes` out.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use streamvs_resolve::{Change, Changes, Resolver};
use streamvs_table::{Family, ServiceName};

use crate::given::{self, SERVICE, apply_slice, slice_of, this_node};

const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

fn triggered(mut slice: EndpointSlice, at: &str) -> Change {
    slice.metadata.annotations = Some([(TRIGGER.into(), at.into())].into());
    apply_slice(slice)
}

fn after(resolver: &mut Resolver, changes: impl IntoIterator<Item = Change>) -> Changes {
    given::table_of(resolver, changes);
    resolver.take_changes()
}

#[test]
fn objects_that_say_something_new_are_counted() {
    let mut resolver = given::resolver();
    let first = [
        given::service(SERVICE),
        given::service(SERVICE),
        apply_slice(slice_of("s1", &["10.1.0.1"])),
        apply_slice(slice_of("s2", &["10.1.0.2"])),
        this_node(Some("z")),
    ];
    let changes = after(&mut resolver, first);
    assert_eq!((changes.services, changes.slices), (1, 2));
    let gone = [
        Change::DeleteSlice { namespace: "default".into(), name: "s2".into() },
        Change::DeleteSlice { namespace: "default".into(), name: "s2".into() },
        Change::DeleteService(ServiceName::new("default", "svc")),
    ];
    let changes = after(&mut resolver, gone);
    assert_eq!((changes.services, changes.slices), (1, 1));
    assert_eq!(resolver.take_changes(), Changes::default());
}

#[test]
fn the_trigger_time_of_a_changed_slice_comes_out_once() {
    let mut resolver = given::resolver();
    let time = "2026-01-19T10:32:02.123456789Z";
    let slice = || triggered(slice_of("s1", &["10.1.0.1"]), time);
    let six = triggered(slice_of("s6", &["2001:db8::1"]), time);
    let changes = after(&mut resolver, [given::service(SERVICE), slice(), six]);
    let found: Vec<_> = changes.triggers.iter().map(|t| (t.family, t.at.to_string())).collect();
    assert_eq!(found, [(Family::V4, time.to_owned()), (Family::V6, time.to_owned())]);

    // Listed again, and with another change.
    let more = apply_slice(slice_of("s2", &["10.1.0.2"]));
    let changes = after(&mut resolver, [slice(), more]);
    assert_eq!(changes.triggers, []);
    assert_eq!(changes.slices, 1);
}

#[test]
fn what_is_no_time_and_what_is_gone_gives_no_trigger() {
    let mut resolver = given::resolver();
    let slice = triggered(slice_of("s1", &["10.1.0.1"]), "yesterday");
    assert_eq!(after(&mut resolver, [given::service(SERVICE), slice]).triggers, []);
    let gone = Change::DeleteSlice { namespace: "default".into(), name: "s1".into() };
    assert_eq!(after(&mut resolver, [gone]).triggers, []);
}

#[test]
fn a_change_without_effect_is_counted_later_and_is_never_late() {
    let mut resolver = given::resolver();
    after(&mut resolver, [given::service(SERVICE), apply_slice(slice_of("s1", &["10.1.0.1"]))]);
    let same = triggered(slice_of("s2", &["10.1.0.1"]), "2026-01-19T10:32:02Z");
    resolver.apply(same);
    assert!(resolver.resolve().is_none());
    let changes = after(&mut resolver, [apply_slice(slice_of("s3", &["10.1.0.3"]))]);
    assert_eq!(changes.slices, 2);
    assert_eq!(changes.triggers, []);
}
