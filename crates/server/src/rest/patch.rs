//! One key: `PATCH` on `/v1/kv/{ks}/{key...}` and on `/v1/kv/{ks}?key64=`.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use quorate_api::batch::{BatchOpError, MAX_BATCH_BYTES};
use quorate_api::duration;
use quorate_api::entry::{Encoding, PutBody};
use quorate_api::keyspace::Capability;
use quorate_api::patch::{ACCEPT_PATCH, KEY_OP, KeyPatch, MAX_MERGE_PATCH_BYTES, MERGE_PATCH};
use quorate_api::problem::Code;
use quorate_node::keyspace::{Detail, Edit, MAX_JSON_BYTES, Op, OpResult, Patch, Record, Revision, Write, check_merge_patch};

use super::answer::{self, Answer, HeaderText, TTL};
use super::body::{RequestBody, media_type, refuse_coding};
use super::conditions::Conditions;
use super::endpoint::App;
use super::keyspaces;
use super::meta;
use super::once;
use super::one_key::{
    Preference, Target, WriteOptions, content_type_value, counters, entry_of, guards, parse_ttl, ttl_left, write_one,
};
use super::refusal::Refusal;
use super::session::Session;
use super::store::{Freshness, Store};

const _: () = assert!(MAX_MERGE_PATCH_BYTES == MAX_JSON_BYTES as u64, "what is told is what holds");

const ACCEPT_PATCH_NAME: HeaderName = HeaderName::from_static("accept-patch");

pub(super) async fn patch<S: Store>(
    app: &App<S>,
    head: &Parts,
    target: Target<'_>,
    body: &mut RequestBody<'_>,
    session: &mut Option<Session>,
) -> Result<Answer, Refusal> {
    let options = WriteOptions::of_patch(head, target.is_key64)?;
    let timeout = options.treatment.timeout(&head.headers)?;
    let conditions = Conditions::parse(&head.headers, options.cas)?;
    let (change, told_ttl_ms) = change_in(&head.headers, body).await?;
    let ttl_ms = match (options.ttl_ms(&head.headers)?, told_ttl_ms) {
        (Some(_), Some(_)) => return Err(Refusal::new(Code::BadParameter, "ttl: given in the body too")),
        (of_request, of_body) => of_request.or(of_body),
    };
    let edit = edit_of(app, target.keyspace, change, ttl_ms, Code::BadBody)?;
    let preference = Preference::of(&head.headers);
    let is_told = preference != Some(Preference::Minimal);

    let guards = guards(app, &target, &conditions, timeout).await?;
    let key = target.key.clone();
    let patch = Patch { key, edit, ttl_ms, max_value_bytes: app.config.max_value_bytes, is_told };
    let write = Write { guards, ops: vec![Op::Patch(Box::new(patch))] };
    let write = once::once(app, target.keyspace, &head.headers, write)?;
    let written = write_one(app, &target, write, (None, session.as_mut()), timeout).await?;
    let Some(meta) = written.result.after else {
        return Err(nothing_to_touch(written.revision));
    };
    let mut text = HeaderText::new();
    let mut headers = written.headers(&mut text, &meta, preference);
    let before = written.result.before;
    let Some(record) = record_in(written.result) else {
        return Ok(answer::empty(StatusCode::NO_CONTENT, headers));
    };
    let now_ms = match record.expires_at_ms {
        Some(_) => app.store.read(target.keyspace, Freshness::LOCAL, timeout).await.map_err(Refusal::of_read)?.now_ms,
        None => 0,
    };
    if preference == Some(Preference::Representation) {
        let entry = entry_of(target.key, record, now_ms);
        let body = PutBody { entry: entry.to_body(Encoding::Text), prev: before.map(counters) };
        return Ok(answer::json(StatusCode::OK, headers, &body));
    }
    meta::insert(&mut headers, &record.user_meta);
    if let Some(ttl_ms) = ttl_left(&record, now_ms) {
        headers.insert(TTL, text.value(format_args!("{}", duration::format_seconds(ttl_ms))));
    }
    headers.insert(CONTENT_TYPE, content_type_value(record.content_type));
    answer::insert_sandbox(&mut headers);
    Ok(answer::with_body(StatusCode::OK, headers, record.value))
}

/// What the body asks for, and the time to live that it names, in milliseconds.
async fn change_in(headers: &HeaderMap, body: &mut RequestBody<'_>) -> Result<(KeyPatch, Option<u64>), Refusal> {
    let accepting = |refusal: Refusal| refusal.with_header(ACCEPT_PATCH_NAME, HeaderValue::from_static(ACCEPT_PATCH));
    refuse_coding(headers, "a patch").map_err(accepting)?;
    let is = |known: &str| media_type(headers).is_some_and(|told| told.eq_ignore_ascii_case(known));
    if is(MERGE_PATCH) {
        let patch = body.read(MAX_MERGE_PATCH_BYTES, Code::BodyTooLarge).await?;
        return Ok((KeyPatch::Merge { patch }, None));
    }
    if !is(KEY_OP) {
        let detail = format!("content-type: a patch is {MERGE_PATCH} or {KEY_OP}");
        return Err(accepting(Refusal::new(Code::UnsupportedMediaType, detail)));
    }
    let body = body.read(MAX_BATCH_BYTES, Code::BodyTooLarge).await?;
    let (change, ttl) = KeyPatch::parse(&body).map_err(|error| {
        let code = match &error {
            BatchOpError::UnknownPatch(_) => Code::UnknownOperation,
            _ => Code::BadBody,
        };
        Refusal::new(code, error.to_string())
    })?;
    let bad_ttl = |why| Refusal::new(Code::BadBody, format!("ttl: {why}"));
    Ok((change, ttl.map(|ttl| parse_ttl(&ttl).map_err(bad_ttl)).transpose()?))
}

/// The change as the state machine makes it, if the keyspace can. What cannot be a patch is refused with `bad`.
pub(super) fn edit_of<S: Store>(
    app: &App<S>,
    keyspace: &str,
    patch: KeyPatch,
    ttl_ms: Option<u64>,
    bad: Code,
) -> Result<Edit, Refusal> {
    keyspaces::require(app, keyspace, Capability::Counters)?;
    if ttl_ms.is_some() {
        keyspaces::require(app, keyspace, Capability::TtlPerKey)?;
    }
    Ok(match patch {
        KeyPatch::Increment { by, initial } => Edit::Increment { by, initial },
        KeyPatch::Append { value } => {
            let max_bytes = app.config.max_value_bytes;
            if value.len() as u64 > max_bytes {
                return Err(Refusal::new(Code::ValueTooLarge, format!("a value has at most {max_bytes} bytes")));
            }
            Edit::Append { value }
        }
        KeyPatch::Touch => Edit::Touch,
        KeyPatch::Merge { patch } => {
            check_merge_patch(&patch).map_err(|error| Refusal::new(bad, format!("the merge patch: {error}")))?;
            Edit::Merge { patch }
        }
    })
}

/// A touch came to a key that is not there.
pub(super) fn nothing_to_touch(revision: Revision) -> Refusal {
    Refusal::new(Code::KeyNotFound, "the keyspace does not hold this key").with_revision(revision)
}

/// The sum, of an increment.
pub(super) fn number_in(result: &OpResult) -> Option<i64> {
    match result.detail.as_deref() {
        Some(Detail::Read(pairs)) => pairs.items.first().and_then(|(_, record)| Patch::number(&record.value)),
        _ => None,
    }
}

/// The key as it is now, if it is told.
fn record_in(result: OpResult) -> Option<Record> {
    pair_in(result).map(|(_, record)| record)
}

/// The pair that an operation tells of.
pub(super) fn pair_in(result: OpResult) -> Option<(Bytes, Record)> {
    match result.detail.map(|detail| *detail) {
        Some(Detail::Read(mut pairs)) => pairs.items.pop(),
        _ => None,
    }
}
