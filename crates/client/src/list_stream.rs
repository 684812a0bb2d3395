//! Every pair of a selection, as of one moment, in the memory of a few.

use std::time::Duration;

use http::{HeaderValue, header};
use quorate_api::entry::{Entry, EntryBody, ListEnd, NDJSON};
use quorate_api::header as own_header;
use quorate_api::problem::WriteOutcome;

use crate::call::Client;
use crate::error::Error;
use crate::key_path::path_of;
use crate::keys::GetOptions;
use crate::list::ListQuery;
use crate::selection::Selection;
use crate::streams::Lines;
use crate::transport::Request;

/// How long a node may say nothing while more is to come. An engine that is not ordered sorts all keys before the first.
const PATIENCE: Duration = Duration::from_mins(1);

/// Which pairs are streamed, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamQuery {
    /// Which keys.
    pub selection: Selection,
    /// From the last to the first.
    pub is_reverse: bool,
    /// With values.
    pub with_values: bool,
    /// How fresh all of them must be.
    pub freshness: GetOptions,
}

/// Pairs on their way.
#[derive(Debug)]
pub struct ListStream {
    lines: Lines,
    revision: u64,
    count: u64,
    is_ended: bool,
}

impl Client {
    /// Begins to read every pair of a selection, all as of one revision, however many there are. The node sends as fast as they
    /// are taken with [`ListStream::next`], and no further; one that takes less than 64 KiB in a minute and a half is cut off.
    ///
    /// The client's time limit is for the beginning, which any node may make; then there is none, and no other node goes on
    /// where one ended: it need not have the same revision.
    pub async fn list_stream(&self, keyspace: &str, query: &StreamQuery) -> Result<ListStream, Error> {
        let mut request = Request::read(format!("{}?{}", path_of(keyspace), query.to_query()));
        request.headers.insert(header::ACCEPT, HeaderValue::from_static(NDJSON));
        let answer = self.open(request).await?;
        // An eventual keyspace has none.
        let revision = answer.text(own_header::REVISION).and_then(|text| text.parse().ok()).unwrap_or(0);
        let lines = Lines::new(answer.endpoint, answer.body, Some(PATIENCE), WriteOutcome::NotApplied);
        Ok(ListStream { lines, revision, count: 0, is_ended: false })
    }
}

impl ListStream {
    /// The shard's revision of all pairs.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The next pair, in the order of the keys; `None` once all were there. An end that came too early is an error, never a
    /// `None`; there is nothing more to come after it. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Entry>, Error> {
        if self.is_ended {
            return Ok(None);
        }
        let line = self.lines.next().await?;
        match serde_json::from_slice::<ListEnd>(&line) {
            Ok(end) if end.count == self.count => {
                self.is_ended = true;
                Ok(None)
            }
            Ok(end) => Err(self.lines.unexpected(format!("{} pairs were announced, {} came", end.count, self.count))),
            Err(_) => {
                self.count += 1;
                let body = serde_json::from_slice::<EntryBody<'_>>(&line).map_err(|error| self.lines.told(&line, &error))?;
                Entry::try_from(body).map(Some).map_err(|error| self.lines.told(&line, &error))
            }
        }
    }
}

impl StreamQuery {
    fn to_query(&self) -> String {
        let Self { selection, is_reverse, with_values, freshness } = self.clone();
        ListQuery { selection, is_reverse, with_values, freshness, ..ListQuery::default() }.to_query(None)
    }
}
