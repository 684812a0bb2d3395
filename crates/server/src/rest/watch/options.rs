//! What a watch asks for.

use bytes::Bytes;
use http::header::HeaderName;
use http::request::Parts;
use http::{HeaderMap, Method};
use quorate_api::entry::Encoding;
use quorate_api::etag::EntityTag;
use quorate_api::key::MAX_KEY_BYTES;
use quorate_api::problem::Code;
use quorate_api::text64::{self, FieldError};
use quorate_api::watch::{EventType, MAX_WATCH_BODY_BYTES, MAX_WATCH_ID_BYTES, MAX_WATCHES, WatchBody, WatchSelection};
use quorate_node::keyspace::watch::{Causes, Selection};
use quorate_node::keyspace::{Cause, Keys, Revision};

use super::super::body::{RequestBody, require_json};
use super::super::one_key::parse_encoding;
use super::super::query::{Parameter, Treatment, parameters};
use super::super::refusal::Refusal;
use super::super::selection;
use super::message::{Shown, other_epoch};

/// Methods of `/v1/watch/{ks}`.
pub(in super::super) const METHODS: &str = "GET, HEAD, POST";

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

const READ_PARAMETERS: [&str; 3] = ["consistency", "min_revision", "timeout"];
const PARAMETERS: [&str; 8] = ["key", "key64", "types", "from_revision", "initial", "values", "prev", "encoding"];

/// What a watch asks for.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) treatment: Treatment,
    pub(super) selections: Vec<Selection>,
    /// Their names, where they have any.
    pub(super) names: Vec<Option<String>>,
    pub(super) is_initial: bool,
    pub(super) shown: Shown,
    from_revision: Option<u64>,
    last_event: Option<EntityTag>,
}

impl Options {
    pub(super) async fn read(head: &Parts, body: &mut RequestBody<'_>) -> Result<Self, Refusal> {
        let last_event = last_event(&head.headers)?;
        let mut options = if head.method == Method::POST {
            let treatment = treatment_alone(head.uri.query())?;
            require_json(&head.headers, "a watch")?;
            let body = body.read(MAX_WATCH_BODY_BYTES, Code::BodyTooLarge).await?;
            of_body(&body, treatment)?
        } else {
            of_query(head.uri.query())?
        };
        // A browser that comes back has what was there.
        options.is_initial &= last_event.is_none();
        options.last_event = last_event;
        if options.is_initial && options.from_revision.is_some() {
            return Err(Refusal::new(Code::BadParameter, "initial: has no meaning together with from_revision"));
        }
        Ok(options)
    }

    /// The last revision that is not to be told; none: the present one. Where each node counts on its own, a number alone names
    /// no revision.
    pub(super) fn after(&self, epoch: u64, is_of_node: bool) -> Result<Option<Revision>, Refusal> {
        match (self.last_event, self.from_revision) {
            (Some(last), _) if last.epoch == epoch => Ok(Some(Revision(last.mod_revision))),
            (Some(_), _) => Err(other_epoch(is_of_node)),
            (None, Some(_)) if is_of_node => {
                let detail = "from_revision: the nodes of this keyspace have no revisions in common; go on with Last-Event-ID, \
                              the id of an event, or Quorate-Epoch, a dot, and a revision";
                Err(Refusal::new(Code::UnsupportedCapability, detail))
            }
            // The first revision is that of an empty shard: nothing happened at it.
            (None, Some(from)) => Ok(Some(Revision(from.saturating_sub(1)).max(Revision::FIRST))),
            (None, None) => Ok(None),
        }
    }
}

/// Where a browser goes on by itself.
fn last_event(headers: &HeaderMap) -> Result<Option<EntityTag>, Refusal> {
    let Some(value) = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let tag = value.to_str().ok().and_then(EntityTag::parse);
    let bad = || Refusal::new(Code::BadHeader, "last-event-id: not the id of an event of a watch");
    tag.map(Some).ok_or_else(bad)
}

fn treatment_alone(query: Option<&str>) -> Result<Treatment, Refusal> {
    let mut treatment = Treatment::default();
    for parameter in parameters(query) {
        if !treatment.take_read(parameter)? {
            return Err(parameter.unknown(&READ_PARAMETERS));
        }
    }
    Ok(treatment)
}

fn of_query(query: Option<&str>) -> Result<Options, Refusal> {
    let mut treatment = Treatment::default();
    let (mut key, mut range) = (None, selection::Selection::default());
    let (mut causes, mut from_revision, mut initial, mut values, mut prev, mut encoding) = (None, None, None, None, None, None);
    for parameter in parameters(query) {
        match parameter.name {
            "key" => parameter.set(&mut key, not_empty(parameter.key()?)?)?,
            "key64" => parameter.set(&mut key, not_empty(parameter.key64()?)?)?,
            "types" => parameter.set(&mut causes, parse_types(parameter)?)?,
            "from_revision" => parameter.set(&mut from_revision, parameter.number()?)?,
            "initial" => parameter.set(&mut initial, parameter.flag()?)?,
            "values" => parameter.set(&mut values, parameter.flag()?)?,
            "prev" => parameter.set(&mut prev, parameter.flag()?)?,
            "encoding" => parameter.set(&mut encoding, parse_encoding(parameter)?)?,
            _ if range.take(parameter)? => {}
            _ if treatment.take_read(parameter)? => {}
            _ => return Err(parameter.unknown(&[&PARAMETERS[..], &selection::PARAMETERS, &READ_PARAMETERS].concat())),
        }
    }
    let keys = match key {
        Some(_) if range.parts().iter().any(Option::is_some) => {
            return Err(Refusal::new(Code::BadParameter, "key: has no meaning together with prefix, start or end"));
        }
        Some(key) => Keys::One(key),
        None => Keys::Range(range.range()),
    };
    Ok(Options {
        treatment,
        selections: vec![Selection { keys, causes: causes.unwrap_or(Causes::ALL) }],
        names: vec![None],
        is_initial: initial == Some(true),
        shown: Shown { has_values: values != Some(false), has_prev: prev == Some(true), encoding: encoding.unwrap_or_default() },
        from_revision,
        last_event: None,
    })
}

fn of_body(body: &Bytes, treatment: Treatment) -> Result<Options, Refusal> {
    let body: WatchBody = serde_json::from_slice(body).map_err(|error| Refusal::new(Code::BadBody, error.to_string()))?;
    if !(1..=MAX_WATCHES).contains(&body.watches.len()) {
        let detail = format!("watches: {} selections; one stream has 1 to {MAX_WATCHES}", body.watches.len());
        return Err(Refusal::new(Code::BadBody, detail));
    }
    let encoding = match body.encoding.as_deref() {
        None => Encoding::Text,
        Some("base64") => Encoding::Base64,
        Some(_) => return Err(Refusal::new(Code::BadBody, "encoding: only base64 can be asked for")),
    };
    let mut selections = Vec::with_capacity(body.watches.len());
    let mut names = Vec::with_capacity(body.watches.len());
    for (watched, place) in body.watches.into_iter().zip(0..) {
        let within = |refusal: Refusal| refusal.within(&format!("watches[{place}]"));
        selections.push(selection_of(&watched).map_err(within)?);
        names.push(watched.id);
    }
    Ok(Options {
        treatment,
        selections,
        names,
        is_initial: body.initial,
        shown: Shown { has_values: body.values != Some(false), has_prev: body.prev, encoding },
        from_revision: body.from_revision,
        last_event: None,
    })
}

fn selection_of(watched: &WatchSelection) -> Result<Selection, Refusal> {
    if watched.id.as_ref().is_some_and(|id| id.is_empty() || id.len() > MAX_WATCH_ID_BYTES) {
        return Err(Refusal::new(Code::BadBody, format!("id: 1 to {MAX_WATCH_ID_BYTES} bytes")));
    }
    let key = bytes_of("key", watched.key.as_deref(), watched.key64.as_deref())?;
    let prefix = bytes_of("prefix", watched.prefix.as_deref(), watched.prefix64.as_deref())?;
    let start = bytes_of("start", watched.start.as_deref(), watched.start64.as_deref())?;
    let end = bytes_of("end", watched.end.as_deref(), watched.end64.as_deref())?;
    let keys = match key {
        Some(_) if prefix.is_some() || start.is_some() || end.is_some() => {
            return Err(Refusal::new(Code::BadBody, "key: has no meaning together with prefix, start or end"));
        }
        Some(key) => Keys::One(not_empty(key)?),
        None => Keys::Range(selection::Selection::of(prefix, start, end).range()),
    };
    let causes = watched.types.iter().fold(Causes::NONE, |causes, kind| causes.and(cause_of(*kind)));
    Ok(Selection { keys, causes: if watched.types.is_empty() { Causes::ALL } else { causes } })
}

fn bytes_of(name: &'static str, text: Option<&str>, base64: Option<&str>) -> Result<Option<Bytes>, Refusal> {
    let bytes = text64::join(name, text, base64).map_err(|error| {
        let code = match &error {
            FieldError::NotOne(_) => Code::BadBody,
            FieldError::Malformed { .. } => Code::MalformedKey,
        };
        Refusal::new(code, error.to_string())
    })?;
    if let Some(bytes) = bytes.as_ref().filter(|bytes| bytes.len() > MAX_KEY_BYTES) {
        let detail = format!("{name}: {} bytes, at most {MAX_KEY_BYTES} are possible", bytes.len());
        return Err(Refusal::new(Code::KeyTooLong, detail));
    }
    Ok(bytes)
}

fn not_empty(key: Bytes) -> Result<Bytes, Refusal> {
    if key.is_empty() { Err(Refusal::new(Code::EmptyKey, "a key has at least one byte")) } else { Ok(key) }
}

fn parse_types(parameter: Parameter<'_>) -> Result<Causes, Refusal> {
    let text = parameter.text()?;
    text.split(',').try_fold(Causes::NONE, |causes, name| {
        let kind = EventType::from_name(name);
        kind.map(|kind| causes.and(cause_of(kind))).ok_or_else(|| parameter.bad("put, delete, expire, or some of them"))
    })
}

fn cause_of(kind: EventType) -> Cause {
    match kind {
        EventType::Put => Cause::Put,
        EventType::Delete => Cause::Delete,
        EventType::Expire => Cause::Expire,
    }
}
