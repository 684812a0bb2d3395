//! User metadata: from headers into records, and back.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use quorate_api::header::META_PREFIX;
use quorate_api::problem::Code;
use quorate_api::user_meta::{UserMeta, UserMetaError};

use super::refusal::Refusal;

/// What a write's headers note beside its value.
pub(super) fn of_headers(headers: &HeaderMap) -> Result<Vec<(Bytes, Bytes)>, Refusal> {
    let mut meta = UserMeta::default();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix(META_PREFIX) {
            let value = value.to_str().map_err(|_| refusal(&UserMetaError::BadValue(name.to_owned())))?;
            meta.insert(name, value).map_err(|error| refusal(&error))?;
        }
    }
    Ok(for_record(&meta))
}

/// As records keep it.
pub(super) fn for_record(meta: &UserMeta) -> Vec<(Bytes, Bytes)> {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    meta.iter().map(|(name, value)| (bytes(name), bytes(value))).collect()
}

/// As JSON shows it.
pub(super) fn of_record(user_meta: &[(Bytes, Bytes)]) -> UserMeta {
    let mut meta = UserMeta::default();
    for (name, value) in user_meta {
        // What is not fit to be shown was not written through this API.
        if let (Ok(name), Ok(value)) = (str::from_utf8(name), str::from_utf8(value)) {
            let _ = meta.insert(name, value);
        }
    }
    meta
}

/// Adds the headers that show it.
pub(super) fn insert(headers: &mut HeaderMap, user_meta: &[(Bytes, Bytes)]) {
    for (name, value) in user_meta {
        let name = HeaderName::from_bytes(&[META_PREFIX.as_bytes(), name].concat());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_maybe_shared(value.clone())) {
            headers.insert(name, value);
        }
    }
}

pub(super) fn refusal(error: &UserMetaError) -> Refusal {
    Refusal::new(Code::BadMeta, error.to_string())
}
