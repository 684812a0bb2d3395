//! Answers and the headers that they share.

use std::fmt::{self, Write as _};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{Either, Full};
use quorate_api::entry::NDJSON;
use quorate_api::etag::EntityTag;
use quorate_api::header;
use quorate_node::keyspace::{KeyMeta, Revision};
use serde::Serialize;

use super::outside::tag_in;
use super::scans::Stream;
use crate::eventual_view::{stamp_text, version_in};

/// What most routes answer with: the whole body at hand.
pub(super) type Answer = Response<Full<Bytes>>;

/// The body of every answer: at hand, or one that axum made, or a stream.
pub(super) type AnswerBody = Either<Full<Bytes>, axum::body::Body>;

pub(super) const REVISION: HeaderName = HeaderName::from_static(header::REVISION);
pub(super) const MOD_REVISION: HeaderName = HeaderName::from_static(header::MOD_REVISION);
pub(super) const CREATE_REVISION: HeaderName = HeaderName::from_static(header::CREATE_REVISION);
pub(super) const VERSION: HeaderName = HeaderName::from_static(header::VERSION);
pub(super) const STAMP: HeaderName = HeaderName::from_static(header::STAMP);
pub(super) const REPLICATED: HeaderName = HeaderName::from_static(header::REPLICATED);
pub(super) const ANSWERED: HeaderName = HeaderName::from_static(header::ANSWERED);
pub(super) const NODE: HeaderName = HeaderName::from_static(header::NODE);
pub(super) const CONSISTENCY: HeaderName = HeaderName::from_static(header::CONSISTENCY);
pub(super) const TTL: HeaderName = HeaderName::from_static(header::TTL);
pub(super) const EPOCH: HeaderName = HeaderName::from_static(header::EPOCH);
pub(super) const WATCH_SCOPE: HeaderName = HeaderName::from_static(header::WATCH_SCOPE);
pub(super) const INDEX: HeaderName = HeaderName::from_static(header::INDEX);
pub(super) const LEASE: HeaderName = HeaderName::from_static(header::LEASE);
pub(super) const DELETED: HeaderName = HeaderName::from_static(header::DELETED);

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
pub(super) const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A header map that takes all that a key route sets without growing.
pub(super) fn headers() -> HeaderMap {
    HeaderMap::with_capacity(13)
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode, headers: HeaderMap) -> Answer {
    with_body(status, headers, Bytes::new())
}

/// An answer with a body.
pub(super) fn with_body(status: StatusCode, headers: HeaderMap, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, headers: HeaderMap, body: &impl Serialize) -> Answer {
    json_text(status, headers, to_json(body))
}

/// A body as JSON text.
pub(super) fn to_json(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).expect("bodies have string keys and no fallible parts").into()
}

/// An answer in JSON that is text already.
pub(super) fn json_text(status: StatusCode, mut headers: HeaderMap, body: Bytes) -> Answer {
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    with_body(status, headers, body)
}

/// An answer whose lines are made while it is sent.
pub(super) fn ndjson(mut headers: HeaderMap, lines: Stream) -> Response<AnswerBody> {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    let mut answer = Response::new(Either::Right(axum::body::Body::new(lines)));
    *answer.headers_mut() = headers;
    answer
}

/// An answer in plain text.
pub(super) fn text(status: StatusCode, body: String) -> Answer {
    let mut headers = headers();
    headers.insert(CONTENT_TYPE, TEXT);
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    with_body(status, headers, body.into())
}

pub(super) const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const SANDBOX: HeaderValue = HeaderValue::from_static("sandbox; default-src 'none'");

/// Keeps a browser from treating a stored value as a page of this origin (CVE-2020-25864 was that).
pub(super) fn insert_sandbox(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers.insert(CONTENT_SECURITY_POLICY, SANDBOX);
}

/// Header values of one answer, written into one buffer that they share.
pub(super) struct HeaderText(BytesMut);

impl HeaderText {
    pub(super) fn new() -> Self {
        Self(BytesMut::with_capacity(128))
    }

    /// The value for these arguments, which must come out as visible ASCII.
    pub(super) fn value(&mut self, value: fmt::Arguments<'_>) -> HeaderValue {
        let _ = self.0.write_fmt(value);
        HeaderValue::from_maybe_shared(self.0.split().freeze()).expect("numbers and punctuation are visible ASCII")
    }

    /// The keyspace's revision, where it has one.
    pub(super) fn insert_revision(&mut self, headers: &mut HeaderMap, revision: Revision) {
        if revision == Revision(0) {
            return;
        }
        headers.insert(REVISION, self.value(format_args!("{revision}")));
    }

    /// The `ETag` and the counters of a key, or its stamp.
    pub(super) fn insert_meta(&mut self, headers: &mut HeaderMap, epoch: u64, meta: &KeyMeta) {
        if let Some(tag) = tag_in(meta) {
            headers.insert(STAMP, self.value(format_args!("{tag}")));
            // The store did not say what it made of the write.
            if tag == 0 {
                return;
            }
        }
        headers.insert(ETAG, self.value(format_args!("\"{}\"", entity_tag(epoch, meta))));
        if let Some(version) = version_in(meta) {
            headers.insert(STAMP, self.value(format_args!("{}", stamp_text(version))));
            return;
        }
        if tag_in(meta).is_some() {
            return;
        }
        headers.insert(MOD_REVISION, self.value(format_args!("{}", meta.mod_revision)));
        headers.insert(CREATE_REVISION, self.value(format_args!("{}", meta.create_revision)));
        headers.insert(VERSION, self.value(format_args!("{}", meta.version)));
    }
}

/// The tag that goes with a key's counters.
pub(super) fn entity_tag(epoch: u64, meta: &KeyMeta) -> EntityTag {
    let instance = version_in(meta).map_or(0, |version| version.instance.0);
    EntityTag { epoch, mod_revision: meta.mod_revision.0, instance }
}
