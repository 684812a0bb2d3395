//! Changes of a key by what it holds, as they travel.

use std::borrow::Cow;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::batch::{BatchOpBody, BatchOpError, Cas, also_null, split_value};
use crate::text64::{self, FieldError};

/// The media type of a JSON merge patch (RFC 7396).
pub const MERGE_PATCH: &str = "application/merge-patch+json";

/// The media type of a [`PatchBody`].
pub const KEY_OP: &str = "application/vnd.quorate.op+json";

/// What a `PATCH` of a key takes, as the header `Accept-Patch` says it.
pub const ACCEPT_PATCH: &str = "application/merge-patch+json, application/vnd.quorate.op+json";

/// Largest body of a merge patch, and largest value that can be patched.
pub const MAX_MERGE_PATCH_BYTES: u64 = 1 << 20;

/// How what a key holds is to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPatch {
    /// Adds to a whole number in decimal digits.
    Increment {
        /// What is added.
        by: i64,
        /// To what, if the key is not there.
        initial: i64,
    },
    /// Appends bytes; a key that is not there comes to be with these alone.
    Append {
        /// The bytes.
        value: Bytes,
    },
    /// Sets the value that is there once more.
    Touch,
    /// Applies a JSON merge patch.
    Merge {
        /// The patch, as JSON text.
        patch: Bytes,
    },
}

/// A key of a batch or a transaction, and its change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchPatch {
    /// The key.
    pub key: Bytes,
    /// The change.
    pub patch: KeyPatch,
    /// Only if this holds.
    pub cas: Option<Cas>,
    /// How long the pair shall live, if it comes to be or is touched, as it was given.
    pub ttl: Option<String>,
}

/// A [`KeyPatch`] and the time to live, as they travel as a body of their own.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchBody<'a> {
    /// `increment`, `append`, `touch` or `merge`.
    #[serde(borrow)]
    pub op: Cow<'a, str>,
    /// Of an increment: what is added to the number; 1 if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<i64>,
    /// Of an increment: what it is added to if the key is not there; 0 if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<i64>,
    /// Of an append: what is appended, if it is UTF-8.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Cow<'a, str>>,
    /// The same as base64url.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub value64: Option<Cow<'a, str>>,
    /// Of a merge: a JSON merge patch (RFC 7396).
    #[serde(borrow, default, deserialize_with = "also_null", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub patch: Option<&'a RawValue>,
    /// How long the pair shall live, if it comes to be by this or is touched, like `30s`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Cow<'a, str>>,
}

impl KeyPatch {
    /// Reads one, and the time to live, from a [`PatchBody`].
    pub fn parse(json: &[u8]) -> Result<(Self, Option<String>), BatchOpError> {
        serde_json::from_slice::<PatchBody<'_>>(json)?.read()
    }

    /// What the operation is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Increment { .. } => "increment",
            Self::Append { .. } => "append",
            Self::Touch => "touch",
            Self::Merge { .. } => "merge",
        }
    }

    /// The name, if it is that of one of these.
    pub(crate) fn known_name(name: &str) -> Option<&'static str> {
        ["increment", "append", "touch", "merge"].into_iter().find(|known| *known == name)
    }

    /// As it travels.
    ///
    /// # Panics
    ///
    /// If it is a merge with what is no JSON.
    pub fn to_body(&self) -> PatchBody<'_> {
        let body = PatchBody { op: Cow::Borrowed(self.name()), ..PatchBody::default() };
        match self {
            Self::Increment { by, initial } => {
                PatchBody { by: Some(*by), initial: Some(*initial).filter(|initial| *initial != 0), ..body }
            }
            Self::Append { value } => {
                let (value, value64) = split_value(value);
                PatchBody { value, value64, ..body }
            }
            Self::Touch => body,
            Self::Merge { patch } => {
                PatchBody { patch: Some(serde_json::from_slice(patch).expect("a merge patch is JSON")), ..body }
            }
        }
    }
}

impl PatchBody<'_> {
    pub(crate) fn read(self) -> Result<(KeyPatch, Option<String>), BatchOpError> {
        let Some(op) = KeyPatch::known_name(&self.op) else {
            return Err(BatchOpError::UnknownPatch(self.op.into_owned()));
        };
        let given = [
            ("by", "increment", self.by.is_some()),
            ("initial", "increment", self.initial.is_some()),
            ("value", "append", self.value.is_some() || self.value64.is_some()),
            ("patch", "merge", self.patch.is_some()),
        ];
        if let Some((field, ..)) = given.iter().find(|(_, of, is_given)| *is_given && *of != op) {
            return Err(BatchOpError::Pointless { field, op });
        }
        let value = text64::join("value", self.value, self.value64.as_deref())?;
        let patch = match (op, value, self.patch) {
            ("increment", ..) => KeyPatch::Increment { by: self.by.unwrap_or(1), initial: self.initial.unwrap_or(0) },
            ("touch", ..) => KeyPatch::Touch,
            ("append", Some(value), _) => KeyPatch::Append { value },
            ("append", ..) => return Err(FieldError::NotOne("value").into()),
            (.., Some(patch)) => KeyPatch::Merge { patch: Bytes::copy_from_slice(patch.get().as_bytes()) },
            _ => return Err(BatchOpError::NotOne("patch")),
        };
        Ok((patch, self.ttl.map(Cow::into_owned)))
    }
}

impl BatchPatch {
    /// As it travels.
    pub(crate) fn to_body(&self) -> BatchOpBody<'_> {
        let PatchBody { by, initial, value, value64, patch, .. } = self.patch.to_body();
        BatchOpBody {
            by,
            initial,
            value,
            value64,
            patch,
            cas: self.cas.clone(),
            ttl: self.ttl.as_deref().map(Cow::Borrowed),
            ..BatchOpBody::of_key(self.patch.name(), &self.key)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<(KeyPatch, Option<String>), String> {
        KeyPatch::parse(json.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn patches_round_trip() {
        for patch in [
            KeyPatch::Increment { by: i64::MIN, initial: i64::MAX },
            KeyPatch::Increment { by: 0, initial: 0 },
            KeyPatch::Append { value: Bytes::from_static(b"a\"b") },
            KeyPatch::Append { value: Bytes::from_static(b"\xff") },
            KeyPatch::Touch,
            KeyPatch::Merge { patch: Bytes::from_static(b"{\"a\": [1.0, null]}") },
            KeyPatch::Merge { patch: Bytes::from_static(b"null") },
        ] {
            let json = serde_json::to_string(&patch.to_body()).unwrap();
            assert_eq!(parse(&json), Ok((patch, None)), "{json}");
        }
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        assert_eq!(parse(r#"{"op":"increment"}"#), Ok((KeyPatch::Increment { by: 1, initial: 0 }, None)));
        assert_eq!(parse(r#"{"op":"touch","ttl":"30s"}"#), Ok((KeyPatch::Touch, Some("30s".to_owned()))));
    }

    #[test]
    fn what_is_no_patch_says_why() {
        for (json, told) in [
            ("", "no operation in JSON"),
            (r#"{"op":"put","value":"x"}"#, "there is no change \"put\"; there are increment, append, touch and merge"),
            (r#"{"op":"increment","by":1.5}"#, "no operation in JSON"),
            (r#"{"op":"increment","by":9223372036854775808}"#, "no operation in JSON"),
            (r#"{"op":"increment","value":"1"}"#, "value: increment does not take it"),
            (r#"{"op":"append","value":"1","by":1}"#, "by: append does not take it"),
            (r#"{"op":"append"}"#, "exactly one of value and value64"),
            (r#"{"op":"append","value":"1","value64":""}"#, "exactly one of value and value64"),
            (r#"{"op":"append","value64":"?"}"#, "value64: "),
            (r#"{"op":"touch","patch":null}"#, "patch: touch does not take it"),
            (r#"{"op":"merge"}"#, "exactly one of patch"),
            (r#"{"op":"touch","key":"k"}"#, "unknown field `key`"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(told), "{json}: {error}");
        }
    }
}
