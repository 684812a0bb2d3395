//! One key: changes by what it holds.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use quorate_api::patch::{KEY_OP, KeyPatch, MERGE_PATCH};
use quorate_api::problem::WriteOutcome;
use quorate_api::{duration, header as own_header};

use crate::call::Client;
use crate::error::Error;
use crate::keys::{Condition, conditional, header_value};
use crate::transport::Answer;

/// How a key is changed by what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchOptions {
    /// Only if the key is like this.
    pub condition: Option<Condition>,
    /// After how long the pair goes by itself, if it comes to be by this or is touched. Whole milliseconds.
    pub ttl: Option<Duration>,
}

/// What an increment did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incremented {
    /// The sum.
    pub sum: i64,
    /// Names the new content.
    pub etag: String,
    /// The revision of the change.
    pub revision: u64,
    /// How many times the key was set since it came to be.
    pub version: u64,
}

/// What a change did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patched {
    /// The value as it is now.
    pub value: Bytes,
    /// Names the new content.
    pub etag: String,
    /// The revision of the change.
    pub revision: u64,
    /// How many times the key was set since it came to be.
    pub version: u64,
}

impl Client {
    /// Adds to a whole number in decimal digits, and returns the sum; a key that is not there counts as `initial`. A value that
    /// is no such number, or a sum beyond what an `i64` holds, is [`Error::Refused`] with the code `unfit_value`.
    ///
    /// It is not sent again where [`Error::outcome`] is unknown: it may have been done, and would be done twice.
    pub async fn increment(
        &self,
        keyspace: &str,
        key: &[u8],
        by: i64,
        initial: i64,
        options: &PatchOptions,
    ) -> Result<Incremented, Error> {
        let answer = self.send(keyspace, key, &KeyPatch::Increment { by, initial }, options).await?;
        let Patched { value, etag, revision, version } = patched(&answer)?;
        let sum = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
        let unexpected = || answer.unexpected("the sum is no number".to_owned(), WriteOutcome::Applied);
        Ok(Incremented { sum: sum.ok_or_else(unexpected)?, etag, revision, version })
    }

    /// Changes a key by what it holds, and returns what it holds then. What cannot be changed so is [`Error::Refused`] with the
    /// code `unfit_value`; a touch of a key that is not there with `key_not_found`.
    ///
    /// It is not sent again where [`Error::outcome`] is unknown: it may have been done, and would be done twice.
    pub async fn patch(&self, keyspace: &str, key: &[u8], patch: &KeyPatch, options: &PatchOptions) -> Result<Patched, Error> {
        patched(&self.send(keyspace, key, patch, options).await?)
    }

    async fn send(&self, keyspace: &str, key: &[u8], patch: &KeyPatch, options: &PatchOptions) -> Result<Answer, Error> {
        let mut request = conditional(Method::PATCH, keyspace, key, options.condition.as_ref(), None)?;
        let media_type = match patch {
            // As it is: it need not be JSON for a node to say that it is none.
            KeyPatch::Merge { patch } => {
                request.body = patch.clone();
                MERGE_PATCH
            }
            patch => {
                request = request.with_json(&patch.to_body());
                KEY_OP
            }
        };
        request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        if let Some(ttl) = options.ttl {
            request.headers.insert(own_header::TTL, header_value("time to live", &duration::format(ttl))?);
        }
        self.call(request).await
    }
}

fn patched(answer: &Answer) -> Result<Patched, Error> {
    Ok(Patched {
        value: answer.body.clone(),
        etag: answer.text(header::ETAG).unwrap_or_default(),
        revision: answer.number(own_header::REVISION, WriteOutcome::Applied)?,
        version: answer.number(own_header::VERSION, WriteOutcome::Applied)?,
    })
}
