//! Writes as a test makes them up, and the entries that hold them.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use quorate_engine::{Direction, KeyRange, Table, Trie};
use quorate_keyspace::{
    Applied, Command, Compare, Condition, Edit, EntryHeader, Guard, Keys, Limits, Listing, Op, Patch, Put, Record, Relation,
    RequestId, Revision, Settings, Shard, ShardHeader, Target, Transaction, Write, encode_entry,
};

/// The term of every entry.
pub(crate) const TERM: u64 = 3;

/// An entry before it has an index.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) log_time_ms: u64,
    pub(crate) commands: Vec<Command>,
}

impl Entry {
    /// An entry of writes that nobody sends again.
    pub(crate) fn of(writes: impl IntoIterator<Item = Write>) -> Self {
        let command = |write| Command { id: RequestId::default(), floor: 0, write };
        Self { log_time_ms: 0, commands: writes.into_iter().map(command).collect() }
    }

    fn to_bytes(&self) -> Bytes {
        let commands: Vec<Bytes> = self.commands.iter().map(Command::to_bytes).collect();
        encode_entry(EntryHeader { log_time_ms: self.log_time_ms }, commands.iter())
    }
}

/// Room for all that a test writes.
pub(crate) const ROOMY: Limits = Limits { max_bytes: 1 << 20, max_key_bytes: 0, max_value_bytes: 0 };

/// An empty shard.
pub(crate) fn shard(limits: Limits) -> Shard {
    let header = ShardHeader { settings: Settings::of(limits), ..ShardHeader::default() };
    Shard::found(Arc::new(Trie::new()), header).unwrap()
}

/// Applies entries as one batch.
pub(crate) fn apply(shard: &mut Shard, entries: &[Entry]) -> Applied {
    let first = shard.header().applied_index + 1;
    let indexed: Vec<_> = (first..).zip(entries).map(|(index, entry)| (index, TERM, entry.to_bytes())).collect();
    shard.apply(&indexed).unwrap()
}

/// What the shard's engine holds.
pub(crate) fn pairs(shard: &Shard) -> Vec<(Bytes, Bytes)> {
    rows(shard, Table::Current)
}

/// What is in a table of the shard's engine.
pub(crate) fn rows(shard: &Shard, table: Table) -> Vec<(Bytes, Bytes)> {
    shard.engine().view().scan(table, &KeyRange::all(), Direction::Forward).collect::<Result<_, _>>().unwrap()
}

/// The same, decoded.
pub(crate) fn records(shard: &Shard) -> Vec<(Bytes, Record)> {
    pairs(shard).into_iter().map(|(key, value)| (key, Record::decode(value).unwrap())).collect()
}

/// Bytes of keys and records, counted one by one.
pub(crate) fn counted_bytes(shard: &Shard) -> u64 {
    pairs(shard).iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
}

/// Few keys, so that writes meet; some are prefixes of others.
pub(crate) fn key() -> impl Strategy<Value = Bytes> {
    select(vec!["", "a", "ab", "abc", "b"]).prop_map(|key| Bytes::from_static(key.as_bytes()))
}

fn condition() -> impl Strategy<Value = Condition> {
    let revisions = || vec((1..12_u64).prop_map(Revision), 0..4);
    prop_oneof![
        Just(Condition::Exists),
        Just(Condition::Absent),
        revisions().prop_map(Condition::ModRevisionIn),
        revisions().prop_map(Condition::ModRevisionNotIn),
    ]
}

/// Also bounds between which no key can be.
fn bound() -> impl Strategy<Value = Bound<Bytes>> {
    prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)]
}

fn range() -> impl Strategy<Value = KeyRange> {
    (bound(), bound()).prop_map(|(start, end)| KeyRange { start, end })
}

/// Compares that often hold, and often do not.
pub(crate) fn compare() -> impl Strategy<Value = Compare> {
    let keys = prop_oneof![3 => key().prop_map(Keys::One), 1 => range().prop_map(Keys::Range)];
    let relation = select(vec![Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater]);
    let target = prop_oneof![
        (0..8_u64).prop_map(|number| Target::CreateRevision(Revision(number))),
        (0..8_u64).prop_map(|number| Target::ModRevision(Revision(number))),
        (0..4_u64).prop_map(Target::Version),
        vec(any::<u8>(), 0..2).prop_map(|value| Target::Value(value.into())),
    ];
    (keys, relation, target).prop_map(|(keys, relation, target)| Compare { keys, relation, target })
}

/// Transactions, some within others.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    leaf_op().prop_recursive(3, 20, 3, |within| {
        let lists = (vec(compare(), 0..3), vec(within.clone(), 0..4), vec(within, 0..3));
        lists.prop_map(|(compares, then, otherwise)| Op::Transaction(Box::new(Transaction { compares, then, otherwise })))
    })
}

fn leaf_op() -> impl Strategy<Value = Op> {
    let number = (-9..99_i64).prop_map(|number| Bytes::from(number.to_string()));
    let value = prop_oneof![vec(any::<u8>(), 0..60).prop_map(Bytes::from), number];
    let content_type = option::of(select(vec!["", "text/plain"]).prop_map(|text| Bytes::from_static(text.as_bytes())));
    let user_meta = vec((key(), vec(any::<u8>(), 0..9).prop_map(Bytes::from)), 0..2);
    prop_oneof![
        8 => (key(), value, content_type, user_meta)
            .prop_map(|(key, value, content_type, user_meta)| {
                Op::Put(Put { key, value, content_type, user_meta, ttl_ms: None, lease: None })
            }),
        3 => (key(), edit(), 0..60_u64, any::<bool>()).prop_map(|(key, edit, max_value_bytes, is_told)| {
            Op::Patch(Box::new(Patch { key, edit, ttl_ms: None, max_value_bytes, is_told }))
        }),
        4 => key().prop_map(|key| Op::Delete { key }),
        2 => (range(), 0..4_u64).prop_map(|(range, max_keys)| Op::DeleteRange { range, max_keys }),
        2 => key().prop_map(|key| Op::Get { key }),
        2 => (range(), 0..4_u64, any::<bool>(), any::<bool>()).prop_map(|(range, max_pairs, is_reverse, is_with_values)| {
            let direction = if is_reverse { Direction::Reverse } else { Direction::Forward };
            Op::List(Listing { range, max_pairs, direction, is_with_values })
        }),
        1 => (0..12_u64).prop_map(|revision| Op::Compact { revision: Revision(revision) }),
        1 => limits().prop_map(|limits| Op::Configure(Settings::of(limits))),
    ]
}

/// Without merges: those have tests of their own.
fn edit() -> impl Strategy<Value = Edit> {
    let number = || prop_oneof![-9..9_i64, select(vec![i64::MIN, i64::MAX])];
    prop_oneof![
        (number(), number()).prop_map(|(by, initial)| Edit::Increment { by, initial }),
        vec(any::<u8>(), 0..30).prop_map(|value| Edit::Append { value: value.into() }),
        Just(Edit::Touch),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    let guard = (key(), condition()).prop_map(|(key, condition)| Guard { key, condition });
    (vec(guard, 0..2), vec(op(), 0..4)).prop_map(|(guards, ops)| Write { guards, ops })
}

/// Few origins and sequences, so that requests come again.
fn command() -> impl Strategy<Value = Command> {
    (1..3_u64, 0..6_u64, 0..6_u64, write()).prop_map(|(origin, sequence, floor, write)| Command {
        id: RequestId { origin, sequence },
        floor: floor.min(sequence),
        write,
    })
}

/// Entries whose log times are below `max_log_time_ms`, in no order.
pub(crate) fn entries(max_log_time_ms: u64) -> impl Strategy<Value = Vec<Entry>> {
    let entry = (0..max_log_time_ms, vec(command(), 0..4)).prop_map(|(log_time_ms, commands)| Entry { log_time_ms, commands });
    vec(entry, 0..20)
}

/// From limits that refuse nearly everything to none that matters.
pub(crate) fn limits() -> impl Strategy<Value = Limits> {
    let max_bytes = prop_oneof![0..400_u64, Just(u64::from(u32::MAX))];
    (max_bytes, 0..4_u64, prop_oneof![Just(0), 1..60_u64]).prop_map(|(max_bytes, max_key_bytes, max_value_bytes)| Limits {
        max_bytes,
        max_key_bytes,
        max_value_bytes,
    })
}
