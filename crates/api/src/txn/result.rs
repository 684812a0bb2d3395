//! What became of a transaction.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::entry::{Encoding, Entry, EntryBody, EntryError};

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResult {
    /// The shard's revision afterwards; that of the read, if it only read.
    pub revision: u64,
    /// The first compare that did not hold, from 0; none if all did.
    pub failed_if: Option<u64>,
    /// One per operation of the side that was done, in order.
    pub results: Vec<TxnDone>,
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnDone {
    /// A key was set.
    Put {
        /// It was not there before.
        is_new: bool,
        /// How many times it was set since it came to be.
        version: u64,
    },
    /// A key was changed by what it held.
    Patched {
        /// How many times it was set since it came to be.
        version: u64,
        /// Of an increment: the sum.
        number: Option<i64>,
    },
    /// A key was removed, or was not there.
    Deleted {
        /// How many keys were removed.
        keys: u64,
    },
    /// Keys of a range were removed.
    DeletedRange {
        /// How many.
        keys: u64,
    },
    /// What a get found. A touch of a key that is not there finds nothing too.
    Got(Option<Entry>),
    /// What a list found.
    Listed {
        /// The pairs.
        items: Vec<Entry>,
        /// Whether there are more than were asked for.
        has_more: bool,
    },
    /// What a transaction within came to.
    Txn {
        /// The first compare of it that did not hold.
        failed_if: Option<u64>,
        /// One per operation of the side that was done.
        results: Vec<Self>,
    },
}

/// [`TxnResult`] as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TxnResultBody<'a> {
    /// Whether all compares held.
    pub succeeded: bool,
    /// The first compare of `if` that did not hold, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_if: Option<u64>,
    /// The shard's revision afterwards; that of the read, if it only read.
    pub revision: u64,
    /// One per operation of the side that was done, in order.
    pub results: Vec<TxnDoneBody<'a>>,
}

/// [`TxnDone`] as it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TxnDoneBody<'a> {
    /// What the operation alone would have been answered with.
    pub status: u16,
    /// Of a put or a change: how many times the key was set since it came to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Of an increment: the sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
    /// Of a delete: how many keys it removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<u64>,
    /// Of a get: the key and its value; with status 404, also of a touch, it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryBody<'a>>,
    /// Of a list: the pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<EntryBody<'a>>>,
    /// Of a list with a limit: there are more than these.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// Of a transaction within: whether all its compares held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub succeeded: Option<bool>,
    /// Of a transaction within: the first of its compares that did not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_if: Option<u64>,
    /// Of a transaction within: one per operation that was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Vec<Self>>,
}

/// Why a [`TxnResultBody`] is no [`TxnResult`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxnResultError {
    /// An entry is none.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// A result that says nothing of any operation.
    #[error("a result with status {0} says nothing of any operation")]
    Unknown(u16),
}

impl TxnResult {
    /// Whether all compares held.
    pub fn is_success(&self) -> bool {
        self.failed_if.is_none()
    }

    /// As it travels.
    pub fn to_body(&self) -> TxnResultBody<'_> {
        TxnResultBody {
            succeeded: self.is_success(),
            failed_if: self.failed_if,
            revision: self.revision,
            results: self.results.iter().map(TxnDone::to_body).collect(),
        }
    }
}

impl TryFrom<TxnResultBody<'_>> for TxnResult {
    type Error = TxnResultError;

    fn try_from(body: TxnResultBody<'_>) -> Result<Self, TxnResultError> {
        let results = body.results.into_iter().map(TxnDone::try_from).collect::<Result<_, _>>()?;
        Ok(Self { revision: body.revision, failed_if: body.failed_if, results })
    }
}

impl TxnDone {
    fn to_body(&self) -> TxnDoneBody<'_> {
        let with = |status| TxnDoneBody { status, ..TxnDoneBody::default() };
        match self {
            Self::Put { is_new, version } => TxnDoneBody { version: Some(*version), ..with(if *is_new { 201 } else { 204 }) },
            Self::Patched { version, number } => TxnDoneBody { version: Some(*version), number: *number, ..with(200) },
            Self::Deleted { keys } => TxnDoneBody { deleted: Some(*keys), ..with(204) },
            Self::DeletedRange { keys } => TxnDoneBody { deleted: Some(*keys), ..with(200) },
            Self::Got(None) => with(404),
            Self::Got(Some(entry)) => TxnDoneBody { entry: Some(entry.to_body(Encoding::Text)), ..with(200) },
            Self::Listed { items, has_more } => {
                let items = items.iter().map(|entry| entry.to_body(Encoding::Text)).collect();
                TxnDoneBody { items: Some(items), more: *has_more, ..with(200) }
            }
            Self::Txn { failed_if, results } => TxnDoneBody {
                succeeded: Some(failed_if.is_none()),
                failed_if: *failed_if,
                results: Some(results.iter().map(Self::to_body).collect()),
                ..with(200)
            },
        }
    }
}

impl TryFrom<TxnDoneBody<'_>> for TxnDone {
    type Error = TxnResultError;

    fn try_from(body: TxnDoneBody<'_>) -> Result<Self, TxnResultError> {
        match body {
            TxnDoneBody { version: Some(version), number, status: 200, .. } => Ok(Self::Patched { version, number }),
            TxnDoneBody { version: Some(version), status, .. } => Ok(Self::Put { is_new: status == 201, version }),
            TxnDoneBody { deleted: Some(keys), status: 200, .. } => Ok(Self::DeletedRange { keys }),
            TxnDoneBody { deleted: Some(keys), .. } => Ok(Self::Deleted { keys }),
            TxnDoneBody { entry: Some(entry), .. } => Ok(Self::Got(Some(entry.try_into()?))),
            TxnDoneBody { items: Some(items), more, .. } => {
                let items = items.into_iter().map(Entry::try_from).collect::<Result<_, _>>()?;
                Ok(Self::Listed { items, has_more: more })
            }
            TxnDoneBody { results: Some(results), failed_if, .. } => {
                Ok(Self::Txn { failed_if, results: results.into_iter().map(Self::try_from).collect::<Result<_, _>>()? })
            }
            TxnDoneBody { status: 404, .. } => Ok(Self::Got(None)),
            TxnDoneBody { status, .. } => Err(TxnResultError::Unknown(status)),
        }
    }
}
