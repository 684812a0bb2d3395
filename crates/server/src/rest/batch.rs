//! Batches: `POST /v1/batch/{ks}`, as one JSON object; `batch_stream` has those that come as lines.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Either;
use quorate_api::batch::{
    BatchBody, BatchOp, BatchOpError, BatchPut, BatchResult, BatchResults, Cas, MAX_BATCH_BYTES, MAX_BATCH_OPS,
};
use quorate_api::entry::{Encoding, Entry, MAX_LIST_BYTES, NDJSON};
use quorate_api::key::MAX_KEY_BYTES;
use quorate_api::keyspace::Capability;
use quorate_api::patch::{BatchPatch, KeyPatch};
use quorate_api::problem::{Code, Problem};
use quorate_node::eventual_replication::Ack;
use quorate_node::keyspace::{Edit, Op, OpResult, Patch, Put, Revision, Write};

use super::answer::{self, Answer, AnswerBody};
use super::batch_stream;
use super::body::{RequestBody, media_type, refuse_coding};
use super::conditions::{self, Conditions};
use super::deadline::Deadline;
use super::endpoint::App;
use super::one_key::{
    CONTENT_TYPE_FORM, Target, WrittenOne, entry_of, guards, kept_content_type, parse_lease, parse_ttl, write_one,
};
use super::query::{Treatment, parameters};
use super::refusal::Refusal;
use super::session;
use super::store::{Freshness, KeyReading, Replicated, Store};
use super::window::{Weight, Window};
use super::{batch_atomic, keyspaces, meta, once, patch};
use crate::eventual_view::stamp_text;

/// Gets at a time, at most, of one batch: what they read is in memory until it was sent.
const GET_WEIGHT: usize = 16;

/// What a batch asks for besides its operations.
#[derive(Debug, Default)]
struct Options {
    treatment: Treatment,
    is_only_failed: Option<bool>,
    is_atomic: Option<bool>,
}

/// What all operations of a batch have in common.
pub(super) struct Shared<S> {
    pub(super) app: Arc<App<S>>,
    pub(super) keyspace: Arc<str>,
    pub(super) freshness: Freshness,
    /// Whom writes wait for, if that is said.
    pub(super) ack: Option<Ack>,
    pub(super) limit: TimeLimit,
}

/// How long operations may take.
#[derive(Clone, Copy, Debug)]
pub(super) enum TimeLimit {
    /// All together.
    Until(Deadline),
    /// Each.
    Each(Duration),
}

/// What became of an operation.
#[derive(Debug, Default)]
pub(super) struct Finished {
    status: u16,
    revision: Option<u64>,
    version: Option<u64>,
    replicated: Option<Replicated>,
    number: Option<i64>,
    deleted: Option<u64>,
    entry: Option<Entry>,
    problem: Option<Problem>,
}

pub(super) async fn answer<S: Store>(
    app: &Arc<App<S>>,
    head: &Parts,
    keyspace: &str,
    body: &mut RequestBody<'_>,
) -> Result<Either<Answer, Response<AnswerBody>>, Refusal> {
    let options = Options::parse(head.uri.query())?;
    let freshness = keyspaces::freshness(app, keyspace, &options.treatment, &head.headers)?;
    let timeout = options.treatment.timeout(&head.headers)?;
    let ack = options.treatment.ack(app, keyspace)?;
    session::refuse(&head.headers, "a batch is in no session: its operations go beside each other")?;
    if options.is_atomic == Some(true) {
        return batch_atomic::answer(app, head, keyspace, timeout, body).await.map(Either::Left);
    }
    once::refuse(&head.headers, "a batch that is not atomic is many writes; only with atomic=true")?;
    let is_only_failed = options.is_only_failed == Some(true);
    let shared = |limit| Shared { app: Arc::clone(app), keyspace: Arc::from(keyspace), freshness, ack, limit };
    if is_lines(&head.headers)? {
        return batch_stream::begin(shared(TimeLimit::Each(timeout)), body, is_only_failed).await.map(Either::Right);
    }
    if options.is_only_failed.is_some() {
        return Err(Refusal::new(Code::BadParameter, "results: only of a batch as lines"));
    }
    let body = body.read(MAX_BATCH_BYTES, Code::BodyTooLarge).await?;
    let batch: BatchBody<'_> = serde_json::from_slice(&body).map_err(|error| Refusal::new(Code::BadBody, error.to_string()))?;
    if batch.ops.len() > MAX_BATCH_OPS {
        let detail = format!("{} operations, at most {MAX_BATCH_OPS} are possible; as lines there is no limit", batch.ops.len());
        return Err(Refusal::new(Code::BodyTooLarge, detail));
    }
    let results = execute_all(shared(TimeLimit::Until(Deadline::after(timeout))), &batch).await?;
    let failed = results.iter().filter(|result| result.problem.is_some()).count() as u64;
    let results = results.iter().map(|result| result.to_body(None)).collect();
    Ok(Either::Left(answer::json(StatusCode::OK, answer::headers(), &BatchResults { results, failed })))
}

/// Whether the body is lines, and not one object.
fn is_lines(headers: &HeaderMap) -> Result<bool, Refusal> {
    refuse_coding(headers, "a batch")?;
    match media_type(headers) {
        Some(media_type) if media_type.eq_ignore_ascii_case(NDJSON) => Ok(true),
        Some(media_type) if media_type.eq_ignore_ascii_case("application/json") => Ok(false),
        _ => Err(Refusal::new(Code::UnsupportedMediaType, format!("content-type: a batch is application/json or {NDJSON}"))),
    }
}

async fn execute_all<S: Store>(shared: Shared<S>, batch: &BatchBody<'_>) -> Result<Vec<Finished>, Refusal> {
    let mut window = Window::new(shared);
    let mut results = Results { all: Vec::with_capacity(batch.ops.len()), read_bytes: 0 };
    for json in &batch.ops {
        match BatchOp::parse(json.get().as_bytes()) {
            Err(error) => window.refuse(bad_op(&error)),
            Ok(BatchOp::Get { .. }) if results.read_bytes > MAX_LIST_BYTES => {
                let refusal = Refusal::new(Code::AnswerTooLarge, format!("more than {MAX_LIST_BYTES} bytes were read before"));
                window.refuse(refusal.into_part(false));
            }
            Ok(mut op) => {
                while let Err(waiting) = window.begin(op) {
                    op = waiting;
                    window.wait().await?;
                    results.take_from(&mut window);
                }
            }
        }
        results.take_from(&mut window);
    }
    while !window.is_empty() {
        window.wait().await?;
        results.take_from(&mut window);
    }
    Ok(results.all)
}

/// Results so far.
struct Results {
    all: Vec<Finished>,
    read_bytes: usize,
}

impl Results {
    fn take_from<S: Store>(&mut self, window: &mut Window<S>) {
        while let Some(finished) = window.take() {
            self.read_bytes += finished.entry_bytes();
            self.all.push(finished);
        }
    }
}

/// The problem of what is no operation.
pub(super) fn bad_op(error: &BatchOpError) -> Problem {
    Refusal::new(code_of(error), error.to_string()).into_part(true)
}

pub(super) fn code_of(error: &BatchOpError) -> Code {
    match error {
        BatchOpError::UnknownOp(_) => Code::UnknownOperation,
        _ => Code::BadOperation,
    }
}

impl Options {
    fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut options = Self::default();
        for parameter in parameters(query) {
            match parameter.name {
                "results" => {
                    let is_only_failed = match parameter.text()?.as_str() {
                        "all" => false,
                        "failed" => true,
                        _ => return Err(parameter.bad("neither all nor failed")),
                    };
                    parameter.set(&mut options.is_only_failed, is_only_failed)?;
                }
                "atomic" => parameter.set(&mut options.is_atomic, parameter.flag()?)?,
                "ack" => drop(options.treatment.take_ack(parameter)?),
                _ if options.treatment.take_read(parameter)? => {}
                _ => return Err(parameter.unknown(&["atomic", "results", "ack", "consistency", "min_revision", "timeout"])),
            }
        }
        Ok(options)
    }
}

impl TimeLimit {
    pub(super) fn left(self) -> Result<Duration, Refusal> {
        match self {
            Self::Each(timeout) => Ok(timeout),
            Self::Until(deadline) => {
                deadline.left().ok_or_else(|| Refusal::new(Code::Incomplete, "the time limit ended before this operation"))
            }
        }
    }
}

impl<S: Store> Shared<S> {
    /// Does an operation, and says what became of it.
    pub(super) async fn execute(&self, op: BatchOp) -> Finished {
        let is_write = !matches!(op, BatchOp::Get { .. });
        let finished = match check_key(op.key()) {
            Err(refusal) => Err(refusal),
            Ok(()) => match op {
                BatchOp::Get { key } => self.get(key).await,
                BatchOp::Put(put) => self.put(*put).await,
                BatchOp::Patch(patch) => self.patch(*patch).await,
                BatchOp::Delete { key, cas } => self.delete(key, cas.as_ref()).await,
            },
        };
        finished.unwrap_or_else(|refusal| Finished::failed(refusal.into_part(is_write)))
    }

    async fn get(&self, key: Bytes) -> Result<Finished, Refusal> {
        let timeout = self.limit.left()?;
        if self.freshness.asks_others {
            let found = self.app.store.read_key(&self.keyspace, &key, None, timeout).await.map_err(Refusal::of_read)?;
            if let Some(KeyReading { record, now_ms, .. }) = found {
                let entry = Some(entry_of(key, record.ok_or_else(not_found)?, now_ms));
                return Ok(Finished { status: 200, entry, ..Finished::default() });
            }
        }
        if let Some(outside) = self.app.store.outside(&self.keyspace, timeout).await.map_err(Refusal::of_read)? {
            let record = outside.get(&key, timeout).await.map_err(Refusal::of_read)?.ok_or_else(not_found)?;
            return Ok(Finished { status: 200, entry: Some(entry_of(key, record, outside.now_ms)), ..Finished::default() });
        }
        let reading = self.app.store.read(&self.keyspace, self.freshness, timeout).await.map_err(Refusal::of_read)?;
        let record = quorate_node::keyspace::get(&*reading.view, &key)?;
        let record = record.ok_or_else(not_found)?;
        let entry = Some(entry_of(key, record, reading.now_ms));
        Ok(Finished { status: 200, revision: told(Revision(reading.view.revision())), entry, ..Finished::default() })
    }

    async fn put(&self, put: BatchPut) -> Result<Finished, Refusal> {
        let (key, cas) = (put.key.clone(), put.cas.clone());
        let put = put_of(&self.app, &self.keyspace, put)?;
        let written = self.write(key, cas.as_ref(), Op::Put(put)).await?;
        let done = if written.result.before.is_some() { StatusCode::NO_CONTENT } else { StatusCode::CREATED };
        let status = written.status(done).as_u16();
        let WrittenOne { revision, result, replicated, .. } = written;
        let version = result.after.filter(|meta| meta.create_revision != Revision(0)).map(|meta| meta.version);
        Ok(Finished { status, revision: told(revision), version, replicated, ..Finished::default() })
    }

    async fn patch(&self, patch: BatchPatch) -> Result<Finished, Refusal> {
        let (key, cas) = (patch.key.clone(), patch.cas.clone());
        let patch = patch_of(&self.app, &self.keyspace, patch)?;
        let WrittenOne { revision, result, .. } = self.write(key, cas.as_ref(), Op::Patch(Box::new(patch))).await?;
        let Some(meta) = result.after else {
            return Err(patch::nothing_to_touch(revision));
        };
        let (revision, version) = (Some(revision.0), Some(meta.version));
        Ok(Finished { status: 200, revision, version, number: patch::number_in(&result), ..Finished::default() })
    }

    async fn delete(&self, key: Bytes, cas: Option<&Cas>) -> Result<Finished, Refusal> {
        let written = self.write(key.clone(), cas, Op::Delete { key }).await?;
        let status = written.status(StatusCode::NO_CONTENT).as_u16();
        let WrittenOne { revision, result, replicated, .. } = written;
        let deleted = Some(u64::from(result.before.is_some()));
        Ok(Finished { status, revision: told(revision), deleted, replicated, ..Finished::default() })
    }

    async fn write(&self, key: Bytes, cas: Option<&Cas>, op: Op) -> Result<WrittenOne, Refusal> {
        let bad_cas = || Refusal::new(Code::BadOperation, "cas: neither a revision nor EPOCH.REVISION");
        let cas = match cas {
            Some(cas) => Some(conditions::Cas::parse(&cas.to_string()).ok_or_else(bad_cas)?),
            None => None,
        };
        // A key in a body is refused like one in a parameter.
        let target = Target { keyspace: &self.keyspace, key, is_key64: true };
        let guards = guards(&self.app, &target, &Conditions::of_cas(cas), self.limit.left()?).await?;
        let write = Write { guards, ops: vec![op] };
        write_one(&self.app, &target, write, (self.ack, None), self.limit.left()?).await
    }
}

fn not_found() -> Refusal {
    Refusal::new(Code::KeyNotFound, "the keyspace does not hold this key")
}

/// The keyspace's revision, where it has one.
fn told(revision: Revision) -> Option<u64> {
    (revision != Revision(0)).then_some(revision.0)
}

/// What is to be changed, and how, without conditions. The sum of an increment is told, and no other value: those may be large.
pub(super) fn patch_of<S: Store>(app: &App<S>, keyspace: &str, patch: BatchPatch) -> Result<Patch, Refusal> {
    let BatchPatch { key, patch, ttl, .. } = patch;
    let bad_ttl = |why| Refusal::new(Code::BadOperation, format!("ttl: {why}"));
    let ttl_ms = ttl.map(|ttl| parse_ttl(&ttl).map_err(bad_ttl)).transpose()?;
    let edit = patch::edit_of(app, keyspace, patch, ttl_ms, Code::BadOperation)?;
    let is_told = matches!(edit, Edit::Increment { .. });
    Ok(Patch { key, edit, ttl_ms, max_value_bytes: app.config.max_value_bytes, is_told })
}

/// What is to be set, without conditions; it does not look at the key.
pub(super) fn put_of<S: Store>(app: &App<S>, keyspace: &str, put: BatchPut) -> Result<Put, Refusal> {
    let BatchPut { key, value, content_type, meta, ttl, lease, .. } = put;
    let bad_ttl = |why| Refusal::new(Code::BadOperation, format!("ttl: {why}"));
    let ttl_ms = ttl.map(|ttl| parse_ttl(&ttl).map_err(bad_ttl)).transpose()?;
    if ttl_ms.is_some() {
        keyspaces::require(app, keyspace, Capability::TtlPerKey)?;
    }
    let bad_lease = |why| Refusal::new(Code::BadOperation, format!("lease: {why}"));
    let lease = lease.map(|lease| parse_lease(&lease).map_err(bad_lease)).transpose()?;
    if lease.is_some() {
        keyspaces::require(app, keyspace, Capability::Leases)?;
    }
    let max_bytes = app.config.max_value_bytes;
    if value.len() as u64 > max_bytes {
        return Err(Refusal::new(Code::ValueTooLarge, format!("a value has at most {max_bytes} bytes")));
    }
    let bad_type = || Refusal::new(Code::BadOperation, format!("content_type: {CONTENT_TYPE_FORM}"));
    let content_type = match content_type {
        Some(text) => Some(kept_content_type(text.as_bytes()).ok_or_else(bad_type)?),
        None => None,
    };
    Ok(Put { key, value, content_type, user_meta: meta::for_record(&meta), ttl_ms, lease })
}

pub(super) fn check_key(key: &Bytes) -> Result<(), Refusal> {
    match key.len() {
        0 => Err(Refusal::new(Code::EmptyKey, "a key has at least one byte")),
        1..=MAX_KEY_BYTES => Ok(()),
        len => Err(Refusal::new(Code::KeyTooLong, format!("{len} bytes, at most {MAX_KEY_BYTES} are possible"))),
    }
}

/// What an operation takes of a window.
pub(super) fn weight_of(op: &BatchOp) -> Weight {
    match op {
        BatchOp::Get { .. } => Weight { places: GET_WEIGHT, bytes: 0 },
        BatchOp::Put(put) => Weight { places: 1, bytes: put.key.len() + put.value.len() },
        BatchOp::Patch(patch) => Weight { places: 1, bytes: patch.key.len() + patch_bytes(&patch.patch) },
        BatchOp::Delete { key, .. } => Weight { places: 1, bytes: key.len() },
    }
}

fn patch_bytes(patch: &KeyPatch) -> usize {
    match patch {
        KeyPatch::Append { value: bytes } | KeyPatch::Merge { patch: bytes } => bytes.len(),
        KeyPatch::Increment { .. } | KeyPatch::Touch => 0,
    }
}

impl Finished {
    /// That of an operation of an atomic batch: what is not there is no failure of the whole.
    pub(super) fn of_op(op: &Op, result: OpResult, revision: Revision, now_ms: u64) -> Self {
        let number = patch::number_in(&result);
        let version = result.after.map(|meta| meta.version);
        let was_there = result.before.is_some();
        let finished = Self { revision: Some(revision.0), ..Self::default() };
        match op {
            Op::Get { .. } => match patch::pair_in(result) {
                Some((key, record)) => Self { status: 200, entry: Some(entry_of(key, record, now_ms)), ..finished },
                None => Self { status: 404, ..finished },
            },
            Op::Put(_) => Self { status: if was_there { 204 } else { 201 }, version, ..finished },
            Op::Patch(_) if version.is_none() => Self { status: 404, ..finished },
            Op::Patch(_) => Self { status: 200, version, number, ..finished },
            _ => Self { status: 204, deleted: Some(u64::from(was_there)), ..finished },
        }
    }

    pub(super) fn failed(problem: Problem) -> Self {
        Self { status: problem.status, problem: Some(problem), ..Self::default() }
    }

    pub(super) fn is_failed(&self) -> bool {
        self.problem.is_some()
    }

    fn entry_bytes(&self) -> usize {
        self.entry.as_ref().map_or(0, |entry| entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len))
    }

    /// As it travels.
    pub(super) fn to_body(&self, line: Option<u64>) -> BatchResult<'_> {
        BatchResult {
            line,
            status: self.status,
            revision: self.revision,
            version: self.version,
            stamp: self.replicated.and_then(|replicated| replicated.stamp).map(|version| stamp_text(version).into()),
            replicated: self.replicated.map(|replicated| replicated.members.into()),
            number: self.number,
            deleted: self.deleted,
            entry: self.entry.as_ref().map(|entry| entry.to_body(Encoding::Text)),
            problem: self.problem.clone(),
        }
    }
}
