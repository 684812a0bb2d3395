//! Changes of a key by what it holds: increments, appends, touches, merge patches.

use bytes::{BufMut, Bytes, BytesMut};

use crate::merge_patch::{JsonError, Part, merge_patch};
use quorate_engine::codec::{DecodeError, Reader, Writer};

/// A key, and how what it holds is to be changed. What goes with the value stays; so does the time at which the key goes by
/// itself, unless it is touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// The key.
    pub key: Bytes,
    /// The change.
    pub edit: Edit,
    /// After how many milliseconds the key goes by itself, if it comes to be by this or is touched; as with a put.
    pub ttl_ms: Option<u64>,
    /// A value that would become larger than this is refused, as it is by the keyspace's own limit.
    pub max_value_bytes: u64,
    /// Whether the result has the key with its new value, as that of a get has.
    pub is_told: bool,
}

/// How a value is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Adds to a whole number in decimal digits, which may have white space around it. The sum is written as digits alone.
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
    /// Sets the value that is there once more. Nothing happens if the key is not there.
    Touch,
    /// Applies a JSON merge patch (RFC 7396); see [`crate::check_merge_patch`] and `merge_patch.rs` for what comes of it, byte
    /// for byte.
    Merge {
        /// The patch.
        patch: Bytes,
    },
}

/// Why a value cannot be changed so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// What is to be incremented is none.
    #[error("its value is no whole number from -2^63 to 2^63-1 in decimal digits")]
    NotANumber,
    /// The sum would be greater or less than any number that a value can be.
    #[error("the sum is no whole number from -2^63 to 2^63-1")]
    Overflow,
    /// What is to be patched cannot be.
    #[error("its value cannot be patched: {0}")]
    Target(JsonError),
    /// The patch itself is none.
    #[error("the patch is none: {0}")]
    Patch(JsonError),
}

/// The longest text that is read as a number: a number, and some white space.
const MAX_NUMBER_BYTES: usize = 64;

/// The media type of values that come to be by an increment, and by a merge patch.
const NUMBER_TYPE: &[u8] = b"text/plain";
const JSON_TYPE: &[u8] = b"application/json";

const EDIT_INCREMENT: u8 = 1;
const EDIT_APPEND: u8 = 2;
const EDIT_TOUCH: u8 = 3;
const EDIT_MERGE: u8 = 4;

/// Beside the edit's tag.
const IS_TOLD: u8 = 0x80;

impl Patch {
    /// The sum that an increment left.
    pub fn number(value: &[u8]) -> Option<i64> {
        let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= MAX_NUMBER_BYTES)?.trim_ascii();
        // What `parse` takes besides is no number as people write them in JSON or elsewhere.
        if text.starts_with('+') { None } else { text.parse().ok() }
    }

    /// The edit's tag with whether the result is told, the key, time to live plus one, the largest value, the edit.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let tag = match &self.edit {
            Edit::Increment { .. } => EDIT_INCREMENT,
            Edit::Append { .. } => EDIT_APPEND,
            Edit::Touch => EDIT_TOUCH,
            Edit::Merge { .. } => EDIT_MERGE,
        };
        out.put_u8(if self.is_told { tag | IS_TOLD } else { tag });
        out.put_bytes_with_len(&self.key);
        out.put_varint(self.ttl_ms.map_or(0, |ttl_ms| ttl_ms.saturating_add(1)));
        out.put_varint(self.max_value_bytes);
        match &self.edit {
            Edit::Increment { by, initial } => {
                out.put_i64_le(*by);
                out.put_i64_le(*initial);
            }
            Edit::Append { value: bytes } | Edit::Merge { patch: bytes } => out.put_bytes_with_len(bytes),
            Edit::Touch => {}
        }
    }

    /// Reads what [`Patch::encode`] wrote.
    pub(crate) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let tag = reader.u8()?;
        let key = reader.bytes()?;
        let ttl_ms = reader.varint()?.checked_sub(1);
        let max_value_bytes = reader.varint()?;
        let edit = match tag & !IS_TOLD {
            EDIT_INCREMENT => Edit::Increment { by: reader.i64_le()?, initial: reader.i64_le()? },
            EDIT_APPEND => Edit::Append { value: reader.bytes()? },
            EDIT_TOUCH => Edit::Touch,
            EDIT_MERGE => Edit::Merge { patch: reader.bytes()? },
            tag => return Err(DecodeError::UnknownTag { what: "edit", tag }),
        };
        Ok(Self { key, edit, ttl_ms, max_value_bytes, is_told: tag & IS_TOLD != 0 })
    }
}

impl Edit {
    /// Bytes that it carries.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Increment { .. } => 16,
            Self::Append { value: bytes } | Self::Merge { patch: bytes } => bytes.len(),
            Self::Touch => 0,
        }
    }

    /// What it makes of a value; none if it leaves nothing. Larger values than `max_bytes` are not made, but told by their size.
    pub(crate) fn apply(&self, before: Option<&Bytes>, max_bytes: u64) -> Result<Option<Edited>, Unfit> {
        let edited = match (self, before) {
            (Self::Increment { by, initial }, before) => {
                let number = before.map_or(Ok(*initial), |value| Patch::number(value).ok_or(Unfit::NotANumber))?;
                number.checked_add(*by).ok_or(Unfit::Overflow)?.to_string().into()
            }
            (Self::Append { value }, None) => value.clone(),
            (Self::Append { value }, Some(before)) => {
                let bytes = before.len().saturating_add(value.len());
                if bytes as u64 > max_bytes {
                    return Ok(Some(Edited::TooLarge));
                }
                [&before[..], value].concat().into()
            }
            (Self::Touch, None) => return Ok(None),
            (Self::Touch, Some(before)) => before.clone(),
            (Self::Merge { patch }, before) => match merge_patch(before.map(|value| &value[..]), patch) {
                Ok(merged) => merged.into(),
                Err((Part::Target, error)) => return Err(Unfit::Target(error)),
                Err((Part::Patch, error)) => return Err(Unfit::Patch(error)),
            },
        };
        Ok(Some(if edited.len() as u64 > max_bytes { Edited::TooLarge } else { Edited::Value(edited) }))
    }

    /// The media type of what comes to be by it.
    pub(crate) fn content_type(&self) -> Option<Bytes> {
        match self {
            Self::Increment { .. } => Some(Bytes::from_static(NUMBER_TYPE)),
            Self::Merge { .. } => Some(Bytes::from_static(JSON_TYPE)),
            Self::Append { .. } | Self::Touch => None,
        }
    }
}

/// What an edit came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Edited {
    Value(Bytes),
    TooLarge,
}

const UNFIT_NOT_A_NUMBER: u8 = 1;
const UNFIT_OVERFLOW: u8 = 2;
const UNFIT_TARGET: u8 = 3;
const UNFIT_PATCH: u8 = 4;

const JSON_MALFORMED: u8 = 1;
const JSON_TOO_DEEP: u8 = 2;
const JSON_TOO_LONG: u8 = 3;

impl Unfit {
    pub(crate) fn encode(self, out: &mut BytesMut) {
        let (tag, error) = match self {
            Self::NotANumber => return out.put_u8(UNFIT_NOT_A_NUMBER),
            Self::Overflow => return out.put_u8(UNFIT_OVERFLOW),
            Self::Target(error) => (UNFIT_TARGET, error),
            Self::Patch(error) => (UNFIT_PATCH, error),
        };
        out.put_u8(tag);
        match error {
            JsonError::Malformed { at } => {
                out.put_u8(JSON_MALFORMED);
                out.put_varint(at);
            }
            JsonError::TooDeep => out.put_u8(JSON_TOO_DEEP),
            JsonError::TooLong => out.put_u8(JSON_TOO_LONG),
        }
    }

    pub(crate) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let of: fn(JsonError) -> Self = match reader.u8()? {
            UNFIT_NOT_A_NUMBER => return Ok(Self::NotANumber),
            UNFIT_OVERFLOW => return Ok(Self::Overflow),
            UNFIT_TARGET => Self::Target,
            UNFIT_PATCH => Self::Patch,
            tag => return Err(DecodeError::UnknownTag { what: "reason", tag }),
        };
        Ok(of(match reader.u8()? {
            JSON_MALFORMED => JsonError::Malformed { at: reader.varint()? },
            JSON_TOO_DEEP => JsonError::TooDeep,
            JSON_TOO_LONG => JsonError::TooLong,
            tag => return Err(DecodeError::UnknownTag { what: "reason of JSON", tag }),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(edit: &Edit, before: Option<&'static str>) -> Result<Option<Edited>, Unfit> {
        edit.apply(before.map(|value| Bytes::from_static(value.as_bytes())).as_ref(), 30)
    }

    fn value(text: &str) -> Edited {
        Edited::Value(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn numbers_are_added_or_refused() {
        let by = |by| Edit::Increment { by, initial: 100 };
        for (before, added, after) in [
            (None, 5, "105"),
            (Some("0"), 1, "1"),
            (Some(" 41\r\n"), 1, "42"),
            (Some("007"), -8, "-1"),
            (Some("-0"), 0, "0"),
            (Some("9223372036854775806"), 1, "9223372036854775807"),
            (Some("-9223372036854775807"), -1, "-9223372036854775808"),
            (Some("-1"), i64::MIN + 1, "-9223372036854775808"),
        ] {
            assert_eq!(applied(&by(added), before), Ok(Some(value(after))), "{before:?}");
        }
        let long = "                                                               12";
        for before in ["", " ", "x", "1x", "1 2", "1.0", "1e3", "+1", "0x10", "- 1", "\u{661}", "9223372036854775808", long] {
            assert_eq!(applied(&by(1), Some(before)), Err(Unfit::NotANumber), "{before:?}");
        }
        assert_eq!(applied(&by(1), Some("9223372036854775807")), Err(Unfit::Overflow));
        assert_eq!(applied(&by(-2), Some("-9223372036854775807")), Err(Unfit::Overflow));
        assert_eq!(applied(&Edit::Increment { by: 1, initial: i64::MAX }, None), Err(Unfit::Overflow));
    }

    #[test]
    fn bytes_are_appended_up_to_a_bound() {
        let append = |value: &'static str| Edit::Append { value: Bytes::from_static(value.as_bytes()) };
        assert_eq!(applied(&append("b"), Some("a")), Ok(Some(value("ab"))));
        assert_eq!(applied(&append("b"), None), Ok(Some(value("b"))));
        assert_eq!(applied(&append(""), Some("a")), Ok(Some(value("a"))));
        let thirty = "123456789012345678901234567890";
        assert_eq!(applied(&append(""), Some(thirty)), Ok(Some(value(thirty))));
        assert_eq!(applied(&append("x"), Some(thirty)), Ok(Some(Edited::TooLarge)));
        assert_eq!(applied(&append("1234567890123456789012345678901"), None), Ok(Some(Edited::TooLarge)));
    }

    #[test]
    fn what_is_not_there_is_not_touched() {
        assert_eq!(applied(&Edit::Touch, None), Ok(None));
        assert_eq!(applied(&Edit::Touch, Some("a")), Ok(Some(value("a"))));
    }

    #[test]
    fn merges_say_which_of_the_two_is_no_json() {
        let merge = |patch: &'static str| Edit::Merge { patch: Bytes::from_static(patch.as_bytes()) };
        assert_eq!(applied(&merge("{\"a\": 1}"), None), Ok(Some(value("{\"a\":1}"))));
        assert_eq!(applied(&merge("{\"a\": 1}"), Some("{\"b\":2}")), Ok(Some(value("{\"b\":2,\"a\":1}"))));
        let malformed = JsonError::Malformed { at: 0 };
        assert_eq!(applied(&merge("{\"a\": 1}"), Some("hello")), Err(Unfit::Target(malformed)));
        assert_eq!(applied(&merge("hello"), Some("{}")), Err(Unfit::Patch(malformed)));
        assert_eq!(applied(&merge("\"a text of more than thirty bytes\""), Some("{}")), Ok(Some(Edited::TooLarge)));
    }

    /// Written out, so that they stay readable whatever is written in future.
    #[test]
    fn forms_are_as_they_were() {
        let patch = |edit, ttl_ms, is_told| Patch { key: Bytes::from_static(b"k"), edit, ttl_ms, max_value_bytes: 300, is_told };
        let bytes = || Bytes::from_static(b"v");
        let cases = [
            (
                patch(Edit::Increment { by: -1, initial: 2 }, None, true),
                &b"\x81\x01k\x00\xac\x02\xff\xff\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x00\x00\x00"[..],
            ),
            (patch(Edit::Append { value: bytes() }, Some(4), false), b"\x02\x01k\x05\xac\x02\x01v"),
            (patch(Edit::Touch, Some(0), false), b"\x03\x01k\x01\xac\x02"),
            (patch(Edit::Merge { patch: bytes() }, None, true), b"\x84\x01k\x00\xac\x02\x01v"),
        ];
        for (patch, form) in cases {
            let mut out = BytesMut::new();
            patch.encode(&mut out);
            assert_eq!(out, form);
            assert_eq!(Patch::read(&mut Reader::new(out.freeze())), Ok(patch));
            assert!((0..form.len()).all(|len| Patch::read(&mut Reader::new(Bytes::copy_from_slice(&form[..len]))).is_err()));
        }
        for (unfit, form) in [
            (Unfit::NotANumber, &b"\x01"[..]),
            (Unfit::Overflow, b"\x02"),
            (Unfit::Target(JsonError::Malformed { at: 300 }), b"\x03\x01\xac\x02"),
            (Unfit::Target(JsonError::TooDeep), b"\x03\x02"),
            (Unfit::Patch(JsonError::TooLong), b"\x04\x03"),
        ] {
            let mut out = BytesMut::new();
            unfit.encode(&mut out);
            assert_eq!(out, form);
            assert_eq!(Unfit::read(&mut Reader::new(out.freeze())), Ok(unfit));
        }
    }
}
