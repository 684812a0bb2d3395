//! Watches: what happens to keys, through whichever node is there.

use std::time::Duration;

use http::{HeaderValue, Method, header};
use quorate_api::entry::NDJSON;
use quorate_api::header as own_header;
use quorate_api::keyspace::WatchScope;
use quorate_api::problem::{Code, Problem, WriteOutcome};
use quorate_api::text64;
use quorate_api::watch::{EventType, Happened, WatchBody, WatchEvent, WatchMessage, WatchSelection};

use crate::call::Client;
use crate::error::Error;
use crate::key_path::one_segment;
use crate::keys::GetOptions;
use crate::selection::Selection;
use crate::streams::Lines;
use crate::transport::{Effect, Request};

/// How long a node may say nothing: it says every 10 seconds that nothing happened.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is watched, and from when on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchQuery {
    /// What is watched; nothing in it: every key.
    pub watched: Vec<Watched>,
    /// The first revision to be told of; without it, the next one.
    pub from_revision: Option<u64>,
    /// First what is there, then what changes.
    pub is_initial: bool,
    /// Entries come without their values.
    pub without_values: bool,
    /// Events say what was before.
    pub with_prev: bool,
    /// How fresh the node must be that begins to tell.
    pub freshness: GetOptions,
}

/// A part of what is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Its name, which comes with its events; at most 64 bytes.
    pub id: Option<String>,
    /// Which keys.
    pub keys: WatchedKeys,
    /// Which kinds of events; nothing in it: all.
    pub types: Vec<EventType>,
}

/// Which keys are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchedKeys {
    /// This one.
    One(Vec<u8>),
    /// These.
    Many(Selection),
}

impl Default for WatchedKeys {
    fn default() -> Self {
        Self::Many(Selection::default())
    }
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// All that one revision changed of what is watched.
    Change {
        /// The revision.
        revision: u64,
        /// What it changed.
        events: Vec<Happened>,
    },
    /// With [`WatchQuery::is_initial`]: some of what was there at a revision.
    Snapshot {
        /// The revision.
        revision: u64,
        /// The keys that were there.
        events: Vec<Happened>,
        /// It is the first part: what came of an earlier snapshot is to be forgotten, whose node went away in its middle.
        is_first: bool,
    },
    /// That was all that was there; changes of later revisions come from now on.
    Sync {
        /// The revision.
        revision: u64,
    },
    /// Nothing else happened up to this revision.
    Progress {
        /// The revision.
        revision: u64,
    },
    /// Of an eventual keyspace, with [`WatchQuery::is_initial`]: the node that told so far is gone, or does not know any more
    /// what comes next, and another count of revisions begins. What was told is to be forgotten; what is there comes next, as at
    /// the beginning.
    Anew,
}

/// A watch that goes on.
#[derive(Debug)]
pub struct WatchStream {
    client: Client,
    keyspace: String,
    query: WatchQuery,
    lines: Option<Lines>,
    /// Names the keyspace for ever, as the first node told it.
    epoch: Option<String>,
    /// The last revision of which everything was told.
    told: Option<u64>,
    is_in_snapshot: bool,
    /// What is told is what one node changed itself.
    is_of_node: bool,
}

impl Client {
    /// Begins to watch. Nothing is asked for before [`WatchStream::next`].
    ///
    /// In a session ([`Client::in_session`]) a node begins to tell once it has all that the session has seen; what it tells then
    /// the session has not seen by that.
    pub fn watch(&self, keyspace: &str, query: WatchQuery) -> WatchStream {
        let keyspace = keyspace.to_owned();
        WatchStream {
            client: self.clone(),
            keyspace,
            query,
            lines: None,
            epoch: None,
            told: None,
            is_in_snapshot: false,
            is_of_node: false,
        }
    }
}

impl WatchStream {
    /// What comes next; waits for it, as long as it takes. If the node goes away, or says that it cannot go on, another one goes
    /// on from where this one ended: no change is missed, and none comes twice.
    ///
    /// Of an eventual keyspace each node tells what it changed itself, and no other one goes on from there, nor the same after a
    /// restart. Where what is there was asked for ([`WatchQuery::is_initial`]), another one begins with that ([`News::Anew`]);
    /// otherwise the next try fails with the problem `compacted`.
    ///
    /// An error is of a try to begin or to go on. After one that may pass (no node was reached) this may be called again, and
    /// goes on from where it was; after the problem `compacted` it will fail again: what happened meanwhile is not kept any more.
    pub async fn next(&mut self) -> Result<News, Error> {
        loop {
            if self.lines.is_none() {
                match self.open().await {
                    Ok(lines) => self.lines = Some(lines),
                    Err(Error::Refused { problem, .. }) if self.begins_anew(&problem) => return Ok(News::Anew),
                    Err(error) => return Err(error),
                }
            }
            let Some(lines) = &mut self.lines else { continue };
            let Ok(line) = lines.next().await else {
                self.lose();
                continue;
            };
            if line.is_empty() {
                continue;
            }
            let message = serde_json::from_slice(&line).map_err(|error| lines.told(&line, &error));
            match message? {
                WatchMessage::Error { problem, .. } if problem.retryable => self.go_elsewhere(),
                WatchMessage::Error { problem, .. } => {
                    let endpoint = lines.endpoint().to_owned();
                    self.lines = None;
                    self.is_in_snapshot = false;
                    if self.begins_anew(&problem) {
                        return Ok(News::Anew);
                    }
                    return Err(Error::Refused { endpoint, problem });
                }
                message => return self.take(message),
            }
        }
    }

    /// The last revision of which everything was told; none before the first.
    pub fn told(&self) -> Option<u64> {
        self.told
    }

    /// Of an eventual keyspace, where the node is whose changes are told; none of another keyspace, or while there is none.
    pub fn told_by(&self) -> Option<&str> {
        self.lines.as_ref().filter(|_| self.is_of_node).map(Lines::endpoint)
    }

    /// Whether it is to begin with what is there: what comes next is not known any more, or not to this node.
    fn begins_anew(&mut self, problem: &Problem) -> bool {
        let is_lost = Code::from_word(&problem.code) == Some(Code::Compacted) && self.is_of_node;
        if is_lost && self.query.is_initial && self.told.is_some() {
            (self.told, self.epoch) = (None, None);
            return true;
        }
        false
    }

    /// The connection is lost. If the node is still there, it alone may know what comes next.
    fn lose(&mut self) {
        if self.is_of_node {
            self.lines = None;
            self.is_in_snapshot = false;
        } else {
            self.go_elsewhere();
        }
    }

    fn go_elsewhere(&mut self) {
        self.lines = None;
        self.is_in_snapshot = false;
        self.client.turn_to_next_endpoint();
    }

    fn take(&mut self, message: WatchMessage<'_>) -> Result<News, Error> {
        let was_in_snapshot = std::mem::replace(&mut self.is_in_snapshot, matches!(message, WatchMessage::Snapshot { .. }));
        match message {
            WatchMessage::Change { revision, events } => {
                let events = self.happened(events)?;
                self.told = Some(revision);
                Ok(News::Change { revision, events })
            }
            WatchMessage::Snapshot { revision, events } => {
                Ok(News::Snapshot { revision, events: self.happened(events)?, is_first: !was_in_snapshot })
            }
            WatchMessage::Sync { revision } => {
                self.told = Some(revision);
                Ok(News::Sync { revision })
            }
            WatchMessage::Progress { revision } => {
                self.told = Some(revision);
                Ok(News::Progress { revision })
            }
            WatchMessage::Error { .. } => unreachable!("errors are seen before"),
        }
    }

    fn happened(&self, events: Vec<WatchEvent<'_>>) -> Result<Vec<Happened>, Error> {
        let happened: Result<Vec<Happened>, _> = events.into_iter().map(Happened::try_from).collect();
        happened.map_err(|error| match &self.lines {
            Some(lines) => lines.unexpected(error.to_string()),
            None => Error::InvalidRequest { reason: error.to_string() },
        })
    }

    async fn open(&mut self) -> Result<Lines, Error> {
        let target = format!("/v1/watch/{}?{}", one_segment(&self.keyspace), self.query.freshness.to_query());
        let mut request = Request::write(Method::POST, target).with_json(&self.body());
        request.effect = Effect::Repeatable;
        request.headers.insert(header::ACCEPT, HeaderValue::from_static(NDJSON));
        if let Some((epoch, told)) = self.epoch.as_ref().zip(self.told) {
            let id = HeaderValue::try_from(format!("{epoch}.{told}"));
            request.headers.insert("last-event-id", id.map_err(|error| Error::InvalidRequest { reason: error.to_string() })?);
        }
        let answer = self.client.open(request).await?;
        self.is_of_node = answer.text(own_header::WATCH_SCOPE) == Some(WatchScope::Node.name());
        if self.told.is_none() {
            self.epoch = answer.text(own_header::EPOCH).map(str::to_owned);
        }
        if self.told.is_none() && !self.query.is_initial {
            // Should the node go away before the first message, the next one goes on from here, and not from its own present.
            let begun = answer.number(own_header::REVISION, WriteOutcome::NotApplied)?;
            self.told = Some(self.query.from_revision.map_or(begun, |from| from.saturating_sub(1)));
        }
        Ok(Lines::new(answer.endpoint, answer.body, Some(PATIENCE), WriteOutcome::NotApplied))
    }

    fn body(&self) -> WatchBody {
        let everything = [Watched::default()];
        let watched = if self.query.watched.is_empty() { &everything[..] } else { &self.query.watched };
        WatchBody {
            watches: watched.iter().map(Watched::to_body).collect(),
            from_revision: self.query.from_revision.filter(|_| self.told.is_none()),
            initial: self.query.is_initial && self.told.is_none(),
            values: self.query.without_values.then_some(false),
            prev: self.query.with_prev,
            encoding: None,
        }
    }
}

impl Watched {
    /// All events of these keys.
    pub fn keys(keys: WatchedKeys) -> Self {
        Self { keys, ..Self::default() }
    }

    fn to_body(&self) -> WatchSelection {
        let (id, types) = (self.id.clone(), self.types.clone());
        match &self.keys {
            WatchedKeys::One(key) => WatchSelection { id, types, key64: Some(text64::encode(key)), ..WatchSelection::default() },
            WatchedKeys::Many(Selection { prefix, start, end }) => WatchSelection {
                id,
                types,
                prefix64: (!prefix.is_empty()).then(|| text64::encode(prefix)),
                start64: start.as_deref().map(text64::encode),
                end64: end.as_deref().map(text64::encode),
                ..WatchSelection::default()
            },
        }
    }
}
