use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn insert(table: &mut DynamicTable, name: &[u8], value: &[u8]) {
    table.insert(name, value, Hashes::of(name, value));
}

#[test]
fn rfc7541_4_4_an_entry_larger_than_the_table_empties_it() {
    let mut table = DynamicTable::new(100);
    insert(&mut table, b"a", b"1");
    assert!(table.fits(&[0; 60], &[0; 8]));
    assert!(!table.fits(&[0; 60], &[0; 9]));
    insert(&mut table, &[0; 60], &[0; 9]);
    assert_eq!((table.size(), table.get(0)), (0, None));
}

#[test]
fn an_empty_table_has_no_memory() {
    let mut table = DynamicTable::new(4096);
    assert_eq!((table.octets.capacity(), table.entries.capacity()), (0, 0));
    insert(&mut table, b"a", b"1");
    assert_ne!(table.octets.capacity(), 0);
    table.set_max(0);
    assert_eq!((table.octets.capacity(), table.entries.capacity()), (0, 0));
}

#[test]
fn every_change_ends_an_epoch() {
    let mut table = DynamicTable::new(100);
    for change in [
        |table: &mut DynamicTable| insert(table, b"a", b"1"),
        |table: &mut DynamicTable| insert(table, &[0; 100], b""),
        |table: &mut DynamicTable| table.set_max(100),
        |table: &mut DynamicTable| table.set_max(0),
    ] {
        table.set_epoch(7);
        change(&mut table);
        assert_eq!(table.epoch(), 0);
    }
}

#[derive(Clone, Debug)]
enum Act {
    Insert(Vec<u8>, Vec<u8>),
    SetMax(u32),
}

fn act() -> impl Strategy<Value = Act> {
    let text = || prop::collection::vec(b'a'..=b'c', 0..40);
    prop_oneof![
        20 => (text(), text()).prop_map(|(name, value)| Act::Insert(name, value)),
        1 => (0u32..400).prop_map(Act::SetMax),
    ]
}

proptest! {
    /// Against a list that does what the RFC says word by word.
    #[test]
    fn it_holds_what_the_rfc_says(acts in prop::collection::vec(act(), 0..200)) {
        let mut table = DynamicTable::new(300);
        let mut model: VecDeque<(Vec<u8>, Vec<u8>)> = VecDeque::new();
        let mut max = 300;
        let mut greatest = 300;
        let size = |model: &VecDeque<(Vec<u8>, Vec<u8>)>| {
            model.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>()
        };
        for act in acts {
            match act {
                Act::Insert(name, value) => {
                    insert(&mut table, &name, &value);
                    model.push_front((name, value));
                }
                Act::SetMax(octets) => {
                    table.set_max(octets);
                    max = octets as usize;
                    greatest = greatest.max(max);
                }
            }
            while size(&model) > max {
                model.pop_back();
            }
            prop_assert_eq!(table.size() as usize, size(&model));
            for (place, (name, value)) in model.iter().enumerate() {
                let hashes = Hashes::of(name, value);
                prop_assert_eq!(table.get(place as u32), Some((&name[..], &value[..], hashes)));
                let first = model.iter().position(|entry| (&entry.0, &entry.1) == (name, value));
                prop_assert_eq!(table.find(name, value, hashes), first.map(|it| it as u32));
                let first = model.iter().position(|entry| &entry.0 == name);
                prop_assert_eq!(table.find_name(name, hashes), first.map(|it| it as u32));
            }
            prop_assert_eq!(table.get(model.len() as u32), None);
            prop_assert!(table.octets.capacity() <= 2 * greatest);
        }
    }
}
