//! One key: read, write, delete; `patch` has what changes it by what it holds.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use quorate_api::entry::Entry;
use quorate_api::problem::WriteOutcome;
use quorate_api::user_meta::UserMeta;
use quorate_api::{duration, header as own_header, lease, problem};

use crate::call::Client;
use crate::error::Error;
use crate::key_path::one_key;
use crate::transport::{Answer, Request};

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write that was acknowledged before it began.
    #[default]
    Linearizable,
    /// What the asked node has, perhaps a little old.
    Local,
}

/// How a key is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// How fresh the answer must be.
    pub consistency: Consistency,
    /// The node waits until it has this revision; so a client reads its own writes from any node.
    pub min_revision: Option<u64>,
    /// As it was at this revision, where the keyspace keeps history. One that is gone is [`Error::Refused`] with the code
    /// `compacted`, and the problem names the oldest that is there.
    pub revision: Option<u64>,
}

/// What a key must be like for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is not there.
    Absent,
    /// It is there.
    Present,
    /// Its last change was at this revision; 0 means that it is not there.
    ModRevision(u64),
    /// It has this `ETag`, quotes included.
    Etag(String),
}

/// Whom a write in an eventual keyspace waits for, besides the node that takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Nobody.
    Local,
    /// So many other members.
    Members(u32),
    /// All other members that are up.
    AllUp,
}

impl std::fmt::Display for Ack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Members(count) => write!(f, "{count}"),
            Self::AllUp => f.write_str("all_up"),
        }
    }
}

impl std::str::FromStr for Ack {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "local" => Ok(Self::Local),
            "all_up" => Ok(Self::AllUp),
            _ => {
                let count = text.parse().ok().filter(|count| (1..=99).contains(count));
                count.map(Self::Members).ok_or("local, all_up, or how many other members: 1 to 99")
            }
        }
    }
}

/// How a key is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// Only if the key is like this.
    pub condition: Option<Condition>,
    /// The media type to keep with the value; `application/octet-stream` unless set.
    pub content_type: Option<String>,
    /// What to note beside the value; it replaces what was noted before.
    pub meta: UserMeta,
    /// After how long the pair goes by itself; else after the keyspace's own time, if it has one. Whole milliseconds.
    pub ttl: Option<Duration>,
    /// The lease that the pair hangs on from now on, and with which it goes; without it, on none. One that is not there is
    /// [`Error::Refused`] with the code `lease_not_found`.
    pub lease: Option<u64>,
    /// Whom the write waits for, in an eventual keyspace; else whom the keyspace says. Where those do not have it in time, it is
    /// done all the same: [`Written::replicated`] says so.
    pub ack: Option<Ack>,
}

/// How a key is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Only if the key is like this.
    pub condition: Option<Condition>,
    /// Whom it waits for, in an eventual keyspace; else whom the keyspace says.
    pub ack: Option<Ack>,
}

/// How far a write in an eventual keyspace has come when it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicated {
    /// How many other members are known to have it.
    pub members: u64,
    /// Whether those whom it was to wait for have it. If not it goes on to them.
    pub is_met: bool,
    /// What it is known by; to be sent back as it is.
    pub stamp: String,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The key, its value, and what goes with it.
    pub entry: Entry,
    /// Names this content of the key for ever; to be sent back as it is.
    pub etag: String,
    /// The shard's revision of the read; 0 in an eventual keyspace.
    pub revision: u64,
}

/// What a write did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Whether the key was not there before.
    pub is_new: bool,
    /// Names the new content.
    pub etag: String,
    /// The revision of the write; 0 in an eventual keyspace.
    pub revision: u64,
    /// How many times the key was set since it came to be; 0 in an eventual keyspace.
    pub version: u64,
    /// How far it has come, in an eventual keyspace.
    pub replicated: Option<Replicated>,
}

/// What a delete did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// Whether the key was there before.
    pub was_there: bool,
    /// The shard's revision afterwards; 0 in an eventual keyspace.
    pub revision: u64,
    /// How far it has come, in an eventual keyspace.
    pub replicated: Option<Replicated>,
}

impl Client {
    /// Reads a key; `None` if the keyspace does not hold it.
    pub async fn get(&self, keyspace: &str, key: &[u8], options: &GetOptions) -> Result<Option<Found>, Error> {
        let request = Request::read(one_key(keyspace, key, &options.to_query()));
        match self.call(request).await {
            Ok(answer) => found(key, &answer).map(Some),
            Err(error) if error.code() == Some(problem::Code::KeyNotFound.facts().code) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a key. A condition that does not hold is [`Error::Refused`] with the code `precondition_failed`.
    pub async fn put(&self, keyspace: &str, key: &[u8], value: Bytes, options: &PutOptions) -> Result<Written, Error> {
        let lease = options.lease.map(|lease| format!("lease={}", lease::format_id(lease)));
        let parameters = lease.into_iter().chain(ack_parameter(options.ack));
        let mut request = conditional(Method::PUT, keyspace, key, options.condition.as_ref(), parameters)?;
        request.body = value;
        if let Some(content_type) = &options.content_type {
            request.headers.insert(header::CONTENT_TYPE, header_value("content type", content_type)?);
        }
        for (name, value) in options.meta.iter() {
            let name = format!("{}{name}", own_header::META_PREFIX);
            let name = HeaderName::try_from(name).expect("names of user metadata are tokens");
            request.headers.insert(name, header_value("metadata", value)?);
        }
        if let Some(ttl) = options.ttl {
            request.headers.insert(own_header::TTL, header_value("time to live", &duration::format(ttl))?);
        }
        let answer = self.call(request).await?;
        Ok(Written {
            is_new: answer.status == StatusCode::CREATED,
            etag: answer.text(header::ETAG).unwrap_or_default(),
            revision: answer.counter(own_header::REVISION, WriteOutcome::Applied)?,
            version: answer.counter(own_header::VERSION, WriteOutcome::Applied)?,
            replicated: replicated(&answer)?,
        })
    }

    /// Deletes a key; one that is not there is no error, unless the condition asks for it.
    pub async fn delete(&self, keyspace: &str, key: &[u8], options: &DeleteOptions) -> Result<Deleted, Error> {
        let DeleteOptions { condition, ack } = options;
        let request = conditional(Method::DELETE, keyspace, key, condition.as_ref(), ack_parameter(*ack))?;
        let answer = self.call(request).await?;
        Ok(Deleted {
            was_there: answer.number(own_header::DELETED, WriteOutcome::Applied)? > 0,
            revision: answer.counter(own_header::REVISION, WriteOutcome::Applied)?,
            replicated: replicated(&answer)?,
        })
    }
}

fn ack_parameter(ack: Option<Ack>) -> Option<String> {
    ack.map(|ack| format!("ack={ack}"))
}

fn replicated(answer: &Answer) -> Result<Option<Replicated>, Error> {
    // A store outside has stamps too, and nobody who would get them.
    let is_told = answer.text(HeaderName::from_static(own_header::REPLICATED)).is_some();
    let Some(stamp) = answer.text(HeaderName::from_static(own_header::STAMP)).filter(|_| is_told) else { return Ok(None) };
    let members = answer.number(own_header::REPLICATED, WriteOutcome::Applied)?;
    Ok(Some(Replicated { members, is_met: answer.status != StatusCode::ACCEPTED, stamp }))
}

impl GetOptions {
    pub(crate) fn to_query(&self) -> String {
        let consistency = (self.consistency == Consistency::Local).then(|| "consistency=local".to_owned());
        let min_revision = self.min_revision.map(|revision| format!("min_revision={revision}"));
        let revision = self.revision.map(|revision| format!("revision={revision}"));
        consistency.into_iter().chain(min_revision).chain(revision).collect::<Vec<_>>().join("&")
    }
}

fn found(key: &[u8], answer: &Answer) -> Result<Found, Error> {
    let number = |name| answer.counter(name, WriteOutcome::NotApplied);
    let entry = Entry {
        key: Bytes::copy_from_slice(key),
        value: Some(answer.body.clone()),
        content_type: answer.text(header::CONTENT_TYPE),
        meta: user_meta(answer),
        create_revision: number(own_header::CREATE_REVISION)?,
        mod_revision: number(own_header::MOD_REVISION)?,
        version: number(own_header::VERSION)?,
        stamp: answer.text(HeaderName::from_static(own_header::STAMP)),
        ttl_ms: answer.text(HeaderName::from_static(own_header::TTL)).and_then(|text| duration::parse_seconds(&text)),
        lease: answer.text(HeaderName::from_static(own_header::LEASE)).and_then(|text| lease::parse_id(&text)),
    };
    Ok(Found { entry, etag: answer.text(header::ETAG).unwrap_or_default(), revision: number(own_header::REVISION)? })
}

fn user_meta(answer: &Answer) -> UserMeta {
    let mut meta = UserMeta::default();
    for (name, value) in &answer.headers {
        if let (Some(name), Ok(value)) = (name.as_str().strip_prefix(own_header::META_PREFIX), value.to_str()) {
            // A name that a newer node takes and this version does not know is of no use here.
            let _ = meta.insert(name, value);
        }
    }
    meta
}

pub(crate) fn conditional(
    method: Method,
    keyspace: &str,
    key: &[u8],
    condition: Option<&Condition>,
    parameters: impl IntoIterator<Item = String>,
) -> Result<Request, Error> {
    let cas = match condition {
        Some(Condition::ModRevision(revision)) => Some(format!("cas={revision}")),
        _ => None,
    };
    let query: Vec<String> = cas.into_iter().chain(parameters).collect();
    let target = one_key(keyspace, key, &query.join("&"));
    let mut request = Request { takes_key: true, ..Request::write(method, target) };
    let (name, value) = match condition {
        None | Some(Condition::ModRevision(_)) => return Ok(request),
        Some(Condition::Absent) => (header::IF_NONE_MATCH, HeaderValue::from_static("*")),
        Some(Condition::Present) => (header::IF_MATCH, HeaderValue::from_static("*")),
        Some(Condition::Etag(etag)) => (header::IF_MATCH, header_value("ETag", etag)?),
    };
    request.headers.insert(name, value);
    Ok(request)
}

pub(crate) fn header_value(what: &str, text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|_| Error::InvalidRequest { reason: format!("`{}` is no {what}", text.escape_debug()) })
}
