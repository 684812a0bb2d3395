//! Many operations in one request, each with a result of its own.

use http::Method;
use quorate_api::batch::{BatchBody, BatchOp, BatchResult, BatchResults};
use quorate_api::entry::{Entry, EntryError};
use quorate_api::problem::{Problem, WriteOutcome};

use crate::call::Client;
use crate::error::Error;
use crate::key_path::one_segment;
use crate::transport::Request;

/// What became of an operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchOutcome {
    /// Of a stream: the place of the operation, from 1.
    pub number: Option<u64>,
    /// The HTTP status that the operation alone would have had.
    pub status: u16,
    /// The shard's revision after it, or of the read.
    pub revision: Option<u64>,
    /// Of a put or a change: how many times the key was set since it came to be.
    pub version: Option<u64>,
    /// Of a write in an eventual keyspace: what it is known by.
    pub stamp: Option<String>,
    /// Of a write in an eventual keyspace: how many other members are known to have it.
    pub replicated: Option<u64>,
    /// Of an increment: the sum.
    pub sum: Option<i64>,
    /// Of a delete: how many keys it removed.
    pub deleted: Option<u64>,
    /// Of a get: what it found.
    pub entry: Option<Entry>,
    /// Why it failed. [`Problem::outcome`] says whether a write may have happened all the same.
    pub problem: Option<Problem>,
}

impl Client {
    /// Does many operations in one request, in order for each key, and not as one: each succeeds or fails alone. The outcomes
    /// are in the order of the operations.
    ///
    /// At most [`quorate_api::batch::MAX_BATCH_OPS`] operations, and
    /// [`MAX_BATCH_BYTES`](quorate_api::batch::MAX_BATCH_BYTES) of them as JSON; more are [`Error::Refused`] with the code
    /// `body_too_large`, and nothing is done. [`Client::batch_stream`] has no such limit. An operation whose turn did not come
    /// within the time limit has the problem `incomplete`. Every write that succeeded is durable. An error means that no
    /// outcome is known; [`Error::outcome`] says whether any of the operations may have happened.
    pub async fn batch(&self, keyspace: &str, ops: &[BatchOp]) -> Result<Vec<BatchOutcome>, Error> {
        let ops: Result<Vec<_>, _> = ops.iter().map(|op| serde_json::value::to_raw_value(&op.to_body())).collect();
        let ops = ops.expect("operations have only string keys");
        let body = BatchBody { ops: ops.iter().map(AsRef::as_ref).collect() };
        let answer = self.call(Request::write(Method::POST, path(keyspace)).with_json(&body)).await?;
        let results: BatchResults<'_> = answer.json(WriteOutcome::Unknown)?;
        let outcomes: Result<Vec<_>, _> = results.results.into_iter().map(BatchOutcome::try_from).collect();
        outcomes.map_err(|error| answer.unexpected(error.to_string(), WriteOutcome::Unknown))
    }
}

/// Where the batches of a keyspace go.
pub(crate) fn path(keyspace: &str) -> String {
    format!("/v1/batch/{}", one_segment(keyspace))
}

impl TryFrom<BatchResult<'_>> for BatchOutcome {
    type Error = EntryError;

    fn try_from(result: BatchResult<'_>) -> Result<Self, EntryError> {
        let BatchResult { line, status, revision, version, stamp, replicated, number, deleted, entry, problem } = result;
        let stamp = stamp.map(std::borrow::Cow::into_owned);
        let entry = entry.map(Entry::try_from).transpose()?;
        Ok(Self { number: line, status, revision, version, stamp, replicated, sum: number, deleted, entry, problem })
    }
}
