//! The past of a key, and what ends it.

use http::Method;
use quorate_api::entry::{Entry, Happened, HistoryBody};
use quorate_api::keyspace::{CompactBody, CompactedBody};
use quorate_api::problem::WriteOutcome;

use crate::call::Client;
use crate::error::Error;
use crate::key_path::{one_key, one_segment};
use crate::keys::GetOptions;
use crate::transport::Request;

/// Which versions of a key are wanted, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Only those of revisions before this one: the [`Versions::next_before`] of the page before.
    pub before: Option<u64>,
    /// At most so many, 1 to 10,000; the server's choice unless set.
    pub limit: Option<usize>,
    /// With values.
    pub with_values: bool,
    /// How fresh the answer must be. A revision has no meaning here.
    pub freshness: GetOptions,
}

/// Versions that a key had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The newest first.
    pub versions: Vec<KeyVersion>,
    /// The shard's revision.
    pub revision: u64,
    /// The oldest revision that can be read: of what was before, only the version that was there then is known.
    pub compacted_revision: u64,
    /// To ask for the versions before these with; none after the last.
    pub next_before: Option<u64>,
}

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyVersion {
    /// The revision that made it.
    pub revision: u64,
    /// What happened.
    pub happened: Happened,
    /// How many milliseconds ago, if that is known.
    pub age_ms: Option<u64>,
    /// The key as it was then; none if it went.
    pub entry: Option<Entry>,
}

impl Client {
    /// The versions that a key had, as far as they are kept. A keyspace without history is [`Error::Refused`] with the code
    /// `unsupported_capability`.
    pub async fn history(&self, keyspace: &str, key: &[u8], query: &HistoryQuery) -> Result<Versions, Error> {
        let mut parameters = vec!["history=true".to_owned()];
        parameters.extend(query.before.map(|before| format!("before={before}")));
        parameters.extend(query.limit.map(|limit| format!("limit={limit}")));
        parameters.extend(query.with_values.then(|| "values=true".to_owned()));
        parameters.extend(Some(query.freshness.to_query()).filter(|freshness| !freshness.is_empty()));
        let answer = self.call(Request::read(one_key(keyspace, key, &parameters.join("&")))).await?;
        let body: HistoryBody<'_> = answer.json(WriteOutcome::NotApplied)?;
        let versions = body.items.into_iter().map(|version| {
            let entry = version.entry.map(Entry::try_from).transpose();
            let entry = entry.map_err(|error| answer.unexpected(error.to_string(), WriteOutcome::NotApplied))?;
            Ok(KeyVersion { revision: version.revision, happened: version.happened, age_ms: version.age_ms, entry })
        });
        Ok(Versions {
            versions: versions.collect::<Result<_, Error>>()?,
            revision: body.revision,
            compacted_revision: body.compacted_revision,
            next_before: body.next_before,
        })
    }

    /// Makes a revision the oldest that can be read. If `is_waiting`, until what only older ones needed is gone from the disk or
    /// the memory of the answering node, or the time limit ends: [`CompactedBody::is_swept`] tells. A revision that was compacted
    /// before is [`Error::Refused`] with the code `compacted`, one that is to come with `future_revision`.
    pub async fn compact(&self, keyspace: &str, revision: u64, is_waiting: bool) -> Result<CompactedBody, Error> {
        let target = format!("/v1/keyspaces/{}/compact", one_segment(keyspace));
        let body = CompactBody { revision, physical: is_waiting };
        self.call(Request::write(Method::POST, target).with_json(&body)).await?.json(WriteOutcome::Applied)
    }
}
