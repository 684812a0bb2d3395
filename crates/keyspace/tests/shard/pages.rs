//! Reads of a view: one key, and a range page by page.

use std::ops::Bound;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_engine::{Direction, KeyRange};
use quorate_keyspace::{ListQuery, Page, Shard, Write, get, list};

use crate::writes::{Entry, ROOMY, apply, entries, key, records, shard};

const EVERYTHING: usize = usize::MAX;

fn query(max_items: usize, max_bytes: usize) -> ListQuery {
    ListQuery { range: KeyRange::all(), direction: Direction::Forward, max_items, max_bytes, is_with_values: true }
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
    assert_eq!((keys(&first), first.has_more), (vec![&b"k0"[..], b"k1"], true));
    let all = page(&shard, &query(5, EVERYTHING));
    assert_eq!((all.items.len(), all.has_more), (5, false));
}

#[test]
fn a_page_ends_once_its_bytes_are_exceeded_but_holds_one_pair() {
    let shard = five_keys();
    assert_eq!(page(&shard, &query(EVERYTHING, 0)).items.len(), 1);
    let pair_bytes = usize::try_from(shard.header().data_bytes).unwrap() / 5;
    let two = page(&shard, &query(EVERYTHING, 2 * pair_bytes - 1));
    assert_eq!((two.items.len(), two.has_more), (2, true));
    let of_keys = ListQuery { is_with_values: false, ..query(EVERYTHING, 9) };
    assert_eq!(page(&shard, &of_keys).items.len(), 5);
}

#[test]
fn an_empty_range_has_an_empty_page() {
    let nothing = ListQuery { range: KeyRange::prefix(b"x"), ..query(10, 10) };
    assert_eq!(page(&five_keys(), &nothing), Page { items: Vec::new(), has_more: false });
}

#[test]
fn a_view_goes_on_showing_what_it_showed() {
    let mut shard = five_keys();
    let view = shard.engine().view();
    apply(&mut shard, &[Entry::of([Write::delete(Bytes::from_static(b"k0"))])]);
    assert!(get(view.as_ref(), b"k0").unwrap().is_some());
    assert_eq!(get(shard.engine().view().as_ref(), b"k0").unwrap(), None);
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
    ) {
        let mut shard = shard(ROOMY);
        apply(&mut shard, &entries);
        let direction = if is_reverse { Direction::Reverse } else { Direction::Forward };
        let mut query =
            ListQuery { range: KeyRange::prefix(&prefix), direction, max_items, max_bytes, is_with_values: true };
        let mut found = Vec::new();
        loop {
            let page = page(&shard, &query);
            prop_assert!(page.items.len() <= max_items && !(page.has_more && page.items.is_empty()));
            let last = page.items.last().map(|(key, _)| key.clone());
            found.extend(page.items);
            match last.filter(|_| page.has_more) {
                Some(last) if is_reverse => query.range.end = Bound::Excluded(last),
                Some(last) => query.range.start = Bound::Excluded(last),
                None => break,
            }
        }
        let mut expected = records(&shard);
        expected.retain(|(key, _)| key.starts_with(&prefix));
        if is_reverse {
            expected.reverse();
        }
        prop_assert_eq!(&found, &expected);
        for (key, record) in found {
            prop_assert_eq!(get(shard.engine().view().as_ref(), &key).unwrap(), Some(record));
        }
    }
}
