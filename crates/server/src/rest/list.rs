//! Lists: `GET /v1/kv/{ks}`.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use http::header::LINK;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use quorate_api::entry::{DEFAULT_LIST_ITEMS, Encoding, Entry, ListBody, MAX_LIST_BYTES, MAX_LIST_ITEMS};
use quorate_api::problem::Code;
use quorate_engine::{Direction, KeyRange, View};
use quorate_node::keyspace::{ListQuery, Page, Revision};

use super::answer::{self, Answer, CONSISTENCY, HeaderText};
use super::cursor::Cursor;
use super::endpoint::App;
use super::keyspaces;
use super::one_key::{consistency_value, entry_of, parse_encoding};
use super::query::{Parameter, Treatment, parameters};
use super::refusal::Refusal;
use super::selection::{self, Selection};
use super::store::{Reading, Store};

/// Methods of `/v1/kv/{ks}` without `key64`.
pub(super) const METHODS: &str = "GET, HEAD, DELETE";

/// Parameters besides the selection's.
const PARAMETERS: [&str; 9] =
    ["limit", "cursor", "reverse", "values", "encoding", "consistency", "min_revision", "timeout", "key64"];

/// What a list asks for.
#[derive(Debug, Default)]
struct ListOptions {
    treatment: Treatment,
    selection: Selection,
    limit: Option<usize>,
    cursor: Option<Bytes>,
    is_reverse: Option<bool>,
    is_with_values: Option<bool>,
    encoding: Option<Encoding>,
}

pub(super) async fn read<S: Store>(app: &App<S>, head: &Parts, keyspace: &str) -> Result<Answer, Refusal> {
    let options = ListOptions::parse(head.uri.query())?;
    let freshness = keyspaces::freshness(app, keyspace, &options.treatment, &head.headers)?;
    let timeout = options.treatment.timeout(&head.headers)?;
    let selection = options.checksum(keyspace);
    let cursor = options.cursor(selection)?;
    let query = options.to_query(cursor.as_ref());
    let Reading { view, .. } = app.store.read(keyspace, freshness, timeout).await.map_err(Refusal::of_read)?;
    let revision = Revision(view.revision());
    let first_revision = cursor.map_or(revision.0, |cursor| cursor.revision);
    let mut headers = answer::headers();
    HeaderText::new().insert_revision(&mut headers, revision);
    headers.insert(CONSISTENCY, consistency_value(freshness));

    let rendering = Rendering { view, query, selection, first_revision, encoding: options.encoding.unwrap_or_default() };
    let Rendered { body, next_cursor } = app.turns.run(timeout, move || rendering.render()).await?;
    if let Some(link) = next_cursor.as_deref().and_then(|cursor| next_link(head, cursor)) {
        headers.insert(LINK, link);
    }
    Ok(answer::json_text(StatusCode::OK, headers, body))
}

/// What takes a processor for some time: reading up to 10,000 pairs or 8 MiB, and writing them as JSON.
struct Rendering {
    view: Arc<dyn View>,
    query: ListQuery,
    selection: u32,
    first_revision: u64,
    encoding: Encoding,
}

struct Rendered {
    body: Bytes,
    next_cursor: Option<String>,
}

impl Rendering {
    fn render(self) -> Result<Rendered, Refusal> {
        let Self { view, query, selection, first_revision, encoding } = self;
        let page = if query.range.is_empty() {
            Page { items: Vec::new(), has_more: false }
        } else {
            quorate_node::keyspace::list(&*view, &query).map_err(|error| Refusal::new(Code::Internal, error.to_string()))?
        };
        let next_cursor = next_cursor(&page, selection, first_revision);
        // Values are left out if they were not asked for.
        let trim = |entry: Entry| Entry { value: entry.value.filter(|_| query.is_with_values), ..entry };
        let entries: Vec<Entry> = page.items.into_iter().map(|(key, record)| trim(entry_of(key, record))).collect();
        let body = ListBody {
            items: entries.iter().map(|entry| entry.to_body(encoding)).collect(),
            revision: view.revision(),
            next_cursor: next_cursor.clone(),
            revision_changed: first_revision != view.revision(),
        };
        Ok(Rendered { body: answer::to_json(&body), next_cursor })
    }
}

impl ListOptions {
    fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut options = Self::default();
        for parameter in parameters(query) {
            match parameter.name {
                "limit" => parameter.set(&mut options.limit, parse_limit(parameter)?)?,
                "cursor" => parameter.set(&mut options.cursor, parameter.bytes()?)?,
                "reverse" => parameter.set(&mut options.is_reverse, parameter.flag()?)?,
                "values" => parameter.set(&mut options.is_with_values, parameter.flag()?)?,
                "encoding" => parameter.set(&mut options.encoding, parse_encoding(parameter)?)?,
                _ if options.selection.take(parameter)? => {}
                _ if options.treatment.take_read(parameter)? => {}
                _ => return Err(parameter.unknown(&[&selection::PARAMETERS[..], &PARAMETERS].concat())),
            }
        }
        Ok(options)
    }

    fn direction(&self) -> Direction {
        if self.is_reverse == Some(true) { Direction::Reverse } else { Direction::Forward }
    }

    /// A checksum of what pages of one list have in common.
    fn checksum(&self, keyspace: &str) -> u32 {
        let [prefix, start, end] = self.selection.parts();
        let parts = [
            Some(keyspace.as_bytes()),
            prefix,
            start,
            end,
            Some(if self.direction() == Direction::Reverse { b"reverse" } else { b"forward" }),
        ];
        parts.into_iter().fold(0, |checksum, part| {
            let part = part.unwrap_or_default();
            let checksum = crc32c::crc32c_append(checksum, &(part.len() as u64).to_le_bytes());
            crc32c::crc32c_append(checksum, part)
        })
    }

    fn cursor(&self, selection: u32) -> Result<Option<Cursor>, Refusal> {
        let Some(text) = &self.cursor else {
            return Ok(None);
        };
        let foreign = || Refusal::new(Code::BadCursor, "the cursor was not given out for this keyspace, selection and order");
        Cursor::parse(text, selection).map(Some).ok_or_else(foreign)
    }

    fn to_query(&self, cursor: Option<&Cursor>) -> ListQuery {
        let direction = self.direction();
        let after = match (cursor.map(|cursor| Bound::Excluded(cursor.last_key.clone())), direction) {
            (None, _) => KeyRange::all(),
            (Some(start), Direction::Forward) => KeyRange { start, end: Bound::Unbounded },
            (Some(end), Direction::Reverse) => KeyRange { start: Bound::Unbounded, end },
        };
        ListQuery {
            range: self.selection.range().intersect(after),
            direction,
            max_items: self.limit.unwrap_or(DEFAULT_LIST_ITEMS),
            max_bytes: MAX_LIST_BYTES,
            is_with_values: self.is_with_values == Some(true),
        }
    }
}

fn parse_limit(parameter: Parameter<'_>) -> Result<usize, Refusal> {
    match parameter.number()? {
        limit if (1..=MAX_LIST_ITEMS as u64).contains(&limit) => Ok(limit as usize),
        _ => Err(parameter.bad(format_args!("not between 1 and {MAX_LIST_ITEMS}"))),
    }
}

fn next_cursor(page: &Page, selection: u32, revision: u64) -> Option<String> {
    let (last_key, _) = page.items.last().filter(|_| page.has_more)?;
    Some(Cursor { selection, revision, last_key: last_key.clone() }.to_text())
}

/// The same request with the next cursor (RFC 8288).
fn next_link(head: &Parts, cursor: &str) -> Option<HeaderValue> {
    let mut link = format!("<{}?", head.uri.path());
    for pair in head.uri.query().unwrap_or_default().split('&') {
        if !pair.is_empty() && !pair.starts_with("cursor=") {
            link.push_str(pair);
            link.push('&');
        }
    }
    link.push_str("cursor=");
    link.push_str(cursor);
    link.push_str(">; rel=\"next\"");
    HeaderValue::try_from(link).ok()
}
