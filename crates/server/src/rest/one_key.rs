//! One key: `GET`, `HEAD`, `PUT`, `DELETE` on `/v1/kv/{ks}/{key...}` and on `/v1/kv/{ks}?key64=`; `patch` has `PATCH`.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use quorate_api::entry::{Counters, Encoding, Entry, MAX_TTL_MS, PutBody};
use quorate_api::etag::EntityTag;
use quorate_api::keyspace::Capability;
use quorate_api::problem::Code;
use quorate_api::{duration, header, lease};
use quorate_engine::View;
use quorate_node::eventual_replication::Ack;
use quorate_node::keyspace::{self, KeyMeta, Keys, LeaseId, Op, OpResult, Outcome, Put, Record, Revision, Write};

use super::answer::{
    self, ANSWERED, Answer, CONSISTENCY, DELETED, HeaderText, INDEX, LEASE, OCTETS, REPLICATED, STAMP, TTL, entity_tag,
};
use super::body::RequestBody;
use super::conditions::{Cas, Conditions, ReadVerdict};
use super::endpoint::App;
use super::history;
use super::keyspaces;
use super::meta;
use super::once;
use super::outside::tag_in;
use super::query::{Parameter, Treatment, consistency_name, parameters, twin};
use super::refusal::Refusal;
use super::session::Session;
use super::store::{Answered, Freshness, KeyReading, Reading, Replicated, Store, Wish};
use super::watch::{Patience, Waiting, wait_for_change};
use crate::eventual_view::{stamp_text, version_in};

/// The key that a request is about.
#[derive(Clone, Debug)]
pub(super) struct Target<'a> {
    pub(super) keyspace: &'a str,
    pub(super) key: Bytes,
    /// The key stands in the parameter `key64`, not in the path.
    pub(super) is_key64: bool,
}

pub(super) const METHODS: &str = "GET, HEAD, PUT, PATCH, DELETE";

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Longest media type that is kept with a value.
const MAX_CONTENT_TYPE_BYTES: usize = 256;

pub(super) const CONTENT_TYPE_FORM: &str = "at most 256 visible ASCII characters are kept";

/// Parameters of a read.
const READ_PARAMETERS: [&str; 10] =
    ["consistency", "min_revision", "revision", "history", "format", "encoding", "timeout", "wait", "index", "key64"];

/// What a read asks for beside the key.
#[derive(Clone, Copy, Debug, Default)]
struct ReadOptions {
    treatment: Treatment,
    patience: Patience,
    form: Option<Form>,
    encoding: Option<Encoding>,
    revision: Option<Revision>,
}

/// What a read answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The value as it is.
    Raw,
    /// The entry, with its value.
    Json,
    /// The entry without it.
    Meta,
}

/// What a write asks for beside the key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WriteOptions {
    pub(super) treatment: Treatment,
    pub(super) cas: Option<Cas>,
    /// Not of a delete.
    pub(super) ttl_ms: Option<u64>,
    /// Only of a put.
    lease: Option<LeaseId>,
}

pub(super) async fn read<S: Store>(
    app: &App<S>,
    head: &Parts,
    target: Target<'_>,
    session: &mut Option<Session>,
) -> Result<Answer, Refusal> {
    if history::is_asked_for(head)? {
        return history::of_key(app, head, target).await;
    }
    let options = ReadOptions::parse(head, target.is_key64)?;
    let freshness = keyspaces::freshness(app, target.keyspace, &options.treatment, &head.headers)?;
    let freshness = history::freshness_at(app, target.keyspace, freshness, options.revision)?;
    let conditions = Conditions::parse(&head.headers, None)?;
    let timeout = options.treatment.timeout(&head.headers)?;
    let freshness = session.as_ref().map_or(freshness, |session| session.freshness(freshness));
    let mut counted = options.patience.counted(app, target.keyspace).await?;
    let (mut seen, answered) = find(app, &target, (freshness, options.revision), session.as_mut(), timeout).await?;
    if let Some(waiting) = seen.is_waited_for(&options.patience, &conditions, counted) {
        let has_changed = Box::pin(wait_for_change(app, target.keyspace, vec![Keys::One(target.key.clone())], waiting)).await?;
        if has_changed {
            counted = options.patience.counted(app, target.keyspace).await?;
        }
        seen = look(app, &target, (if has_changed { freshness } else { Freshness::LOCAL }, None), timeout).await?;
        if !has_changed {
            return Ok(seen.unchanged(counted.map(|_| waiting.1)));
        }
    }
    session.iter_mut().for_each(|session| session.note(seen.revision, None));
    let verdict = seen.verdict(&conditions);
    let Seen { epoch, revision, record, now_ms } = seen;
    if verdict == ReadVerdict::Failed {
        let meta = record.map(|record| record.meta);
        return Err(Refusal::precondition_failed(epoch, revision, meta));
    }
    let Some(record) = record else {
        let refusal = not_found(answered, counted).with_revision(revision);
        return Err(refusal.with_header(CONSISTENCY, consistency_value(freshness)));
    };
    let mut text = HeaderText::new();
    let mut headers = answer::headers();
    if let Some(answered) = answered {
        headers.insert(ANSWERED, answered_value(&mut text, answered));
    }
    if let Some(counted) = counted {
        headers.insert(INDEX, index_value(&mut text, counted));
    }
    text.insert_revision(&mut headers, revision);
    text.insert_meta(&mut headers, epoch, &record.meta);
    meta::insert(&mut headers, &record.user_meta);
    headers.insert(CONSISTENCY, consistency_value(freshness));
    if let Some(ttl_ms) = ttl_left(&record, now_ms) {
        headers.insert(TTL, text.value(format_args!("{}", duration::format_seconds(ttl_ms))));
    }
    if let Some(lease) = record.lease {
        headers.insert(LEASE, text.value(format_args!("{lease}")));
    }
    if verdict == ReadVerdict::NotModified {
        return Ok(answer::empty(StatusCode::NOT_MODIFIED, headers));
    }
    if let Some(form @ (Form::Json | Form::Meta)) = options.form {
        let entry = entry_of(target.key, record, now_ms);
        let entry = Entry { value: entry.value.filter(|_| form == Form::Json), ..entry };
        return Ok(answer::json(StatusCode::OK, headers, &entry.to_body(options.encoding.unwrap_or_default())));
    }
    headers.insert(CONTENT_TYPE, content_type_value(record.content_type));
    answer::insert_sandbox(&mut headers);
    Ok(answer::with_body(StatusCode::OK, headers, record.value))
}

fn not_found(answered: Option<Answered>, counted: Option<(u64, Revision)>) -> Refusal {
    let mut refusal = Refusal::new(Code::KeyNotFound, "the keyspace does not hold this key");
    if let Some(counted) = counted {
        refusal = refusal.with_header(INDEX, index_value(&mut HeaderText::new(), counted));
    }
    match answered {
        Some(answered) => refusal.with_header(ANSWERED, answered_value(&mut HeaderText::new(), answered)),
        None => refusal,
    }
}

/// A key as it was found.
struct Seen {
    epoch: u64,
    revision: Revision,
    record: Option<Record>,
    now_ms: u64,
}

/// The key as it is to be seen, and who answered, where others are asked.
async fn find<S: Store>(
    app: &App<S>,
    target: &Target<'_>,
    (freshness, revision): (Freshness, Option<Revision>),
    session: Option<&mut Session>,
    timeout: Duration,
) -> Result<(Seen, Option<Answered>), Refusal> {
    let has_seen = session.as_ref().and_then(|session| session.seen());
    if freshness.asks_others || has_seen.is_some() {
        let found = app.store.read_key(target.keyspace, &target.key, has_seen, timeout).await.map_err(Refusal::of_read)?;
        if let Some(KeyReading { epoch, record, now_ms, answered, session: sees }) = found {
            session.into_iter().for_each(|session| session.note(Revision(0), sees.as_ref()));
            return Ok((Seen { epoch, revision: Revision(0), record, now_ms }, answered));
        }
    }
    Ok((look(app, target, (freshness, revision), timeout).await?, None))
}

async fn look<S: Store>(
    app: &App<S>,
    target: &Target<'_>,
    (freshness, revision): (Freshness, Option<Revision>),
    timeout: Duration,
) -> Result<Seen, Refusal> {
    if let Some(outside) = app.store.outside(target.keyspace, timeout).await.map_err(Refusal::of_read)? {
        let record = outside.get(&target.key, timeout).await.map_err(Refusal::of_read)?;
        return Ok(Seen { epoch: outside.epoch, revision: Revision(0), record, now_ms: outside.now_ms });
    }
    let Reading { epoch, view, now_ms, .. } =
        app.store.read(target.keyspace, freshness, timeout).await.map_err(Refusal::of_read)?;
    let record = record_at(&*view, &target.key, revision)?;
    Ok(Seen { epoch, revision: revision.unwrap_or_else(|| Revision(view.revision())), record, now_ms })
}

impl Seen {
    fn verdict(&self, conditions: &Conditions) -> ReadVerdict {
        conditions.judge_read(self.record.as_ref().map(|record| entity_tag(self.epoch, &record.meta)))
    }

    /// How long a change is waited for, and after which revision, if the client has what there is, and wants to wait.
    fn is_waited_for(&self, patience: &Patience, conditions: &Conditions, counted: Option<(u64, Revision)>) -> Option<Waiting> {
        let is_newer = |index| self.record.as_ref().is_some_and(|record| record.meta.mod_revision > index);
        if patience.index().is_some_and(is_newer) {
            return None;
        }
        let is_unchanged = self.verdict(conditions) == ReadVerdict::NotModified;
        patience.of(self.epoch, is_unchanged.then(|| counted.unwrap_or((self.epoch, self.revision))))
    }

    /// The answer when nothing happened since.
    fn unchanged(&self, since: Option<(u64, Revision)>) -> Answer {
        let mut text = HeaderText::new();
        let mut headers = answer::headers();
        if let Some(since) = since {
            headers.insert(INDEX, index_value(&mut text, since));
        }
        text.insert_revision(&mut headers, self.revision);
        if let Some(record) = &self.record {
            text.insert_meta(&mut headers, self.epoch, &record.meta);
        }
        answer::empty(StatusCode::NOT_MODIFIED, headers)
    }
}

/// What a read that waits is to name as `index`, for what comes after it.
pub(super) fn index_value(text: &mut HeaderText, (epoch, revision): (u64, Revision)) -> HeaderValue {
    text.value(format_args!("{}", EntityTag { epoch, mod_revision: revision.0, instance: 0 }))
}

/// The record of a key: now, or at a revision. What was then does not go by itself.
fn record_at(view: &dyn View, key: &[u8], revision: Option<Revision>) -> Result<Option<Record>, Refusal> {
    match revision {
        None => Ok(keyspace::get(view, key)?),
        Some(revision) => {
            let record = keyspace::get_at(view, key, revision).map_err(Refusal::of_past)?;
            Ok(record.map(|record| Record { expires_at_ms: None, ..record }))
        }
    }
}

pub(super) async fn put<S: Store>(
    app: &App<S>,
    head: &Parts,
    target: Target<'_>,
    body: &mut RequestBody<'_>,
    session: &mut Option<Session>,
) -> Result<Answer, Refusal> {
    let options = WriteOptions::of_put(head, target.is_key64)?;
    let timeout = options.treatment.timeout(&head.headers)?;
    let conditions = Conditions::parse(&head.headers, options.cas)?;
    let ttl_ms = options.ttl_ms(&head.headers)?;
    let ack = options.treatment.ack(app, target.keyspace)?;
    if ttl_ms.is_some() {
        keyspaces::require(app, target.keyspace, Capability::TtlPerKey)?;
    }
    if options.lease.is_some() {
        keyspaces::require(app, target.keyspace, Capability::Leases)?;
    }
    let content_type = check_representation(&head.headers)?;
    let user_meta = meta::of_headers(&head.headers)?;
    let preference = Preference::of(&head.headers);
    let value = body.read(app.config.max_value_bytes, Code::ValueTooLarge).await?;

    let guards = guards(app, &target, &conditions, timeout).await?;
    let returned = (preference == Some(Preference::Representation)).then(|| (target.key.clone(), value.clone()));
    let (key, kept) = (target.key.clone(), (content_type.clone(), user_meta.clone()));
    let put = Put { key, value, content_type: kept.0, user_meta: kept.1, ttl_ms, lease: options.lease };
    let write = once::once(app, target.keyspace, &head.headers, Write { guards, ops: vec![Op::Put(put)] })?;
    let written = write_one(app, &target, write, (ack, session.as_mut()), timeout).await?;
    let revision = written.revision;
    let meta = written.result.after.unwrap_or(KeyMeta { create_revision: revision, mod_revision: revision, version: 1 });
    let headers = written.headers(&mut HeaderText::new(), &meta, preference);
    let status = |status| written.status(status);
    let result = &written.result;
    if let Some((key, value)) = returned {
        let lease = options.lease;
        let entry = entry_of(key, Record { meta, content_type, user_meta, expires_at_ms: None, lease, value }, 0);
        let default_ttl_ms = || app.store.default_ttl_ms(target.keyspace).filter(|_| lease.is_none());
        let entry = Entry { ttl_ms: ttl_ms.or_else(default_ttl_ms), ..entry };
        let prev = result.before.filter(|before| before.create_revision != Revision(0)).map(counters);
        let body = PutBody { entry: entry.to_body(Encoding::Text), prev };
        return Ok(answer::json(status(StatusCode::OK), headers, &body));
    }
    let done = if result.before.is_some() { StatusCode::NO_CONTENT } else { StatusCode::CREATED };
    Ok(answer::empty(status(done), headers))
}

pub(super) async fn delete<S: Store>(
    app: &App<S>,
    head: &Parts,
    target: Target<'_>,
    session: &mut Option<Session>,
) -> Result<Answer, Refusal> {
    let options = WriteOptions::of_delete(head, target.is_key64)?;
    let timeout = options.treatment.timeout(&head.headers)?;
    let ack = options.treatment.ack(app, target.keyspace)?;
    let conditions = Conditions::parse(&head.headers, options.cas)?;
    let guards = guards(app, &target, &conditions, timeout).await?;
    let write = Write { guards, ops: vec![Op::Delete { key: target.key.clone() }] };
    let write = once::once(app, target.keyspace, &head.headers, write)?;
    let written = write_one(app, &target, write, (ack, session.as_mut()), timeout).await?;
    let (mut headers, mut text) = (answer::headers(), HeaderText::new());
    once::mark(&mut headers, written.is_repeated);
    text.insert_revision(&mut headers, written.revision);
    written.insert_replicated(&mut text, &mut headers);
    if let Some(version) = written.replicated.and_then(|replicated| replicated.stamp) {
        headers.insert(STAMP, text.value(format_args!("{}", stamp_text(version))));
    }
    if written.revision == Revision(0) && written.replicated.is_none() {
        headers.insert(STAMP, HeaderValue::from_static("0"));
    }
    headers.insert(DELETED, HeaderValue::from_static(if written.result.before.is_some() { "1" } else { "0" }));
    Ok(answer::empty(written.status(StatusCode::NO_CONTENT), headers))
}

/// Tags in conditions name an epoch, so the keyspace's has to be known first; this node's own state has it. Should the
/// keyspace be made anew between that and the write, the write goes to a group that no longer is, and fails.
pub(super) async fn guards<S: Store>(
    app: &App<S>,
    target: &Target<'_>,
    conditions: &Conditions,
    timeout: Duration,
) -> Result<Vec<keyspace::Guard>, Refusal> {
    let mut epoch = 0;
    if conditions.need_epoch() {
        epoch = app.store.read(target.keyspace, Freshness::LOCAL, timeout).await.map_err(Refusal::of_read)?.epoch;
    }
    Ok(conditions.guards(&target.key, epoch))
}

/// What a write with one operation came to.
pub(super) struct WrittenOne {
    pub(super) epoch: u64,
    pub(super) revision: Revision,
    pub(super) result: OpResult,
    /// It was done before, under the same `Idempotency-Key`.
    pub(super) is_repeated: bool,
    /// How far it came, in an eventual keyspace.
    pub(super) replicated: Option<Replicated>,
}

impl WrittenOne {
    /// Headers of the answer if the key is there now, as this says.
    pub(super) fn headers(&self, text: &mut HeaderText, now: &KeyMeta, preference: Option<Preference>) -> HeaderMap {
        let mut headers = answer::headers();
        text.insert_revision(&mut headers, self.revision);
        text.insert_meta(&mut headers, self.epoch, now);
        once::mark(&mut headers, self.is_repeated);
        self.insert_replicated(text, &mut headers);
        if let Some(preference) = preference {
            headers.insert(PREFERENCE_APPLIED, preference.value());
        }
        headers
    }
}

impl WrittenOne {
    /// How many others have it.
    fn insert_replicated(&self, text: &mut HeaderText, headers: &mut HeaderMap) {
        if let Some(replicated) = self.replicated {
            headers.insert(REPLICATED, text.value(format_args!("{}", replicated.members)));
        }
    }

    /// The status, or 202 if those whom it was to wait for did not have it in time: it is done, and goes on to them.
    pub(super) fn status(&self, status: StatusCode) -> StatusCode {
        if self.replicated.is_some_and(|replicated| !replicated.is_met) { StatusCode::ACCEPTED } else { status }
    }
}

/// Writes, with one operation.
pub(super) async fn write_one<S: Store>(
    app: &App<S>,
    target: &Target<'_>,
    write: Write,
    (ack, session): (Option<Ack>, Option<&mut Session>),
    timeout: Duration,
) -> Result<WrittenOne, Refusal> {
    let wish = Wish { ack, session: session.as_ref().and_then(|session| session.seen()) };
    let written = app.store.write(target.keyspace, write, wish, timeout).await.map_err(Refusal::of_write)?;
    let replicated = written.replicated;
    let (written, is_repeated) = once::unwrapped(written);
    if let (Some(session), Outcome::Applied { revision, .. }) = (session, &written.outcome) {
        session.note(*revision, written.session.as_ref());
    }
    if let Some(refusal) = Refusal::of_outcome(written.epoch, &written.outcome) {
        let refusal = once::marked(refusal, is_repeated);
        let is_uri_too_long = matches!(written.outcome, Outcome::KeyTooLong { .. }) && !target.is_key64;
        return Err(if is_uri_too_long { refusal.with_status(StatusCode::URI_TOO_LONG) } else { refusal });
    }
    match written.outcome {
        Outcome::Applied { revision, results } => {
            let result = results.into_iter().next().unwrap_or_default();
            Ok(WrittenOne { epoch: written.epoch, revision, result, is_repeated, replicated })
        }
        outcome => unreachable!("{outcome:?} is a refusal"),
    }
}

impl ReadOptions {
    fn parse(head: &Parts, is_key64: bool) -> Result<Self, Refusal> {
        let mut options = Self::default();
        for parameter in parameters(head.uri.query()) {
            match parameter.name {
                "format" => parameter.set(&mut options.form, parse_format(parameter)?)?,
                "encoding" => parameter.set(&mut options.encoding, parse_encoding(parameter)?)?,
                "revision" => parameter.set(&mut options.revision, history::parse_revision(parameter)?)?,
                "history" => {}
                "key64" if is_key64 => {}
                _ if options.treatment.take_read(parameter)? => {}
                _ if options.patience.take(parameter)? => {}
                _ => return Err(parameter.unknown(&READ_PARAMETERS)),
            }
        }
        if options.encoding.is_some() && !matches!(options.form, Some(Form::Json | Form::Meta)) {
            return Err(Refusal::new(Code::BadParameter, "encoding: only together with format=json or format=meta"));
        }
        options.patience.check_with(options.revision)?;
        Ok(options)
    }
}

impl WriteOptions {
    /// How long a pair is to live, as the parameter or its header says.
    pub(super) fn ttl_ms(&self, headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
        let twin = twin(headers, header::TTL, parse_ttl)?;
        Ok(self.ttl_ms.or(twin))
    }

    fn of_put(head: &Parts, is_key64: bool) -> Result<Self, Refusal> {
        Self::parse(head, is_key64, &["cas", "ttl", "lease", "ack", "timeout", "key64"])
    }

    pub(super) fn of_patch(head: &Parts, is_key64: bool) -> Result<Self, Refusal> {
        Self::parse(head, is_key64, &["cas", "ttl", "timeout", "key64"])
    }

    fn of_delete(head: &Parts, is_key64: bool) -> Result<Self, Refusal> {
        Self::parse(head, is_key64, &["cas", "ack", "timeout", "key64"])
    }

    fn parse(head: &Parts, is_key64: bool, known: &[&str]) -> Result<Self, Refusal> {
        let mut options = Self::default();
        for parameter in parameters(head.uri.query()) {
            match parameter.name {
                "cas" => {
                    let cas =
                        Cas::parse(&parameter.text()?).ok_or_else(|| parameter.bad("neither a revision nor EPOCH.REVISION"))?;
                    parameter.set(&mut options.cas, cas)?;
                }
                "ttl" if known.contains(&"ttl") => {
                    let ttl_ms = parse_ttl(&parameter.text()?).map_err(|why| parameter.bad(why))?;
                    parameter.set(&mut options.ttl_ms, ttl_ms)?;
                }
                "lease" if known.contains(&"lease") => {
                    let lease = parse_lease(&parameter.text()?).map_err(|why| parameter.bad(why))?;
                    parameter.set(&mut options.lease, lease)?;
                }
                "key64" if is_key64 => {}
                _ if known.contains(&"ack") && options.treatment.take_ack(parameter)? => {}
                _ if options.treatment.take_write(parameter)? => {}
                _ => return Err(parameter.unknown(known)),
            }
        }
        Ok(options)
    }
}

/// How long a pair is to live, in milliseconds, from text like `30s`. The error is one line for people.
pub(super) fn parse_ttl(text: &str) -> Result<u64, String> {
    let ttl = duration::parse(text).map_err(|error| error.to_string())?;
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    if (1..=MAX_TTL_MS).contains(&ttl_ms) { Ok(ttl_ms) } else { Err("a time to live is 1ms to 36500d".to_owned()) }
}

/// The lease that a pair is to hang on. The error is one line for people.
pub(super) fn parse_lease(text: &str) -> Result<LeaseId, &'static str> {
    lease::parse_id(text).map(LeaseId).ok_or("the id of a lease has one to sixteen hexadecimal digits, and is not 0")
}

fn parse_format(parameter: Parameter<'_>) -> Result<Form, Refusal> {
    match parameter.text()?.as_str() {
        "raw" => Ok(Form::Raw),
        "json" => Ok(Form::Json),
        "meta" => Ok(Form::Meta),
        _ => Err(parameter.bad("neither raw, json nor meta")),
    }
}

pub(super) fn parse_encoding(parameter: Parameter<'_>) -> Result<Encoding, Refusal> {
    match parameter.text()?.as_str() {
        "base64" => Ok(Encoding::Base64),
        _ => Err(parameter.bad("only base64 can be asked for")),
    }
}

/// The media type, if the body is a whole value as it shall be stored.
fn check_representation(headers: &HeaderMap) -> Result<Option<Bytes>, Refusal> {
    if headers.contains_key(CONTENT_RANGE) {
        return Err(Refusal::new(Code::BadHeader, "content-range: a value is written as a whole"));
    }
    if headers.get(CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::new(Code::UnsupportedMediaType, "content-encoding: values are stored as they are sent"));
    }
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return Ok(None);
    };
    match kept_content_type(content_type.as_bytes()) {
        Some(content_type) => Ok(Some(content_type)),
        None => Err(Refusal::new(Code::BadHeader, format!("content-type: {CONTENT_TYPE_FORM}"))),
    }
}

/// What can be kept as a value's media type, and comes back as a header.
pub(super) fn kept_content_type(text: &[u8]) -> Option<Bytes> {
    let is_kept = text.len() <= MAX_CONTENT_TYPE_BYTES && text.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    is_kept.then(|| Bytes::copy_from_slice(text))
}

/// `Prefer: return=...` (RFC 7240).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preference {
    Minimal,
    Representation,
}

impl Preference {
    /// Of several the first counts; what is not known is no error.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let lines = headers.get_all(PREFER).iter().filter_map(|line| line.to_str().ok());
        let tokens = lines.flat_map(|line| line.split(',')).filter_map(|token| token.split(';').next());
        tokens.map(str::trim).find_map(|token| match token {
            _ if token.eq_ignore_ascii_case("return=minimal") => Some(Self::Minimal),
            _ if token.eq_ignore_ascii_case("return=representation") => Some(Self::Representation),
            _ => None,
        })
    }

    pub(super) fn value(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Minimal => "return=minimal",
            Self::Representation => "return=representation",
        })
    }
}

fn answered_value(text: &mut HeaderText, answered: Answered) -> HeaderValue {
    text.value(format_args!("{}/{}", answered.answered, answered.asked))
}

pub(super) fn consistency_value(freshness: Freshness) -> HeaderValue {
    HeaderValue::from_static(consistency_name(freshness))
}

pub(super) fn content_type_value(content_type: Option<Bytes>) -> HeaderValue {
    content_type.and_then(|content_type| HeaderValue::from_maybe_shared(content_type).ok()).unwrap_or(OCTETS)
}

/// After how many milliseconds a pair goes by itself, if it does.
pub(super) fn ttl_left(record: &Record, now_ms: u64) -> Option<u64> {
    record.expires_at_ms.map(|end_ms| end_ms.get().saturating_sub(now_ms))
}

/// The entry of a record, with its value, as it was read at `now_ms`.
pub(super) fn entry_of(key: Bytes, record: Record, now_ms: u64) -> Entry {
    let ttl_ms = ttl_left(&record, now_ms);
    let Record { meta, content_type, user_meta, lease, value, .. } = record;
    let tag = tag_in(&meta).filter(|tag| *tag != 0);
    let stamp = version_in(&meta).map(stamp_text).or_else(|| tag.map(|tag| tag.to_string()));
    let counted = |counter: u64| if meta.create_revision == Revision(0) { 0 } else { counter };
    Entry {
        key,
        value: Some(value),
        content_type: content_type.map(|content_type| String::from_utf8_lossy(&content_type).into_owned()),
        meta: meta::of_record(&user_meta),
        create_revision: meta.create_revision.0,
        mod_revision: counted(meta.mod_revision.0),
        version: counted(meta.version),
        stamp,
        ttl_ms,
        lease: lease.map(|lease| lease.0),
    }
}

pub(super) fn counters(meta: KeyMeta) -> Counters {
    Counters { create_revision: meta.create_revision.0, mod_revision: meta.mod_revision.0, version: meta.version }
}
