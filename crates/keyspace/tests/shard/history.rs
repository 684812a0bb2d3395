//! The past is as it was, for as long as it is kept, and takes no room any longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use quorate_engine::testing::SimulatedEngines;
use quorate_engine::{Direction, Engine, EngineSpec, Engines, Hash, KeyRange, Place, Table, Trie};
use quorate_keyspace::{
    Cause, Command, Extent, HistoryHeader, ListQuery, Op, OpResult, Outcome, PastError, Record, RequestId, Retention, Revision,
    Settings, Shard, ShardHeader, Version, Write, changes_after, extent, get_at, history_of, list_at, log_time_of, pairs_at,
};

use crate::writes::{Entry, ROOMY, apply, entries, records, rows, shard};

type State = BTreeMap<Bytes, Record>;

/// A shard without history, and what it held at each revision: noted one by one.
struct Reference {
    shard: Shard,
    states: Vec<State>,
    log_times: Vec<u64>,
}

impl Reference {
    fn new() -> Self {
        // Revisions count from 1.
        Self { shard: shard(ROOMY), states: vec![State::new(); 2], log_times: vec![0; 2] }
    }

    fn apply(&mut self, entry: &Entry) {
        for command in &entry.commands {
            if let [Op::Compact { .. }] = command.write.ops[..] {
                continue;
            }
            let mut command = command.clone();
            command.write.ops = command.write.ops.into_iter().map(|op| with_retention(op, Retention::default())).collect();
            apply(&mut self.shard, &[Entry { log_time_ms: entry.log_time_ms, commands: vec![command] }]);
            if self.present() == self.states.len() {
                self.states.push(records(&self.shard).into_iter().collect());
                self.log_times.push(self.shard.header().log_time_ms);
            }
        }
        apply(&mut self.shard, &[Entry { log_time_ms: entry.log_time_ms, commands: Vec::new() }]);
    }

    fn present(&self) -> usize {
        self.shard.header().revision.0 as usize
    }

    /// Keys that a revision changed.
    fn changed(&self, revision: usize) -> BTreeSet<&Bytes> {
        let (before, after) = (&self.states[revision - 1], &self.states[revision]);
        let keys: BTreeSet<&Bytes> = before.keys().chain(after.keys()).collect();
        keys.into_iter().filter(|key| before.get(*key) != after.get(*key)).collect()
    }
}

/// The same operation; if it sets something, with this retention. Compactions come alone.
fn with_retention(op: Op, retention: Retention) -> Op {
    let all = |ops: Vec<Op>| ops.into_iter().map(|op| with_retention(op, retention)).collect();
    match op {
        Op::Configure(settings) => Op::Configure(Settings { retention, ..settings }),
        Op::Transaction(mut transaction) => {
            transaction.then = all(transaction.then);
            transaction.otherwise = all(transaction.otherwise);
            Op::Transaction(transaction)
        }
        Op::Compact { .. } => Op::Get { key: Bytes::new() },
        op => op,
    }
}

/// A shard on an engine that comes back after a crash, and the log that it goes on from.
struct Durable {
    engines: SimulatedEngines,
    shard: Option<Shard>,
}

const PLACE: Place = Place { group: 3, build: 0 };

impl Durable {
    fn new() -> Self {
        let engines = SimulatedEngines::default();
        let engine = engines.open(PLACE, &EngineSpec::of("btree")).unwrap();
        let header = ShardHeader { settings: Settings::of(ROOMY), ..ShardHeader::default() };
        let shard = Shard::found(engine, header).unwrap();
        shard.engine().flush().unwrap();
        Self { engines, shard: Some(shard) }
    }

    fn shard(&mut self) -> &mut Shard {
        self.shard.as_mut().unwrap()
    }

    fn crash(&mut self) {
        self.shard = None;
        let engine = self.engines.open(PLACE, &EngineSpec::of("btree")).unwrap();
        self.shard = Some(Shard::open(engine).unwrap().unwrap());
    }

    fn catch_up(&mut self, log: &[Entry]) {
        let shard = self.shard();
        let applied = shard.header().applied_index as usize;
        if applied < log.len() {
            apply(shard, &log[applied..]);
        }
    }
}

/// A shard made from what another one's snapshot would hold.
fn restored(shard: &Shard) -> Shard {
    let engine: Arc<dyn Engine> = Arc::new(Trie::new());
    let mut rebuild = engine.rebuild().unwrap();
    for table in [Table::Current, Table::History] {
        for (key, value) in rows(shard, table) {
            rebuild.put(table, key, value).unwrap();
        }
    }
    rebuild.commit(shard.header().applied_index, shard.header().revision.0).unwrap();
    Shard::restore(engine, shard.state_bytes()).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Entry>),
    Retain(Retention),
    /// To the revision that is so many before the present one; to one that is to come if below 0.
    Compact(i64),
    Restore,
    Flush,
    Crash,
}

fn retention() -> impl Strategy<Value = Retention> {
    let some = (0..8_u64, 0..600_u64, prop_oneof![Just(0), 0..900_u64]);
    let some = some.prop_map(|(max_revisions, max_age_ms, max_bytes)| Retention { max_revisions, max_age_ms, max_bytes });
    prop_oneof![
        1 => Just(Retention::default()),
        2 => Just(Retention { max_revisions: 0, max_age_ms: 1 << 30, max_bytes: 0 }),
        3 => some,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => entries(1000).prop_map(Step::Apply),
        2 => retention().prop_map(Step::Retain),
        2 => (-2..20_i64).prop_map(Step::Compact),
        1 => Just(Step::Restore),
        1 => Just(Step::Flush),
        1 => Just(Step::Crash),
    ]
}

/// The log time goes on, whatever the step says.
fn later(entries: Vec<Entry>, begin_ms: u64, retention: Retention) -> Vec<Entry> {
    let with_retention = |mut command: Command| {
        // Each is done, not only the first of its name.
        command.id = RequestId::default();
        command.floor = 0;
        command.write.ops = command.write.ops.into_iter().map(|op| with_retention(op, retention)).collect();
        command
    };
    let later = |entry: Entry| Entry {
        log_time_ms: begin_ms + entry.log_time_ms / 8,
        commands: entry.commands.into_iter().map(with_retention).collect(),
    };
    entries.into_iter().map(later).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_past_is_as_it_was_until_it_is_compacted(steps in vec(step(), 1..14)) {
        let (mut shard, mut reference, mut durable) = (shard(ROOMY), Reference::new(), Durable::new());
        let header = ShardHeader { settings: Settings::of(ROOMY), ..ShardHeader::default() };
        let mut unordered = Shard::found(Arc::new(Hash::new(7)), header).unwrap();
        let (mut log, mut retention) = (Vec::new(), Retention::default());
        for step in steps {
            let (log_time_ms, present) = (shard.header().log_time_ms, shard.header().revision);
            let alone = |op| Entry { log_time_ms, ..Entry::of([Write { ops: vec![op], ..Write::default() }]) };
            let entries = match step {
                Step::Apply(entries) => later(entries, log_time_ms, retention),
                Step::Retain(asked) => {
                    retention = asked;
                    vec![alone(Op::Configure(Settings { retention, ..Settings::of(ROOMY) }))]
                }
                Step::Compact(before) => {
                    vec![alone(Op::Compact { revision: Revision(present.0.saturating_add_signed(-before)) })]
                }
                Step::Restore => {
                    shard = restored(&shard);
                    continue;
                }
                Step::Flush => {
                    durable.shard().engine().flush().unwrap();
                    continue;
                }
                Step::Crash => {
                    durable.crash();
                    Vec::new()
                }
            };
            for entry in entries {
                let expected = compaction_in(&entry).map(|revision| expected_outcome(&shard, revision));
                let outcomes = apply(&mut shard, std::slice::from_ref(&entry)).outcomes;
                prop_assert!(expected.is_none_or(|expected| outcomes[0].1 == expected), "{:?}", outcomes);
                reference.apply(&entry);
                check_retention(&shard, &reference);
                log.push(entry);
            }
            check(&shard, &reference);
            durable.catch_up(&log);
            let applied = unordered.header().applied_index as usize;
            apply(&mut unordered, &log[applied..]);
            for other in [durable.shard(), &mut unordered] {
                prop_assert_eq!(other.state_bytes(), shard.state_bytes());
                for table in [Table::Current, Table::History] {
                    prop_assert_eq!(rows(other, table), rows(&shard, table));
                }
            }
        }
    }
}

fn compaction_in(entry: &Entry) -> Option<Revision> {
    match &entry.commands[..] {
        [command] => match &command.write.ops[..] {
            [Op::Compact { revision }] => Some(*revision),
            _ => None,
        },
        _ => None,
    }
}

/// Of a compaction alone.
fn expected_outcome(shard: &Shard, revision: Revision) -> Outcome {
    let present = shard.header().revision;
    let compacted = extent(&*shard.engine().view()).unwrap().compacted;
    match revision {
        revision if revision <= compacted => Outcome::Compacted { compacted },
        revision if revision > present => Outcome::FutureRevision { present },
        _ => Outcome::Applied { revision: present, results: vec![OpResult::default()] },
    }
}

/// Compares all that can be read with what was, and what cannot be read with what must not be there.
fn check(shard: &Shard, reference: &Reference) {
    let view = shard.engine().view();
    let (header, extent) = (shard.header(), extent(&*view).unwrap());
    let present = reference.present();
    assert_eq!(header.revision.0 as usize, present);
    assert_eq!(extent.begun, header.history.begun.unwrap_or(header.revision));
    for revision in 0..present + 2 {
        check_state(shard, reference, revision, extent);
    }
    for after in 0..=present {
        check_changes(shard, reference, after, extent);
    }
    for key in ["", "a", "ab", "abc", "b", "none"] {
        check_versions(shard, reference, key.as_bytes(), extent);
    }
    check_rows(shard, reference, extent);
    check_retention(shard, reference);
}

fn check_state(shard: &Shard, reference: &Reference, revision: usize, extent: Extent) {
    let (view, present) = (shard.engine().view(), reference.present());
    let at = Revision(revision as u64);
    let pairs = |direction| pairs_at(&*view, &KeyRange::all(), direction, at).map(|pairs| pairs.map(Result::unwrap).collect());
    let found: Result<Vec<_>, PastError> = pairs(Direction::Forward);
    match found {
        Err(PastError::Compacted(compacted)) => assert!(at < compacted && compacted == extent.compacted, "{revision}"),
        Err(PastError::Future(told)) => assert!(revision > present && told.0 as usize == present, "{revision}"),
        Err(error) => panic!("{error}"),
        Ok(found) => {
            assert!((extent.compacted.0 as usize..=present).contains(&revision), "{revision} {extent:?}");
            let mut expected: Vec<(Bytes, Record)> = reference.states[revision].clone().into_iter().collect();
            assert_eq!(found, expected, "at {revision} of {present}");
            let listed = |direction| {
                let mut all = Vec::new();
                let mut range = KeyRange::all();
                loop {
                    let query = ListQuery {
                        range: range.clone(),
                        direction,
                        max_items: 2,
                        max_bytes: 1 << 20,
                        is_with_values: true,
                        folding: None,
                    };
                    let page = list_at(&*view, &query, at).unwrap();
                    all.extend(page.items);
                    let Some(next) = page.next else { return all };
                    range = next.rest_of(range, direction);
                }
            };
            assert_eq!(listed(Direction::Forward), expected);
            expected.reverse();
            assert_eq!(pairs(Direction::Reverse).unwrap(), expected);
            assert_eq!(listed(Direction::Reverse), expected);
            for key in ["", "a", "ab", "abc", "b"].map(|key| Bytes::from_static(key.as_bytes())) {
                let found: Option<Record> = get_at(&*view, &key, at).unwrap();
                assert_eq!(found.as_ref(), reference.states[revision].get(&key), "{key:?} at {revision}");
            }
        }
    }
}

fn check_changes(shard: &Shard, reference: &Reference, after: usize, extent: Extent) {
    let view = shard.engine().view();
    let compacted = extent.compacted.0 as usize;
    let found = match changes_after(&*view, Revision(after as u64)) {
        Ok(found) => found,
        Err(PastError::Compacted(told)) => {
            assert!(after + 1 < compacted || after < extent.begun.0 as usize, "{after} {extent:?}");
            return assert_eq!(told, extent.compacted.max(extent.begun.next()));
        }
        Err(error) => panic!("{error}"),
    };
    assert!(after + 1 >= compacted && after >= extent.begun.0 as usize, "{after} {extent:?}");
    let mut revision = after;
    for changes in found.map(Result::unwrap) {
        revision += 1;
        assert_eq!(changes.revision.0 as usize, revision);
        let mut keys = BTreeSet::new();
        for event in &changes.events {
            let after = reference.states[revision].get(&event.key);
            let before = reference.states[revision - 1].get(&event.key).filter(|_| revision > compacted);
            assert_eq!(event.record().unwrap().as_ref(), after, "{:?} at {revision}", event.key);
            assert_eq!(event.record_before().unwrap().as_ref(), before, "{:?} before {revision}", event.key);
            assert_eq!(event.cause, if after.is_some() { Cause::Put } else { Cause::Delete });
            assert!(keys.insert(&event.key));
        }
        assert_eq!(keys, reference.changed(revision));
        assert_eq!(log_time_of(&*view, changes.revision).unwrap(), Some(reference.log_times[revision]));
    }
    assert_eq!(revision, reference.present());
}

fn check_versions(shard: &Shard, reference: &Reference, key: &[u8], extent: Extent) {
    let view = shard.engine().view();
    let compacted = extent.compacted.0 as usize;
    let mut expected = Vec::new();
    for revision in (compacted + 1..=reference.present()).rev() {
        if reference.changed(revision).iter().any(|changed| *changed == key) {
            let record = reference.states[revision].get(key).cloned().ok_or(Cause::Delete);
            expected.push(Version { revision: Revision(revision as u64), record });
        }
    }
    let oldest = reference.states[compacted].get(key).cloned();
    expected.extend(oldest.map(|record| Version { revision: record.meta.mod_revision, record: Ok(record) }));
    let found = |before| history_of(&*view, key, before).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(found(None), expected, "{key:?} since {compacted}");
    for place in 0..expected.len() {
        assert_eq!(found(Some(expected[place].revision)), expected[place + 1..]);
    }
}

/// Each row of history is needed, or waits to be swept.
fn check_rows(shard: &Shard, reference: &Reference, extent: Extent) {
    let (history, present) = (shard.header().history, reference.present());
    let rows = rows(shard, Table::History);
    let of_kind = |kind: u8| rows.iter().filter(move |(key, _)| key[0] == kind);
    let bytes = |(key, value): &(Bytes, Bytes)| (key.len() + value.len()) as u64;
    assert_eq!(history.bytes, of_kind(1).chain(of_kind(2)).map(bytes).sum::<u64>());
    assert_eq!(of_kind(0).count(), usize::from(history.begun.is_some()));
    if history.begun.is_none() {
        return assert_eq!((history, rows.len()), (HistoryHeader::default(), 0));
    }
    assert_eq!(extent.compacted, history.compacted);
    // What waits to be swept is there as a whole.
    let swept = extent.swept.0 as usize;
    assert_eq!(of_kind(1).count(), present - swept + usize::from(extent.swept > extent.begun));
    let versions: usize = (swept + 1..=present)
        .flat_map(|revision| reference.changed(revision).into_iter().map(move |key| (revision, key)))
        .map(|(revision, key)| {
            let was_there = reference.states[revision - 1].contains_key(key);
            usize::from(was_there) + usize::from(!reference.states[revision].contains_key(key))
        })
        .sum();
    assert_eq!(of_kind(2).count(), versions);
}

/// No more is kept than was asked for, and what is young and little enough is.
fn check_retention(shard: &Shard, reference: &Reference) {
    let (header, extent) = (shard.header(), extent(&*shard.engine().view()).unwrap());
    let Retention { max_revisions, max_age_ms, max_bytes } = header.settings.retention;
    assert_eq!(header.history.begun.is_some(), header.settings.retention != Retention::default());
    if header.history.begun.is_none() {
        return;
    }
    let (present, compacted) = (reference.present(), extent.compacted.0 as usize);
    let waiting = compacted - extent.swept.0 as usize;
    assert!(waiting < 64 && !header.history.is_pressing, "{waiting} wait");
    assert!(waiting == 0 || compacted < present);
    assert!(max_revisions == 0 || present - compacted <= max_revisions as usize);
    assert!(max_bytes == 0 || header.history.bytes <= max_bytes || compacted == present);
    if max_age_ms > 0 && compacted < present {
        let at_ms = reference.log_times[compacted + 1];
        assert!(at_ms + max_age_ms > header.log_time_ms, "{at_ms} is too old at {}", header.log_time_ms);
        assert!(header.history.next_at_ms.is_some_and(|next_at_ms| next_at_ms <= at_ms));
    }
}

fn configured(retention: Retention) -> Shard {
    let settings = Settings { retention, ..Settings::of(ROOMY) };
    Shard::found(Arc::new(Trie::new()), ShardHeader { settings, ..ShardHeader::default() }).unwrap()
}

const FOR_EVER: Retention = Retention { max_revisions: 0, max_age_ms: 0, max_bytes: 1 << 40 };

fn put(key: &str, value: &str) -> Write {
    Write::put(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
}

fn compact(revision: u64) -> Write {
    Write { ops: vec![Op::Compact { revision: Revision(revision) }], ..Write::default() }
}

#[test]
fn what_is_compacted_at_once_is_swept_entry_by_entry() {
    let mut shard = configured(FOR_EVER);
    for number in 0..2000 {
        apply(&mut shard, &[Entry::of([put(&format!("k{}", number % 7), &number.to_string())])]);
    }
    apply(&mut shard, &[Entry::of([compact(1500)])]);
    let view = || shard.engine().view();
    let (mut swept, mut rounds) = (extent(&*view()).unwrap().swept, 0);
    assert!(swept < Revision(200), "{swept}");
    while shard.due_at_ms().is_some() {
        for revision in [1500, 1501, 1777, 2001_u64] {
            // Revision 1 is that of nothing, and k0 was set at each seventh from 2 on.
            let record = get_at(&*shard.engine().view(), b"k0", Revision(revision)).unwrap().unwrap();
            assert_eq!(record.meta.mod_revision.0, revision - (revision - 2) % 7);
        }
        assert!(matches!(get_at(&*shard.engine().view(), b"k0", Revision(1499)), Err(PastError::Compacted(Revision(1500)))));
        apply(&mut shard, &[Entry::of([])]);
        let now = extent(&*shard.engine().view()).unwrap().swept;
        assert!(now > swept && now <= Revision(1500));
        (swept, rounds) = (now, rounds + 1);
    }
    assert_eq!(swept, Revision(1500));
    assert!((5..40).contains(&rounds), "{rounds}");
    // 502 rows of changes, as many versions that were replaced since, and the reach.
    assert_eq!(rows(&shard, Table::History).len(), 502 + 501 + 1);
}

#[test]
fn a_backlog_does_not_grow_while_much_is_written() {
    let mut shard = configured(Retention { max_revisions: 10, ..Retention::default() });
    for round in 0..20 {
        let writes = (0..1000).map(|number| put(&format!("k{}", number % 300), &round.to_string()));
        apply(&mut shard, &[Entry::of(writes)]);
        let Extent { compacted, swept, .. } = extent(&*shard.engine().view()).unwrap();
        assert_eq!((compacted, swept), (Revision(shard.header().revision.0 - 10), compacted));
    }
}

#[test]
fn history_that_was_switched_off_goes_before_it_begins_anew() {
    let mut shard = configured(FOR_EVER);
    for number in 0..1000 {
        apply(&mut shard, &[Entry::of([put("k", &number.to_string())])]);
    }
    let configure = |retention| {
        let op = Op::Configure(Settings { retention, ..Settings::of(ROOMY) });
        Entry::of([Write { ops: vec![op], ..Write::default() }])
    };
    apply(&mut shard, &[configure(Retention::default())]);
    let reach = |shard: &Shard| extent(&*shard.engine().view()).unwrap();
    assert_eq!(reach(&shard).compacted, Revision(1001));
    apply(&mut shard, &[Entry::of([Write::delete(Bytes::from_static(b"k"))]), configure(FOR_EVER)]);
    apply(&mut shard, &[Entry::of([put("k", "again")])]);
    assert_eq!(shard.header().history.begun, None, "what is left would be taken for what was there meanwhile");
    while shard.due_at_ms().is_some() {
        apply(&mut shard, &[Entry::of([])]);
    }
    let begun = Revision(1003);
    assert_eq!(reach(&shard), Extent { compacted: begun, begun, swept: begun });
    assert_eq!(rows(&shard, Table::History).len(), 1);
    apply(&mut shard, &[Entry::of([put("k", "and again")])]);
    assert_eq!(get_at(&*shard.engine().view(), b"k", begun).unwrap().unwrap().value, "again");
}

#[test]
fn age_counts_by_log_time_and_wakes_a_shard_at_rest_seldom() {
    let mut shard = configured(Retention { max_age_ms: 800, ..Retention::default() });
    let at = |log_time_ms, writes: Vec<Write>| Entry { log_time_ms, ..Entry::of(writes) };
    for second in 1..=5_u64 {
        apply(&mut shard, &[at(second * 100, vec![put("k", &second.to_string())])]);
    }
    assert_eq!(shard.due_at_ms(), Some(100 + 800 + 100));
    apply(&mut shard, &[at(899, vec![])]);
    assert_eq!(shard.header().history.compacted, Revision(1));
    apply(&mut shard, &[at(1000, vec![])]);
    assert_eq!((shard.header().history.compacted, shard.due_at_ms()), (Revision(3), Some(300 + 800 + 100)));
    // What was true 800 ms ago can be read.
    assert_eq!(get_at(&*shard.engine().view(), b"k", Revision(3)).unwrap().unwrap().value, "2");
    apply(&mut shard, &[at(9000, vec![])]);
    assert_eq!((shard.header().history.compacted, shard.due_at_ms()), (Revision(6), None));
}

#[test]
fn a_compaction_that_is_refused_with_its_write_did_not_happen() {
    let mut shard = configured(FOR_EVER);
    apply(&mut shard, &[Entry::of([put("a", "1"), put("a", "2"), put("a", "3")])]);
    let before = shard.header().history;
    let mut write = compact(3);
    write.ops.extend(compact(2).ops);
    let outcome = apply(&mut shard, &[Entry::of([write])]).outcomes.remove(0).1;
    assert_eq!(outcome, Outcome::Compacted { compacted: Revision(3) });
    assert_eq!(shard.header().history, before);
}

#[test]
fn keys_with_many_versions_are_listed_at_the_cost_of_few() {
    let mut shard = configured(FOR_EVER);
    let keys = ["a", "b\0", "b\0\u{1}", "c"];
    for number in 0..60 {
        apply(&mut shard, &[Entry::of(keys.map(|key| put(key, &number.to_string())))]);
    }
    apply(&mut shard, &[Entry::of([Write::delete(Bytes::from_static(b"b\0"))])]);
    let view = shard.engine().view();
    for (revision, expected) in [(5_u64, ["0"; 4]), (101, ["24"; 4]), (241, ["59"; 4])] {
        for direction in [Direction::Forward, Direction::Reverse] {
            let pairs = pairs_at(&*view, &KeyRange::all(), direction, Revision(revision)).unwrap();
            let values: Vec<Bytes> = pairs.map(|pair| pair.unwrap().1.value).collect();
            assert_eq!(values, expected, "at {revision}, {direction:?}");
        }
    }
}

#[test]
fn a_revision_that_took_itself_back_changes_nothing() {
    let mut shard = configured(FOR_EVER);
    let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"v"));
    let mut write = Write::put(key.clone(), value);
    write.ops.push(Op::Delete { key });
    apply(&mut shard, &[Entry::of([write])]);
    let view = shard.engine().view();
    let changes: Vec<_> = changes_after(&*view, Revision(1)).unwrap().map(Result::unwrap).collect();
    assert_eq!((changes.len(), changes[0].revision, changes[0].events.len()), (1, Revision(2), 0));
    assert_eq!(history_of(&*view, b"k", None).unwrap().count(), 0);
}
