//! A store in memory: what the conformance suite is checked against, and what tests put behind faults.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::{
    Answer, Capabilities, Clock, Comparing, Condition, Cursor, Entry, Expiry, MAX_KEY_BYTES, MAX_PAGE_BYTES, Page, Put, Scan,
    Store, StoreError, Stored, Tag, Written,
};

/// A store in memory. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Memory {
    clock: Clock,
    pairs: Arc<Mutex<BTreeMap<Bytes, Stored>>>,
}

impl Memory {
    /// An empty store.
    pub fn new(clock: Clock) -> Self {
        Self { clock, pairs: Arc::default() }
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<Bytes, Stored>) -> T) -> T {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.unix_ms();
        pairs.retain(|_, stored| stored.expires_at_ms.is_none_or(|at| at > now));
        act(&mut pairs)
    }
}

fn holds(condition: &Condition, there: Option<&Stored>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::Absent => there.is_none(),
        Condition::Matches(tag) => there.is_some_and(|stored| stored.tag == *tag),
    }
}

fn answer<'a, T: Send + 'a>(value: T) -> Answer<'a, T> {
    Box::pin(std::future::ready(Ok::<T, StoreError>(value)))
}

impl Store for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            writable: true,
            listable: true,
            ordered: true,
            comparing: Comparing::Atomic,
            expiry: Expiry::Removed,
            max_value_bytes: 1 << 30,
            max_key_bytes: MAX_KEY_BYTES,
        }
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
        answer(self.with(|pairs| pairs.get(key).cloned()))
    }

    fn put<'a>(&'a self, key: &'a [u8], put: &'a Put) -> Answer<'a, Written> {
        answer(self.with(|pairs| {
            if !holds(&put.condition, pairs.get(key)) {
                return Written::ConditionFailed;
            }
            let tag = Tag(format!("{}-{}", put.stamp.unix_us, put.stamp.writer));
            let stored =
                Stored { value: put.value.clone(), tag: tag.clone(), stamp: Some(put.stamp), expires_at_ms: put.expires_at_ms };
            pairs.insert(Bytes::copy_from_slice(key), stored);
            Written::Done(Some(tag))
        }))
    }

    fn delete<'a>(&'a self, key: &'a [u8], condition: &'a Condition) -> Answer<'a, Written> {
        answer(self.with(|pairs| {
            if *condition == Condition::Absent || !holds(condition, pairs.get(key)) {
                return Written::ConditionFailed;
            }
            pairs.remove(key);
            Written::Done(None)
        }))
    }

    fn scan<'a>(&'a self, scan: &'a Scan) -> Answer<'a, Page> {
        if scan.range.is_empty() {
            return answer(Page::default());
        }
        let start = match &scan.cursor {
            Some(Cursor(key)) => Bound::Excluded(key.clone()),
            None => scan.range.start.clone(),
        };
        answer(self.with(|pairs| {
            let (mut page, mut bytes) = (Page::default(), 0);
            for (key, stored) in pairs.range((start, Bound::Unbounded)).take_while(|(key, _)| scan.range.contains(key)) {
                if page.entries.len() == scan.limit() || bytes >= MAX_PAGE_BYTES {
                    page.next = page.entries.last().map(|entry| Cursor(entry.key.clone()));
                    break;
                }
                bytes += if scan.with_values { key.len() + stored.value.len() } else { key.len() };
                page.entries.push(Entry { key: key.clone(), stored: scan.with_values.then(|| stored.clone()) });
            }
            page
        }))
    }

    fn check(&self) -> Answer<'_, ()> {
        answer(())
    }
}
