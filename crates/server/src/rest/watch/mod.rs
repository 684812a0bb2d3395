//! Watches: `GET` and `POST /v1/watch/{ks}`, as server-sent events or as lines; and reads that wait for a change.

mod message;
mod options;
mod stream;
mod wait;

use std::fmt::Write as _;
use std::sync::Arc;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response};
use http_body_util::{Either, Full};
use quorate_api::entry::NDJSON;
use quorate_api::keyspace::{Capability, WatchScope};
use quorate_api::problem::Code;
use quorate_api::watch::EVENT_STREAM;
use quorate_engine::View;
use quorate_node::keyspace::watch::{Piece, Watch};
use quorate_node::keyspace::{PastError, Revision};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::answer::{self, AnswerBody, CONSISTENCY, EPOCH, HeaderText, WATCH_SCOPE};
use super::body::RequestBody;
use super::deadline::Deadline;
use super::endpoint::App;
use super::feeds::LiveFeed;
use super::keyspaces::{self, require};
use super::list::accepts_lines;
use super::one_key::consistency_value;
use super::refusal::Refusal;
use super::scans::Stream;
use super::session::Session;
use super::store::{Freshness, Store};
use message::{Form, Messages};
use options::Options;
use stream::Telling;

pub(super) use options::METHODS;
pub(super) use wait::{Patience, Waiting, wait_for_change};

/// Streams at a time. Each has a connection, a task, and some kilobytes.
const MAX_STREAMS: usize = 16 << 10;

/// Selections of all streams together, and reads that wait: about 200 bytes each.
const MAX_SELECTIONS: usize = 1 << 20;

/// Pieces of a stream that wait for the client, beside those in the sockets' buffers.
const MAX_WAITING_PIECES: usize = 1;

/// Room for watches, and the end of all of them.
#[derive(Debug)]
pub(super) struct Watches {
    streams: Arc<Semaphore>,
    selections: Arc<Semaphore>,
    is_ending: watch::Sender<bool>,
}

/// What a watch takes up. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    _stream: OwnedSemaphorePermit,
    _selections: OwnedSemaphorePermit,
}

impl Watches {
    pub(super) fn new() -> Self {
        Self {
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            selections: Arc::new(Semaphore::new(MAX_SELECTIONS)),
            is_ending: watch::Sender::new(false),
        }
    }

    /// The node goes down: ends what would go on for ever.
    pub(super) fn end_all(&self) {
        self.is_ending.send_replace(true);
    }

    fn room_for(&self, selections: usize) -> Result<Room, Refusal> {
        let overloaded = |_| Refusal::new(Code::Overloaded, "too many watches are under way");
        let selections = u32::try_from(selections).unwrap_or(u32::MAX);
        Ok(Room {
            _stream: Arc::clone(&self.streams).try_acquire_owned().map_err(overloaded)?,
            _selections: Arc::clone(&self.selections).try_acquire_many_owned(selections).map_err(overloaded)?,
        })
    }

    /// Appends how many there are, in Prometheus' text form.
    pub(super) fn write_metrics(&self, out: &mut String) {
        let streams = MAX_STREAMS - self.streams.available_permits();
        let selections = MAX_SELECTIONS - self.selections.available_permits();
        let _ = write!(
            out,
            "# HELP quorate_rest_watch_streams Watches that go on, and reads that wait for a change.\n\
             # TYPE quorate_rest_watch_streams gauge\n\
             quorate_rest_watch_streams {streams}\n\
             # HELP quorate_rest_watch_selections Selections of keys that they watch.\n\
             # TYPE quorate_rest_watch_selections gauge\n\
             quorate_rest_watch_selections {selections}\n"
        );
    }
}

pub(super) async fn answer<S: Store>(
    app: &Arc<App<S>>,
    head: &Parts,
    keyspace: &str,
    body: &mut RequestBody<'_>,
) -> Result<Response<AnswerBody>, Refusal> {
    let options = Options::read(head, body).await?;
    require(app, keyspace, Capability::Watch)?;
    let room = app.watches.room_for(options.selections.len())?;
    let freshness = keyspaces::freshness(app, keyspace, &options.treatment, &head.headers)?;
    let deadline = Deadline::after(options.treatment.timeout(&head.headers)?);
    let mut session = Session::of(app, keyspace, &head.headers).await?;
    let begun = begin(app, head, (keyspace, options, room), (freshness, deadline), &mut session).await;
    Session::told(session, begun)
}

async fn begin<S: Store>(
    app: &Arc<App<S>>,
    head: &Parts,
    (keyspace, options, room): (&str, Options, Room),
    (freshness, deadline): (Freshness, Deadline),
    session: &mut Option<Session>,
) -> Result<Response<AnswerBody>, Refusal> {
    let freshness = Session::level(app, keyspace, session, (freshness, deadline)).await?;
    // Confirmed first: what was acknowledged before the watch began is in the feed then, and "from now on" is behind it.
    let left = deadline.left().unwrap_or_default();
    let reading = app.store.read(keyspace, freshness, left).await.map_err(Refusal::of_read)?;
    let (epoch, feed) = app.store.feed(keyspace, deadline.left().unwrap_or_default()).await.map_err(Refusal::of_read)?;
    if epoch != reading.watched_at().0 {
        return Err(Refusal::new(Code::WatchEnded, format!("keyspace {keyspace} was made anew just now")));
    }
    let keys = options.selections.iter().map(|selection| selection.keys.clone()).collect();
    let watcher = feed.watch(keys);
    let after = match options.after(epoch, feed.epoch().is_some())? {
        Some(after) => after,
        None => feed.at(),
    };
    check_start(&feed, &*reading.view, after)?;
    let is_of_node = feed.epoch().is_some();

    let form = if accepts_lines(&head.headers) { Form::Lines } else { Form::Events };
    let (pieces, stream) = mpsc::channel(MAX_WAITING_PIECES);
    let telling = Telling {
        app: Arc::clone(app),
        keyspace: keyspace.to_owned(),
        watcher,
        watch: Watch::new(options.selections, after),
        messages: Arc::new(Messages { form, epoch, is_of_node, shown: options.shown, names: options.names }),
        is_ending: app.watches.is_ending.subscribe(),
        pieces,
        _room: room,
    };
    let mut headers = headers(form);
    let mut text = HeaderText::new();
    text.insert_revision(&mut headers, after);
    headers.insert(EPOCH, text.value(format_args!("{epoch:x}")));
    if is_of_node {
        headers.insert(WATCH_SCOPE, HeaderValue::from_static(WatchScope::Node.name()));
    }
    headers.insert(CONSISTENCY, consistency_value(freshness));
    drop(reading.view);
    let body = if head.method == Method::HEAD {
        Either::Left(Full::default())
    } else {
        drop(tokio::spawn(telling.run(options.is_initial)));
        Either::Right(axum::body::Body::new(Stream::of(stream)))
    };
    let mut answer = Response::new(body);
    *answer.headers_mut() = headers;
    Ok(answer)
}

/// Refuses what is not kept any more before the stream begins.
fn check_start(feed: &LiveFeed, view: &dyn View, after: Revision) -> Result<(), Refusal> {
    if feed.after(after).is_some() {
        return Ok(());
    }
    let found = if feed.epoch().is_some() { Err(NO_HISTORY) } else { Piece::of_history(view, after, 0, 0).map(drop) };
    found.map_err(|error| too_old(feed, after, error))
}

/// Where each node counts on its own, no revision can be read when the feed does not have it any more.
const NO_HISTORY: PastError = PastError::Compacted(Revision(u64::MAX));

/// The refusal of what is neither in the feed nor in the history.
fn too_old(feed: &LiveFeed, after: Revision, error: PastError) -> Refusal {
    match error {
        PastError::Compacted(compacted) => {
            let oldest = compacted.min(feed.since().next());
            Refusal::compacted(oldest, format!("revision {} is not kept any more; the oldest is {oldest}", after.next()))
        }
        error => Refusal::of_past(error),
    }
}

fn headers(form: Form) -> HeaderMap {
    let media_type = if form == Form::Lines { NDJSON } else { EVENT_STREAM };
    let mut headers = answer::headers();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, answer::NOSNIFF);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Or nginx would keep messages until it has a buffer full of them.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    headers
}
