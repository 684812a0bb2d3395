//! Replicas of one shard stay alike, however the entries reach them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use quorate_engine::{Engine, Table, Trie};
use quorate_keyspace::{Applied, Shard};

use crate::writes::{Entry, apply, entries, max_bytes, pairs, records, shard};

/// Long enough for sessions to be dropped on the way.
const AN_HOUR_MS: u64 = 3_600_000;

/// A shard made from what another one's snapshot would hold.
fn restored(shard: &Shard) -> Shard {
    let engine: Arc<dyn Engine> = Arc::new(Trie::new());
    let mut rebuild = engine.rebuild().unwrap();
    for (key, value) in pairs(shard) {
        rebuild.put(Table::Current, key, value).unwrap();
    }
    rebuild.commit(shard.header().applied_index, shard.header().revision.0).unwrap();
    Shard::restore(engine, shard.state_bytes()).unwrap()
}

/// Applies entries, cut into batches at these places.
fn apply_in_batches(shard: &mut Shard, entries: &[Entry], cuts: &[Index]) -> Applied {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(entries.len() + 1)).collect();
    places.extend([0, entries.len()]);
    places.sort_unstable();
    let mut all = Applied::default();
    for place in places.windows(2) {
        let applied = apply(shard, &entries[place[0]..place[1]]);
        all.outcomes.extend(applied.outcomes);
        all.changes.extend(applied.changes);
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn how_entries_are_batched_makes_no_difference(
        entries in entries(AN_HOUR_MS),
        max_bytes in max_bytes(),
        cuts in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        let (mut at_once, mut in_batches) = (shard(max_bytes), shard(max_bytes));
        let applied = apply(&mut at_once, &entries);
        prop_assert_eq!(apply_in_batches(&mut in_batches, &entries, &cuts).outcomes, applied.outcomes);
        prop_assert_eq!(in_batches.state_bytes(), at_once.state_bytes());
        prop_assert_eq!(pairs(&in_batches), pairs(&at_once));
    }

    #[test]
    fn a_shard_that_was_restored_goes_on_like_the_one_it_was_cut_from(
        entries in entries(AN_HOUR_MS),
        max_bytes in max_bytes(),
        cut: Index,
    ) {
        let (before, after) = entries.split_at(cut.index(entries.len() + 1));
        let mut original = shard(max_bytes);
        apply(&mut original, before);
        original.set_membership(before.len() as u64 + 1, 9, Bytes::from_static(b"members")).unwrap();

        let mut copy = restored(&original);
        prop_assert_eq!(copy.header(), original.header());
        prop_assert_eq!(Shard::decode_header(original.state_bytes()), Ok(original.header().clone()));
        prop_assert_eq!(copy.state_bytes(), original.state_bytes());

        prop_assert_eq!(apply(&mut copy, after).outcomes, apply(&mut original, after).outcomes);
        prop_assert_eq!(copy.state_bytes(), original.state_bytes());
        prop_assert_eq!(pairs(&copy), pairs(&original));
    }

    #[test]
    fn the_changes_collected_lead_to_the_same_pairs(entries in entries(AN_HOUR_MS), max_bytes in max_bytes()) {
        let mut shard = shard(max_bytes).collecting_changes();
        let mut followed = BTreeMap::new();
        for change in apply(&mut shard, &entries).changes {
            match change.record {
                Some(record) => followed.insert(change.key, record),
                None => followed.remove(&change.key),
            };
        }
        prop_assert_eq!(followed.into_iter().collect::<Vec<_>>(), records(&shard));
    }

    #[test]
    fn any_bytes_are_refused_or_restored_without_panic(noise in prop::collection::vec(any::<u8>(), 0..80), version in 0..3_u8) {
        let bytes = [&[version][..], &noise].concat();
        let _ = Shard::decode_header(bytes.into());
    }
}

#[test]
fn a_state_that_is_cut_or_goes_on_is_refused() {
    let mut shard = shard(1 << 20);
    shard.set_membership(1, 1, Bytes::from_static(b"members")).unwrap();
    let state = shard.state_bytes();
    for len in 0..state.len() {
        assert!(Shard::decode_header(state.slice(..len)).is_err(), "{len} bytes");
    }
    assert!(Shard::decode_header([&state[..], b"x"].concat().into()).is_err());
}

#[test]
#[should_panic(expected = "without gaps")]
fn an_entry_that_leaves_a_gap_is_refused() {
    let _ = shard(1 << 20).apply(&[(2, 1, Bytes::new())]);
}
