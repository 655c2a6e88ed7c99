use super::*;

const FIRST: SetName = SetName { purpose: Purpose::Capture, family: Family::V4 };
const SAVED: &str = "create streamvs4 hash:ip,port family inet hashsize 1024 maxelem 1048576 \
                     bucketsize 12 initval 0x554dfd0a\n";

fn element(text: &str) -> Element {
    Element::parse(Shape::Address, text).expect("an element")
}

fn contents(sets: &[(SetName, &[&str])]) -> Contents {
    sets.iter()
        .map(|(name, elements)| (*name, elements.iter().map(|text| element(text)).collect()))
        .collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn three() -> [SetName; 3] {
    let name = |purpose| SetName { purpose, family: Family::V4 };
    [Purpose::Capture, Purpose::Reject, Purpose::Drop].map(name)
}

#[test]
fn saved_sets_are_told_apart_by_type_and_options() {
    let usable = format!("{SAVED}add streamvs4 10.96.0.1,tcp:80\nadd streamvs4 1.2.3.4,icmp:8/0\n");
    let elements = [element("10.96.0.1,tcp:80")].into();
    let foreign = vec!["1.2.3.4,icmp:8/0".to_owned()];
    assert_eq!(parse(FIRST, &usable), Found::Usable { elements, foreign });

    let header = |options: &str| parse(FIRST, &format!("create streamvs4 {options}\n"));
    assert_eq!(header("hash:ip,port family inet hashsize 64 maxelem 65536"), Found::Outdated);
    assert_eq!(header("hash:ip,port family inet maxelem 1048576 timeout 5"), Found::Outdated);
    assert_eq!(header("hash:ip,port family inet6 maxelem 1048576"), Found::Alien);
    assert_eq!(header("hash:ip,port,ip family inet maxelem 1048576"), Found::Alien);
    assert_eq!(header("hash:ip family inet maxelem 1048576"), Found::Alien);
}

#[test]
fn closed_gate_empties_capture_and_nothing_else() {
    let desired = Desired {
        capture: [(ip("10.96.0.1"), 80)].into(),
        reject: [(ip("fd00:96::1"), 53, Protocol::Udp)].into(),
        drop: [(ip("10.96.0.2"), 80, Protocol::Tcp)].into(),
        node_capture: [(Family::V4, 30_080, Protocol::Tcp)].into(),
        node_ranges: ["0.0.0.0/0".parse().expect("a range")].into(),
        ..Desired::default()
    };
    let open = wanted(&desired, &Family::BOTH, true);
    assert_eq!(open.len(), 24);
    assert_eq!(open.values().map(BTreeSet::len).sum::<usize>(), 5, "all addresses are two halves");
    let mut closed = wanted(&desired, &Family::BOTH, false);
    let node = SetName { purpose: Purpose::NodeCapture, ..FIRST };
    for name in [FIRST, node] {
        assert_eq!(closed.insert(name, open[&name].clone()), Some(BTreeSet::new()));
    }
    assert_eq!(closed, open);
    let v4_only = wanted(&desired, &[Family::V4], true);
    assert_eq!(v4_only.len(), 12, "no set of the other family");
}

#[test]
fn moving_address_is_added_before_it_is_deleted() {
    let [capture, reject, drop] = three();
    let (moving, staying) = ("10.96.0.1,tcp:80", "10.96.0.2,tcp:80");
    let before = contents(&[(capture, &[moving, staying]), (reject, &[]), (drop, &[])]);
    let after = contents(&[(capture, &[staying]), (reject, &[moving]), (drop, &[])]);
    let expected = "add streamvs-reject4 10.96.0.1,tcp:80\ndel streamvs4 10.96.0.1,tcp:80\n";
    assert_eq!(change(&before, &after), expected);
    assert_eq!(change(&after, &after), "");
}

#[test]
fn mending_names_each_damage_once() {
    let [capture, reject, drop] = three();
    let want = contents(&[
        (capture, &["10.96.0.1,tcp:80", "10.96.0.2,tcp:80"]),
        (reject, &["10.96.0.3,udp:53"]),
        (drop, &[]),
    ]);
    let exists = ["streamvs4", "streamvs-reject4", "streamvs-reject4-next"].map(String::from);
    let found = BTreeMap::from([
        (
            capture,
            Found::Usable {
                elements: [element("10.96.0.2,tcp:80"), element("10.96.0.9,tcp:9")].into(),
                foreign: vec!["1.2.3.4,icmp:8/0".to_owned()],
            },
        ),
        (reject, Found::Outdated),
    ]);
    let script = mend(&exists.into(), &found, &want);
    assert_eq!(
        script.text,
        "add streamvs4 10.96.0.1,tcp:80\n\
         destroy streamvs-reject4-next\n\
         create streamvs-reject4-next hash:ip,port family inet maxelem 1048576\n\
         add streamvs-reject4-next 10.96.0.3,udp:53\n\
         swap streamvs-reject4-next streamvs-reject4\n\
         destroy streamvs-reject4-next\n\
         create streamvs-drop4 hash:ip,port family inet maxelem 1048576\n\
         del streamvs4 10.96.0.9,tcp:9\n\
         del streamvs4 1.2.3.4,icmp:8/0\n"
    );
    assert_eq!(
        script.mends,
        [
            (capture, SetDamage::Altered { absent: 1, foreign: 2 }),
            (reject, SetDamage::Redefined),
            (drop, SetDamage::Missing),
        ]
    );
}

#[test]
fn sound_sets_need_no_script() {
    let want = contents(&[(FIRST, &["10.96.0.1,tcp:80"])]);
    let found = BTreeMap::from([(
        FIRST,
        parse(FIRST, &format!("{SAVED}add streamvs4 10.96.0.1,tcp:80\n")),
    )]);
    let script = mend(&["streamvs4".to_owned()].into(), &found, &want);
    assert_eq!((script.text.as_str(), script.mends.as_slice()), ("", &[][..]));
}
