//! The past of keys: reads at a revision, the versions that a key had, and `POST /v1/keyspaces/{ks}/compact`.

use std::time::Duration;

use axum::extract::{RawQuery, State};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use quorate_api::entry::{DEFAULT_LIST_ITEMS, Encoding, Entry, Happened, HistoryBody, MAX_LIST_BYTES, VersionBody};
use quorate_api::keyspace::{Capability, CompactBody, CompactedBody};
use quorate_api::problem::Code;
use quorate_engine::View;
use quorate_node::keyspace::{Cause, Op, Outcome, Record, Revision, ShardError, Version, Write, extent, history_of, log_time_of};

use super::admin::{Result as Answered, Shared, ok, timeout};
use super::answer::{self, Answer, CONSISTENCY, HeaderText};
use super::deadline::Deadline;
use super::endpoint::App;
use super::keyspaces::{self, PathName, changeable_name, json_object};
use super::list::{parse_limit, trimmed};
use super::one_key::{Target, consistency_value, entry_of, parse_encoding};
use super::query::{Parameter, Treatment, parameters};
use super::refusal::Refusal;
use super::store::{Freshness, Reading, Store, Wish};

/// How often a compaction looks whether all is swept.
const SWEPT_POLL: Duration = Duration::from_millis(20);

/// What is asked of the versions of a key.
#[derive(Debug, Default)]
struct HistoryOptions {
    treatment: Treatment,
    limit: Option<usize>,
    before: Option<Revision>,
    is_with_values: Option<bool>,
    encoding: Option<Encoding>,
}

/// A revision that is asked for.
pub(super) fn parse_revision(parameter: Parameter<'_>) -> Result<Revision, Refusal> {
    match parameter.number()? {
        0 => Err(parameter.bad("revisions count from 1")),
        revision => Ok(Revision(revision)),
    }
}

/// What a read at a revision takes: a keyspace that keeps history, and, at a node that may be behind, the wait for it.
pub(super) fn freshness_at<S: Store>(
    app: &App<S>,
    keyspace: &str,
    freshness: Freshness,
    revision: Option<Revision>,
) -> Result<Freshness, Refusal> {
    let Some(revision) = revision else { return Ok(freshness) };
    keyspaces::require(app, keyspace, Capability::History)?;
    // Who asks a quorum is told if there is no such revision yet.
    let wanted = freshness.min_revision.max((!freshness.is_linearizable).then_some(revision));
    Ok(Freshness { min_revision: wanted, ..freshness })
}

/// Whether a request for a key is about its versions.
pub(super) fn is_asked_for(head: &Parts) -> Result<bool, Refusal> {
    let mut is_asked_for = None;
    for parameter in parameters(head.uri.query()).filter(|parameter| parameter.name == "history") {
        parameter.set(&mut is_asked_for, parameter.flag()?)?;
    }
    Ok(is_asked_for == Some(true))
}

/// The versions of a key.
pub(super) async fn of_key<S: Store>(app: &App<S>, head: &Parts, target: Target<'_>) -> Result<Answer, Refusal> {
    let options = HistoryOptions::parse(head, target.is_key64)?;
    keyspaces::require(app, target.keyspace, Capability::History)?;
    let freshness = keyspaces::freshness(app, target.keyspace, &options.treatment, &head.headers)?;
    let timeout = options.treatment.timeout(&head.headers)?;
    let Reading { view, now_ms, .. } = app.store.read(target.keyspace, freshness, timeout).await.map_err(Refusal::of_read)?;
    let mut headers = answer::headers();
    HeaderText::new().insert_revision(&mut headers, Revision(view.revision()));
    headers.insert(CONSISTENCY, consistency_value(freshness));
    let key = target.key;
    let body = app.turns.run(timeout, move || options.render((&*view, now_ms), &key).map_err(Refusal::from)).await?;
    Ok(answer::json_text(StatusCode::OK, headers, body))
}

impl HistoryOptions {
    fn parse(head: &Parts, is_key64: bool) -> Result<Self, Refusal> {
        let mut options = Self::default();
        for parameter in parameters(head.uri.query()) {
            match parameter.name {
                "history" => {}
                "limit" => parameter.set(&mut options.limit, parse_limit(parameter)?)?,
                "before" => parameter.set(&mut options.before, parse_revision(parameter)?)?,
                "values" => parameter.set(&mut options.is_with_values, parameter.flag()?)?,
                "encoding" => parameter.set(&mut options.encoding, parse_encoding(parameter)?)?,
                "key64" if is_key64 => {}
                _ if options.treatment.take_read(parameter)? => {}
                _ => return Err(parameter.unknown(&PARAMETERS)),
            }
        }
        Ok(options)
    }

    /// `now_ms` is the log time.
    fn render(&self, (view, now_ms): (&dyn View, u64), key: &Bytes) -> Result<Bytes, ShardError> {
        let (limit, is_with_values) = (self.limit.unwrap_or(DEFAULT_LIST_ITEMS), self.is_with_values == Some(true));
        let (mut versions, mut size_bytes, mut next_before) = (Vec::new(), 0, None);
        for version in history_of(view, key, self.before)? {
            let Version { revision, record } = version?;
            if versions.len() >= limit || size_bytes > MAX_LIST_BYTES {
                next_before = versions.last().map(|(last, ..): &(u64, _, _, _)| *last);
                break;
            }
            let (happened, record) = match record {
                Ok(record) => (Happened::Put, Some(record)),
                Err(Cause::Expire) => (Happened::Expire, None),
                Err(Cause::Put | Cause::Delete) => (Happened::Delete, None),
            };
            let entry = record.map(|record| {
                size_bytes += key.len() + if is_with_values { record.value.len() } else { 0 };
                trimmed(entry_of(key.clone(), Record { expires_at_ms: None, ..record }, 0), is_with_values)
            });
            let age_ms = log_time_of(view, revision)?.map(|at_ms| now_ms.saturating_sub(at_ms));
            versions.push((revision.0, happened, age_ms, entry));
        }
        let encoding = self.encoding.unwrap_or_default();
        let items = versions.iter().map(|(revision, happened, age_ms, entry)| VersionBody {
            revision: *revision,
            happened: *happened,
            age_ms: *age_ms,
            entry: entry.as_ref().map(|entry: &Entry| entry.to_body(encoding)),
        });
        let items = items.collect();
        let compacted_revision = extent(view)?.compacted.0;
        Ok(answer::to_json(&HistoryBody { items, revision: view.revision(), compacted_revision, next_before }))
    }
}

/// Parameters of a read of versions.
const PARAMETERS: [&str; 9] =
    ["history", "limit", "before", "values", "encoding", "consistency", "min_revision", "timeout", "key64"];

/// Makes a revision the oldest that can be read.
pub(super) async fn compact<S: Store>(
    State(app): Shared<S>,
    name: PathName,
    query: RawQuery,
    headers: HeaderMap,
    sent: Bytes,
) -> Answered {
    let name = changeable_name(name)?;
    let timeout = timeout(&query, &headers)?;
    let deadline = Deadline::after(timeout);
    let fields = json_object(&headers, &sent, &["application/json"])?;
    let body: CompactBody =
        serde_json::from_value(fields.into()).map_err(|error| Refusal::new(Code::BadBody, error.to_string()))?;
    keyspaces::require(&*app, &name, Capability::History)?;
    let asked = Revision(body.revision);
    let write = Write { ops: vec![Op::Compact { revision: asked }], ..Write::default() };
    let written = app.store.write(&name, write, Wish::default(), timeout).await.map_err(Refusal::of_write)?;
    let revision = match (Refusal::of_outcome(written.epoch, &written.outcome), written.outcome) {
        (None, Outcome::Applied { revision, .. }) => revision,
        (Some(refusal), _) => return Err(refusal),
        (None, outcome) => unreachable!("{outcome:?} is a refusal"),
    };
    let is_swept = body.physical && is_swept(&*app, &name, asked, deadline).await?;
    Ok(ok(&CompactedBody { compacted_revision: asked.0, revision: revision.0, is_swept }))
}

/// Waits until this node's engine has swept what only revisions before this one needed; whether it has.
async fn is_swept<S: Store>(app: &App<S>, keyspace: &str, revision: Revision, deadline: Deadline) -> Result<bool, Refusal> {
    while let Some(left) = deadline.left() {
        let Reading { view, .. } = app.store.read(keyspace, Freshness::LOCAL, left).await.map_err(Refusal::of_read)?;
        if extent(&*view)?.swept >= revision {
            return Ok(true);
        }
        drop(view);
        tokio::time::sleep(SWEPT_POLL.min(left)).await;
    }
    Ok(false)
}
