//! Transactions: what is compared, what is done then, and what else. Each is an operation of a write, and may hold others.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_engine::{Direction, KeyRange};

use crate::Revision;
use crate::command::{Op, bound_bytes_hint, encode_op, encode_range, op_bytes_hint, read_op, read_range};
use crate::lease::LeaseId;
use crate::outcome::KeyMeta;
use crate::record::Record;
use quorate_engine::codec::{DecodeError, Reader, Writer};

/// Does one thing if all compares hold, and another if not; as a whole, under one revision.
///
/// All compares that decide, those of transactions within too, look at what was there before the write that the transaction is
/// part of; then the operations are done in order, each upon what those before it left. What is refused is refused as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All must hold; none at all do.
    pub compares: Vec<Compare>,
    /// Done in order if they hold.
    pub then: Vec<Op>,
    /// Done in order if one does not.
    pub otherwise: Vec<Op>,
}

/// A comparison with what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Whose side of it is looked at.
    pub keys: Keys,
    /// How the two sides must stand to each other.
    pub relation: Relation,
    /// What is looked at, and what it is compared with.
    pub target: Target,
}

/// Keys that a [`Compare`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// One. If it is not there, its numbers are 0, and no compare with its value holds.
    One(Bytes),
    /// All of a range: the compare must hold for each. A range without keys is like one key that is not there.
    Range(KeyRange),
}

impl Keys {
    /// Whether a key is one of them.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Range(range) => range.contains(key),
        }
    }
}

/// How what is there must stand to what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same.
    Equal,
    /// Anything else.
    NotEqual,
    /// What is there is less.
    Less,
    /// What is there is greater.
    Greater,
}

/// What of a key is compared, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The revision at which it came to be.
    CreateRevision(Revision),
    /// The revision of its last change.
    ModRevision(Revision),
    /// How many times it was set since it came to be.
    Version(u64),
    /// Its value, byte by byte.
    Value(Bytes),
    /// The lease that it hangs on, as a number; 0 for none.
    Lease(LeaseId),
}

/// What of a key there is to compare.
#[derive(Clone, Copy)]
pub(crate) struct Compared<'a> {
    pub(crate) meta: KeyMeta,
    pub(crate) lease: Option<LeaseId>,
    pub(crate) value: &'a [u8],
}

impl<'a> Compared<'a> {
    pub(crate) fn of(record: &'a Record) -> Self {
        Self { meta: record.meta, lease: record.lease, value: &record.value }
    }
}

/// Pairs that are read within a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Of these keys.
    pub range: KeyRange,
    /// At most so many; whether there are more is told.
    pub max_pairs: u64,
    /// In this order.
    pub direction: Direction,
    /// Whether their values are wanted.
    pub is_with_values: bool,
}

/// Why a transaction cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// It, or one within, has more compares or operations than are possible.
    #[error("{ops} compares or operations in one list, at most {max_ops} are possible here")]
    TooManyOps {
        /// How many there are.
        ops: usize,
        /// How many are possible: [`MAX_TRANSACTION_OPS`], and within others what they left of it.
        max_ops: usize,
    },
    /// Transactions within transactions, deeper than is possible.
    #[error("transactions within transactions, more than {MAX_TRANSACTION_DEPTH} deep")]
    TooDeep,
    /// A key is set twice, or is set and deleted, on the same path.
    #[error("the key {:?} is set twice, or set and deleted", String::from_utf8_lossy(key))]
    DuplicateKey {
        /// The key.
        key: Bytes,
    },
}

/// Most compares, operations done then, and operations done otherwise, each. Of a transaction within, what the one around it
/// has left: the longest of its own lists counts against it.
pub const MAX_TRANSACTION_OPS: usize = 128;

/// How deep transactions may lie in each other, the outermost one counted.
pub const MAX_TRANSACTION_DEPTH: usize = 16;

/// Most keys of ranges that one write compares, reads or deletes, all together.
pub const MAX_TRANSACTION_KEYS: u64 = 10_000;

/// Most bytes of keys and records that one write reads, all together: more than the largest pair, and no more than travels as
/// one answer.
pub const MAX_TRANSACTION_READ_BYTES: u64 = 9 << 20;

const COMPARES_RANGE: u8 = 0x80;
const RELATIONS: [Relation; 4] = [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater];
const TARGET_CREATE_REVISION: u8 = 1;
const TARGET_MOD_REVISION: u8 = 2;
const TARGET_VERSION: u8 = 3;
const TARGET_VALUE: u8 = 4;
const TARGET_LEASE: u8 = 5;

const LISTS_BACKWARDS: u8 = 1;
const LISTS_VALUES: u8 = 2;

impl Transaction {
    /// Whether it can be. Whoever proposes one asks this first: the state machine takes every transaction that can be decoded,
    /// and would do what this refuses.
    pub fn check(&self) -> Result<(), TransactionError> {
        self.check_size(MAX_TRANSACTION_OPS, MAX_TRANSACTION_DEPTH)?;
        Touched::by_either(self).map(|_| ())
    }

    /// Whether it changes nothing, whatever it finds.
    pub fn is_read_only(&self) -> bool {
        self.then.iter().chain(&self.otherwise).all(Op::is_read_only)
    }

    /// Whether what it does depends on what is there.
    pub(crate) fn is_conditional(&self) -> bool {
        !self.compares.is_empty() || self.then.iter().chain(&self.otherwise).any(Op::is_conditional)
    }

    fn check_size(&self, max_ops: usize, max_depth: usize) -> Result<(), TransactionError> {
        let ops = self.compares.len().max(self.then.len()).max(self.otherwise.len());
        if ops > max_ops {
            return Err(TransactionError::TooManyOps { ops, max_ops });
        }
        let max_depth = max_depth.checked_sub(1).ok_or(TransactionError::TooDeep)?;
        let within = self.then.iter().chain(&self.otherwise).filter_map(Op::as_transaction);
        within.into_iter().try_for_each(|within| within.check_size(max_ops - ops, max_depth))
    }

    pub(crate) fn bytes_hint(&self) -> usize {
        let compares: usize = self.compares.iter().map(Compare::bytes_hint).sum();
        let ops: usize = self.then.iter().chain(&self.otherwise).map(op_bytes_hint).sum();
        compares + ops + 12
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_varint(self.compares.len() as u64);
        self.compares.iter().for_each(|compare| compare.encode(out));
        for ops in [&self.then, &self.otherwise] {
            out.put_varint(ops.len() as u64);
            ops.iter().for_each(|op| encode_op(op, out));
        }
    }

    /// Reads one that lies in as many others as `max_depth` says are still possible.
    pub(crate) fn read(reader: &mut Reader, max_depth: usize) -> Result<Self, DecodeError> {
        let max_depth = max_depth.checked_sub(1).ok_or(DecodeError::Malformed("transactions too deep"))?;
        Ok(Self {
            compares: reader.list(Compare::read)?,
            then: reader.list(|reader| read_op(reader, max_depth))?,
            otherwise: reader.list(|reader| read_op(reader, max_depth))?,
        })
    }
}

impl Compare {
    fn bytes_hint(&self) -> usize {
        let keys = match &self.keys {
            Keys::One(key) => key.len(),
            Keys::Range(range) => bound_bytes_hint(&range.start) + bound_bytes_hint(&range.end),
        };
        let value = if let Target::Value(value) = &self.target { value.len() } else { 0 };
        keys + value + 24
    }

    /// The target's tag with what kind of keys follow in its highest bit, the relation, the keys, the other side.
    fn encode(&self, out: &mut BytesMut) {
        let tag = match &self.target {
            Target::CreateRevision(_) => TARGET_CREATE_REVISION,
            Target::ModRevision(_) => TARGET_MOD_REVISION,
            Target::Version(_) => TARGET_VERSION,
            Target::Value(_) => TARGET_VALUE,
            Target::Lease(_) => TARGET_LEASE,
        };
        let is_of_range = matches!(self.keys, Keys::Range(_));
        out.put_u8(if is_of_range { tag | COMPARES_RANGE } else { tag });
        out.put_u8(self.relation as u8);
        match &self.keys {
            Keys::One(key) => out.put_bytes_with_len(key),
            Keys::Range(range) => encode_range(range, out),
        }
        match &self.target {
            Target::CreateRevision(Revision(number))
            | Target::ModRevision(Revision(number))
            | Target::Version(number)
            | Target::Lease(LeaseId(number)) => out.put_varint(*number),
            Target::Value(value) => out.put_bytes_with_len(value),
        }
    }

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let tag = reader.u8()?;
        let relation = reader.u8()?;
        let unknown = DecodeError::UnknownTag { what: "relation", tag: relation };
        let relation = *RELATIONS.get(usize::from(relation)).ok_or(unknown)?;
        let keys = match tag & COMPARES_RANGE {
            0 => Keys::One(reader.bytes()?),
            _ => Keys::Range(read_range(reader)?),
        };
        let target = match tag & !COMPARES_RANGE {
            TARGET_CREATE_REVISION => Target::CreateRevision(Revision(reader.varint()?)),
            TARGET_MOD_REVISION => Target::ModRevision(Revision(reader.varint()?)),
            TARGET_VERSION => Target::Version(reader.varint()?),
            TARGET_VALUE => Target::Value(reader.bytes()?),
            TARGET_LEASE => Target::Lease(LeaseId(reader.varint()?)),
            tag => return Err(DecodeError::UnknownTag { what: "compare target", tag }),
        };
        Ok(Self { keys, relation, target })
    }
}

impl Target {
    /// Whether `found` stands so to it; none if the key is not there.
    pub(crate) fn holds(&self, relation: Relation, found: Option<Compared<'_>>) -> bool {
        let meta = found.map(|found| found.meta);
        let of_number = |told: u64, of: fn(KeyMeta) -> u64| meta.map_or(0, of).cmp(&told);
        let ordering = match self {
            Self::CreateRevision(told) => of_number(told.0, |meta| meta.create_revision.0),
            Self::ModRevision(told) => of_number(told.0, |meta| meta.mod_revision.0),
            Self::Version(told) => of_number(*told, |meta| meta.version),
            Self::Lease(told) => found.and_then(|found| found.lease).unwrap_or_default().cmp(told),
            Self::Value(told) => match found {
                Some(found) => found.value.cmp(told),
                None => return false,
            },
        };
        match relation {
            Relation::Equal => ordering.is_eq(),
            Relation::NotEqual => ordering.is_ne(),
            Relation::Less => ordering.is_lt(),
            Relation::Greater => ordering.is_gt(),
        }
    }
}

impl Listing {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let backwards = if self.direction == Direction::Reverse { LISTS_BACKWARDS } else { 0 };
        out.put_u8(backwards | if self.is_with_values { LISTS_VALUES } else { 0 });
        encode_range(&self.range, out);
        out.put_varint(self.max_pairs);
    }

    pub(crate) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let flags = reader.u8()?;
        if flags & !(LISTS_BACKWARDS | LISTS_VALUES) != 0 {
            return Err(DecodeError::UnknownTag { what: "flags of a list", tag: flags });
        }
        let direction = if flags & LISTS_BACKWARDS == 0 { Direction::Forward } else { Direction::Reverse };
        let is_with_values = flags & LISTS_VALUES != 0;
        Ok(Self { range: read_range(reader)?, max_pairs: reader.varint()?, direction, is_with_values })
    }
}

/// What operations set and delete on some path.
#[derive(Default)]
struct Touched<'a> {
    set: BTreeSet<&'a Bytes>,
    deleted: BTreeSet<&'a Bytes>,
    deleted_ranges: Vec<&'a KeyRange>,
}

impl<'a> Touched<'a> {
    /// By operations that are all done.
    fn by_all(ops: &'a [Op]) -> Result<Self, TransactionError> {
        let mut all = Self::default();
        for op in ops {
            let mut one = Self::default();
            match op {
                Op::Put(put) => drop(one.set.insert(&put.key)),
                Op::Patch(patch) => drop(one.set.insert(&patch.key)),
                Op::Delete { key } => drop(one.deleted.insert(key)),
                Op::DeleteRange { range, .. } => one.deleted_ranges.push(range),
                Op::Transaction(within) => one = Self::by_either(within)?,
                // Which keys hang on a lease is not known here. The API has no such operations within transactions.
                Op::LeaseGrant { .. }
                | Op::LeaseRevoke { .. }
                | Op::LeaseExpire { .. }
                | Op::Get { .. }
                | Op::List(_)
                | Op::Configure(_)
                | Op::Compact { .. } => continue,
            }
            if let Some(key) = one.clash_with(&all).or_else(|| all.clash_with(&one)) {
                return Err(TransactionError::DuplicateKey { key: key.clone() });
            }
            all.add(one);
        }
        Ok(all)
    }

    /// By what a transaction does then, or otherwise: what both do does not clash.
    fn by_either(transaction: &'a Transaction) -> Result<Self, TransactionError> {
        let mut either = Self::by_all(&transaction.then)?;
        either.add(Self::by_all(&transaction.otherwise)?);
        Ok(either)
    }

    fn add(&mut self, other: Self) {
        self.set.extend(other.set);
        self.deleted.extend(other.deleted);
        self.deleted_ranges.extend(other.deleted_ranges);
    }

    /// A key that this sets and the other one sets or deletes. Costs what the other one is long: of transactions within each
    /// other, one side may be many times as long as its list.
    fn clash_with(&self, other: &Self) -> Option<&'a Bytes> {
        let (few, many) = if self.set.len() < other.set.len() { (&self.set, &other.set) } else { (&other.set, &self.set) };
        let in_range = |range: &'a KeyRange| {
            let bounds = (range.start.as_ref(), range.end.as_ref());
            if range.is_empty() { None } else { self.set.range::<&Bytes, _>(bounds).next() }
        };
        let set_twice = few.iter().find(|key| many.contains(*key));
        let deleted = || other.deleted.iter().find(|key| self.set.contains(*key));
        set_twice.or_else(deleted).or_else(|| other.deleted_ranges.iter().find_map(|range| in_range(range))).copied()
    }
}
