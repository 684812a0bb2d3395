//! `redis`: strings in Redis, or in what speaks its protocol.
//!
//! A value is one string, in the envelope unless `envelope` says `none`; its time to live is Redis' own. Writes with a condition
//! on a tag are a script, which runs by itself; all else is plain commands. What Redis does with a write, above all whether it
//! is on a disk before it is answered, is as Redis is set up.
//!
//! A list goes by `SCAN`: in no order, and a key that is written meanwhile may come twice. Keys of others in the same database
//! are passed over if they do not begin with `prefix`.
//!
//! Connections are encrypted with `rediss://`, where the server's certificate must be one that the system trusts, for its host.
//! With `redis://` they are not: only over a network that is trusted, or through a tunnel.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind as RedisKind, FromRedisValue, IntoConnectionInfo, RedisError};
use tokio::sync::Mutex;

use crate::envelope::{Enveloped, HEADER_BYTES};
use crate::fields::Fields;
use crate::registry::{Kind, Opening, Settings};
use crate::{
    Answer, Capabilities, Clock, Comparing, Condition, Cursor, Entry, Envelope, ErrorKind, Expiry, MAX_KEY_BYTES, MAX_PAGE_BYTES,
    Page, Put, Scan, SpecError, Store, StoreError, Stored, Tag, Written,
};

const NAME: &str = "redis";
const EXAMPLE: &str = "redis://cache.example:6379/0";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Redis looks at so many of its keys at a time when keys are listed, and at fewer when values follow.
const LOOKED_AT: usize = 1000;
const LOOKED_AT_WITH_VALUES: usize = 100;

/// A page comes back empty after so many looks, so that a call ends though few of many keys are ours.
const MAX_LOOKS: usize = 50;

const CAPABILITIES: Capabilities = Capabilities {
    writable: true,
    listable: true,
    ordered: false,
    comparing: Comparing::Atomic,
    expiry: Expiry::Removed,
    // Strings of 512 MiB at most; half of that, for there are copies on the way.
    max_value_bytes: (256 << 20) - HEADER_BYTES as u64,
    max_key_bytes: MAX_KEY_BYTES,
};

pub(crate) const KIND: Kind = Kind {
    name: NAME,
    summary: "strings in Redis or Valkey",
    example: r#"{"type": "redis", "url": "redis://cache.example:6379/0", "prefix": "sessions:", "path": "shared",
        "credentials": {"env": {"password": "REDIS_PASSWORD"}}}"#,
    options: &[
        ("url", "`redis://HOST:PORT/DATABASE`; `rediss://` encrypts"),
        ("prefix", "what all keys begin with in Redis; `{node}` for the node's name; nothing by default"),
        ("credentials", "`username` and `password`"),
    ],
    credentials: &["username", "password"],
    names: None,
    envelope: Some(Envelope::Quorate),
    capabilities: || CAPABILITIES,
    read: |fields| Ok(Arc::new(RedisSettings::read(fields)?)),
};

/// The key is set to the first argument, until the second if that is a time, if what is there has the third for its tag: of an
/// envelope the stamp, else the digest.
const PUT_IF: &str = "\
local there = redis.call('GET', KEYS[1]) \
if not there then return 0 end \
local tag = ARGV[4] == 'stamp' and string.sub(there, 9, 24) or redis.sha1hex(there) \
if tag ~= ARGV[3] then return 0 end \
if ARGV[2] == '' then redis.call('SET', KEYS[1], ARGV[1]) else redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[2]) end \
return 1";

/// The same for removing it.
const DELETE_IF: &str = "\
local there = redis.call('GET', KEYS[1]) \
if not there then return 0 end \
local tag = ARGV[2] == 'stamp' and string.sub(there, 9, 24) or redis.sha1hex(there) \
if tag ~= ARGV[1] then return 0 end \
redis.call('DEL', KEYS[1]) \
return 1";

/// What is there, for how many milliseconds yet, and its digest, as of one moment.
const GET: &str = "\
local there = redis.call('GET', KEYS[1]) \
if not there then return false end \
return {there, redis.call('PTTL', KEYS[1]), ARGV[1] == 'stamp' and '' or redis.sha1hex(there)}";

#[derive(Debug)]
struct RedisSettings {
    url: String,
    prefix: String,
    place: String,
}

impl RedisSettings {
    fn read(fields: &mut Fields<'_>) -> Result<Self, SpecError> {
        let url = fields.needed("url", EXAMPLE)?;
        let wrong = |problem: &str| Err(SpecError::new("url", problem, format!("\"url\": \"{EXAMPLE}\"")));
        if url.contains('@') {
            return wrong("must hold no user and password: they belong into \"credentials\"");
        }
        let is_ours = ["redis://", "rediss://"].iter().any(|scheme| url.starts_with(scheme));
        if !is_ours || url.contains(['?', '#']) || url.into_connection_info().is_err() {
            return wrong("must have the form redis://HOST:PORT/DATABASE, or rediss:// with TLS");
        }
        let prefix = fields.text("prefix", "sessions:")?.unwrap_or_default().to_owned();
        Ok(Self { place: format!("{url} {prefix}"), url: url.to_owned(), prefix })
    }
}

impl Settings for RedisSettings {
    fn place(&self) -> &str {
        &self.place
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Arc<dyn Store>, StoreError> {
        let url = opening.place(&self.url);
        let mut info = url.as_str().into_connection_info().map_err(|error| meaning(&error, false))?;
        let mut settings = info.redis_settings().clone();
        if let Some(username) = opening.secrets.find("username") {
            settings = settings.set_username(username);
        }
        if let Some(password) = opening.secrets.find("password") {
            settings = settings.set_password(password);
        }
        info = info.set_redis_settings(settings);
        Ok(Arc::new(Redis {
            client: Client::open(info).map_err(|error| meaning(&error, false))?,
            connection: Mutex::new(None),
            prefix: Bytes::from(opening.place(&self.prefix)),
            envelope: opening.spec.envelope,
            clock: opening.surroundings.clock.clone(),
        }))
    }
}

struct Redis {
    client: Client,
    /// One connection, on which calls do not wait for each other's answers.
    connection: Mutex<Option<MultiplexedConnection>>,
    prefix: Bytes,
    envelope: Envelope,
    clock: Clock,
}

impl Redis {
    async fn connection(&self) -> Result<MultiplexedConnection, StoreError> {
        let mut connection = self.connection.lock().await;
        if let Some(there) = connection.as_ref() {
            return Ok(there.clone());
        }
        // The deadline for answers is the caller's.
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(None);
        let fresh = self.client.get_multiplexed_async_connection_with_config(&config);
        let fresh = fresh.await.map_err(|error| meaning(&error, false))?;
        *connection = Some(fresh.clone());
        Ok(fresh)
    }

    async fn ask<T: FromRedisValue>(&self, changes: bool, command: &redis::Cmd) -> Result<T, StoreError> {
        let mut connection = self.connection().await?;
        match command.query_async(&mut connection).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                if error.is_io_error() || error.is_unrecoverable_error() {
                    *self.connection.lock().await = None;
                }
                Err(meaning(&error, changes))
            }
        }
    }

    fn name(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }

    /// What a tag is of: the stamp in the envelope, or the content.
    fn tagged_by(&self) -> &'static str {
        match self.envelope {
            Envelope::Quorate => "stamp",
            Envelope::None => "digest",
        }
    }

    /// A tag as the scripts compare it; none if it is none of this store's.
    fn compared(&self, tag: &Tag) -> Option<Vec<u8>> {
        if self.envelope == Envelope::None {
            return Some(tag.0.as_bytes().to_vec());
        }
        let (unix_us, writer) = tag.0.split_once('-')?;
        let mut bytes = Vec::with_capacity(16);
        bytes.put_u64_le(unix_us.parse().ok()?);
        bytes.put_u64_le(writer.parse().ok()?);
        Some(bytes)
    }

    async fn read(&self, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let mut command = redis::cmd("EVAL");
        command.arg(GET).arg(1).arg(self.name(key)).arg(self.tagged_by());
        let found: Option<(Vec<u8>, i64, String)> = self.ask(false, &command).await?;
        let Some((bytes, left_ms, digest)) = found else {
            return Ok(None);
        };
        let expires_at_ms = u64::try_from(left_ms).ok().map(|left| self.clock.unix_ms().saturating_add(left));
        let bytes = Bytes::from(bytes);
        if self.envelope == Envelope::None {
            return Ok(Some(Stored { value: bytes, tag: Tag(digest), stamp: None, expires_at_ms }));
        }
        let Enveloped { stamp, value, .. } = Enveloped::decode(&bytes).map_err(|why| {
            StoreError::new(NAME, ErrorKind::BadData, format_args!("the value of {:?}: {why}", key.escape_ascii()))
        })?;
        Ok(Some(Stored { value, tag: crate::sql::tag(stamp), stamp: Some(stamp), expires_at_ms }))
    }

    async fn write(&self, key: &[u8], put: &Put) -> Result<Written, StoreError> {
        let bytes = match self.envelope {
            Envelope::None => put.value.clone(),
            // Redis keeps the time; in the envelope as well it would be another's word.
            Envelope::Quorate => Enveloped { stamp: put.stamp, expires_at_ms: None, value: put.value.clone() }.encode(),
        };
        let name = self.name(key);
        let new_tag = (self.envelope == Envelope::Quorate).then(|| crate::sql::tag(put.stamp));
        let done = match &put.condition {
            Condition::Matches(tag) => {
                let Some(tag) = self.compared(tag) else {
                    return Ok(Written::ConditionFailed);
                };
                let until = put.expires_at_ms.map_or_else(String::new, |at| at.to_string());
                let mut command = redis::cmd("EVAL");
                command.arg(PUT_IF).arg(1).arg(name).arg(&bytes[..]).arg(until).arg(tag).arg(self.tagged_by());
                self.ask::<i64>(true, &command).await? == 1
            }
            condition => {
                let mut command = redis::cmd("SET");
                command.arg(name).arg(&bytes[..]);
                if let Some(at) = put.expires_at_ms {
                    command.arg("PXAT").arg(at);
                }
                if *condition == Condition::Absent {
                    command.arg("NX");
                }
                self.ask::<Option<String>>(true, &command).await?.is_some()
            }
        };
        Ok(if done { Written::Done(new_tag) } else { Written::ConditionFailed })
    }

    async fn remove(&self, key: &[u8], condition: &Condition) -> Result<Written, StoreError> {
        let tag = match condition {
            Condition::Always => {
                let mut command = redis::cmd("DEL");
                self.ask::<i64>(true, command.arg(self.name(key))).await?;
                return Ok(Written::Done(None));
            }
            Condition::Absent => None,
            Condition::Matches(tag) => self.compared(tag),
        };
        let Some(tag) = tag else {
            return Ok(Written::ConditionFailed);
        };
        let mut command = redis::cmd("EVAL");
        command.arg(DELETE_IF).arg(1).arg(self.name(key)).arg(tag).arg(self.tagged_by());
        Ok(if self.ask::<i64>(true, &command).await? == 1 { Written::Done(None) } else { Written::ConditionFailed })
    }

    async fn page(&self, scan: &Scan) -> Result<Page, StoreError> {
        if scan.range.is_empty() {
            return Ok(Page::default());
        }
        let mut at = Place::of(scan.cursor.as_ref())?;
        let mut page = Page::default();
        for _ in 0..MAX_LOOKS {
            if at.keys.is_empty() {
                if at.is_last {
                    break;
                }
                self.look(scan, &mut at).await?;
            }
            self.take(scan, &mut at, &mut page).await?;
            if !page.entries.is_empty() {
                break;
            }
        }
        page.next = (!at.is_last || !at.keys.is_empty()).then(|| at.cursor());
        Ok(page)
    }

    /// Asks for some more keys.
    async fn look(&self, scan: &Scan, at: &mut Place) -> Result<(), StoreError> {
        let count = if scan.with_values { LOOKED_AT_WITH_VALUES } else { LOOKED_AT };
        let mut pattern = escaped(&self.prefix);
        pattern.extend(escaped(&common_prefix(scan)));
        pattern.push(b'*');
        let mut command = redis::cmd("SCAN");
        command.arg(at.number).arg("MATCH").arg(pattern).arg("COUNT").arg(count).arg("TYPE").arg("string");
        let (number, names): (u64, Vec<Vec<u8>>) = self.ask(false, &command).await?;
        let keys = names.iter().filter_map(|name| name.strip_prefix(&self.prefix[..]));
        at.keys = keys.filter(|key| scan.range.contains(key)).map(Bytes::copy_from_slice).collect();
        (at.number, at.is_last) = (number, number == 0);
        Ok(())
    }

    /// Moves keys into the page, with their values if they are wanted.
    async fn take(&self, scan: &Scan, at: &mut Place, page: &mut Page) -> Result<(), StoreError> {
        let mut bytes = 0;
        while page.entries.len() < scan.limit() && bytes < MAX_PAGE_BYTES {
            let Some(key) = at.keys.pop() else { return Ok(()) };
            if !scan.with_values {
                page.entries.push(Entry { key, stored: None });
            } else if let Some(stored) = self.read(&key).await? {
                bytes += key.len() + stored.value.len();
                page.entries.push(Entry { key, stored: Some(stored) });
            }
        }
        Ok(())
    }
}

/// Where a list is: Redis' own number, and keys that it named already and that did not fit on a page.
///
/// As a cursor: the number, little-endian, a byte that says whether it was the last look, and keys with their lengths in two
/// bytes.
#[derive(Debug, Default)]
struct Place {
    number: u64,
    is_last: bool,
    keys: Vec<Bytes>,
}

impl Place {
    fn of(cursor: Option<&Cursor>) -> Result<Self, StoreError> {
        let Some(Cursor(cursor)) = cursor else {
            return Ok(Self::default());
        };
        let broken = || StoreError::new(NAME, ErrorKind::Unexpected, "the cursor is not ours");
        let mut rest = cursor.clone();
        let number = rest.try_get_u64_le().map_err(|_| broken())?;
        let is_last = rest.try_get_u8().map_err(|_| broken())? != 0;
        let mut keys = Vec::new();
        while rest.has_remaining() {
            let len = usize::from(rest.try_get_u16_le().map_err(|_| broken())?);
            if rest.remaining() < len {
                return Err(broken());
            }
            keys.push(rest.split_to(len));
        }
        Ok(Self { number, is_last, keys })
    }

    fn cursor(&self) -> Cursor {
        let mut bytes = BytesMut::new();
        bytes.put_u64_le(self.number);
        bytes.put_u8(u8::from(self.is_last));
        for key in &self.keys {
            // Longer ones are never handed to Redis.
            bytes.put_u16_le(u16::try_from(key.len()).unwrap_or(u16::MAX));
            bytes.put_slice(key);
        }
        Cursor(bytes.freeze())
    }
}

/// With what all keys of the range begin.
fn common_prefix(scan: &Scan) -> Vec<u8> {
    let (Bound::Included(start) | Bound::Excluded(start)) = &scan.range.start else {
        return Vec::new();
    };
    if quorate_engine::KeyRange::prefix(start) == scan.range {
        return start.to_vec();
    }
    match &scan.range.end {
        Bound::Included(end) | Bound::Excluded(end) => {
            start.iter().zip(end).take_while(|(a, b)| a == b).map(|(a, _)| *a).collect()
        }
        Bound::Unbounded => Vec::new(),
    }
}

/// A text as a pattern that stands for itself.
fn escaped(text: &[u8]) -> Vec<u8> {
    text.iter().flat_map(|byte| if b"*?[]\\^-".contains(byte) { vec![b'\\', *byte] } else { vec![*byte] }).collect()
}

/// What an error means; without an answer of Redis, what was to be changed may have been.
fn meaning(error: &RedisError, changes: bool) -> StoreError {
    let make = |kind| StoreError::new(NAME, kind, error);
    match error.code() {
        Some("NOAUTH" | "WRONGPASS" | "NOPERM" | "READONLY" | "DENIED") => return make(ErrorKind::Denied),
        Some("LOADING" | "BUSY" | "TRYAGAIN" | "MASTERDOWN" | "CLUSTERDOWN" | "OOM" | "MISCONF") => {
            return make(ErrorKind::Failing);
        }
        Some("WRONGTYPE") => return make(ErrorKind::BadData),
        _ => {}
    }
    // A script hands the error of a command on with words around it.
    if error.to_string().contains("WRONGTYPE") {
        return make(ErrorKind::BadData);
    }
    match error.kind() {
        RedisKind::AuthenticationFailed => make(ErrorKind::Denied),
        _ if error.is_connection_refusal() => make(ErrorKind::Unreachable),
        RedisKind::Io | RedisKind::Parse if changes => make(ErrorKind::Unreachable).unknown(),
        RedisKind::Io | RedisKind::Parse => make(ErrorKind::Unreachable),
        _ if error.is_connection_dropped() && changes => make(ErrorKind::Unreachable).unknown(),
        _ => make(ErrorKind::Unexpected),
    }
}

impl Store for Redis {
    fn kind(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
        Box::pin(self.read(key))
    }

    fn put<'a>(&'a self, key: &'a [u8], put: &'a Put) -> Answer<'a, Written> {
        Box::pin(self.write(key, put))
    }

    fn delete<'a>(&'a self, key: &'a [u8], condition: &'a Condition) -> Answer<'a, Written> {
        Box::pin(self.remove(key, condition))
    }

    fn scan<'a>(&'a self, scan: &'a Scan) -> Answer<'a, Page> {
        Box::pin(self.page(scan))
    }

    fn check(&self) -> Answer<'_, ()> {
        Box::pin(async move { self.ask::<()>(false, &redis::cmd("PING")).await })
    }
}

impl fmt::Debug for Redis {
    /// Without the client, which holds the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_from_its_cursor() {
        let place = Place { number: 1 << 50, is_last: true, keys: vec![Bytes::new(), Bytes::from_static(b"a\0b")] };
        let back = Place::of(Some(&place.cursor())).unwrap();
        assert_eq!((back.number, back.is_last, back.keys), (1 << 50, true, place.keys));
        for len in 0..9 {
            assert!(Place::of(Some(&Cursor(Bytes::from(vec![1; len])))).is_err());
        }
    }

    #[test]
    fn patterns_stand_for_themselves() {
        assert_eq!(escaped(b"a*[b]?\\"), b"a\\*\\[b\\]\\?\\\\");
    }
}
