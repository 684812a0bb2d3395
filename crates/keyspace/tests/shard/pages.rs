//! Reads of a view: one key, and a range page by page.

use bytes::Bytes;
use proptest::prelude::*;
use quorate_engine::{Direction, KeyRange};
use quorate_keyspace::{Folding, ListQuery, Page, Place, Record, Shard, Write, get, list, pairs};

use crate::writes::{Entry, ROOMY, apply, entries, key, records, shard};

const EVERYTHING: usize = usize::MAX;

fn query(max_items: usize, max_bytes: usize) -> ListQuery {
    ListQuery { range: KeyRange::all(), direction: Direction::Forward, max_items, max_bytes, is_with_values: true, folding: None }
}

/// A shard with the keys k0 to k4, whose values have ten bytes.
fn five_keys() -> Shard {
    let mut shard = shard(ROOMY);
    let put = |number| Write::put(format!("k{number}").into(), vec![b'v'; 10].into());
    apply(&mut shard, &[Entry::of((0..5).map(put))]);
    shard
}

fn keys(page: &Page) -> Vec<&[u8]> {
    page.items.iter().map(|(key, _)| &key[..]).collect()
}

fn page(shard: &Shard, query: &ListQuery) -> Page {
    list(shard.engine().view().as_ref(), query).unwrap()
}

#[test]
fn a_page_ends_at_its_number_of_pairs() {
    let shard = five_keys();
    let first = page(&shard, &query(2, EVERYTHING));
    assert_eq!((keys(&first), first.next.clone()), (vec![&b"k0"[..], b"k1"], Some(Place::Key(Bytes::from_static(b"k1")))));
    let all = page(&shard, &query(5, EVERYTHING));
    assert_eq!((all.items.len(), all.next), (5, None));
}

#[test]
fn a_page_ends_once_its_bytes_are_exceeded_but_holds_one_pair() {
    let shard = five_keys();
    assert_eq!(page(&shard, &query(EVERYTHING, 0)).items.len(), 1);
    let pair_bytes = usize::try_from(shard.header().data_bytes).unwrap() / 5;
    let two = page(&shard, &query(EVERYTHING, 2 * pair_bytes - 1));
    assert_eq!((two.items.len(), two.next.is_some()), (2, true));
    let of_keys = ListQuery { is_with_values: false, ..query(EVERYTHING, 9) };
    assert_eq!(page(&shard, &of_keys).items.len(), 5);
}

#[test]
fn an_empty_range_has_an_empty_page() {
    let nothing = ListQuery { range: KeyRange::prefix(b"x"), ..query(10, 10) };
    assert_eq!(page(&five_keys(), &nothing), Page::default());
}

#[test]
fn a_view_goes_on_showing_what_it_showed() {
    let mut shard = five_keys();
    let view = shard.engine().view();
    apply(&mut shard, &[Entry::of([Write::delete(Bytes::from_static(b"k0"))])]);
    assert!(get(view.as_ref(), b"k0").unwrap().is_some());
    assert_eq!(get(shard.engine().view().as_ref(), b"k0").unwrap(), None);
}

/// What a list shows of these records, in the plainest form: each folder once, where its first pair is.
fn shown(records: &[(Bytes, Record)], folding: Option<&Folding>) -> Vec<Place> {
    let mut shown = Vec::new();
    for (key, _) in records {
        let rest = |folding: &Folding| String::from_utf8(key[folding.prefix_bytes..].to_vec()).unwrap();
        let folder = folding.and_then(|folding| {
            let delimiter = std::str::from_utf8(&folding.delimiter).unwrap();
            let (name, _) = rest(folding).split_once(delimiter).map(|(name, rest)| (name.len(), rest.len()))?;
            Some(key.slice(..folding.prefix_bytes + name + delimiter.len()))
        });
        let place = folder.map_or_else(|| Place::Key(key.clone()), Place::Folder);
        if shown.last() != Some(&place) {
            shown.push(place);
        }
    }
    shown
}

#[test]
fn a_folder_is_jumped_over() {
    let mut shard = shard(ROOMY);
    let names = (0..100).map(|number| format!("a/{number:03}")).chain(["a".to_owned(), "a0".to_owned(), "b/".to_owned()]);
    apply(&mut shard, &[Entry::of(names.map(|name| Write::put(name.into(), Bytes::new())))]);
    for is_ordered in [true, false] {
        let folding = Some(Folding { prefix_bytes: 0, delimiter: Bytes::from_static(b"/"), is_ordered });
        for direction in [Direction::Forward, Direction::Reverse] {
            let found = page(&shard, &ListQuery { direction, folding: folding.clone(), ..query(10, EVERYTHING) });
            let (mut items, mut folders) = (vec![&b"a"[..], b"a0"], vec!["a/", "b/"]);
            if direction == Direction::Reverse {
                items.reverse();
                folders.reverse();
            }
            assert_eq!(
                (keys(&found), found.folders.clone(), found.next.clone()),
                (items, folders.into_iter().map(Bytes::from).collect(), None)
            );
        }
    }
}

#[test]
fn a_folder_that_no_key_is_greater_than_ends_the_list() {
    let mut shard = shard(ROOMY);
    let names = (0..20_u8).map(|number| Bytes::from(vec![0xff, 0xff, number]));
    apply(&mut shard, &[Entry::of(names.map(|name| Write::put(name, Bytes::new())))]);
    let folding = Some(Folding { prefix_bytes: 1, delimiter: Bytes::from_static(&[0xff]), is_ordered: true });
    let found = page(&shard, &ListQuery { range: KeyRange::prefix(&[0xff]), folding, ..query(10, EVERYTHING) });
    assert_eq!((found.items.len(), found.folders, found.next), (0, vec![Bytes::from_static(&[0xff, 0xff])], None));
}

#[test]
fn all_pairs_of_a_range_come_one_by_one() {
    let shard = five_keys();
    let view = shard.engine().view();
    let keys = |range: &KeyRange, direction| -> Vec<Bytes> {
        pairs(view.as_ref(), range, direction).map(|pair| pair.unwrap().0).collect()
    };
    assert_eq!(keys(&KeyRange::prefix(b"k3"), Direction::Forward), ["k3"]);
    assert_eq!(keys(&KeyRange::all(), Direction::Reverse), ["k4", "k3", "k2", "k1", "k0"]);
    let empty = KeyRange { start: KeyRange::prefix(b"k3").start, end: KeyRange::prefix(b"k1").end };
    assert!(keys(&empty, Direction::Forward).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pages_put_together_are_the_range(
        entries in entries(1000),
        prefix in key(),
        is_reverse: bool,
        max_items in 1..4_usize,
        max_bytes in 0..100_usize,
        delimiter in prop::option::of(prop::sample::select(vec!["a", "b", "bc", "c"])),
        is_ordered: bool,
    ) {
        let mut shard = shard(ROOMY);
        apply(&mut shard, &entries);
        let direction = if is_reverse { Direction::Reverse } else { Direction::Forward };
        let folding = delimiter.map(|delimiter| {
            Folding { prefix_bytes: prefix.len(), delimiter: Bytes::from_static(delimiter.as_bytes()), is_ordered }
        });
        let range = KeyRange::prefix(&prefix);
        let mut query =
            ListQuery { range, direction, max_items, max_bytes, is_with_values: true, folding: folding.clone() };
        let (mut found, mut folders) = (Vec::new(), Vec::new());
        loop {
            let page = page(&shard, &query);
            let count = page.items.len() + page.folders.len();
            prop_assert!(count <= max_items && !(page.next.is_some() && count == 0));
            found.extend(page.items);
            folders.extend(page.folders);
            match page.next {
                Some(place) => query.range = place.rest_of(query.range, direction),
                None => break,
            }
        }
        let mut expected = records(&shard);
        expected.retain(|(key, _)| key.starts_with(&prefix));
        if is_reverse {
            expected.reverse();
        }
        let shown = shown(&expected, folding.as_ref());
        let shown_folders: Vec<Place> =
            shown.iter().filter(|place| matches!(place, Place::Folder(_))).cloned().collect();
        prop_assert_eq!(folders.into_iter().map(Place::Folder).collect::<Vec<_>>(), shown_folders);
        expected.retain(|(key, _)| shown.contains(&Place::Key(key.clone())));
        prop_assert_eq!(&found, &expected);
        for (key, record) in found {
            prop_assert_eq!(get(shard.engine().view().as_ref(), &key).unwrap(), Some(record));
        }
    }
}
