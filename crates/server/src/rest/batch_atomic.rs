//! Batches that are one write: `POST /v1/batch/{ks}?atomic=true`.

use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use quorate_api::batch::{BatchBody, BatchOp, BatchResults, Cas, MAX_BATCH_BYTES, MAX_BATCH_OPS};
use quorate_api::keyspace::Capability;
use quorate_api::problem::Code;
use quorate_node::keyspace::{Guard, Op, Outcome, Write};

use super::answer::{self, Answer, HeaderText};
use super::batch::{Finished, check_key, code_of, patch_of, put_of};
use super::body::{RequestBody, require_json};
use super::conditions::{self, Conditions};
use super::endpoint::App;
use super::keyspaces::require;
use super::once;
use super::one_key::{Target, guards};
use super::refusal::Refusal;
use super::store::{Freshness, Store, Wish};

/// What is to be done, and which operation each condition is of.
#[derive(Default)]
struct Plan {
    guards: Vec<Guard>,
    guarded_ops: Vec<usize>,
    ops: Vec<Op>,
}

pub(super) async fn answer<S: Store>(
    app: &App<S>,
    head: &Parts,
    keyspace: &str,
    timeout: Duration,
    body: &mut RequestBody<'_>,
) -> Result<Answer, Refusal> {
    require(app, keyspace, Capability::AtomicBatch)?;
    require_json(&head.headers, "an atomic batch")?;
    let body = body.read(MAX_BATCH_BYTES, Code::BodyTooLarge).await?;
    let batch: BatchBody<'_> = serde_json::from_slice(&body).map_err(|error| Refusal::new(Code::BadBody, error.to_string()))?;
    if batch.ops.len() > MAX_BATCH_OPS {
        let detail = format!("{} operations, at most {MAX_BATCH_OPS} are possible", batch.ops.len());
        return Err(Refusal::new(Code::BodyTooLarge, detail));
    }
    let mut plan = Plan::default();
    for (position, json) in batch.ops.iter().enumerate() {
        let here = |refusal: Refusal| refusal.within(&format!("ops[{position}]"));
        let op = BatchOp::parse(json.get().as_bytes());
        let op = op.map_err(|error| here(Refusal::new(code_of(&error), error.to_string())))?;
        plan.add(app, keyspace, op, timeout).await.map_err(here)?;
    }
    let Plan { guards, guarded_ops, ops } = plan;
    let write = once::once(app, keyspace, &head.headers, Write { guards, ops: ops.clone() })?;
    let own_guards = write.guards.len() - guarded_ops.len();
    let written = app.store.write(keyspace, write, Wish::default(), timeout).await.map_err(Refusal::of_write)?;
    let (written, is_repeated) = once::unwrapped(written);
    if let Some(refusal) = Refusal::of_outcome(written.epoch, &written.outcome) {
        let guard = match written.outcome {
            Outcome::ConditionFailed { guard, .. } => (guard as usize).checked_sub(own_guards),
            _ => None,
        };
        let refusal = match guard.and_then(|guard| guarded_ops.get(guard)) {
            Some(position) => refusal.within(&format!("ops[{position}]")),
            None => refusal,
        };
        return Err(once::marked(refusal, is_repeated));
    }
    let Outcome::Applied { revision, results } = written.outcome else { unreachable!("everything else is a refusal") };
    // What was read has an end, perhaps, which is told from now on.
    let mut now_ms = 0;
    if ops.iter().any(|op| matches!(op, Op::Get { .. })) {
        now_ms = app.store.read(keyspace, Freshness::LOCAL, timeout).await.map_err(Refusal::of_read)?.now_ms;
    }
    let results: Vec<Finished> =
        ops.iter().zip(results).map(|(op, result)| Finished::of_op(op, result, revision, now_ms)).collect();
    let mut headers = answer::headers();
    HeaderText::new().insert_revision(&mut headers, revision);
    once::mark(&mut headers, is_repeated);
    let results = results.iter().map(|result| result.to_body(None)).collect();
    Ok(answer::json(StatusCode::OK, headers, &BatchResults { results, failed: 0 }))
}

impl Plan {
    async fn add<S: Store>(&mut self, app: &App<S>, keyspace: &str, op: BatchOp, timeout: Duration) -> Result<(), Refusal> {
        check_key(op.key())?;
        let key = op.key().clone();
        let (op, cas) = match op {
            BatchOp::Get { key } => (Op::Get { key }, None),
            BatchOp::Delete { key, cas } => (Op::Delete { key }, cas),
            BatchOp::Put(put) => {
                let cas = put.cas.clone();
                (Op::Put(put_of(app, keyspace, *put)?), cas)
            }
            BatchOp::Patch(patch) => {
                let cas = patch.cas.clone();
                (Op::Patch(Box::new(patch_of(app, keyspace, *patch)?)), cas)
            }
        };
        let conditions = Conditions::of_cas(cas.as_ref().map(parsed).transpose()?);
        let target = Target { keyspace, key, is_key64: true };
        for guard in guards(app, &target, &conditions, timeout).await? {
            self.guards.push(guard);
            self.guarded_ops.push(self.ops.len());
        }
        self.ops.push(op);
        Ok(())
    }
}

fn parsed(cas: &Cas) -> Result<conditions::Cas, Refusal> {
    let bad_cas = || Refusal::new(Code::BadOperation, "cas: neither a revision nor EPOCH.REVISION");
    conditions::Cas::parse(&cas.to_string()).ok_or_else(bad_cas)
}
