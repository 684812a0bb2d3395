//! Batches: many operations in one request, each with a result of its own.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::entry::EntryBody;
use crate::patch::{BatchPatch, KeyPatch, PatchBody};
use crate::problem::Problem;
use crate::text64::{self, FieldError, split};
use crate::user_meta::UserMeta;

/// Most operations of a batch that is one JSON object. As lines there is no limit.
pub const MAX_BATCH_OPS: usize = 10_000;

/// Largest body of such a batch. A line has the same limit.
pub const MAX_BATCH_BYTES: u64 = 16 << 20;

/// Larger values are written as base64 even if they are text: of a text, each byte may be escaped in six.
const MAX_TEXT_VALUE_BYTES: usize = 2 << 20;

/// An operation of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchOp {
    /// Reads a key.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Sets a key.
    Put(Box<BatchPut>),
    /// Changes a key by what it holds.
    Patch(Box<BatchPatch>),
    /// Removes a key.
    Delete {
        /// The key.
        key: Bytes,
        /// Only if this holds.
        cas: Option<Cas>,
    },
}

/// A key to be set, and to what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchPut {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The media type to keep with it.
    pub content_type: Option<String>,
    /// What to note beside it.
    pub meta: UserMeta,
    /// Only if this holds.
    pub cas: Option<Cas>,
    /// How long the pair shall live, as it was given.
    pub ttl: Option<String>,
    /// The lease that the pair shall hang on, as it was given.
    pub lease: Option<String>,
}

/// What a key's last change must have been: `5`, or `"e1.5"` with the epoch of its `ETag`. Revision 0 means that the key is not
/// there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Cas {
    /// The revision.
    Revision(u64),
    /// The epoch and the revision.
    Tagged(String),
}

/// [`BatchOp`] as it travels.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchOpBody<'a> {
    /// `get`, `put`, `delete`, `increment`, `append`, `touch` or `merge`.
    #[serde(borrow)]
    pub op: Cow<'a, str>,
    /// The key, if it is UTF-8.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Cow<'a, str>>,
    /// The key as base64url.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub key64: Option<Cow<'a, str>>,
    /// Of a put, or what is appended: the value, if it is UTF-8.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Cow<'a, str>>,
    /// The value as base64url.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub value64: Option<Cow<'a, str>>,
    /// A value that is JSON: it is stored without white space around its parts, as `application/json` unless said otherwise.
    #[serde(borrow, default, deserialize_with = "also_null", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub json: Option<&'a RawValue>,
    /// The media type to keep with the value.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<Cow<'a, str>>,
    /// What to note beside the value.
    #[serde(default, skip_serializing_if = "UserMeta::is_empty")]
    pub meta: UserMeta,
    /// Of an increment: what is added to the number; 1 if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<i64>,
    /// Of an increment: what it is added to if the key is not there; 0 if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<i64>,
    /// Of a merge: a JSON merge patch (RFC 7396).
    #[serde(borrow, default, deserialize_with = "also_null", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub patch: Option<&'a RawValue>,
    /// Of a write: only if this holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cas: Option<Cas>,
    /// How long the pair shall live, like `30s`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Cow<'a, str>>,
    /// The id of the lease that the pair shall hang on.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Cow<'a, str>>,
}

/// Why JSON is no [`BatchOp`].
#[derive(Debug, thiserror::Error)]
pub enum BatchOpError {
    /// No JSON, or no object with these fields.
    #[error("no operation in JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// An operation that there is not, or not yet.
    #[error("there is no operation {0:?}; there are get, put, delete, increment, append, touch and merge")]
    UnknownOp(String),
    /// An operation that changes no key by what it holds.
    #[error("there is no change {0:?}; there are increment, append, touch and merge")]
    UnknownPatch(String),
    /// None or several of fields of which there must be one.
    #[error("exactly one of {0} must be there")]
    NotOne(&'static str),
    /// A field that the operation has no use for.
    #[error("{field}: {op} does not take it")]
    Pointless {
        /// The field.
        field: &'static str,
        /// The operation.
        op: &'static str,
    },
    /// A key or a value that is not given as it must be.
    #[error(transparent)]
    Field(#[from] FieldError),
}

impl BatchOp {
    /// Reads one from JSON.
    pub fn parse(json: &[u8]) -> Result<Self, BatchOpError> {
        Self::try_from(serde_json::from_slice::<BatchOpBody<'_>>(json)?)
    }

    /// The key that it is about.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Get { key } | Self::Delete { key, .. } => key,
            Self::Put(put) => &put.key,
            Self::Patch(patch) => &patch.key,
        }
    }

    /// As it travels, in at most [`MAX_BATCH_BYTES`] with every value that a node can be set to accept. What is not UTF-8 goes as
    /// base64url.
    pub fn to_body(&self) -> BatchOpBody<'_> {
        match self {
            Self::Get { key } => BatchOpBody::of_key("get", key),
            Self::Delete { key, cas } => BatchOpBody { cas: cas.clone(), ..BatchOpBody::of_key("delete", key) },
            Self::Put(put) => put.to_body(),
            Self::Patch(patch) => patch.to_body(),
        }
    }
}

impl BatchPut {
    /// As it travels.
    pub(crate) fn to_body(&self) -> BatchOpBody<'_> {
        let (value, value64) = split_value(&self.value);
        BatchOpBody {
            value,
            value64,
            content_type: self.content_type.as_deref().map(Cow::Borrowed),
            meta: self.meta.clone(),
            cas: self.cas.clone(),
            ttl: self.ttl.as_deref().map(Cow::Borrowed),
            lease: self.lease.as_deref().map(Cow::Borrowed),
            ..BatchOpBody::of_key("put", &self.key)
        }
    }
}

impl<'a> BatchOpBody<'a> {
    /// An operation on a key, without anything else.
    pub(crate) fn of_key(op: &'static str, key: &'a [u8]) -> Self {
        let (key, key64) = split(key);
        Self { op: Cow::Borrowed(op), key, key64, ..Self::default() }
    }

    /// A field that an operation has no use for. Of one that changes a key by what it holds, those that it alone may have are
    /// looked at later.
    fn pointless(&self, op: &str) -> Option<&'static str> {
        let is_patch = KeyPatch::known_name(op).is_some();
        let given = [
            ("cas", op != "get", self.cas.is_some()),
            ("value", op == "put" || is_patch, self.value.is_some() || self.value64.is_some()),
            ("value", op == "put", self.json.is_some()),
            ("content_type", op == "put", self.content_type.is_some()),
            ("meta", op == "put", !self.meta.is_empty()),
            ("ttl", op == "put" || is_patch, self.ttl.is_some()),
            ("lease", op == "put", self.lease.is_some()),
            ("by", is_patch, self.by.is_some()),
            ("initial", is_patch, self.initial.is_some()),
            ("patch", is_patch, self.patch.is_some()),
        ];
        given.into_iter().find(|(_, is_taken, is_given)| *is_given && !is_taken).map(|(field, ..)| field)
    }
}

impl TryFrom<BatchOpBody<'_>> for BatchOp {
    type Error = BatchOpError;

    fn try_from(body: BatchOpBody<'_>) -> Result<Self, BatchOpError> {
        let op = match &*body.op {
            "get" => "get",
            "put" => "put",
            "delete" => "delete",
            other => KeyPatch::known_name(other).ok_or_else(|| BatchOpError::UnknownOp(other.to_owned()))?,
        };
        if let Some(field) = body.pointless(op) {
            return Err(BatchOpError::Pointless { field, op });
        }
        let key = text64::join("key", body.key, body.key64.as_deref())?.ok_or(FieldError::NotOne("key"))?;
        match op {
            "get" => return Ok(Self::Get { key }),
            "delete" => return Ok(Self::Delete { key, cas: body.cas }),
            "put" => {}
            _ => {
                let BatchOpBody { op, by, initial, value, value64, patch, ttl, cas, .. } = body;
                let (patch, ttl) = PatchBody { op, by, initial, value, value64, patch, ttl }.read()?;
                return Ok(Self::Patch(Box::new(BatchPatch { key, patch, cas, ttl })));
            }
        }
        let value = text64::join("value", body.value, body.value64.as_deref())?;
        let (value, default_type) = match (value, body.json) {
            (Some(value), None) => (value, None),
            (None, Some(json)) => (compact(json.get()), Some("application/json")),
            _ => return Err(BatchOpError::NotOne("value, value64 and json")),
        };
        let content_type = body.content_type.map(Cow::into_owned).or_else(|| default_type.map(str::to_owned));
        let (ttl, lease) = (body.ttl.map(Cow::into_owned), body.lease.map(Cow::into_owned));
        Ok(Self::Put(Box::new(BatchPut { key, value, content_type, meta: body.meta, cas: body.cas, ttl, lease })))
    }
}

/// A field that is there is a value, `null` too.
pub(crate) fn also_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A value, of which text that is long may become too long as JSON.
pub(crate) fn split_value(value: &[u8]) -> (Option<Cow<'_, str>>, Option<Cow<'_, str>>) {
    match value.len() {
        0..=MAX_TEXT_VALUE_BYTES => split(value),
        _ => (None, Some(Cow::Owned(text64::encode(value)))),
    }
}

/// Well-formed JSON without the white space between its parts.
fn compact(json: &str) -> Bytes {
    let mut out = Vec::with_capacity(json.len());
    let (mut is_text, mut is_escaped) = (false, false);
    for byte in json.bytes() {
        if is_text || !byte.is_ascii_whitespace() {
            out.push(byte);
        }
        is_text ^= byte == b'"' && !is_escaped;
        is_escaped = is_text && byte == b'\\' && !is_escaped;
    }
    out.into()
}

impl fmt::Display for Cas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision(revision) => revision.fmt(f),
            Self::Tagged(text) => text.fmt(f),
        }
    }
}

/// A batch that is one JSON object.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchBody<'a> {
    /// The operations, each a [`BatchOpBody`]. One that is not well-formed fails alone.
    #[serde(borrow)]
    #[schemars(with = "Vec<BatchOpBody<'a>>")]
    pub ops: Vec<&'a RawValue>,
}

/// What became of one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchResult<'a> {
    /// Of a batch as lines: the line that the operation stood in, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What the operation alone would have been answered with.
    pub status: u16,
    /// The shard's revision after it, or of the read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Of a put or a change: how many times the key was set since it came to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Of a write in an eventual keyspace: what it is known by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Cow<'a, str>>,
    /// Of a write in an eventual keyspace: how many other members are known to have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicated: Option<u64>,
    /// Of an increment: the sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
    /// Of a delete: how many keys it removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<u64>,
    /// Of a get: the key and its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryBody<'a>>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// The answer to a batch that is one JSON object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchResults<'a> {
    /// One per operation, in order.
    pub results: Vec<BatchResult<'a>>,
    /// How many of them have a problem.
    pub failed: u64,
}

/// The last line of the answer to a batch as lines: an answer without it was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchEnd {
    /// How many operations there were.
    pub ops: u64,
    /// How many of them have a problem.
    pub failed: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(json: &str) -> Result<BatchOp, String> {
        BatchOp::parse(json.as_bytes()).map_err(|error| error.to_string())
    }

    fn patch() -> impl Strategy<Value = KeyPatch> {
        let value = || proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        prop_oneof![
            (any::<i64>(), any::<i64>()).prop_map(|(by, initial)| KeyPatch::Increment { by, initial }),
            value().prop_map(|value| KeyPatch::Append { value }),
            Just(KeyPatch::Touch),
            any::<u8>().prop_map(|number| KeyPatch::Merge { patch: format!("{{\"a\": {number}.0}}").into() }),
        ]
    }

    fn op() -> impl Strategy<Value = BatchOp> {
        let key = || proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        let cas =
            || proptest::option::of(prop_oneof![any::<u64>().prop_map(Cas::Revision), Just(Cas::Tagged("e1.5".to_owned())),]);
        let content_type = proptest::option::of(Just("text/x; q=\"1\"".to_owned()));
        let put = (key(), key(), content_type, cas(), any::<bool>()).prop_map(|(key, value, content_type, cas, is_noted)| {
            let mut meta = UserMeta::default();
            if is_noted {
                meta.insert("owner", "me").unwrap();
            }
            let (ttl, lease) = (is_noted.then(|| "30s".to_owned()), is_noted.then(|| "abc".to_owned()));
            BatchOp::Put(Box::new(BatchPut { key, value, content_type, meta, cas, ttl, lease }))
        });
        prop_oneof![
            key().prop_map(|key| BatchOp::Get { key }),
            (key(), cas()).prop_map(|(key, cas)| BatchOp::Delete { key, cas }),
            (key(), patch(), cas(), proptest::option::of(Just("30s".to_owned())))
                .prop_map(|(key, patch, cas, ttl)| BatchOp::Patch(Box::new(BatchPatch { key, patch, cas, ttl }))),
            put
        ]
    }

    proptest! {
        #[test]
        fn operations_round_trip(op in op()) {
            let json = serde_json::to_string(&op.to_body()).unwrap();
            prop_assert_eq!(parse(&json), Ok(op));
        }

        #[test]
        fn json_is_made_compact_and_stays_what_it_was(text: String, number: i32) {
            let value = serde_json::json!({"a b": [text.clone(), number, {"\\\" ": null}], "t": text});
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(compact(&pretty), serde_json::to_string(&value).unwrap());
        }
    }

    #[test]
    fn the_largest_value_fits_into_a_line_whatever_it_is() {
        let put = |byte, bytes| {
            let (key, value) = (vec![1; crate::key::MAX_KEY_BYTES].into(), vec![byte; bytes].into());
            BatchOp::Put(Box::new(BatchPut { key, value, ..BatchPut::default() }))
        };
        // No node can be set to accept more than 8 MiB.
        for op in [put(1, MAX_TEXT_VALUE_BYTES), put(1, 8 << 20), put(0xff, 8 << 20)] {
            let json = serde_json::to_vec(&op.to_body()).unwrap();
            assert!(json.len() as u64 + (1 << 20) < MAX_BATCH_BYTES, "{}", json.len());
        }
        let text = put(b'a', MAX_TEXT_VALUE_BYTES + 1);
        assert!(BatchOp::parse(&serde_json::to_vec(&text.to_body()).unwrap()).unwrap() == text);
    }

    #[test]
    fn json_values_are_stored_compact_with_their_type() {
        let op = parse(r#"{"op": "put", "key": "k", "json": {"b": 1,  "a": [ "x y" ]}}"#).unwrap();
        let BatchOp::Put(put) = op else { panic!("{op:?}") };
        assert!(matches!(parse(r#"{"op":"put","key":"k","json":null}"#), Ok(BatchOp::Put(put)) if put.value == "null"));
        assert_eq!(
            (put.value.as_ref(), put.content_type.as_deref()),
            (&b"{\"b\":1,\"a\":[\"x y\"]}"[..], Some("application/json"))
        );
    }

    #[test]
    fn what_is_no_operation_says_why() {
        for (json, told) in [
            ("", "no operation in JSON"),
            ("[]", "no operation in JSON"),
            ("{}", "missing field `op`"),
            (r#"{"op":"put","key":"k","value":"v","colour":1}"#, "unknown field `colour`"),
            (r#"{"op":"put","key":"k","value":"v","meta":{"a b":"c"}}"#, "is no name"),
            (r#"{"op":"incr","key":"k"}"#, "there are get, put, delete, increment, append, touch and merge"),
            (r#"{"op":"touch","key":"k","value":"v"}"#, "value: touch does not take it"),
            (r#"{"op":"append","key":"k","json":1}"#, "value: append does not take it"),
            (r#"{"op":"append","key":"k","value":"v","meta":{"a":"b"}}"#, "meta: append does not take it"),
            (r#"{"op":"put","key":"k","value":"v","by":1}"#, "by: put does not take it"),
            (r#"{"op":"merge","key":"k"}"#, "exactly one of patch"),
            (r#"{"op":"get"}"#, "exactly one of key and key64"),
            (r#"{"op":"get","key":"k","key64":"aw"}"#, "exactly one of key and key64"),
            (r#"{"op":"get","key64":"?"}"#, "key64: not base64url"),
            (r#"{"op":"get","key":"k","cas":1}"#, "cas: get does not take it"),
            (r#"{"op":"delete","key":"k","json":null}"#, "value: delete does not take it"),
            (r#"{"op":"delete","key":"k","value64":""}"#, "value: delete does not take it"),
            (r#"{"op":"put","key":"k"}"#, "exactly one of value, value64 and json"),
            (r#"{"op":"put","key":"k","value":"v","json":1}"#, "exactly one of value, value64 and json"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(told), "{json}: {error}");
        }
    }
}
