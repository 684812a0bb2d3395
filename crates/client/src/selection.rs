//! Many keys by what they have in common.

use http::Method;
use quorate_api::entry::{CountBody, DeletedBody};
use quorate_api::problem::WriteOutcome;
use quorate_api::text64;

use crate::call::Client;
use crate::error::Error;
use crate::key_path::path_of;
use crate::keys::GetOptions;
use crate::transport::Request;

/// Which keys of a keyspace are meant. All of it holds together; nothing said means every key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only keys that begin so.
    pub prefix: Vec<u8>,
    /// From this key on.
    pub start: Option<Vec<u8>>,
    /// Up to this key, which is not meant.
    pub end: Option<Vec<u8>>,
}

/// How many keys there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// How many.
    pub count: u64,
    /// The shard's revision of the count.
    pub revision: u64,
}

/// What a delete of many keys did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeletedRange {
    /// How many keys went.
    pub deleted: u64,
    /// The shard's revision afterwards.
    pub revision: u64,
}

impl Selection {
    /// Whether it leaves out no key.
    pub fn is_everything(&self) -> bool {
        let is_open = |bound: &Option<Vec<u8>>| bound.as_ref().is_none_or(Vec::is_empty);
        self.prefix.is_empty() && is_open(&self.start) && is_open(&self.end)
    }

    /// Keys travel as base64url here: no byte needs care then.
    pub(crate) fn to_parameters(&self) -> Vec<String> {
        let prefix = (!self.prefix.is_empty()).then(|| format!("prefix64={}", text64::encode(&self.prefix)));
        let start = self.start.as_ref().map(|start| format!("start64={}", text64::encode(start)));
        let end = self.end.as_ref().map(|end| format!("end64={}", text64::encode(end)));
        [prefix, start, end].into_iter().flatten().collect()
    }
}

impl Client {
    /// Counts keys, all as of one revision. The node looks at each of them: beyond the time limit the error is
    /// [`Error::Refused`] with the code `timed_out`.
    pub async fn count(&self, keyspace: &str, selection: &Selection, freshness: &GetOptions) -> Result<Counted, Error> {
        let mut parameters = selection.to_parameters();
        parameters.push("count_only".to_owned());
        parameters.push(freshness.to_query());
        parameters.retain(|parameter| !parameter.is_empty());
        let request = Request::read(format!("{}?{}", path_of(keyspace), parameters.join("&")));
        let CountBody { count, revision } = self.call(request).await?.json(WriteOutcome::NotApplied)?;
        Ok(Counted { count, revision })
    }

    /// Deletes the keys of a selection, in steps of up to 10,000 that each happen as one, and is durable when it returns.
    ///
    /// So many go as the time limit allows: beyond it the error is [`Error::Refused`] with the code `incomplete`, and
    /// [`Problem::deleted`](quorate_api::problem::Problem::deleted) says how many are gone; to go on, ask again. A selection of
    /// everything is refused by the server with the code `empty_selection`: that is [`Client::delete_all`].
    pub async fn delete_range(&self, keyspace: &str, selection: &Selection) -> Result<DeletedRange, Error> {
        self.delete_selected(keyspace, &selection.to_parameters().join("&")).await
    }

    /// Deletes every key of a keyspace, like [`Client::delete_range`].
    pub async fn delete_all(&self, keyspace: &str) -> Result<DeletedRange, Error> {
        self.delete_selected(keyspace, "all=true").await
    }

    async fn delete_selected(&self, keyspace: &str, query: &str) -> Result<DeletedRange, Error> {
        let request = Request::write(Method::DELETE, format!("{}?{query}", path_of(keyspace)));
        let DeletedBody { deleted, revision } = self.call(request).await?.json(WriteOutcome::Applied)?;
        Ok(DeletedRange { deleted, revision })
    }
}
