use std::ffi::OsStr;

use super::*;
use crate::manifests::object::Kind;
use crate::manifests::parse::{self, Format};

fn file(name: &str) -> FileName {
    OsStr::new(name).into()
}

/// Nodes, `NAME=ZONE` each.
fn nodes(nodes: &[&str]) -> Vec<Object> {
    let node = |node: &&str| {
        let (name, zone) = node.split_once('=').expect("NAME=ZONE");
        let labels = format!("topology.kubernetes.io/zone: {zone}");
        format!("{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: {{{labels}}}}}}}")
    };
    let text: Vec<String> = nodes.iter().map(node).collect();
    parse::parse(text.join("\n---\n").as_bytes(), Format::Yaml).expect("Nodes").objects
}

/// The changes, `NAME=ZONE` or `NAME gone`, sorted.
fn shown(outcome: &Outcome) -> Vec<String> {
    let show = |change: &Change| match change {
        Change::Node(node) => {
            let labels = node.metadata.labels.as_ref().expect("written with labels");
            let name = node.metadata.name.as_ref().expect("written with a name");
            format!("{name}={}", labels["topology.kubernetes.io/zone"])
        }
        Change::DeleteNode(name) => format!("{name} gone"),
        other => panic!("{other:?}"),
    };
    let mut changes: Vec<String> = outcome.changes.iter().map(show).collect();
    changes.sort();
    changes
}

fn duplicate(name: &str, winner: &str, loser: &str) -> Duplicate {
    let key = ObjectKey { kind: Kind::Node, namespace: "".into(), name: name.into() };
    Duplicate { key, winner: file(winner), loser: file(loser) }
}

#[test]
fn only_what_changed_in_a_file_is_a_change() {
    let mut claims = Claims::default();
    let a = file("a.yaml");
    assert_eq!(
        shown(&claims.replace(&a, nodes(&["n1=x", "n2=x", "n3=x"]))),
        ["n1=x", "n2=x", "n3=x"]
    );
    assert_eq!(shown(&claims.replace(&a, nodes(&["n3=x", "n2=x", "n1=x"]))), [""; 0]);
    assert_eq!(
        shown(&claims.replace(&a, nodes(&["n1=x", "n2=y", "n4=x"]))),
        ["n2=y", "n3 gone", "n4=x"]
    );
    assert_eq!(claims.len(), 3);
    assert_eq!(shown(&claims.replace(&a, Vec::new())), ["n1 gone", "n2 gone", "n4 gone"]);
    assert_eq!((claims.len(), claims.by_file.len()), (0, 0));
}

#[test]
fn of_several_files_the_last_by_name_counts_whatever_the_order_of_arrival() {
    for order in [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"]] {
        let mut claims = Claims::default();
        for name in order {
            claims.replace(&file(name), nodes(&[&format!("n=of-{name}")]));
        }
        // A change of one that does not count is none; of the one that counts it is.
        assert_eq!(shown(&claims.replace(&file("a"), nodes(&["n=new"]))), [""; 0]);
        assert_eq!(shown(&claims.replace(&file("c"), nodes(&["n=new"]))), ["n=new"]);
        // The next one takes over as each is gone.
        assert_eq!(shown(&claims.replace(&file("c"), Vec::new())), ["n=of-b"]);
        assert_eq!(shown(&claims.replace(&file("a"), Vec::new())), [""; 0]);
        assert_eq!(shown(&claims.replace(&file("b"), Vec::new())), ["n gone"]);
    }
}

#[test]
fn a_duplicate_is_told_when_it_comes_up() {
    let mut claims = Claims::default();
    let of = |outcome: Outcome| outcome.duplicates;
    assert_eq!(of(claims.replace(&file("b"), nodes(&["n=x"]))), []);
    assert_eq!(of(claims.replace(&file("a"), nodes(&["n=x"]))), [duplicate("n", "b", "a")]);
    assert_eq!(of(claims.replace(&file("c"), nodes(&["n=x"]))), [duplicate("n", "c", "b")]);
    assert_eq!(of(claims.replace(&file("c"), nodes(&["n=y"]))), [], "told already");
    let twice = claims.replace(&file("d"), nodes(&["m=x", "m=y"]));
    assert_eq!(shown(&twice), ["m=y"], "the last document of a file counts");
    assert_eq!(of(twice), [duplicate("m", "d", "d")]);
}
