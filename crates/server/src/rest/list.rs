//! Lists: `GET /v1/kv/{ks}`, as pages, as a number, or as a stream of lines.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{ACCEPT, LINK};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::Either;
use quorate_api::entry::{
    CountBody, DEFAULT_LIST_ITEMS, Encoding, Entry, ListBody, ListEnd, MAX_LIST_BYTES, MAX_LIST_ITEMS, NDJSON, folder_names,
};
use quorate_api::keyspace::Capability;
use quorate_api::problem::{Code, Problem, ProblemLine};
use quorate_engine::{Direction, KeyRange, View};
use quorate_node::keyspace::{
    Folding, Keys, ListQuery, Page, Revision, check_revision, keys, keys_at, list, list_at, pairs, pairs_at,
};
use serde::Serialize;

use super::answer::{self, Answer, AnswerBody, CONSISTENCY, HeaderText, INDEX};
use super::cursor::Cursor;
use super::deadline::Deadline;
use super::endpoint::App;
use super::history;
use super::keyspaces;
use super::one_key::{consistency_value, entry_of, index_value, parse_encoding};
use super::outside::Outside;
use super::query::{Parameter, Treatment, parameters};
use super::refusal::Refusal;
use super::scans::{Cost, Pieces};
use super::selection::{self, Selection};
use super::session::Session;
use super::store::{Freshness, Reading, Store};
use super::watch::{Patience, wait_for_change};

/// Methods of `/v1/kv/{ks}` without `key64`.
pub(super) const METHODS: &str = "GET, HEAD, DELETE";

/// Parameters besides the selection's.
const PARAMETERS: [&str; 16] = [
    "limit",
    "cursor",
    "reverse",
    "values",
    "delimiter",
    "separator",
    "delimiter64",
    "count_only",
    "encoding",
    "consistency",
    "min_revision",
    "revision",
    "timeout",
    "wait",
    "index",
    "key64",
];

/// Lines of a stream are handed over once there are so many bytes of them.
const PIECE_BYTES: usize = 64 << 10;

/// A count pauses this often, to let others have their turn.
const KEYS_BETWEEN_PAUSES: u64 = 16 << 10;

/// What a list asks for.
#[derive(Debug, Default)]
struct ListOptions {
    treatment: Treatment,
    patience: Patience,
    selection: Selection,
    limit: Option<usize>,
    cursor: Option<Bytes>,
    is_reverse: Option<bool>,
    is_with_values: Option<bool>,
    delimiter: Option<Bytes>,
    is_count: Option<bool>,
    encoding: Option<Encoding>,
    revision: Option<Revision>,
}

/// What a list is answered with: at hand, or as a stream.
type Listed = Either<Answer, Response<AnswerBody>>;

pub(super) async fn read<S: Store>(
    app: &App<S>,
    head: &Parts,
    keyspace: &str,
    session: &mut Option<Session>,
) -> Result<Listed, Refusal> {
    let options = ListOptions::parse(head.uri.query())?;
    let is_stream = options.check(accepts_lines(&head.headers))?;
    let freshness = keyspaces::freshness(app, keyspace, &options.treatment, &head.headers)?;
    let timeout = options.treatment.timeout(&head.headers)?;
    let deadline = Deadline::after(timeout);
    let checksum = options.checksum(keyspace);
    let cursor = options.cursor(checksum)?;
    // Where the past can be read, all pages are of one revision.
    let first = cursor.as_ref().map(|cursor| Revision(cursor.revision));
    let pinned = options.revision.or_else(|| first.filter(|_| app.store.can(keyspace, Capability::History)));
    let freshness = history::freshness_at(app, keyspace, freshness, pinned)?;
    if let Some(outside) = app.store.outside(keyspace, timeout).await.map_err(Refusal::of_read)? {
        return list_outside(app, head, (keyspace, outside), &options, (cursor, is_stream), deadline).await;
    }
    let mut counted = options.patience.counted(app, keyspace).await?;
    if options.patience.is_waiting() {
        let Reading { epoch, .. } = app.store.read(keyspace, Freshness::LOCAL, timeout).await.map_err(Refusal::of_read)?;
        if let Some(waiting) = options.patience.of(epoch, None) {
            let keys = vec![Keys::Range(options.selection.range())];
            let has_changed = Box::pin(wait_for_change(app, keyspace, keys, waiting)).await?;
            if !has_changed {
                let reading = app.store.read(keyspace, Freshness::LOCAL, timeout).await.map_err(Refusal::of_read)?;
                return Ok(Either::Left(unchanged(Revision(reading.view.revision()), counted.map(|_| waiting.1))));
            }
            counted = options.patience.counted(app, keyspace).await?;
        }
    }
    let cost = if app.store.can(keyspace, Capability::Ordered) { Cost::Returned } else { Cost::Everything };
    let freshness = Session::level(app, keyspace, session, (freshness, deadline)).await?;
    let Reading { view, now_ms, .. } = app.store.read(keyspace, freshness, timeout).await.map_err(Refusal::of_read)?;
    let at = pinned.unwrap_or_else(|| Revision(view.revision()));
    session.iter_mut().for_each(|session| session.note(at, None));
    // What is in the view it has seen once it has read it.
    Session::sees_all(app, keyspace, session, deadline).await?;
    pinned.map_or(Ok(()), |pinned| check_revision(&*view, pinned)).map_err(Refusal::of_past)?;
    let mut headers = answer::headers();
    HeaderText::new().insert_revision(&mut headers, at);
    insert_index(&mut headers, counted);
    headers.insert(CONSISTENCY, consistency_value(freshness));
    if is_stream {
        let scan = options.to_stream((view, now_ms), (pinned, at), head.method == Method::HEAD);
        return Ok(Either::Right(answer::ndjson(headers, app.scans.stream(cost, deadline, scan).await?)));
    }
    if options.is_count == Some(true) {
        let range = options.selection.range();
        let count = app.scans.run(cost, deadline, move |asker| count(&*view, &range, pinned, || asker.pause())).await?;
        return Ok(Either::Left(answer::json(StatusCode::OK, headers, &CountBody { count, revision: at.0 })));
    }
    let query = options.to_query(cursor.as_ref(), cost);
    let (encoding, first) = (options.encoding.unwrap_or_default(), first.unwrap_or(at));
    let rendering = Rendering { now_ms, query, checksum, first, at, encoding };
    let render = move || {
        let page = match pinned {
            Some(pinned) => list_at(&*view, &rendering.query, pinned).map_err(Refusal::of_past)?,
            None => list(&*view, &rendering.query)?,
        };
        Ok(rendering.render(page))
    };
    let Rendered { body, next_cursor } = app.turns.run(timeout, render).await?;
    if let Some(link) = next_cursor.as_deref().and_then(|cursor| next_link(head, cursor)) {
        headers.insert(LINK, link);
    }
    Ok(Either::Left(answer::json_text(StatusCode::OK, headers, body)))
}

/// The same from a store outside, which is asked for each page anew.
async fn list_outside<S: Store>(
    app: &App<S>,
    head: &Parts,
    (keyspace, outside): (&str, Outside),
    options: &ListOptions,
    (cursor, is_stream): (Option<Cursor>, bool),
    deadline: Deadline,
) -> Result<Listed, Refusal> {
    if options.patience.is_waiting() {
        keyspaces::require(app, keyspace, Capability::Watch)?;
    }
    let is_ordered = outside.store.capabilities().ordered;
    let cost = if is_ordered { Cost::Returned } else { Cost::Everything };
    let left = || deadline.left().unwrap_or_default();
    let (mut headers, range) = (answer::headers(), options.selection.range());
    headers.insert(CONSISTENCY, consistency_value(Freshness::LOCAL));
    if is_stream {
        if options.direction() == Direction::Reverse {
            let why = "reverse: a store outside lists forwards; ask for pages instead of lines";
            return Err(Refusal::new(Code::UnsupportedCapability, why));
        }
        let room = app.scans.take(Cost::Returned, deadline).await?;
        if head.method == Method::HEAD {
            return Ok(Either::Left(answer::empty(StatusCode::OK, headers)));
        }
        let form = (options.is_with_values == Some(true), options.encoding.unwrap_or_default());
        return Ok(Either::Right(answer::ndjson(headers, outside.stream(range, form, room))));
    }
    // Who has to look at all keys for one page takes the place of a scan that sorts.
    let _room = app.scans.take(cost, deadline).await?;
    if options.is_count == Some(true) {
        let count = outside.count(range, left()).await.map_err(Refusal::of_read)?;
        return Ok(Either::Left(answer::json(StatusCode::OK, headers, &CountBody { count, revision: 0 })));
    }
    let query = options.to_query(cursor.as_ref(), cost);
    let page = outside.page(&query, left()).await.map_err(Refusal::of_read)?;
    let (checksum, encoding) = (options.checksum(keyspace), options.encoding.unwrap_or_default());
    let (now_ms, first, at) = (outside.now_ms, Revision(0), Revision(0));
    let rendering = Rendering { now_ms, query, checksum, first, at, encoding };
    let Rendered { body, next_cursor } = app.turns.run(left(), move || Ok(rendering.render(page))).await?;
    if let Some(link) = next_cursor.as_deref().and_then(|cursor| next_link(head, cursor)) {
        headers.insert(LINK, link);
    }
    Ok(Either::Left(answer::json_text(StatusCode::OK, headers, body)))
}

fn insert_index(headers: &mut HeaderMap, counted: Option<(u64, Revision)>) {
    if let Some(counted) = counted {
        headers.insert(INDEX, index_value(&mut HeaderText::new(), counted));
    }
}

/// The answer when nothing happened since.
fn unchanged(revision: Revision, since: Option<(u64, Revision)>) -> Answer {
    let mut headers = answer::headers();
    insert_index(&mut headers, since);
    HeaderText::new().insert_revision(&mut headers, revision);
    answer::empty(StatusCode::NOT_MODIFIED, headers)
}

/// What takes a processor for some time: reading up to 10,000 pairs or 8 MiB, and writing them as JSON.
struct Rendering {
    now_ms: u64,
    query: ListQuery,
    checksum: u32,
    /// The revision of the first page, and that of this one.
    first: Revision,
    at: Revision,
    encoding: Encoding,
}

struct Rendered {
    body: Bytes,
    next_cursor: Option<String>,
}

impl Rendering {
    fn render(self, page: Page) -> Rendered {
        let Self { now_ms, query, checksum, first, at, encoding } = self;
        let next_cursor = page.next.map(|place| Cursor { selection: checksum, revision: first.0, place }.to_text());
        let entries: Vec<Entry> =
            page.items.into_iter().map(|(key, record)| trimmed(entry_of(key, record, now_ms), query.is_with_values)).collect();
        let (prefixes, prefixes64) = folder_names(&page.folders, encoding);
        let body = ListBody {
            items: entries.iter().map(|entry| entry.to_body(encoding)).collect(),
            prefixes: query.folding.is_some().then_some(prefixes),
            prefixes64,
            revision: at.0,
            next_cursor: next_cursor.clone(),
            revision_changed: first != at,
        };
        Rendered { body: answer::to_json(&body), next_cursor }
    }
}

/// The entry without its value, unless that was asked for.
pub(super) fn trimmed(entry: Entry, is_with_values: bool) -> Entry {
    Entry { value: entry.value.filter(|_| is_with_values), ..entry }
}

fn count(
    view: &dyn View,
    range: &KeyRange,
    pinned: Option<Revision>,
    mut pause: impl FnMut() -> Result<(), Refusal>,
) -> Result<u64, Refusal> {
    let mut count = 0;
    let keys: Box<dyn Iterator<Item = _>> = match pinned {
        Some(pinned) => Box::new(keys_at(view, range, pinned).map_err(Refusal::of_past)?),
        None => Box::new(keys(view, range)),
    };
    for key in keys {
        key?;
        count += 1;
        if count % KEYS_BETWEEN_PAUSES == 0 {
            pause()?;
        }
    }
    Ok(count)
}

/// Whether the client asks for lines.
pub(super) fn accepts_lines(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let mut ranges = lines.flat_map(|line| line.split(',')).filter_map(|range| range.split(';').next());
    ranges.any(|range| range.trim().eq_ignore_ascii_case(NDJSON))
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
                "delimiter" | "separator" => parameter.set(&mut options.delimiter, not_empty(parameter, parameter.key()?)?)?,
                "delimiter64" => parameter.set(&mut options.delimiter, not_empty(parameter, parameter.key64()?)?)?,
                "count_only" => parameter.set(&mut options.is_count, parameter.flag()?)?,
                "encoding" => parameter.set(&mut options.encoding, parse_encoding(parameter)?)?,
                "revision" => parameter.set(&mut options.revision, history::parse_revision(parameter)?)?,
                _ if options.selection.take(parameter)? => {}
                _ if options.treatment.take_read(parameter)? => {}
                _ if options.patience.take(parameter)? => {}
                _ => return Err(parameter.unknown(&[&selection::PARAMETERS[..], &PARAMETERS].concat())),
            }
        }
        Ok(options)
    }

    /// Refuses what has no meaning together. Returns whether lines are asked for.
    fn check(&self, accepts_lines: bool) -> Result<bool, Refusal> {
        let given = [
            ("limit", self.limit.is_some()),
            ("cursor", self.cursor.is_some()),
            ("delimiter", self.delimiter.is_some()),
            ("reverse", self.is_reverse.is_some()),
            ("values", self.is_with_values.is_some()),
            ("encoding", self.encoding.is_some()),
        ];
        self.patience.check_with(self.revision)?;
        // A count says nothing of single keys, and a stream has all of them.
        let (what, pointless) = match (self.is_count == Some(true), accepts_lines) {
            (true, _) => ("count_only", &given[..]),
            (false, true) => ("a stream of lines", &given[..3]),
            (false, false) => return Ok(false),
        };
        match pointless.iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => Err(Refusal::new(Code::BadParameter, format!("{name}: has no meaning together with {what}"))),
            None => Ok(accepts_lines && self.is_count != Some(true)),
        }
    }

    fn direction(&self) -> Direction {
        if self.is_reverse == Some(true) { Direction::Reverse } else { Direction::Forward }
    }

    /// A checksum of what pages of one list have in common.
    fn checksum(&self, keyspace: &str) -> u32 {
        let [prefix, start, end] = self.selection.parts();
        let revision = self.revision.map(|revision| revision.0.to_le_bytes());
        let parts = [
            Some(keyspace.as_bytes()),
            prefix,
            start,
            end,
            Some(if self.direction() == Direction::Reverse { b"reverse" } else { b"forward" }),
            self.delimiter.as_deref(),
        ];
        // Where none is asked for, it is as it was before there were any.
        parts.into_iter().chain(revision.as_ref().map(|revision| Some(&revision[..]))).fold(0, |checksum, part| {
            let part = part.unwrap_or_default();
            let checksum = crc32c::crc32c_append(checksum, &(part.len() as u64).to_le_bytes());
            crc32c::crc32c_append(checksum, part)
        })
    }

    fn cursor(&self, checksum: u32) -> Result<Option<Cursor>, Refusal> {
        let Some(text) = &self.cursor else {
            return Ok(None);
        };
        let foreign = || Refusal::new(Code::BadCursor, "the cursor was not given out for this keyspace, selection and order");
        Cursor::parse(text, checksum).map(Some).ok_or_else(foreign)
    }

    fn to_query(&self, cursor: Option<&Cursor>, cost: Cost) -> ListQuery {
        let direction = self.direction();
        let range = self.selection.range();
        let folding = self.delimiter.clone().map(|delimiter| Folding {
            prefix_bytes: self.selection.prefix().len(),
            delimiter,
            is_ordered: cost == Cost::Returned,
        });
        ListQuery {
            range: cursor.map_or_else(|| range.clone(), |cursor| cursor.place.rest_of(range.clone(), direction)),
            direction,
            max_items: self.limit.unwrap_or(DEFAULT_LIST_ITEMS),
            max_bytes: MAX_LIST_BYTES,
            is_with_values: self.is_with_values == Some(true),
            folding,
        }
    }

    /// Every pair of the selection as a line, from one view; then a line that says so.
    fn to_stream(
        &self,
        (view, now_ms): (Arc<dyn View>, u64),
        (pinned, at): (Option<Revision>, Revision),
        is_head: bool,
    ) -> impl FnOnce(&mut Pieces) + Send + use<> {
        let (range, direction) = (self.selection.range(), self.direction());
        let (is_with_values, encoding) = (self.is_with_values == Some(true), self.encoding.unwrap_or_default());
        move |pieces| {
            if !is_head {
                send_lines(pieces, (&*view, now_ms), (pinned, at), (&range, direction), |entry, lines| {
                    put_line(lines, &trimmed(entry, is_with_values).to_body(encoding));
                });
            }
        }
    }
}

/// Sends all pairs of a range, until the client goes away.
fn send_lines(
    pieces: &mut Pieces,
    (view, now_ms): (&dyn View, u64),
    (pinned, at): (Option<Revision>, Revision),
    (range, direction): (&KeyRange, Direction),
    mut put_entry: impl FnMut(Entry, &mut BytesMut),
) {
    let mut lines = BytesMut::with_capacity(PIECE_BYTES);
    let mut count = 0;
    let found: Box<dyn Iterator<Item = _>> = match pinned.map(|pinned| pairs_at(view, range, direction, pinned)) {
        None => Box::new(pairs(view, range, direction)),
        Some(Ok(found)) => Box::new(found),
        Some(Err(error)) => return send_problem(pieces, lines, &error),
    };
    for pair in found {
        match pair {
            Ok((key, record)) => put_entry(entry_of(key, record, now_ms), &mut lines),
            Err(error) => return send_problem(pieces, lines, &error),
        }
        count += 1;
        if lines.len() >= PIECE_BYTES && !pieces.send(lines.split().freeze()) {
            return;
        }
    }
    put_line(&mut lines, &ListEnd { revision: at.0, count });
    pieces.send(lines.freeze());
}

/// Ends a stream with what kept it from going on.
fn send_problem(pieces: &mut Pieces, mut lines: BytesMut, error: &dyn std::fmt::Display) {
    tracing::error!(%error, "a list was broken off");
    put_line(&mut lines, &ProblemLine { problem: Problem::new(Code::Internal, error.to_string()) });
    pieces.send(lines.freeze());
}

/// Appends an object and a line break.
pub(super) fn put_line(out: &mut BytesMut, object: &impl Serialize) {
    serde_json::to_writer(out.writer(), object).expect("bodies have string keys and no fallible parts");
    out.put_u8(b'\n');
}

fn not_empty(parameter: Parameter<'_>, delimiter: Bytes) -> Result<Bytes, Refusal> {
    if delimiter.is_empty() { Err(parameter.bad("empty")) } else { Ok(delimiter) }
}

pub(super) fn parse_limit(parameter: Parameter<'_>) -> Result<usize, Refusal> {
    match parameter.number()? {
        limit if (1..=MAX_LIST_ITEMS as u64).contains(&limit) => Ok(limit as usize),
        _ => Err(parameter.bad(format_args!("not between 1 and {MAX_LIST_ITEMS}"))),
    }
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
