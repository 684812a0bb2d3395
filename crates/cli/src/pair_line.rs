//! A pair as a line of JSON, as exports write it and imports read it: the entry object of the REST API without its revisions,
//! which a copy cannot have. So an export of a copy is the same as that of the original, byte for byte; only of pairs that go by
//! themselves it says how much time is left.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use quorate_api::batch::BatchPut;
use quorate_api::duration;
use quorate_api::entry::Entry;
use quorate_api::key::MAX_KEY_BYTES;
use quorate_api::text64::{self, FieldError, split};
use quorate_api::user_meta::UserMeta;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::value_source::MAX_VALUE_BYTES;

/// A line as it stands. What else an object says of a key is passed over.
#[derive(Debug, Default, Serialize, Deserialize)]
struct PairLine<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    key64: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    value64: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing)]
    json: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    content_type: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_without_meta")]
    meta: Cow<'a, UserMeta>,
    /// Seconds that are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl: Option<f64>,
}

/// The type of a value that is given as JSON.
const JSON_TYPE: &str = "application/json";

/// Longer media types are not kept by any node.
const MAX_CONTENT_TYPE_BYTES: usize = 256;

/// Appends the line of an entry, and its end.
pub(crate) fn write(entry: &Entry, out: &mut Vec<u8>) {
    let (key, key64) = split(&entry.key);
    let (value, value64) = split(entry.value.as_deref().unwrap_or_default());
    let content_type = entry.content_type.as_deref().map(Cow::Borrowed);
    let (meta, ttl) = (Cow::Borrowed(&entry.meta), entry.ttl_ms.map(|ttl_ms| ttl_ms as f64 / 1000.0));
    let line = PairLine { key, key64, value, value64, json: None, content_type, meta, ttl };
    serde_json::to_writer(&mut *out, &line).expect("lines have only string keys and go to memory");
    out.push(b'\n');
}

/// The pair of a line; `None` for a line without anything in it. An error says what is wrong.
pub(crate) fn read(line: &[u8]) -> Result<Option<BatchPut>, String> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return Ok(None);
    }
    if !line.starts_with(b"{") {
        return Err("no pair in JSON: an object begins with {".to_owned());
    }
    let line: PairLine<'_> = serde_json::from_slice(line).map_err(|error| format!("no pair in JSON: {}", where_it_is(&error)))?;
    let said = |error: FieldError| error.to_string();
    let key = text64::join("key", line.key, line.key64.as_deref()).map_err(said)?;
    let key = key.ok_or(FieldError::NotOne("key")).map_err(said)?;
    let value = text64::join("value", line.value, line.value64.as_deref()).map_err(said)?;
    let (value, default_type) = match (value, line.json) {
        (Some(value), None) => (value, None),
        (None, Some(json)) => (Bytes::copy_from_slice(json.get().as_bytes()), Some(JSON_TYPE.to_owned())),
        _ => return Err("exactly one of value, value64 and json must be there".to_owned()),
    };
    let content_type = line.content_type.map(Cow::into_owned).or(default_type);
    check("key", key.len(), MAX_KEY_BYTES)?;
    check("value", value.len(), MAX_VALUE_BYTES as usize)?;
    check("content_type", content_type.as_ref().map_or(0, String::len), MAX_CONTENT_TYPE_BYTES)?;
    let ttl = line.ttl.map(|seconds| time_left(seconds).ok_or("ttl: seconds, 0.001 at least")).transpose()?;
    Ok(Some(BatchPut { key, value, content_type, meta: line.meta.into_owned(), cas: None, ttl, lease: None }))
}

/// As batches take it.
fn time_left(seconds: f64) -> Option<String> {
    let ttl_ms = duration::milliseconds(seconds).filter(|ttl_ms| *ttl_ms > 0)?;
    Some(duration::format(Duration::from_millis(ttl_ms)))
}

/// What no node would take is not sent: a node that reads it ends with it, and not only with its line.
fn check(what: &str, bytes: usize, max_bytes: usize) -> Result<(), String> {
    if bytes <= max_bytes { Ok(()) } else { Err(format!("{what}: {bytes} bytes, no node takes more than {max_bytes}")) }
}

/// What is wrong and at which column; the line is known better than the parser knows it.
fn where_it_is(error: &serde_json::Error) -> String {
    let told = error.to_string();
    let told = told.rsplit_once(" at line ").map_or(told.as_str(), |(what, _)| what);
    format!("{told} at column {}", error.column())
}

#[expect(clippy::ptr_arg, reason = "serde hands over the field as it is")]
fn is_without_meta(meta: &Cow<'_, UserMeta>) -> bool {
    meta.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_export_writes_is_read() {
        let mut meta = UserMeta::default();
        meta.insert("owner", "me").unwrap();
        for (key, value) in [(&b"a/b"[..], &b"text \"with\" \\ and \n"[..]), (b"\xff\x00", b"\x80"), (b"a", b"")] {
            let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            let (content_type, meta) = (Some("text/x".to_owned()), meta.clone());
            let put = BatchPut { key, value, content_type, meta, ttl: Some("29400ms".to_owned()), ..BatchPut::default() };
            let entry = |mod_revision| Entry {
                key: put.key.clone(),
                value: Some(put.value.clone()),
                content_type: put.content_type.clone(),
                meta: put.meta.clone(),
                create_revision: 3,
                stamp: None,
                mod_revision,
                version: 2,
                ttl_ms: Some(29_400),
                lease: Some(5),
            };
            let (mut line, mut of_a_copy) = (Vec::new(), Vec::new());
            write(&entry(4), &mut line);
            write(&entry(99), &mut of_a_copy);
            assert!(line == of_a_copy && line.ends_with(b"}\n"));
            assert_eq!(read(&line), Ok(Some(put)));
        }
    }

    #[test]
    fn lines_that_people_write_are_read() {
        let read_one = |line: &str| read(line.as_bytes()).unwrap().unwrap();
        assert_eq!(read_one(r#"{"key":"k","value":"v"}"#).content_type, None);
        let json = read_one(r#" {"key":"k", "json": {"a": [1, 2]}} "#);
        assert_eq!((json.value.as_ref(), json.content_type.as_deref()), (&b"{\"a\": [1, 2]}"[..], Some("application/json")));
        assert_eq!(read_one(r#"{"key64":"_w","value64":"_w=="}"#).key, &b"\xff"[..]);
        assert_eq!(read_one(r#"{"key":"k","value":"v","mod_revision":7,"else":[]}"#).value, "v");
        assert_eq!(read(b"\r"), Ok(None));
    }

    #[test]
    fn what_is_no_pair_says_why() {
        let long_key = format!(r#"{{"key":"{}","value":""}}"#, "k".repeat(MAX_KEY_BYTES + 1));
        let large_value = format!(r#"{{"key":"k","value":"{}"}}"#, "v".repeat(MAX_VALUE_BYTES as usize + 1));
        let long_type = format!(r#"{{"key":"k","value":"","content_type":"{}"}}"#, "t".repeat(257));
        for (line, told) in [
            ("{", "no pair in JSON: EOF while parsing an object at column 1"),
            ("[]", "no pair in JSON"),
            ("{}", "exactly one of key and key64"),
            (r#"{"key":"k"}"#, "exactly one of value, value64 and json"),
            (r#"{"key":"k","value":"v","json":1}"#, "exactly one of value, value64 and json"),
            (r#"{"key":"k","key64":"aw","value":"v"}"#, "exactly one of key and key64"),
            (r#"{"key64":"?","value":"v"}"#, "key64: "),
            (r#"{"key":"k","value":7}"#, "no pair in JSON"),
            (r#"{"key":"k","value":"v","ttl":0}"#, "ttl: "),
            (r#"{"key":"k","value":"v","ttl":-1}"#, "ttl: "),
            (r#"{"key":"k","value":"v","meta":{"a b":"c"}}"#, "meta"),
            (&long_key, "key: 4097 bytes, no node takes more than 4096"),
            (&large_value, "value: 8388609 bytes, no node takes more than 8388608"),
            (&long_type, "content_type: 257 bytes"),
        ] {
            let error = read(line.as_bytes()).unwrap_err();
            assert!(error.contains(told), "{line:.100}: {error}");
        }
    }
}
