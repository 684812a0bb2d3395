//! What a line says: the entry object of the REST API, as far as it can be written.

use std::borrow::Cow;

use bytes::Bytes;
use quorate_api::text64;
use quorate_api::user_meta::UserMeta;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A pair to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) content_type: Option<String>,
    pub(super) meta: UserMeta,
}

/// A line as it stands; revisions and what else an export says of a key are passed over.
#[derive(Debug, Deserialize)]
struct LineBody<'a> {
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    key64: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    value: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    value64: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    json: Option<&'a RawValue>,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    meta: UserMeta,
}

/// The type of a value that is given as JSON.
const JSON_TYPE: &str = "application/json";

impl Pair {
    /// `None` for a line without anything in it; an error says what is wrong.
    pub(super) fn read(line: &[u8]) -> Result<Option<Self>, String> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(None);
        }
        if !line.starts_with(b"{") {
            return Err("no pair in JSON: an object begins with {".to_owned());
        }
        let body: LineBody<'_> = serde_json::from_slice(line).map_err(|error| format!("no pair in JSON: {error}"))?;
        let key = match (body.key, body.key64) {
            (Some(key), None) => Bytes::from(key.into_owned()),
            (None, Some(key64)) => decode("key64", &key64)?,
            _ => return Err("exactly one of key and key64 must be there".to_owned()),
        };
        let (value, default_type) = match (body.value, body.value64, body.json) {
            (Some(value), None, None) => (Bytes::from(value.into_owned()), None),
            (None, Some(value64), None) => (decode("value64", &value64)?, None),
            (None, None, Some(json)) => (Bytes::copy_from_slice(json.get().as_bytes()), Some(JSON_TYPE.to_owned())),
            _ => return Err("exactly one of value, value64 and json must be there".to_owned()),
        };
        Ok(Some(Self { key, value, content_type: body.content_type.or(default_type), meta: body.meta }))
    }
}

fn decode(name: &str, text: &str) -> Result<Bytes, String> {
    text64::decode(text.as_bytes()).map(Bytes::from).map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use quorate_api::entry::{Encoding, Entry};
    use quorate_api::user_meta::UserMeta;

    use super::Pair;

    #[test]
    fn what_an_export_writes_is_read() {
        let mut meta = UserMeta::default();
        meta.insert("owner", "me").unwrap();
        for (key, value) in [(&b"a/b"[..], &b"text \"with\" \\ and \n"[..]), (b"\xff\x00", b"\x80")] {
            let (key, value) = (bytes::Bytes::copy_from_slice(key), bytes::Bytes::copy_from_slice(value));
            let (content_type, meta) = (Some("text/x".to_owned()), meta.clone());
            let entry = Entry {
                key: key.clone(),
                value: Some(value.clone()),
                content_type: content_type.clone(),
                meta: meta.clone(),
                create_revision: 3,
                mod_revision: 4,
                version: 2,
            };
            let line = serde_json::to_vec(&entry.to_body(Encoding::Text)).unwrap();
            assert_eq!(Pair::read(&line), Ok(Some(Pair { key, value, content_type, meta })));
        }
    }

    #[test]
    fn lines_that_people_write_are_read() {
        let read = |line: &str| Pair::read(line.as_bytes()).unwrap().unwrap();
        assert_eq!(read(r#"{"key":"k","value":"v"}"#).content_type, None);
        let json = read(r#" {"key":"k", "json": {"a": [1, 2]}} "#);
        assert_eq!((json.value.as_ref(), json.content_type.as_deref()), (&b"{\"a\": [1, 2]}"[..], Some("application/json")));
        assert_eq!(read(r#"{"key64":"_w","value64":"_w=="}"#).key, "\u{ff}".chars().map(|c| c as u8).collect::<Vec<u8>>());
        assert_eq!(Pair::read(b"\r"), Ok(None));
    }

    #[test]
    fn what_is_no_pair_says_why() {
        for (line, told) in [
            ("{", "no pair in JSON"),
            ("[]", "no pair in JSON"),
            ("{}", "exactly one of key and key64"),
            (r#"{"key":"k"}"#, "exactly one of value, value64 and json"),
            (r#"{"key":"k","value":"v","json":1}"#, "exactly one of value, value64 and json"),
            (r#"{"key":"k","key64":"aw","value":"v"}"#, "exactly one of key and key64"),
            (r#"{"key64":"?","value":"v"}"#, "key64: "),
            (r#"{"key":"k","value":7}"#, "no pair in JSON"),
            (r#"{"key":"k","value":"v","meta":{"a b":"c"}}"#, "meta"),
        ] {
            let error = Pair::read(line.as_bytes()).unwrap_err();
            assert!(error.contains(told), "{line}: {error}");
        }
    }
}
