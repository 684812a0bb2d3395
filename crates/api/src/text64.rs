//! base64url, the form of every `...64` field and parameter: written without padding, read with or without.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

const FORM: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Text that is not base64url.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not base64url: {0}")]
pub struct MalformedText64(#[from] base64::DecodeError);

/// Why a field and its `...64` are not some bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Both are there, or none where there must be one.
    #[error("exactly one of {0} and {0}64 must be there")]
    NotOne(&'static str),
    /// The second is not base64url.
    #[error("{name}64: {source}")]
    Malformed {
        /// The first.
        name: &'static str,
        /// What is wrong.
        source: MalformedText64,
    },
}

/// Bytes as a field and its `...64`: the first if they are UTF-8, or else the second.
pub fn split<'a, T: From<&'a str>, T64: From<String>>(bytes: &'a [u8]) -> (Option<T>, Option<T64>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.into()), None),
        Err(_) => (None, Some(encode(bytes).into())),
    }
}

/// The bytes of a field or its `...64`, if one of them is there.
pub fn join(
    name: &'static str,
    text: Option<impl Into<String>>,
    text64: Option<impl AsRef<[u8]>>,
) -> Result<Option<Bytes>, FieldError> {
    match (text, text64) {
        (Some(_), Some(_)) => Err(FieldError::NotOne(name)),
        (Some(text), None) => Ok(Some(text.into().into())),
        (None, Some(text64)) => {
            let bytes = decode(text64).map_err(|source| FieldError::Malformed { name, source })?;
            Ok(Some(bytes.into()))
        }
        (None, None) => Ok(None),
    }
}

/// The text for these bytes.
pub fn encode(bytes: &[u8]) -> String {
    FORM.encode(bytes)
}

/// The bytes of this text.
pub fn decode(text: impl AsRef<[u8]>) -> Result<Vec<u8>, MalformedText64> {
    Ok(FORM.decode(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_and_its_64_are_one() {
        let both = |bytes: &'static [u8]| split::<&str, String>(bytes);
        assert_eq!(both(b"key"), (Some("key"), None));
        assert_eq!(both(b""), (Some(""), None));
        assert_eq!(both(b"\xff"), (None, Some("_w".to_owned())));
        for bytes in [&b"key"[..], b"", b"\xff"] {
            let (text, text64) = both(bytes);
            assert_eq!(join("key", text, text64).unwrap().unwrap(), bytes);
        }
        assert_eq!(join("key", None::<&str>, None::<&str>), Ok(None));
        let said = |text, text64| join("key", text, text64).unwrap_err().to_string();
        assert_eq!(said(Some("a"), Some("YQ")), "exactly one of key and key64 must be there");
        assert!(said(None, Some("!")).starts_with("key64: not base64url"));
    }

    #[test]
    fn padding_is_not_written_and_not_minded() {
        assert_eq!(encode(b"\xfb\xff\xfe>"), "-__-Pg");
        for text in ["-__-Pg", "-__-Pg=="] {
            assert_eq!(decode(text).unwrap(), b"\xfb\xff\xfe>");
        }
        assert_eq!(decode("").unwrap(), b"");
        for text in ["+//+Pg", "a", "a b", "-__-Ph"] {
            assert!(decode(text).is_err(), "{text}");
        }
    }
}
