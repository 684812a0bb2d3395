//! What users note beside a value: a few short texts by name, in headers and in JSON alike.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most names beside one value.
pub const MAX_META_NAMES: usize = 32;

/// Most bytes of names and values together.
pub const MAX_META_BYTES: usize = 2048;

/// User metadata of one key, by name.
///
/// *Invariants*: at most [`MAX_META_NAMES`] and [`MAX_META_BYTES`]; names are the characters of an HTTP token in lower case, and
/// at least one; values are visible ASCII and inner spaces. So each fits into a header as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct UserMeta(BTreeMap<String, String>);

/// Text that cannot be user metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserMetaError {
    /// A name with other characters, or none.
    #[error("meta: {0:?} is no name: letters, digits and !#$%&'*+-.^_`|~ are possible, upper case counts as lower case")]
    BadName(String),
    /// A value with other characters.
    #[error("meta: the value of {0:?} is not visible ASCII with spaces inside only")]
    BadValue(String),
    /// A name twice.
    #[error("meta: {0:?} is given twice")]
    Twice(String),
    /// Too much of it.
    #[error("meta: at most {MAX_META_NAMES} names and {MAX_META_BYTES} bytes of names and values are kept with a value")]
    TooMuch,
}

impl UserMeta {
    /// Adds a name; its letters become lower case.
    pub fn insert(&mut self, name: &str, value: &str) -> Result<(), UserMetaError> {
        let name = name.to_ascii_lowercase();
        if name.is_empty() || !name.bytes().all(is_token_byte) {
            return Err(UserMetaError::BadName(name));
        }
        let has_outer_space = value.starts_with(' ') || value.ends_with(' ');
        if has_outer_space || !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(UserMetaError::BadValue(name));
        }
        if self.0.contains_key(&name) {
            return Err(UserMetaError::Twice(name));
        }
        if self.0.len() == MAX_META_NAMES || self.size_bytes() + name.len() + value.len() > MAX_META_BYTES {
            return Err(UserMetaError::TooMuch);
        }
        self.0.insert(name, value.to_owned());
        Ok(())
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn size_bytes(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl TryFrom<BTreeMap<String, String>> for UserMeta {
    type Error = UserMetaError;

    fn try_from(map: BTreeMap<String, String>) -> Result<Self, UserMetaError> {
        let mut meta = Self::default();
        map.iter().try_for_each(|(name, value)| meta.insert(name, value))?;
        Ok(meta)
    }
}

/// What HTTP allows in the name of a header (RFC 9110, 5.6.2), in lower case.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<UserMeta, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn what_fits_into_headers_is_taken() {
        let meta = parse(r#"{"Owner": "a team", "x-1": ""}"#).unwrap();
        assert_eq!(meta.iter().collect::<Vec<_>>(), [("owner", "a team"), ("x-1", "")]);
        assert_eq!(serde_json::to_string(&meta).unwrap(), r#"{"owner":"a team","x-1":""}"#);
    }

    #[test]
    fn other_names_and_values_are_refused() {
        for json in [r#"{"": "a"}"#, r#"{"a b": "a"}"#, r#"{"a:": "a"}"#, r#"{"\u00e4": "a"}"#] {
            assert!(parse(json).unwrap_err().contains("is no name"), "{json}");
        }
        for json in [r#"{"a": " b"}"#, r#"{"a": "b "}"#, r#"{"a": "\n"}"#, r#"{"a": "\u00e4"}"#, r#"{"a": "\u007f"}"#] {
            assert!(parse(json).unwrap_err().contains("visible ASCII"), "{json}");
        }
        assert!(parse(r#"{"a": "1", "A": "2"}"#).unwrap_err().contains("twice"));
        assert!(parse(r#"{"a": 1}"#).is_err());
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut meta = UserMeta::default();
        assert_eq!(meta.insert("a", &"b".repeat(MAX_META_BYTES)), Err(UserMetaError::TooMuch));
        meta.insert("a", &"b".repeat(MAX_META_BYTES - 1)).unwrap();
        assert_eq!(meta.insert("c", ""), Err(UserMetaError::TooMuch));
        let mut meta = UserMeta::default();
        for number in 0..MAX_META_NAMES {
            meta.insert(&number.to_string(), "").unwrap();
        }
        assert_eq!(meta.insert("more", ""), Err(UserMetaError::TooMuch));
    }
}
