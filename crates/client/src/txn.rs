//! Transactions: compare, then do one thing or another, as a whole.

use http::Method;
use quorate_api::problem::WriteOutcome;
use quorate_api::txn::{Txn, TxnResult, TxnResultBody};

use crate::call::Client;
use crate::error::Error;
use crate::key_path::one_segment;
use crate::transport::{Effect, Request};

impl Client {
    /// Does a transaction: if all its compares hold what stands in `then`, if not what stands in `otherwise`, as a whole and
    /// under one revision. That a compare does not hold is no error: [`TxnResult::failed_if`] says which.
    ///
    /// What it writes is durable on a quorum once this returns; one that only reads is linearizable, and retried freely. What
    /// cannot be (more than [`quorate_api::txn::MAX_TXN_OPS`] operations, a key that is written twice, more than the keyspace or
    /// a transaction takes) is [`Error::Refused`], and nothing was done. [`Error::outcome`] says whether it may have been.
    pub async fn txn(&self, keyspace: &str, txn: &Txn) -> Result<TxnResult, Error> {
        let effect = if txn.is_read_only() { Effect::Repeatable } else { Effect::Write };
        let target = format!("/v1/txn?ks={}", one_segment(keyspace));
        let request = Request { effect, takes_key: true, ..Request::write(Method::POST, target).with_json(&txn.to_body()) };
        let outcome = if effect == Effect::Write { WriteOutcome::Unknown } else { WriteOutcome::NotApplied };
        let answer = self.call(request).await?;
        let body: TxnResultBody<'_> = answer.json(outcome)?;
        TxnResult::try_from(body).map_err(|error| answer.unexpected(error.to_string(), outcome))
    }
}
