//! The laws of merging (P1): in whatever order entries come, and however often, what is left is the same.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_engine::Trie;

use super::cluster::key;
use crate::digest::Digest;
use crate::store::Store;
use crate::{Body, Entry, Hlc, InstanceId, Version};

/// An entry for one of few keys. Versions say who wrote and when, and what: equal ones are of one write.
fn entry() -> impl Strategy<Value = (Bytes, Entry)> {
    (0..3_u8, 1..6_u64, 1..4_u32).prop_map(|(at, hlc, instance)| {
        let body = match (hlc + u64::from(instance)) % 3 {
            0 => Body::Tombstone,
            _ => Body::plain(Bytes::from(format!("{at} {hlc} {instance}"))),
        };
        (key(at), Entry { version: Version { hlc: Hlc(hlc), instance: InstanceId(instance) }, deadline_ms: 0, body })
    })
}

/// What is left of these, and its sum.
fn merged<'a>(entries: impl IntoIterator<Item = &'a (Bytes, Entry)>) -> (Vec<Option<Entry>>, Digest) {
    let mut store = Store::new(Arc::new(Trie::new()), 7, 2);
    for (key, entry) in entries {
        store.merge(key, entry, 0);
        store.commit(0).expect("memory does not fail");
    }
    store.check();
    assert_eq!(store.mismatched, 0);
    ((0..3).map(|at| store.get(&key(at)).expect("readable")).collect(), store.root())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_order_of_entries_and_how_often_they_come_do_not_matter(
        (entries, shuffled) in prop::collection::vec(entry(), 0..12)
            .prop_flat_map(|entries| (Just(entries.clone()), Just(entries).prop_shuffle())),
        repeated in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let once = merged(&entries);
        prop_assert_eq!(&merged(&shuffled), &once);
        let again = repeated.iter().filter(|_| !entries.is_empty()).map(|at| at.get(&entries));
        prop_assert_eq!(&merged(entries.iter().chain(again)), &once);
        // Merged apart, and then together.
        let (first, second) = shuffled.split_at(if shuffled.is_empty() { 0 } else { cut.index(shuffled.len()) });
        let left = |part: &[(Bytes, Entry)]| -> Vec<(Bytes, Entry)> {
            (0..3).map(key).zip(merged(part).0).filter_map(|(key, entry)| Some((key, entry?))).collect()
        };
        prop_assert_eq!(&merged(left(first).iter().chain(&left(second))), &once);
    }
}

#[test]
fn two_contents_of_one_version_are_noticed() {
    let version = Version { hlc: Hlc(5), instance: InstanceId(2) };
    let entry = |deadline_ms, body| Entry { version, deadline_ms, body };
    let value = |text: &'static str| Body::plain(Bytes::from_static(text.as_bytes()));
    let cases = [
        (entry(0, value("one")), entry(0, value("one")), 0),
        (entry(9, value("one")), entry(9, Body::Expired), 0),
        (entry(9, Body::Expired), entry(9, value("one")), 0),
        (entry(0, value("one")), entry(0, value("other")), 1),
        (entry(0, value("one")), entry(9, value("one")), 1),
        (entry(0, value("one")), entry(0, Body::Tombstone), 1),
        (entry(0, Body::Tombstone), entry(0, value("one")), 1),
    ];
    for (here, comes, expected) in cases {
        let mut store = Store::new(Arc::new(Trie::new()), 7, 2);
        store.merge(&key(1), &here, 0);
        store.merge(&key(1), &comes, 0);
        assert_eq!((store.mismatched, store.get(&key(1)).unwrap()), (expected, Some(here.clone())), "{here:?} and {comes:?}");
    }
}
