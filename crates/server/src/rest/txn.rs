//! Transactions: `POST /v1/txn`. One that only reads is answered from a linearizable view, others go through the log.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use quorate_api::batch::BatchOpError;
use quorate_api::key::DEFAULT_KEYSPACE;
use quorate_api::keyspace::Capability;
use quorate_api::problem::Code;
use quorate_api::txn::{
    MAX_TXN_BYTES, MAX_TXN_DEPTH, MAX_TXN_OPS, Relation, Txn, TxnCompare, TxnDone, TxnError, TxnErrorKind, TxnKeys, TxnList,
    TxnOp, TxnResult, TxnTest,
};
use quorate_engine::Direction;
use quorate_node::keyspace::{
    self, Compare, Detail, Keys, LeaseId, Listing, Op, OpResult, Outcome, Revision, Target, Transaction, TransactionError,
    TransactionResult, Write,
};

use super::answer::{self, Answer, HeaderText};
use super::batch::{check_key, patch_of, put_of};
use super::body::{RequestBody, require_json};
use super::deadline::Deadline;
use super::endpoint::{App, keyspace_name};
use super::keyspaces::require;
use super::once;
use super::one_key::entry_of;
use super::patch::number_in;
use super::query::{Treatment, parameters};
use super::refusal::Refusal;
use super::scans::Cost;
use super::selection;
use super::store::{Freshness, Store, Wish, Written};

const _: () = assert!(
    MAX_TXN_OPS == keyspace::MAX_TRANSACTION_OPS && MAX_TXN_DEPTH == keyspace::MAX_TRANSACTION_DEPTH,
    "what is told is what holds"
);

/// What a transaction asks for beside what stands in it.
#[derive(Debug, Default)]
struct Options {
    treatment: Treatment,
    keyspace: Option<String>,
    is_strict: Option<bool>,
}

pub(super) async fn answer<S: Store>(app: &App<S>, head: &Parts, body: &mut RequestBody<'_>) -> Result<Answer, Refusal> {
    let options = Options::parse(head.uri.query())?;
    let name = keyspace_name(options.keyspace.as_deref().unwrap_or(DEFAULT_KEYSPACE), &Method::POST)?;
    require(app, &name, Capability::Txn)?;
    let deadline = Deadline::after(options.treatment.timeout(&head.headers)?);
    require_json(&head.headers, "a transaction")?;
    let body = body.read(MAX_TXN_BYTES, Code::BodyTooLarge).await?;
    let txn = Txn::parse(&body).map_err(|error| malformed(&error))?;
    let transaction = transaction_of(app, &name, txn, "")?;
    transaction.check().map_err(|error| impossible(&error))?;

    let write = Write::transaction(transaction.clone());
    let mut is_repeated = false;
    let Written { epoch, outcome, now_ms, .. } = if transaction.is_read_only() {
        read(app, &name, write, has_ranges(&transaction), deadline).await?
    } else {
        let left = deadline.left().unwrap_or_default();
        let write = once::once(app, &name, &head.headers, write)?;
        let written = app.store.write(&name, write, Wish::default(), left).await.map_err(Refusal::of_write)?;
        let (written, was_done) = once::unwrapped(written);
        is_repeated = was_done;
        written
    };
    if let Some(refusal) = Refusal::of_outcome(epoch, &outcome) {
        return Err(once::marked(refusal, is_repeated));
    }
    let Outcome::Applied { revision, results } = outcome else { unreachable!("everything else is a refusal") };
    let Some(Detail::Transaction(result)) = results.into_iter().next().and_then(|result| result.detail).map(|detail| *detail)
    else {
        return Err(Refusal::new(Code::Internal, "a transaction without its result"));
    };
    match result.failed {
        Some(failed) if options.is_strict == Some(true) && transaction.otherwise.is_empty() => {
            Err(Refusal::new(Code::PreconditionFailed, format!("if[{failed}] does not hold")).with_revision(revision))
        }
        _ => {
            let mut answer = rendered(revision, &transaction, result, now_ms);
            once::mark(answer.headers_mut(), is_repeated);
            Ok(answer)
        }
    }
}

/// The keyspace that a transaction names in its query.
pub(super) fn keyspace_in(query: Option<&str>) -> String {
    let named = parameters(query).find(|parameter| parameter.name == "ks").and_then(|parameter| parameter.text().ok());
    named.unwrap_or_else(|| DEFAULT_KEYSPACE.to_owned())
}

async fn read<S: Store>(
    app: &App<S>,
    name: &str,
    write: Write,
    has_ranges: bool,
    deadline: Deadline,
) -> Result<Written, Refusal> {
    let left = deadline.left().unwrap_or_default();
    let reading = app.store.read(name, Freshness::LATEST, left).await.map_err(Refusal::of_read)?;
    let now_ms = reading.now_ms;
    let found = move || Ok(keyspace::read_only(reading.view, &write)?);
    let outcome = if has_ranges {
        let cost = if app.store.can(name, Capability::Ordered) { Cost::Returned } else { Cost::Everything };
        app.scans.run(cost, deadline, |_| found()).await?
    } else {
        found()?
    };
    Ok(Written { epoch: reading.epoch, outcome, now_ms, replicated: None, session: None })
}

fn has_ranges(transaction: &Transaction) -> bool {
    let is_range = |op: &Op| match op {
        Op::List(_) | Op::DeleteRange { .. } => true,
        Op::Transaction(within) => has_ranges(within),
        _ => false,
    };
    transaction.compares.iter().any(|compare| matches!(compare.keys, Keys::Range(_)))
        || transaction.then.iter().chain(&transaction.otherwise).any(is_range)
}

impl Options {
    fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut options = Self::default();
        for parameter in parameters(query) {
            match parameter.name {
                "ks" => parameter.set(&mut options.keyspace, parameter.text()?)?,
                "strict" => parameter.set(&mut options.is_strict, parameter.flag()?)?,
                _ if options.treatment.take_write(parameter)? => {}
                _ => return Err(parameter.unknown(&["ks", "strict", "timeout"])),
            }
        }
        Ok(options)
    }
}

/// What cannot be read as a transaction.
fn malformed(error: &TxnError) -> Refusal {
    let code = match &error.kind {
        TxnErrorKind::Json(_) if error.at.is_empty() => Code::BadBody,
        TxnErrorKind::UnknownOp(_) | TxnErrorKind::Op(BatchOpError::UnknownOp(_)) => Code::UnknownOperation,
        TxnErrorKind::EmptySelection => Code::EmptySelection,
        TxnErrorKind::TooDeep => Code::TooManyOperations,
        _ => Code::BadTransaction,
    };
    Refusal::new(code, error.to_string())
}

fn impossible(error: &TransactionError) -> Refusal {
    let code = match error {
        TransactionError::TooManyOps { .. } | TransactionError::TooDeep => Code::TooManyOperations,
        TransactionError::DuplicateKey { .. } => Code::DuplicateKey,
    };
    Refusal::new(code, error.to_string())
}

/// `at` stands before the names of its parts in refusals.
fn transaction_of<S: Store>(app: &App<S>, keyspace: &str, txn: Txn, at: &str) -> Result<Transaction, Refusal> {
    let Txn { compares, then, otherwise } = txn;
    Ok(Transaction {
        compares: each(at, "if", compares, |compare, here| compare_of(compare).map_err(|refusal| refusal.within(here)))?,
        then: each(at, "then", then, |op, here| op_of(app, keyspace, op, here))?,
        otherwise: each(at, "else", otherwise, |op, here| op_of(app, keyspace, op, here))?,
    })
}

fn each<A, B>(at: &str, list: &str, parts: Vec<A>, of: impl Fn(A, &str) -> Result<B, Refusal>) -> Result<Vec<B>, Refusal> {
    let parts = parts.into_iter().enumerate();
    parts.map(|(position, part)| of(part, &format!("{at}{list}[{position}]"))).collect()
}

fn compare_of(compare: TxnCompare) -> Result<Compare, Refusal> {
    let keys = match compare.keys {
        TxnKeys::One(key) => {
            check_key(&key)?;
            Keys::One(key)
        }
        TxnKeys::Range(range) => Keys::Range(selection::range_of(&range)?),
    };
    let (relation, target) = match compare.test {
        TxnTest::Exists(true) => (Relation::Greater, Target::Version(0)),
        TxnTest::Exists(false) => (Relation::Equal, Target::Version(0)),
        TxnTest::Version(relation, number) => (relation, Target::Version(number)),
        TxnTest::CreateRevision(relation, number) => (relation, Target::CreateRevision(Revision(number))),
        TxnTest::ModRevision(relation, number) => (relation, Target::ModRevision(Revision(number))),
        TxnTest::Value(relation, value) => (relation, Target::Value(value)),
        TxnTest::Lease(relation, id) => (relation, Target::Lease(LeaseId(id))),
    };
    let relation = match relation {
        Relation::Equal => keyspace::Relation::Equal,
        Relation::NotEqual => keyspace::Relation::NotEqual,
        Relation::Less => keyspace::Relation::Less,
        Relation::Greater => keyspace::Relation::Greater,
    };
    Ok(Compare { keys, relation, target })
}

fn op_of<S: Store>(app: &App<S>, keyspace: &str, op: TxnOp, here: &str) -> Result<Op, Refusal> {
    let told = |refusal: Refusal| refusal.within(here);
    let checked = |key: Bytes| check_key(&key).map(|()| key).map_err(told);
    let range_of = |range| selection::range_of(range).map_err(told);
    Ok(match op {
        TxnOp::Get { key } => Op::Get { key: checked(key)? },
        TxnOp::Delete { key } => Op::Delete { key: checked(key)? },
        TxnOp::Put(put) => {
            check_key(&put.key).map_err(told)?;
            Op::Put(put_of(app, keyspace, *put).map_err(told)?)
        }
        TxnOp::Patch(patch) => {
            check_key(&patch.key).map_err(told)?;
            Op::Patch(Box::new(patch_of(app, keyspace, *patch).map_err(told)?))
        }
        TxnOp::List(TxnList { range, limit, is_reverse, is_with_values }) => Op::List(Listing {
            range: range_of(&range)?,
            max_pairs: limit.unwrap_or(u64::MAX),
            direction: if is_reverse { Direction::Reverse } else { Direction::Forward },
            is_with_values,
        }),
        // Never in part: more than can go at once is refused.
        TxnOp::DeleteRange(range) => Op::DeleteRange { range: range_of(&range)?, max_keys: u64::MAX },
        TxnOp::Txn(txn) => Op::Transaction(Box::new(transaction_of(app, keyspace, txn, &format!("{here}."))?)),
    })
}

fn rendered(revision: Revision, transaction: &Transaction, result: TransactionResult, now_ms: u64) -> Answer {
    let (failed_if, results) = done(transaction, result, now_ms);
    let result = TxnResult { revision: revision.0, failed_if, results };
    let mut headers: HeaderMap = answer::headers();
    HeaderText::new().insert_revision(&mut headers, revision);
    answer::json(StatusCode::OK, headers, &result.to_body())
}

fn done(transaction: &Transaction, result: TransactionResult, now_ms: u64) -> (Option<u64>, Vec<TxnDone>) {
    let ops = if result.failed.is_none() { &transaction.then } else { &transaction.otherwise };
    let results = ops.iter().zip(result.results).map(|(op, result)| done_by(op, result, now_ms)).collect();
    (result.failed, results)
}

fn done_by(op: &Op, result: OpResult, now_ms: u64) -> TxnDone {
    if let (Op::Patch(_), Some(meta)) = (op, result.after) {
        return TxnDone::Patched { version: meta.version, number: number_in(&result) };
    }
    let OpResult { before, after, detail } = result;
    match detail.map(|detail| *detail) {
        Some(Detail::Removed(removed)) => TxnDone::DeletedRange { keys: removed.keys },
        Some(Detail::Read(mut pairs)) => match op {
            Op::List(listing) => {
                let entry = |(key, record)| {
                    let entry = entry_of(key, record, now_ms);
                    quorate_api::entry::Entry { value: entry.value.filter(|_| listing.is_with_values), ..entry }
                };
                TxnDone::Listed { items: pairs.items.into_iter().map(entry).collect(), has_more: pairs.has_more }
            }
            _ => TxnDone::Got(pairs.items.pop().map(|(key, record)| entry_of(key, record, now_ms))),
        },
        Some(Detail::Transaction(result)) => {
            let (failed_if, results) = match op {
                Op::Transaction(within) => done(within, result, now_ms),
                _ => (result.failed, Vec::new()),
            };
            TxnDone::Txn { failed_if, results }
        }
        None => match after {
            Some(meta) => TxnDone::Put { is_new: before.is_none(), version: meta.version },
            None if matches!(op, Op::Patch(_)) => TxnDone::Got(None),
            None => TxnDone::Deleted { keys: u64::from(before.is_some()) },
        },
    }
}
