//! Locks and elections in JSON.

use std::borrow::Cow;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::seconds;
use crate::lease::{format_id, parse_id};
use crate::text64::{self, FieldError};

/// How long a lease lives that is granted for a lock, if the request does not say.
pub const DEFAULT_LOCK_TTL: &str = "60s";

/// `POST /v1/locks/{ks}/{name}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LockRequest<'a> {
    /// The lease that is to hold the lock; without it one is granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// How long the granted lease lives without being kept alive: 60s if that is not said. Not together with `lease`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// What others are to know of who holds the lock, if it is UTF-8; in an election what the leader says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Cow<'a, str>>,
    /// The same as base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value64: Option<Cow<'a, str>>,
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The lease that holds it.
    pub lease: u64,
    /// The key that hangs on the lease, and is there as long as the lock is held.
    pub key: Bytes,
    /// The fencing token: greater than that of all who held the lock before. It is the key's `create_revision`.
    pub token: u64,
    /// What the holder says of itself.
    pub value: Bytes,
    /// How long the lease lives without being kept alive, in milliseconds, if it was granted for the lock just now.
    pub ttl_ms: Option<u64>,
}

/// [`Holder`] as it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HolderBody<'a> {
    /// The lease that holds it.
    pub lease: Cow<'a, str>,
    /// The key that hangs on the lease, and is there as long as the lock is held; if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Cow<'a, str>>,
    /// The key as base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key64: Option<String>,
    /// The fencing token: greater than that of all who held the lock before. It is the key's `create_revision`.
    pub token: u64,
    /// What the holder says of itself, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Cow<'a, str>>,
    /// The same as base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value64: Option<String>,
    /// How many seconds the lease lives without being kept alive; of a lease that was granted for the lock just now.
    #[serde(default, rename = "ttl", with = "seconds", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<f64>")]
    pub ttl_ms: Option<u64>,
}

/// `GET /v1/locks/{ks}/{name}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LockBody<'a> {
    /// Who holds it.
    pub holder: HolderBody<'a>,
    /// How many wait.
    pub waiting: u64,
    /// The revision of this.
    pub revision: u64,
}

/// Why a [`HolderBody`] is no [`Holder`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HolderError {
    /// The key or the value is not given as it must be.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The lease is not an id.
    #[error("{0:?} is no id of a lease")]
    Lease(String),
}

impl Holder {
    /// As it travels.
    pub fn to_body(&self) -> HolderBody<'_> {
        let ((key, key64), (value, value64)) = (text64::split(&self.key), text64::split(&self.value));
        let (token, ttl_ms) = (self.token, self.ttl_ms);
        HolderBody { lease: Cow::Owned(format_id(self.lease)), key, key64, token, value, value64, ttl_ms }
    }

    /// Reads what [`Holder::to_body`] made.
    pub fn from_body(body: HolderBody<'_>) -> Result<Self, HolderError> {
        let HolderBody { lease, key, key64, token, value, value64, ttl_ms } = body;
        let lease = parse_id(&lease).ok_or_else(|| HolderError::Lease(lease.into_owned()))?;
        let key = text64::join("key", key, key64)?.ok_or(FieldError::NotOne("key"))?;
        let value = text64::join("value", value, value64)?.ok_or(FieldError::NotOne("value"))?;
        Ok(Self { lease, key, token, value, ttl_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_travels_with_any_bytes() {
        for (key, value) in [("jobs/1f", &b"n1"[..]), ("jobs/1f", b""), ("\u{fffd}/1f", b"\xff\0")] {
            let (key, value) = (Bytes::from(key), Bytes::copy_from_slice(value));
            let holder = Holder { lease: 0x1f, key, token: 17, value, ttl_ms: Some(1500) };
            let text = serde_json::to_string(&holder.to_body()).unwrap();
            assert_eq!(Holder::from_body(serde_json::from_str(&text).unwrap()), Ok(holder), "{text}");
        }
    }

    #[test]
    fn what_is_no_holder_is_refused() {
        let told = |text: &str| Holder::from_body(serde_json::from_str(text).unwrap()).unwrap_err().to_string();
        assert!(told(r#"{"lease": "x", "key": "a", "value": "", "token": 1}"#).contains("no id of a lease"));
        assert!(told(r#"{"lease": "1", "value": "", "token": 1}"#).contains("exactly one of key and key64"));
        assert!(told(r#"{"lease": "1", "key": "a", "value": "", "value64": "", "token": 1}"#).contains("value64"));
    }
}
