//! Leases in JSON. Their ids have 63 bits, more than a JSON number holds everywhere: they are written as sixteen hexadecimal
//! digits.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::seconds;

/// Most leases that one request keeps alive.
pub const MAX_KEEP_ALIVE_IDS: usize = 3000;
/// Most leases of a page of a list.
pub const MAX_LEASE_ITEMS: usize = 1000;
/// Leases of a page if the request does not say.
pub const DEFAULT_LEASE_ITEMS: usize = 100;

/// An id as it is written.
pub fn format_id(id: u64) -> String {
    format!("{id:016x}")
}

/// The id in a text of one to sixteen hexadecimal digits; 1 to 2^63 - 1.
pub fn parse_id(text: &str) -> Option<u64> {
    let is_hex = (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten()?;
    (1..=i64::MAX as u64).contains(&id).then_some(id)
}

/// `POST /v1/leases/{ks}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantBody {
    /// How long the lease lives without being kept alive, like `60s`. Less than 2 s is raised to that.
    pub ttl: String,
    /// Its id; without it the server draws one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// A lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseBody {
    /// Its id.
    pub id: String,
    /// How many seconds it lives after its grant, and after each time that it is kept alive.
    #[serde(default, rename = "ttl", with = "seconds")]
    #[schemars(with = "f64")]
    pub ttl_ms: Option<u64>,
    /// How many seconds are left, at least; left out where that was not asked of the leader.
    #[serde(default, rename = "remaining", with = "seconds", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<f64>")]
    pub remaining_ms: Option<u64>,
}

/// `GET /v1/leases/{ks}`: a page of a list, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseList {
    /// The leases, in the order of their ids.
    pub items: Vec<LeaseBody>,
    /// The revision of this page.
    pub revision: u64,
    /// Sent as `cursor`, it asks for the page after this; none after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// `GET /v1/leases/{ks}/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseDetail<'a> {
    /// The lease.
    #[serde(flatten)]
    pub lease: LeaseBody,
    /// How many keys hang on it.
    pub key_count: u64,
    /// With `keys`: those that are UTF-8, in their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<Cow<'a, str>>>,
    /// Those that are not, as base64url.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys64: Vec<String>,
    /// There are more keys than one answer holds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_more_keys: bool,
}

/// `POST /v1/leases/{ks}/keepalive`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeepAliveBody {
    /// The leases.
    pub ids: Vec<String>,
}

/// Its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptAlive {
    /// Those that live on, in the order asked.
    pub items: Vec<LeaseBody>,
    /// The ids of those that there are not, or whose time is up.
    pub missing: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hexadecimal_and_positive() {
        assert_eq!(format_id(0xabc), "0000000000000abc");
        assert_eq!(
            ["abc", "0000000000000ABC", "7fffffffffffffff"].map(parse_id),
            [Some(0xabc), Some(0xabc), Some(u64::MAX >> 1)]
        );
        for text in ["", "0", "0x1", "+1", "-1", " 1", "g", "8000000000000000", "00000000000000001"] {
            assert_eq!(parse_id(text), None, "{text:?}");
        }
    }

    #[test]
    fn times_are_seconds() {
        let body = LeaseBody { id: format_id(1), ttl_ms: Some(60_000), remaining_ms: Some(1500) };
        let json = serde_json::to_string(&body).unwrap();
        assert_eq!(json, r#"{"id":"0000000000000001","ttl":60.0,"remaining":1.5}"#);
        assert_eq!(serde_json::from_str::<LeaseBody>(&json).unwrap(), body);
    }
}
