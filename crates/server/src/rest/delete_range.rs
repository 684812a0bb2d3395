//! Many keys at once: `DELETE /v1/kv/{ks}?prefix=`.

use std::ops::Bound;

use http::request::Parts;
use http::{HeaderValue, StatusCode};
use quorate_api::entry::DeletedBody;
use quorate_api::problem::{Code, WriteOutcome};
use quorate_engine::KeyRange;
use quorate_node::keyspace::{Detail, Op, Outcome, Removed, Revision, Write};

use super::answer::{self, Answer, DELETED, HeaderText};
use super::conditions::Conditions;
use super::deadline::Deadline;
use super::endpoint::App;
use super::once;
use super::query::{Treatment, parameters};
use super::refusal::Refusal;
use super::selection::{PARAMETERS, Selection};
use super::session::Session;
use super::store::{Freshness, Store, Wish};

/// Keys that go as one: each step is a command of its own in the log, so that one of them takes no replica long.
const MAX_KEYS_PER_STEP: u64 = 10_000;

/// What a range delete asks for.
#[derive(Debug, Default)]
struct Options {
    treatment: Treatment,
    selection: Selection,
    is_all: Option<bool>,
}

/// How far it has come.
#[derive(Debug, Default)]
struct Progress {
    deleted: u64,
    revision: Revision,
}

pub(super) async fn delete<S: Store>(
    app: &App<S>,
    head: &Parts,
    keyspace: &str,
    session: &mut Option<Session>,
) -> Result<Answer, Refusal> {
    let options = Options::parse(head.uri.query())?;
    if Conditions::parse(&head.headers, None)? != Conditions::default() {
        return Err(Refusal::new(Code::BadHeader, "conditions are about one key, not about a range of them"));
    }
    once::refuse(&head.headers, "a delete of many keys may be more than one write")?;
    let deadline = Deadline::after(options.treatment.timeout(&head.headers)?);
    // What it has seen, and is in the range, goes too.
    Session::level(app, keyspace, session, (Freshness::LOCAL, deadline)).await?;
    let mut progress = Progress::default();
    let mut left = Some(options.selection.range());
    while let Some(range) = left {
        left = match step(app, keyspace, &range, (deadline, session.as_mut()), &mut progress).await {
            Ok(next) => next.map(|next| KeyRange { start: Bound::Included(next), end: range.end }),
            Err(refusal) => return Err(progress.interrupted(refusal)),
        };
    }
    let mut headers = answer::headers();
    HeaderText::new().insert_revision(&mut headers, progress.revision);
    headers.insert(DELETED, HeaderValue::from(progress.deleted));
    Ok(answer::json(StatusCode::OK, headers, &DeletedBody { deleted: progress.deleted, revision: progress.revision.0 }))
}

/// Removes the first keys of a range. Returns the first one that is left.
async fn step<S: Store>(
    app: &App<S>,
    keyspace: &str,
    range: &KeyRange,
    (deadline, session): (Deadline, Option<&mut Session>),
    progress: &mut Progress,
) -> Result<Option<bytes::Bytes>, Refusal> {
    let overdue = || Refusal::new(Code::Incomplete, "the time limit ended before the last of the keys was deleted");
    let timeout = deadline.left().ok_or_else(overdue)?;
    let op = Op::DeleteRange { range: range.clone(), max_keys: MAX_KEYS_PER_STEP };
    let write = Write { guards: Vec::new(), ops: vec![op] };
    let wish = Wish { session: session.as_ref().and_then(|session| session.seen()), ..Wish::default() };
    let written = app.store.write(keyspace, write, wish, timeout).await.map_err(Refusal::of_write)?;
    let seen = written.session.as_ref();
    if let Some(refusal) = Refusal::of_outcome(written.epoch, &written.outcome) {
        return Err(refusal);
    }
    let Outcome::Applied { revision, results } = written.outcome else { unreachable!("everything else is a refusal") };
    session.into_iter().for_each(|session| session.note(revision, seen));
    let detail = results.into_iter().next().and_then(|result| result.detail).map(|detail| *detail);
    let Some(Detail::Removed(Removed { keys, next })) = detail else {
        return Err(Refusal::new(Code::Internal, "a range delete without its result"));
    };
    progress.deleted += keys;
    progress.revision = revision;
    Ok(next)
}

impl Progress {
    /// A refusal that says what was done before: some of the keys are gone, whatever became of the step that failed.
    fn interrupted(&self, refusal: Refusal) -> Refusal {
        match self.deleted {
            0 => refusal,
            deleted => refusal.with_outcome(WriteOutcome::Unknown).with_deleted(deleted),
        }
    }
}

impl Options {
    fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut options = Self::default();
        for parameter in parameters(query) {
            match parameter.name {
                "all" => parameter.set(&mut options.is_all, parameter.flag()?)?,
                _ if options.selection.take(parameter)? => {}
                _ if options.treatment.take_write(parameter)? => {}
                _ => return Err(parameter.unknown(&[&PARAMETERS[..], &["all", "timeout", "key64"]].concat())),
            }
        }
        match (options.selection.is_everything(), options.is_all == Some(true)) {
            (true, false) => Err(Refusal::new(Code::EmptySelection, "name a prefix, a start or an end, or say all=true")),
            (false, true) => {
                Err(Refusal::new(Code::BadParameter, "all: together with a selection it is not clear what is meant"))
            }
            _ => Ok(options),
        }
    }
}
