use std::ops::Bound;

use proptest::prelude::*;
use quorate_engine::KeyRange;

use super::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str) -> Event {
    Event { key: bytes(key), cause: Cause::Put, after: Some(bytes("record")), before: None }
}

fn delete(key: &str) -> Event {
    Event { key: bytes(key), cause: Cause::Delete, after: None, before: Some(bytes("record")) }
}

fn changes(revision: u64, events: Vec<Event>) -> Changes {
    Changes { revision: Revision(revision), events }
}

fn feed_of(revisions: std::ops::RangeInclusive<u64>) -> Feed {
    let mut feed = Feed::new(Revision(revisions.start() - 1));
    feed.publish(Revision(*revisions.end()), revisions.map(|revision| changes(revision, vec![put("k")])).collect());
    feed
}

fn prefix(of: &str) -> Selection {
    Selection { keys: Keys::Range(KeyRange::prefix(of.as_bytes())), causes: Causes::ALL }
}

/// A revision, and its events as keys and places of selections.
type Plain = (u64, Vec<(String, Vec<usize>)>);

fn told(told: &[Told]) -> Vec<Plain> {
    let key = |event: &Event| String::from_utf8(event.key.to_vec()).unwrap();
    let events = |told: &Told| told.events().map(|(event, of)| (key(event), of.to_vec())).collect();
    told.iter().map(|told| (told.revision().0, events(told))).collect()
}

fn take(watch: &mut Watch, feed: &Feed, max_bytes: usize) -> Vec<Told> {
    watch.take(feed.after(watch.told(), usize::MAX).unwrap(), max_bytes)
}

fn revisions(taken: &[Told]) -> Vec<u64> {
    told(taken).into_iter().map(|(revision, _)| revision).collect()
}

#[test]
fn a_watch_is_told_what_concerns_it_by_revision() {
    let mut feed = Feed::new(Revision(4));
    let after = [
        changes(5, vec![put("a/1"), put("b/1"), delete("a/2")]),
        changes(6, vec![put("b/1")]),
        changes(7, vec![delete("a/1"), put("c")]),
    ];
    feed.publish(Revision(7), after.into());
    let only_deletes = Causes::NONE.and(Cause::Delete);
    let one = |key: &str, causes| Selection { keys: Keys::One(bytes(key)), causes };
    let mut watch = Watch::new(vec![prefix("a/"), one("a/1", only_deletes), one("c", only_deletes)], Revision(4));
    let of = |key: &str, selections: &[usize]| (key.to_owned(), selections.to_vec());
    assert_eq!(
        told(&take(&mut watch, &feed, usize::MAX)),
        [(5, vec![of("a/1", &[0]), of("a/2", &[0])]), (7, vec![of("a/1", &[0, 1])])]
    );
    assert_eq!((watch.told(), told(&take(&mut watch, &feed, usize::MAX))), (Revision(7), Vec::new()));
}

#[test]
fn a_watch_takes_by_the_piece_and_whole_revisions() {
    let mut feed = feed_of(2..=5);
    let mut watch = Watch::new(vec![prefix("")], Revision(1));
    let event_bytes = put("k").bytes();
    assert_eq!(revisions(&take(&mut watch, &feed, 1)), [2]);
    assert_eq!(revisions(&take(&mut watch, &feed, event_bytes + 1)), [3, 4]);
    feed.publish(Revision(6), vec![changes(6, vec![put("k"), put("l"), put("m")])]);
    assert_eq!(revisions(&take(&mut watch, &feed, event_bytes + 1)), [5, 6]);
    assert_eq!(watch.told(), Revision(6));
}

#[test]
fn a_feed_is_read_by_the_piece() {
    let feed = feed_of(2..=5);
    let piece = |after, max_revisions| {
        let piece = feed.after(Revision(after), max_revisions).unwrap();
        (piece.changes.iter().map(|changes| changes.revision.0).collect::<Vec<_>>(), piece.upto.0)
    };
    assert_eq!(piece(1, 2), (vec![2, 3], 3));
    assert_eq!(piece(3, 2), (vec![4, 5], 5));
    assert_eq!(piece(3, 3), (vec![4, 5], 5));
    assert_eq!(piece(5, 3), (vec![], 5));
    assert_eq!(piece(9, 3), (vec![], 9));
}

#[test]
fn what_a_watch_is_not_told_by_the_feed_it_is_told_to_look_for() {
    let feed = feed_of(5..=8);
    assert!(feed.after(Revision(3), 1000).is_none());
    assert_eq!(revisions(&take(&mut Watch::new(vec![prefix("")], Revision(4)), &feed, 1000)), [5, 6, 7, 8]);
    // One that waits for what is to come is told nothing before.
    let mut early = Watch::new(vec![prefix("")], Revision(20));
    assert_eq!((revisions(&take(&mut early, &feed, 1000)), early.told()), (Vec::new(), Revision(20)));
}

#[test]
fn a_feed_keeps_to_its_bounds() {
    let event_bytes = put("k").bytes();
    let mut feed = Feed::with_bounds(Revision(1), 3, 10 * event_bytes);
    for revision in 2..10 {
        feed.publish(Revision(revision), vec![changes(revision, vec![put("k")])]);
    }
    assert_eq!((feed.since(), feed.at()), (Revision(6), Revision(9)));
    feed.publish(Revision(10), vec![changes(10, vec![put("k"); 9])]);
    assert_eq!(feed.since(), Revision(8));
    feed.publish(Revision(11), vec![changes(11, vec![put("k"); 20])]);
    assert_eq!((feed.since(), feed.at()), (Revision(10), Revision(11)), "the last one stays, however large");
}

#[test]
fn a_feed_passes_over_what_it_knows_and_begins_anew_after_a_gap() {
    let mut feed = feed_of(2..=5);
    feed.publish(Revision(4), vec![changes(3, vec![put("k")]), changes(4, vec![put("k")])]);
    assert_eq!((feed.since(), feed.at()), (Revision(1), Revision(5)));
    feed.publish(Revision(6), vec![changes(5, vec![put("k")]), changes(6, vec![put("k")])]);
    assert_eq!((feed.since(), feed.at()), (Revision(1), Revision(6)));
    feed.publish(Revision(9), Vec::new());
    assert_eq!((feed.since(), feed.at()), (Revision(9), Revision(9)));
    feed.publish(Revision(13), vec![changes(12, vec![put("k")]), changes(13, vec![put("k")])]);
    assert_eq!((feed.since(), feed.at()), (Revision(11), Revision(13)));
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(prop::sample::select(vec![0_u8, b'a', 0xff]), 0..4).prop_map(Bytes::from)
}

fn keys() -> impl Strategy<Value = Keys> {
    let bound = || prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)];
    prop_oneof![
        key().prop_map(Keys::One),
        key().prop_map(|key| Keys::Range(KeyRange::prefix(&key))),
        (bound(), bound()).prop_map(|(start, end)| Keys::Range(KeyRange { start, end })),
    ]
}

/// Every key, in the one of its two forms that prefixes have.
fn as_one(keys: &Keys) -> Keys {
    if *keys == Keys::Range(KeyRange::all()) { Keys::Range(KeyRange::prefix(b"")) } else { keys.clone() }
}

proptest! {
    #[test]
    fn interests_are_found_by_key(all in prop::collection::vec((keys(), 0..6_u32, any::<bool>()), 0..20), wanted in key()) {
        let mut interests = Interests::default();
        let mut model = Vec::new();
        for (keys, name, is_added) in all {
            if is_added {
                interests.add(&keys, name);
                model.push((keys, name));
            } else {
                interests.remove(&keys, &name);
                model.retain(|(of, by)| (as_one(of), by) != (as_one(&keys), &name));
            }
        }
        let mut found = Vec::new();
        interests.each(&wanted, |name| found.push(*name));
        found.sort_unstable();
        found.dedup();
        let mut expected: Vec<u32> = model.iter().filter(|(keys, _)| keys.contains(&wanted)).map(|(_, name)| *name).collect();
        expected.sort_unstable();
        expected.dedup();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(interests.is_empty(), model.is_empty());
    }
}
