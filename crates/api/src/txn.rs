//! Transactions: compare, then do one thing or another, as a whole.

mod body;
mod result;

use bytes::Bytes;

use crate::batch::BatchPut;
use crate::patch::BatchPatch;

pub use body::{CompareBody, NumberTest, RangeOpBody, TextTest, TxnBody, TxnError, TxnErrorKind, TxnOpBody};
pub use result::{TxnDone, TxnDoneBody, TxnResult, TxnResultBody, TxnResultError};

/// Largest body of a transaction.
pub const MAX_TXN_BYTES: u64 = 16 << 20;

/// How deep transactions may lie in each other, the outermost one counted.
pub const MAX_TXN_DEPTH: usize = 16;

/// Most compares, and most operations on each side. Of a transaction within, what the one around it has left: the longest of
/// its own lists counts against it.
pub const MAX_TXN_OPS: usize = 128;

/// A transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<TxnCompare>,
    /// Done in order if they do.
    pub then: Vec<TxnOp>,
    /// Done in order if not.
    pub otherwise: Vec<TxnOp>,
}

/// What must be true of keys before anything is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnCompare {
    /// Of these.
    pub keys: TxnKeys,
    /// This.
    pub test: TxnTest,
}

/// One key, or all of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnKeys {
    /// This one.
    One(Bytes),
    /// Each of these; without any, as if it were one that is not there.
    Range(TxnRange),
}

/// Keys that begin so, and lie between two others. What is empty is no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnRange {
    /// What all begin with.
    pub prefix: Bytes,
    /// The first that may be.
    pub start: Bytes,
    /// The first that may not be any more.
    pub end: Bytes,
}

/// What of a key is tested. Of one that is not there, all numbers are 0, and no test of the value holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnTest {
    /// Whether it is there.
    Exists(bool),
    /// How many times it was set since it came to be.
    Version(Relation, u64),
    /// The revision at which it came to be.
    CreateRevision(Relation, u64),
    /// The revision of its last change.
    ModRevision(Relation, u64),
    /// Its value, byte by byte.
    Value(Relation, Bytes),
    /// The lease that it hangs on; 0 is none.
    Lease(Relation, u64),
}

/// How what is there must stand to what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// `=`.
    Equal,
    /// `!=`.
    NotEqual,
    /// `<`: what is there is less.
    Less,
    /// `>`: what is there is greater.
    Greater,
}

impl Relation {
    /// All, with their signs.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Equal, "="), (Self::NotEqual, "!="), (Self::Less, "<"), (Self::Greater, ">")];
}

/// An operation of a transaction. Each sees what those before it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOp {
    /// Reads a key.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Sets a key. It has no `cas`: that is what `if` is for.
    Put(Box<BatchPut>),
    /// Changes a key by what it holds; without `cas` too.
    Patch(Box<BatchPatch>),
    /// Removes a key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Reads pairs of a range.
    List(TxnList),
    /// Removes all keys of a range.
    DeleteRange(TxnRange),
    /// A transaction within. Its compares, too, look at what was there before all of it.
    Txn(Txn),
}

/// Pairs to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnList {
    /// Of these keys.
    pub range: TxnRange,
    /// At most so many; without it, all, as far as a transaction may read.
    pub limit: Option<u64>,
    /// From the last key to the first.
    pub is_reverse: bool,
    /// With their values.
    pub is_with_values: bool,
}

impl Txn {
    /// Whether it changes nothing, whatever it finds.
    pub fn is_read_only(&self) -> bool {
        self.then.iter().chain(&self.otherwise).all(|op| match op {
            TxnOp::Get { .. } | TxnOp::List(_) => true,
            TxnOp::Txn(within) => within.is_read_only(),
            TxnOp::Put(_) | TxnOp::Patch(_) | TxnOp::Delete { .. } | TxnOp::DeleteRange(_) => false,
        })
    }
}

impl TxnRange {
    /// Whether it leaves out no key.
    pub fn is_everything(&self) -> bool {
        self.prefix.is_empty() && self.start.is_empty() && self.end.is_empty()
    }
}

#[cfg(test)]
mod tests;
