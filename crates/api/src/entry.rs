//! Keys with what goes with them, in JSON.

use std::borrow::Cow;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::seconds;
use crate::lease;
use crate::text64::{self, FieldError};
use crate::user_meta::UserMeta;

/// Most pairs of a page of a list.
pub const MAX_LIST_ITEMS: usize = 10_000;
/// The media type of streams of JSON, one object a line.
pub const NDJSON: &str = "application/x-ndjson";
/// Pairs of a page of a list if the request does not say.
pub const DEFAULT_LIST_ITEMS: usize = 100;
/// A page ends once its keys and values together exceed this many bytes, before they are written as JSON.
pub const MAX_LIST_BYTES: usize = 8 << 20;

/// The longest time to live: a hundred years, in milliseconds.
pub const MAX_TTL_MS: u64 = 100 * 365 * 86_400_000;

/// A key with what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value; none where it was not asked for.
    pub value: Option<Bytes>,
    /// The media type it was stored with.
    pub content_type: Option<String>,
    /// What users noted beside the value.
    pub meta: UserMeta,
    /// The revision at which the key came to be; 0 in an eventual keyspace.
    pub create_revision: u64,
    /// The revision of its last change; 0 in an eventual keyspace.
    pub mod_revision: u64,
    /// How many times it was set since it came to be; 0 in an eventual keyspace.
    pub version: u64,
    /// In an eventual keyspace: what its last change is known by. Opaque.
    pub stamp: Option<String>,
    /// After how many milliseconds it goes by itself, if it does.
    pub ttl_ms: Option<u64>,
    /// The lease that it hangs on, and with which it goes.
    pub lease: Option<u64>,
}

/// How bytes are written in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As text where they are UTF-8, otherwise as base64url under the name with `64`.
    #[default]
    Text,
    /// As base64url, always.
    Base64,
}

/// [`Entry`] as it travels. Of each pair of fields exactly one is there; of the value's, none if it was not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EntryBody<'a> {
    /// The key, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Cow<'a, str>>,
    /// The key as base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key64: Option<String>,
    /// The value, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Cow<'a, str>>,
    /// The value as base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value64: Option<String>,
    /// The media type it was stored with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<Cow<'a, str>>,
    /// What users noted beside the value; left out if that is nothing.
    #[serde(default, skip_serializing_if = "is_without_meta")]
    pub meta: Cow<'a, UserMeta>,
    /// The revision at which the key came to be; left out in an eventual keyspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_revision: Option<u64>,
    /// The revision of its last change; left out in an eventual keyspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mod_revision: Option<u64>,
    /// How many times it was set since it came to be; left out in an eventual keyspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// In an eventual keyspace: what its last change is known by. Opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Cow<'a, str>>,
    /// After how many seconds it goes by itself; left out if it does not.
    #[serde(default, rename = "ttl", with = "seconds", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<f64>")]
    pub ttl_ms: Option<u64>,
    /// The id of the lease that it hangs on; left out if that is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

/// Why an [`EntryBody`] is no [`Entry`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The key or the value is not given as it must be.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The lease is not an id.
    #[error("{0:?} is no id of a lease")]
    Lease(String),
}

impl Entry {
    /// As it travels.
    pub fn to_body(&self, encoding: Encoding) -> EntryBody<'_> {
        let (key, key64) = split(&self.key, encoding);
        let counted = |counter: u64| self.stamp.is_none().then_some(counter);
        let (value, value64) = self.value.as_ref().map_or((None, None), |value| split(value, encoding));
        EntryBody {
            key,
            key64,
            value,
            value64,
            content_type: self.content_type.as_deref().map(Cow::Borrowed),
            meta: Cow::Borrowed(&self.meta),
            create_revision: counted(self.create_revision),
            mod_revision: counted(self.mod_revision),
            version: counted(self.version),
            stamp: self.stamp.as_deref().map(Cow::Borrowed),
            ttl_ms: self.ttl_ms,
            lease: self.lease.map(lease::format_id),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over the field as it is")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::ptr_arg, reason = "serde hands over the field as it is")]
fn is_without_meta(meta: &Cow<'_, UserMeta>) -> bool {
    meta.is_empty()
}

/// Names of folders: those that are text, and the others as base64url.
pub fn folder_names(folders: &[Bytes], encoding: Encoding) -> (Vec<Cow<'_, str>>, Vec<String>) {
    let (mut names, mut names64) = (Vec::new(), Vec::new());
    for folder in folders {
        let (name, name64) = split(folder, encoding);
        names.extend(name);
        names64.extend(name64);
    }
    (names, names64)
}

fn split(bytes: &[u8], encoding: Encoding) -> (Option<Cow<'_, str>>, Option<String>) {
    match encoding {
        Encoding::Text => text64::split(bytes),
        Encoding::Base64 => (None, Some(text64::encode(bytes))),
    }
}

impl TryFrom<EntryBody<'_>> for Entry {
    type Error = EntryError;

    fn try_from(body: EntryBody<'_>) -> Result<Self, EntryError> {
        Ok(Self {
            key: text64::join("key", body.key, body.key64)?.ok_or(FieldError::NotOne("key"))?,
            value: text64::join("value", body.value, body.value64)?,
            content_type: body.content_type.map(Cow::into_owned),
            meta: body.meta.into_owned(),
            create_revision: body.create_revision.unwrap_or(0),
            mod_revision: body.mod_revision.unwrap_or(0),
            version: body.version.unwrap_or(0),
            stamp: body.stamp.map(Cow::into_owned),
            ttl_ms: body.ttl_ms,
            lease: match body.lease {
                Some(id) => Some(lease::parse_id(&id).ok_or(EntryError::Lease(id))?),
                None => None,
            },
        })
    }
}

/// `GET /v1/kv/{ks}`: a page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListBody<'a> {
    /// What there is, in the order asked for.
    pub items: Vec<EntryBody<'a>>,
    /// With `delimiter`: the folders, in the same order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefixes: Option<Vec<Cow<'a, str>>>,
    /// Folders whose names are not UTF-8, or all of them if that is asked for, as base64url.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes64: Vec<String>,
    /// The revision of this page; left out in an eventual keyspace.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
    /// Sent as `cursor`, it asks for the page after this; none after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Something changed between the first page and this one, so that together they are not one moment's content.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revision_changed: bool,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Happened {
    /// It was set.
    Put,
    /// It was deleted.
    Delete,
    /// Its time was up.
    Expire,
}

/// `GET /v1/kv/{ks}/{key}?history=true`: a page of the versions that a key had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryBody<'a> {
    /// The newest first.
    pub items: Vec<VersionBody<'a>>,
    /// The keyspace's revision.
    pub revision: u64,
    /// The oldest revision that can be read: of what was before, only the version that was there then is known.
    pub compacted_revision: u64,
    /// Sent as `before`, it asks for the page after this; none after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_before: Option<u64>,
}

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionBody<'a> {
    /// The revision that made it.
    pub revision: u64,
    /// What happened.
    #[serde(rename = "type")]
    pub happened: Happened,
    /// How long ago that was, in seconds; left out if that is not known any more.
    #[serde(default, rename = "age", with = "seconds", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<f64>")]
    pub age_ms: Option<u64>,
    /// The key as it was then; none if it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryBody<'a>>,
}

/// `GET /v1/kv/{ks}?count_only`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountBody {
    /// How many keys the selection has.
    pub count: u64,
    /// The revision of the count; left out in an eventual keyspace.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
}

/// The last line of a list as NDJSON: a stream without it was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListEnd {
    /// The revision of all that was sent; left out in an eventual keyspace.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
    /// How many lines came before this one.
    pub count: u64,
}

/// `DELETE /v1/kv/{ks}` with a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeletedBody {
    /// How many keys were deleted.
    pub deleted: u64,
    /// The shard's revision afterwards; left out in an eventual keyspace.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
}

/// `PUT` with `Prefer: return=representation`: the key as it is now, and its counters before, if it was there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PutBody<'a> {
    /// As it is now.
    pub entry: EntryBody<'a>,
    /// As it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<Counters>,
}

/// The counters of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counters {
    /// The revision at which the key came to be.
    pub create_revision: u64,
    /// The revision of its last change.
    pub mod_revision: u64,
    /// How many times it was set since it came to be.
    pub version: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(key: &[u8], value: Option<&[u8]>) -> Entry {
        let is_stamped = value.is_some_and(|value| value.len() % 2 == 1);
        Entry {
            ttl_ms: value.map(|value| value.len() as u64 * 100),
            lease: value.map(|value| value.len() as u64 + 1),
            key: Bytes::copy_from_slice(key),
            value: value.map(Bytes::copy_from_slice),
            content_type: Some("text/plain".to_owned()),
            meta: UserMeta::default(),
            create_revision: if is_stamped { 0 } else { 7 },
            mod_revision: if is_stamped { 0 } else { 12 },
            version: if is_stamped { 0 } else { 3 },
            stamp: is_stamped.then(|| "12.1".to_owned()),
        }
    }

    proptest! {
        #[test]
        fn entries_round_trip(key: Vec<u8>, value: Option<Vec<u8>>, is_base64: bool) {
            let entry = entry(&key, value.as_deref());
            let encoding = if is_base64 { Encoding::Base64 } else { Encoding::Text };
            let text = serde_json::to_string(&entry.to_body(encoding)).unwrap();
            let body: EntryBody<'_> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(Entry::try_from(body), Ok(entry));
        }
    }

    #[test]
    fn text_is_preferred_and_bytes_fall_back() {
        let written = |entry: &Entry, encoding| serde_json::to_value(entry.to_body(encoding)).unwrap();
        let both = written(&entry(b"a", Some(b"\xff")), Encoding::Text);
        assert_eq!((both["key"].as_str(), both["value64"].as_str()), (Some("a"), Some("_w")));
        assert_eq!((both.get("key64"), both.get("value")), (None, None));
        assert_eq!(both.get("meta"), None);
        let forced = written(&entry(b"a", None), Encoding::Base64);
        assert_eq!((forced["key64"].as_str(), forced.get("value64")), (Some("YQ"), None));
    }

    #[test]
    fn user_metadata_travels_along() {
        let mut entry = entry(b"a", None);
        entry.meta.insert("owner", "me").unwrap();
        let text = serde_json::to_string(&entry.to_body(Encoding::Text)).unwrap();
        assert!(text.contains(r#""meta":{"owner":"me"}"#), "{text}");
        assert_eq!(Entry::try_from(serde_json::from_str::<EntryBody<'_>>(&text).unwrap()), Ok(entry));
    }

    #[test]
    fn ambiguous_bodies_are_refused() {
        let numbers = r#""create_revision":1,"mod_revision":1,"version":1"#;
        for fields in [r#""key":"a","key64":"YQ","#, "", r#""key":"a","value":"","value64":"","#, r#""key64":"?","#] {
            let body: EntryBody<'_> = serde_json::from_str(&format!("{{{fields}{numbers}}}")).unwrap();
            assert!(Entry::try_from(body).is_err(), "{fields}");
        }
    }
}
