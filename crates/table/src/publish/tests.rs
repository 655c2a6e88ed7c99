//! What readers see, when, and that they never see half of it.

use super::*;

#[test]
fn readers_see_the_initial_value_and_then_each_published_one() {
    let (publisher, mut reader) = channel(Arc::new(0));
    assert_eq!(**reader.load(), 0);
    for value in 1..5 {
        let value = Arc::new(value);
        publisher.publish(Arc::clone(&value));
        assert!(Arc::ptr_eq(reader.load(), &value));
        assert!(Arc::ptr_eq(&publisher.current(), &value));
        assert!(Arc::ptr_eq(reader.load(), &value), "and again");
    }
}

#[test]
fn a_reader_that_was_idle_sees_the_newest_and_not_the_ones_between() {
    let (publisher, mut reader) = channel(Arc::new(0));
    let mut idle = reader.clone();
    for value in 1..=10 {
        publisher.publish(Arc::new(value));
        reader.load();
    }
    assert_eq!(**idle.load(), 10);
}

#[test]
fn a_clone_of_a_reader_follows_on_its_own() {
    let (publisher, mut reader) = channel(Arc::new("a"));
    reader.load();
    let mut clone = reader.clone();
    publisher.publish(Arc::new("b"));
    assert_eq!(**clone.load(), "b");
    assert_eq!(**reader.load(), "b");
}

#[test]
fn a_value_is_let_go_when_no_reader_can_see_it_any_more() {
    let first = Arc::new(1);
    let (publisher, mut reader) = channel(Arc::clone(&first));
    let mut slow = reader.clone();
    reader.load();
    slow.load();
    publisher.publish(Arc::new(2));
    assert!(Arc::strong_count(&first) > 1, "readers keep what they loaded last");
    reader.load();
    slow.load();
    assert_eq!(Arc::strong_count(&first), 1);
}

#[test]
fn readers_outlive_the_publisher() {
    let (publisher, mut reader) = channel(Arc::new(1));
    publisher.publish(Arc::new(2));
    drop(publisher);
    assert_eq!(**reader.load(), 2);
}

#[test]
fn threads_see_whole_values_and_never_go_back() {
    const LAST: u64 = 20_000;
    let (publisher, reader) = channel(Arc::new([0u64; 8]));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let mut reader = reader.clone();
            scope.spawn(move || {
                let mut seen = 0;
                while seen < LAST {
                    let value = **reader.load();
                    assert_eq!(value, [value[0]; 8], "half of one and half of another");
                    assert!(value[0] >= seen, "{} after {seen}", value[0]);
                    seen = value[0];
                }
            });
        }
        for value in 1..=LAST {
            publisher.publish(Arc::new([value; 8]));
        }
    });
}
