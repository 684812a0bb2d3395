//! `Idempotency-Key`: a request that is done once, however often it is sent, and through whichever node.

use std::hash::Hasher as _;

use http::{HeaderMap, HeaderName, HeaderValue};
use quorate_api::header;
use quorate_api::keyspace::Capability;
use quorate_api::problem::Code;
use quorate_node::keyspace::{Condition, Guard, Outcome, Write};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::endpoint::App;
use super::keyspaces::require;
use super::refusal::Refusal;
use super::store::{Store, Written};

const KEY: HeaderName = HeaderName::from_static(header::IDEMPOTENCY_KEY);
const REPLAYED: HeaderName = HeaderName::from_static(header::IDEMPOTENCY_REPLAYED);

/// Longest key.
const MAX_KEY_BYTES: usize = 255;

/// The write, done once if the request asks for that. What it is told from others by is the write itself: what it demands, and
/// what it does, byte by byte. What this node, and perhaps no other, lets values grow to is no part of that.
pub(super) fn once<S: Store>(app: &App<S>, keyspace: &str, headers: &HeaderMap, mut write: Write) -> Result<Write, Refusal> {
    let Some(key) = key_in(headers)? else {
        return Ok(write);
    };
    require(app, keyspace, Capability::Idempotency)?;
    // Fixed keys: every node must come to the same, in every version.
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    hasher.write(&write.without_bounds().to_bytes());
    let condition = Condition::Once(hasher.finish128().as_bytes());
    write.guards.insert(0, Guard { key: key.to_vec().into(), condition });
    Ok(write)
}

/// Refuses the header where a request is more than one write.
pub(super) fn refuse(headers: &HeaderMap, why: &str) -> Result<(), Refusal> {
    if headers.contains_key(KEY) {
        return Err(Refusal::new(Code::BadHeader, format!("{KEY}: {why}")));
    }
    Ok(())
}

/// What became of the write, and whether that was some time ago.
pub(super) fn unwrapped(written: Written) -> (Written, bool) {
    match written.outcome {
        Outcome::Repeated(earlier) => (Written { outcome: *earlier, ..written }, true),
        _ => (written, false),
    }
}

/// Says that the answer is that to an earlier request.
pub(super) fn mark(headers: &mut HeaderMap, is_repeated: bool) {
    if is_repeated {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
}

/// The same of a refusal.
pub(super) fn marked(refusal: Refusal, is_repeated: bool) -> Refusal {
    if is_repeated { refusal.with_header(REPLAYED, HeaderValue::from_static("true")) } else { refusal }
}

/// The key, with or without double quotes around it.
fn key_in(headers: &HeaderMap) -> Result<Option<&[u8]>, Refusal> {
    let mut told = headers.get_all(KEY).iter();
    let Some(value) = told.next() else {
        return Ok(None);
    };
    let bad = |why: &str| Refusal::new(Code::BadHeader, format!("{KEY}: {why}"));
    if told.next().is_some() {
        return Err(bad("given twice"));
    }
    let value = value.as_bytes().trim_ascii();
    let key = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    let is_fit = (1..=MAX_KEY_BYTES).contains(&key.len()) && key.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'"');
    if is_fit { Ok(Some(key)) } else { Err(bad("1 to 255 visible ASCII characters, which may stand in double quotes")) }
}
