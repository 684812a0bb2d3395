//! Replicas of one shard stay alike, however the entries reach them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use quorate_engine::{Engine, Table, Trie};
use quorate_keyspace::{Applied, HistoryHeader, Limits, Revision, Settings, Shard, ShardHeader};

use crate::writes::{Entry, ROOMY, apply, entries, limits, pairs, records, shard};

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
        limits in limits(),
        cuts in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        let (mut at_once, mut in_batches) = (shard(limits), shard(limits));
        let applied = apply(&mut at_once, &entries);
        prop_assert_eq!(apply_in_batches(&mut in_batches, &entries, &cuts).outcomes, applied.outcomes);
        prop_assert_eq!(in_batches.state_bytes(), at_once.state_bytes());
        prop_assert_eq!(pairs(&in_batches), pairs(&at_once));
    }

    #[test]
    fn a_shard_that_was_restored_goes_on_like_the_one_it_was_cut_from(
        entries in entries(AN_HOUR_MS),
        limits in limits(),
        cut: Index,
    ) {
        let (before, after) = entries.split_at(cut.index(entries.len() + 1));
        let mut original = shard(limits);
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
    fn the_changes_collected_lead_to_the_same_pairs(entries in entries(AN_HOUR_MS), limits in limits()) {
        let mut shard = shard(limits);
        let mut followed = BTreeMap::new();
        for change in apply(&mut shard, &entries).changes {
            for event in change.events {
                let before = event.record_before().unwrap();
                prop_assert_eq!(followed.get(&event.key), before.as_ref());
                match event.record().unwrap() {
                    Some(record) => {
                        prop_assert_eq!(record.meta.mod_revision, change.revision);
                        followed.insert(event.key, record);
                    }
                    None => drop(followed.remove(&event.key)),
                }
            }
        }
        prop_assert_eq!(followed.into_iter().collect::<Vec<_>>(), records(&shard));
    }

    #[test]
    fn any_bytes_are_refused_or_restored_without_panic(noise in prop::collection::vec(any::<u8>(), 0..80), version in 0..4_u8) {
        let bytes = [&[version][..], &noise].concat();
        let _ = Shard::decode_header(bytes.into());
    }
}

#[test]
fn a_state_that_is_cut_or_goes_on_is_refused() {
    let mut shard = shard(ROOMY);
    shard.set_membership(1, 1, Bytes::from_static(b"members")).unwrap();
    let state = shard.state_bytes();
    for len in 0..state.len() {
        assert!(Shard::decode_header(state.slice(..len)).is_err(), "{len} bytes");
    }
    assert!(Shard::decode_header([&state[..], b"x"].concat().into()).is_err());
}

/// Written out, so that it stays readable whatever the present version writes: version 1, applied 7 in term 3, revision 5, log
/// time 300 ms, 40 bytes, the one limit of that version, membership "m", no sessions.
const STATE_VERSION_1: &[u8] = b"\x01\x07\x03\x05\xac\x02\x28\x80\x08\x01m\x00\x00";

#[test]
fn a_state_of_version_1_is_read() {
    let header = Shard::decode_header(Bytes::from_static(STATE_VERSION_1)).unwrap();
    let expected = ShardHeader {
        applied_index: 7,
        applied_term: 3,
        revision: Revision(5),
        log_time_ms: 300,
        data_bytes: 40,
        settings: Settings::of(Limits { max_bytes: 1024, max_key_bytes: 0, max_value_bytes: 0 }),
        history: HistoryHeader::default(),
        membership: Bytes::from_static(b"m"),
    };
    assert_eq!(header, expected);
}

#[test]
#[should_panic(expected = "without gaps")]
fn an_entry_that_leaves_a_gap_is_refused() {
    let _ = shard(ROOMY).apply(&[(2, 1, Bytes::new())]);
}
