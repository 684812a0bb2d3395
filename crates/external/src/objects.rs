//! Stores that keep objects under names: what they have in common.
//!
//! [`Named`] makes a [`Store`] of anything that reads, writes and lists named bytes ([`Objects`]), by encoding keys and values.

use std::fmt;
use std::hash::Hasher;
use std::ops::Bound;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use quorate_engine::KeyRange;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::envelope::{Enveloped, HEADER_BYTES};
use crate::key_encoding::KeyEncoding;
use crate::sweep::Sweeper;
use crate::{
    Answer, Capabilities, Clock, Comparing, Condition, Cursor, Entry, Envelope, ErrorKind, Expiry, MAX_PAGE_BYTES, Page, Put,
    Scan, Store, StoreError, Stored, Tag, Written,
};

/// So many values of a page are fetched at once.
const FETCHED_AT_ONCE: usize = 8;

/// Bytes under names. The obligations are those of [`Store`].
pub(crate) trait Objects: Send + Sync + fmt::Debug {
    /// The store's name in settings.
    fn kind(&self) -> &'static str;

    /// What it can do with objects.
    fn abilities(&self) -> Abilities;

    /// The whole object.
    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Object>>;

    /// Replaces the whole object.
    fn write<'a>(&'a self, name: &'a str, bytes: Bytes, condition: &'a Condition) -> Answer<'a, Written>;

    /// Removes the object; it is no error if there is none.
    fn remove<'a>(&'a self, name: &'a str, condition: &'a Condition) -> Answer<'a, Written>;

    /// Names that begin with a prefix, in byte order, after another name.
    fn list<'a>(&'a self, listing: &'a Listing) -> Answer<'a, Names>;

    /// As [`Store::check`].
    fn check(&self) -> Answer<'_, ()>;

    /// As [`Store::prepare`].
    fn prepare(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What a store can do with objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abilities {
    pub(crate) writable: bool,
    pub(crate) listable: bool,
    pub(crate) comparing: Comparing,
    pub(crate) max_object_bytes: u64,
    pub(crate) max_name_bytes: usize,
}

/// An object as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    /// What the store compares by; where it has nothing, the content is.
    pub(crate) tag: Option<Tag>,
}

/// Which names are wanted.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    pub(crate) prefix: String,
    /// Only names greater than this.
    pub(crate) after: Option<String>,
    pub(crate) max_names: usize,
}

/// Some names, ascending.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub(crate) names: Vec<String>,
    /// After which name to go on; none if there are no more.
    pub(crate) next: Option<String>,
}

/// What a store of pairs can do that keeps them as objects.
pub(crate) fn named_capabilities(abilities: Abilities, keys: KeyEncoding, envelope: Envelope) -> Capabilities {
    let has_envelope = envelope == Envelope::Quorate;
    Capabilities {
        writable: abilities.writable,
        listable: abilities.listable,
        ordered: abilities.listable,
        comparing: abilities.comparing,
        expiry: if has_envelope && abilities.writable { Expiry::Hidden } else { Expiry::None },
        max_value_bytes: abilities.max_object_bytes - if has_envelope { HEADER_BYTES as u64 } else { 0 },
        max_key_bytes: match keys {
            KeyEncoding::Bytes => abilities.max_name_bytes / 3,
            KeyEncoding::Path => abilities.max_name_bytes,
        },
    }
}

/// A tag of bytes themselves, for stores that have none of their own.
pub(crate) fn content_tag(bytes: &[u8]) -> Tag {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    Tag(format!("{:032x}", hasher.finish128().as_u128()))
}

/// A store of objects as a store of pairs.
#[derive(Debug)]
pub(crate) struct Named<O> {
    pub(crate) objects: O,
    pub(crate) keys: KeyEncoding,
    pub(crate) envelope: Envelope,
    pub(crate) clock: Clock,
    pub(crate) sweeper: Sweeper,
}

impl<O: Objects> Named<O> {
    fn error(&self, kind: ErrorKind, message: impl fmt::Display) -> StoreError {
        StoreError::new(self.objects.kind(), kind, message)
    }

    fn name(&self, key: &[u8]) -> Result<String, StoreError> {
        let name = self.keys.encode(key).map_err(|error| self.error(ErrorKind::BadKey, error))?;
        let max = self.objects.abilities().max_name_bytes;
        if name.len() > max {
            let message = format!("the key is a name of {} bytes, and names are of {max} bytes at most", name.len());
            return Err(self.error(ErrorKind::TooLarge, message));
        }
        Ok(name)
    }

    /// What an object says, whether or not its time is up.
    fn opened(&self, object: &Object, key: &[u8]) -> Result<Stored, StoreError> {
        let tag = object.tag.clone().unwrap_or_else(|| content_tag(&object.bytes));
        if self.envelope == Envelope::None {
            return Ok(Stored { value: object.bytes.clone(), tag, stamp: None, expires_at_ms: None });
        }
        let Enveloped { stamp, expires_at_ms, value } = Enveloped::decode(&object.bytes)
            .map_err(|why| self.error(ErrorKind::BadData, format_args!("the value of {:?}: {why}", key.escape_ascii())))?;
        Ok(Stored { value, tag, stamp: Some(stamp), expires_at_ms })
    }

    fn is_over(&self, stored: &Stored) -> bool {
        stored.expires_at_ms.is_some_and(|at| at <= self.clock.unix_ms())
    }

    async fn read(&self, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let name = self.name(key)?;
        let Some(object) = self.objects.read(&name).await? else {
            return Ok(None);
        };
        let stored = self.opened(&object, key)?;
        if !self.is_over(&stored) {
            return Ok(Some(stored));
        }
        // Without a condition it might be another one by now.
        if self.objects.abilities().comparing != Comparing::Unconditional {
            self.sweeper.sweep(self.objects.remove(&name, &Condition::Matches(stored.tag))).await;
        }
        Ok(None)
    }

    async fn write(&self, key: &[u8], put: &Put) -> Result<Written, StoreError> {
        let name = self.name(key)?;
        let bytes = match self.envelope {
            Envelope::None => put.value.clone(),
            Envelope::Quorate => {
                Enveloped { stamp: put.stamp, expires_at_ms: put.expires_at_ms, value: put.value.clone() }.encode()
            }
        };
        // Where the store has no tags of its own, the new one follows from what is written.
        let tagged = |written: Written| match written {
            Written::Done(None) if self.objects.abilities().comparing != Comparing::Atomic => {
                Written::Done(Some(content_tag(&bytes)))
            }
            other => other,
        };
        let written = self.objects.write(&name, bytes.clone(), &put.condition).await?;
        if written == Written::ConditionFailed && put.condition == Condition::Absent {
            // What is there may be over: then it counts for nothing, and is replaced as it is.
            if let Some(object) = self.objects.read(&name).await?
                && let Ok(stored) = self.opened(&object, key)
                && self.is_over(&stored)
            {
                return self.objects.write(&name, bytes.clone(), &Condition::Matches(stored.tag)).await.map(tagged);
            }
        }
        Ok(tagged(written))
    }

    async fn page(&self, scan: &Scan) -> Result<Page, StoreError> {
        let Some(listing) = self.listing(scan)? else {
            return Ok(Page::default());
        };
        let Names { names, mut next } = self.objects.list(&listing).await?;
        let mut wanted = Vec::with_capacity(names.len());
        for name in names {
            if let Some(key) = self.keys.decode(&name) {
                if is_beyond(&scan.range, &key) {
                    next = None;
                    break;
                }
                if scan.range.contains(&key) {
                    wanted.push((name, key));
                }
            }
        }
        if !scan.with_values {
            let entries = wanted.into_iter().map(|(_, key)| Entry { key, stored: None }).collect();
            return Ok(Page { entries, next: next.map(cursor) });
        }
        self.with_values(wanted, next).await
    }

    /// Fetches values until the page is long enough.
    async fn with_values(&self, wanted: Vec<(String, Bytes)>, next: Option<String>) -> Result<Page, StoreError> {
        let mut entries = Vec::with_capacity(wanted.len());
        let (mut bytes, mut left) = (0, wanted.len());
        // The names are owned by what fetches: they leave the stream with their values.
        let fetch = |(name, key): (String, Bytes)| async move { (self.read(&key).await, name, key) };
        let mut fetched = Box::pin(stream::iter(wanted).map(fetch).buffered(FETCHED_AT_ONCE));
        while let Some((stored, name, key)) = fetched.next().await {
            left -= 1;
            if let Some(stored) = stored? {
                bytes += key.len() + stored.value.len();
                entries.push(Entry { key, stored: Some(stored) });
            }
            if bytes >= MAX_PAGE_BYTES && left > 0 {
                return Ok(Page { entries, next: Some(cursor(name)) });
            }
        }
        Ok(Page { entries, next: next.map(cursor) })
    }

    /// Where the names of a scan are; none if no key can be in its range.
    fn listing(&self, scan: &Scan) -> Result<Option<Listing>, StoreError> {
        if scan.range.is_empty() {
            return Ok(None);
        }
        let (Bound::Included(start) | Bound::Excluded(start)) = &scan.range.start else {
            return Ok(Some(Listing { prefix: String::new(), after: self.cursor_name(scan)?, max_names: scan.limit() }));
        };
        let is_prefix = KeyRange::prefix(start) == scan.range;
        let prefix = if is_prefix { self.keys.name_prefix(start) } else { String::new() };
        let after = match self.cursor_name(scan)? {
            Some(name) => Some(name),
            None if is_prefix => None,
            None => just_before(&self.keys.lower_bound(start)),
        };
        Ok(Some(Listing { prefix, after, max_names: scan.limit() }))
    }

    fn cursor_name(&self, scan: &Scan) -> Result<Option<String>, StoreError> {
        let Some(Cursor(name)) = &scan.cursor else {
            return Ok(None);
        };
        let name = String::from_utf8(name.to_vec()).map_err(|_| self.error(ErrorKind::Unexpected, "the cursor is not ours"))?;
        Ok(Some(name))
    }
}

fn cursor(name: String) -> Cursor {
    Cursor(name.into_bytes().into())
}

fn is_beyond(range: &KeyRange, key: &[u8]) -> bool {
    match &range.end {
        Bound::Included(end) => key > end.as_ref(),
        Bound::Excluded(end) => key >= end.as_ref(),
        Bound::Unbounded => false,
    }
}

/// A text before `name` such that no name of a key lies between: stores go on after a name, never at one. In the encoding
/// `bytes` no name holds `~~`; with paths some may lie between, and are passed over.
fn just_before(name: &str) -> Option<String> {
    let last = name.chars().next_back()?;
    let start = &name[..name.len() - last.len_utf8()];
    let before = u32::from(last).checked_sub(1).and_then(char::from_u32)?;
    Some(format!("{start}{before}~~"))
}

impl<O: Objects> Store for Named<O> {
    fn kind(&self) -> &'static str {
        self.objects.kind()
    }

    fn capabilities(&self) -> Capabilities {
        named_capabilities(self.objects.abilities(), self.keys, self.envelope)
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
        Box::pin(self.read(key))
    }

    fn put<'a>(&'a self, key: &'a [u8], put: &'a Put) -> Answer<'a, Written> {
        Box::pin(self.write(key, put))
    }

    fn delete<'a>(&'a self, key: &'a [u8], condition: &'a Condition) -> Answer<'a, Written> {
        Box::pin(async move { self.objects.remove(&self.name(key)?, condition).await })
    }

    fn scan<'a>(&'a self, scan: &'a Scan) -> Answer<'a, Page> {
        Box::pin(self.page(scan))
    }

    fn check(&self) -> Answer<'_, ()> {
        self.objects.check()
    }

    fn prepare(&self) -> Answer<'_, ()> {
        self.objects.prepare()
    }
}
