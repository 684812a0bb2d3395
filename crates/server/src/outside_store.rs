//! Keyspaces whose pairs are in a store outside: what the REST API asks of them, put to the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_api::keyspace::{Capability, KeyspaceStats};
use quorate_api::outside::{FrontCacheFigures, OutsideStats, StoreCallFigures};
use quorate_api::problem::Code;
use quorate_engine::{Direction, EngineError, KeyRange, ScanItem, Table, View};
use quorate_external as external;
use quorate_external::{Call, ErrorKind, Meter, Scan, Stored};
use quorate_node::Monotonic;
use quorate_node::keyspace::{Condition, Detail, Guard, KeyMeta, Limits, OpResult, Outcome, Put, Removed, Revision, Write};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::eventual_store::{Plan, plan_of, too_large};
use crate::finding::Found;
use crate::node_store::Running;
use crate::outside_stores::OutsideKeyspace;
use crate::rest::{Outside, StoreError, UNKNOWN, Written, code_of_store, meta_of_tag};

/// Keys of a range that one step removes: each is a call of its own.
const MAX_KEYS_PER_STEP: usize = 256;

/// A write with conditions is tried so often while others write the same key.
const MAX_ROUNDS: usize = 8;

/// What holds for all pairs of a keyspace.
struct Rules {
    limits: Limits,
    ttl_ms: Option<u64>,
    compares: bool,
}

/// What conditions come to.
enum Judged {
    /// They hold if the store finds this, and the key was like that.
    Holds(external::Condition, Option<KeyMeta>),
    Fails(Outcome),
}

impl Running {
    /// A keyspace whose pairs are outside, with its store.
    pub(crate) async fn outside(&self, keyspace: &str, deadline: Monotonic) -> Result<Option<Outside>, StoreError> {
        if self.handle.views.hosted.load().keyspaces.contains_key(keyspace) {
            return Ok(None);
        }
        match self.found(keyspace, deadline).await? {
            Found::Hosted(_) => Ok(None),
            Found::Outside(found) => self.opened(&found, deadline).await.map(Some),
        }
    }

    async fn opened(&self, found: &OutsideKeyspace, deadline: Monotonic) -> Result<Outside, StoreError> {
        let store = found.store(self.handle.clock.until(deadline)).await.map_err(StoreError::Outside)?;
        let (epoch, is_denied, now_ms) = (found.epoch, found.watch_denials(), Clock::calendar_ms());
        Ok(Outside { epoch, store, is_denied, now_ms })
    }

    /// Writes straight through.
    pub(crate) async fn write_outside(
        &self,
        outside: &Outside,
        keyspace: &str,
        write: Write,
        deadline: Monotonic,
    ) -> Result<Written, StoreError> {
        let Write { guards, ops } = write;
        if guards.iter().any(|guard| matches!(guard.condition, Condition::Once(_))) {
            return Err(StoreError::Lacks(Capability::Idempotency));
        }
        let plan = plan_of(ops)?;
        let rules = self.rules(keyspace).ok_or_else(|| StoreError::KeyspaceNotFound(keyspace.to_owned()))?;
        if !guards.is_empty() && !rules.compares {
            return Err(StoreError::Lacks(Capability::Cas));
        }
        let writing = async {
            match plan {
                Plan::Put(put) => self.put_outside(outside, put, &guards, &rules).await,
                Plan::Delete(key) => delete(outside, &key, &guards).await,
                Plan::DeleteRange(range, max_keys) => delete_range(outside, range, max_keys).await,
            }
        };
        // Given up in the middle, it may have been done, or may yet be.
        let outcome = tokio::time::timeout(self.handle.clock.until(deadline), writing).await;
        let outcome = outcome.unwrap_or(Err(StoreError::Unknown))?;
        Ok(Written { epoch: outside.epoch, outcome, now_ms: outside.now_ms, replicated: None, session: None })
    }

    fn rules(&self, keyspace: &str) -> Option<Rules> {
        let catalog = self.handle.views.catalog.load();
        let record = catalog.keyspaces.get(keyspace)?;
        let (limits, compares) = (record.shard_settings().limits, record.can(Capability::Cas));
        Some(Rules { limits, ttl_ms: record.ttl_ms, compares })
    }

    async fn put_outside(&self, outside: &Outside, put: Put, guards: &[Guard], rules: &Rules) -> Result<Outcome, StoreError> {
        if let Some(refused) = too_large(&put, &rules.limits) {
            return Ok(refused);
        }
        let Put { key, value, user_meta, ttl_ms, .. } = put;
        if !user_meta.is_empty() {
            return Err(StoreError::Unfit("stores outside have no place for user metadata"));
        }
        let expires_at_ms = ttl_ms.or(rules.ttl_ms).map(|ttl_ms| Clock::calendar_ms().saturating_add(ttl_ms));
        for _ in 0..MAX_ROUNDS {
            let (condition, before) = match judge(outside, &key, guards).await? {
                Judged::Holds(condition, before) => (condition, before),
                Judged::Fails(outcome) => return Ok(outcome),
            };
            let put = external::Put { value: value.clone(), expires_at_ms, condition, stamp: self.outside.stamp() };
            match outside.store.put(&key, &put).await.map_err(|error| outside.failed(error))? {
                external::Written::Done(tag) => {
                    // Where nothing was looked at, whether there was a value before is not known: then none is called new.
                    let before = if guards.is_empty() { Some(UNKNOWN) } else { before };
                    let after = Some(tag.as_ref().map_or(UNKNOWN, meta_of_tag));
                    return Ok(applied(OpResult { before, after, detail: None }));
                }
                external::Written::ConditionFailed => {}
            }
        }
        Err(contended())
    }

    /// Makes what a store needs that a keyspace was made on. Who uses it is told if that does not go, for the store may be there
    /// later; making the keyspace again makes up for it.
    pub(crate) async fn prepare_outside(&self, keyspace: &str, deadline: Monotonic) {
        let Some(found) = self.outside.find(keyspace) else { return };
        let preparing = async { self.opened(&found, deadline).await?.store.prepare().await.map_err(StoreError::Outside) };
        match tokio::time::timeout(self.handle.clock.until(deadline), preparing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(keyspace, %error, "a store outside is not ready for the keyspace made on it"),
            Err(_) => tracing::warn!(keyspace, "a store outside took too long to be made ready for the keyspace made on it"),
        }
    }

    /// What this node knows of a keyspace outside; the store is asked.
    pub(crate) async fn outside_stats(&self, name: &str, found: &OutsideKeyspace, deadline: Monotonic) -> KeyspaceStats {
        let opened = self.opened(found, deadline).await;
        let is_open = opened.is_ok();
        let checked = match opened {
            Ok(outside) => {
                let checked = tokio::time::timeout(self.handle.clock.until(deadline), outside.store.check()).await;
                checked.map_err(|_| StoreError::Unknown).and_then(|checked| checked.map_err(|error| outside.failed(error)))
            }
            Err(error) => Err(error),
        };
        let external::CacheFigures { hits, stale, fetched, joined } = found.meter.cache_figures();
        KeyspaceStats {
            name: name.to_owned(),
            served_by: self.name.clone(),
            engine: found.kind.clone(),
            keys: 0,
            data_bytes: 0,
            replicas: Vec::new(),
            eventual: Vec::new(),
            cache: None,
            outside: Some(OutsideStats {
                is_open,
                is_reachable: checked.is_ok(),
                error: checked.err().map(|error| error.to_string()),
                cache: found.is_cached.then_some(FrontCacheFigures { hits, stale, fetched, joined }),
                calls: calls_of(&found.meter),
            }),
            behind: None,
        }
    }
}

/// What was asked of a store.
pub(crate) fn calls_of(meter: &Meter) -> Vec<StoreCallFigures> {
    Call::ALL.into_iter().map(|call| call_figures(call, &meter.figures(call))).collect()
}

fn call_figures(call: Call, figures: &external::CallFigures) -> StoreCallFigures {
    StoreCallFigures {
        call: call.name().to_owned(),
        ended: figures.ended,
        in_flight: figures.in_flight,
        total_us: figures.total_us,
        failed: failures_by_code(figures),
    }
}

/// How many calls ended with which code.
pub(crate) fn failures_by_code(figures: &external::CallFigures) -> BTreeMap<String, u64> {
    let known = figures.failed.iter().map(|(kind, count)| (code_of_store(*kind, external::Outcome::NotApplied), *count));
    let unknown = (Code::OutcomeUnknown, figures.unknown);
    let mut by_code = BTreeMap::new();
    for (code, count) in known.chain([unknown]).filter(|(_, count)| *count > 0) {
        *by_code.entry(code.facts().code.to_owned()).or_default() += count;
    }
    by_code
}

/// What conditions come to now. The store is asked past any cache: an old value would fail what holds.
async fn judge(outside: &Outside, key: &Bytes, guards: &[Guard]) -> Result<Judged, StoreError> {
    if guards.is_empty() {
        return Ok(Judged::Holds(external::Condition::Always, None));
    }
    let there = outside.store.get_uncached(key).await.map_err(|error| outside.failed(error))?;
    let current = there.as_ref().map(meta_of);
    let holds = |guard: &Guard| match (&guard.condition, &current) {
        (Condition::Exists, current) => current.is_some(),
        (Condition::Absent, current) => current.is_none(),
        (Condition::ModRevisionIn(tags), current) => current.is_some_and(|meta| tags.contains(&meta.mod_revision)),
        (Condition::ModRevisionNotIn(tags), current) => current.is_none_or(|meta| !tags.contains(&meta.mod_revision)),
        (Condition::Once(_), _) => false,
    };
    if let Some(guard) = guards.iter().position(|guard| !holds(guard)) {
        return Ok(Judged::Fails(Outcome::ConditionFailed { revision: Revision(0), guard: guard as u64, current }));
    }
    let condition = there.map_or(external::Condition::Absent, |stored| external::Condition::Matches(stored.tag));
    Ok(Judged::Holds(condition, current))
}

/// Removes a key. It is looked at before: stores do not say whether there was something to remove.
async fn delete(outside: &Outside, key: &Bytes, guards: &[Guard]) -> Result<Outcome, StoreError> {
    let gone = |before| applied(OpResult { before, after: None, detail: None });
    if guards.is_empty() {
        let before = match outside.store.get_uncached(key).await {
            Ok(None) => return Ok(gone(None)),
            Ok(Some(stored)) => meta_of(&stored),
            // Whatever it is, it can be removed.
            Err(error) if error.kind == ErrorKind::BadData => UNKNOWN,
            Err(error) => return Err(outside.failed(error)),
        };
        remove(outside, key, &external::Condition::Always).await?;
        return Ok(gone(Some(before)));
    }
    for _ in 0..MAX_ROUNDS {
        match judge(outside, key, guards).await? {
            Judged::Fails(outcome) => return Ok(outcome),
            Judged::Holds(_, None) => return Ok(gone(None)),
            Judged::Holds(condition, before) => {
                if remove(outside, key, &condition).await? {
                    return Ok(gone(before));
                }
            }
        }
    }
    Err(contended())
}

/// Whether the condition held, and the key is gone.
async fn remove(outside: &Outside, key: &[u8], condition: &external::Condition) -> Result<bool, StoreError> {
    let written = outside.store.delete(key, condition).await.map_err(|error| outside.failed(error))?;
    Ok(written != external::Written::ConditionFailed)
}

/// Removes some keys of a range: the first ones, where the store lists in order.
async fn delete_range(outside: &Outside, range: KeyRange, max_keys: u64) -> Result<Outcome, StoreError> {
    let max_keys = usize::try_from(max_keys).unwrap_or(usize::MAX).min(MAX_KEYS_PER_STEP);
    let is_ordered = outside.store.capabilities().ordered;
    let mut scan = Scan { max_entries: max_keys + 1, ..Scan::of(range.clone()) };
    let mut found = Vec::new();
    let mut is_over = range.is_empty();
    while !is_over && found.len() <= max_keys {
        let page = outside.store.scan(&scan).await.map_err(|error| outside.failed(error))?;
        found.extend(page.entries.into_iter().map(|entry| entry.key));
        is_over = page.next.is_none();
        scan.cursor = page.next;
    }
    let beyond = found.get(max_keys).cloned();
    found.truncate(max_keys);
    // Without an order what is left may lie anywhere in the range.
    let next = if is_ordered { beyond } else { beyond.map(|_| start_of(&range)) };
    found.sort_unstable();
    found.dedup();
    let removed = Removed { keys: found.len() as u64, next };
    let mut removing = JoinSet::new();
    for key in found {
        let outside = outside.clone();
        removing.spawn(async move { remove(&outside, &key, &external::Condition::Always).await });
    }
    while let Some(done) = removing.join_next().await {
        done.map_err(|error| StoreError::Internal(error.to_string()))??;
    }
    Ok(applied(OpResult { detail: Some(Box::new(Detail::Removed(removed))), ..OpResult::default() }))
}

/// The least key that a range can have.
fn start_of(range: &KeyRange) -> Bytes {
    match &range.start {
        std::ops::Bound::Unbounded => Bytes::new(),
        std::ops::Bound::Included(key) => key.clone(),
        std::ops::Bound::Excluded(key) => [key, &b"\0"[..]].concat().into(),
    }
}

fn meta_of(stored: &Stored) -> KeyMeta {
    meta_of_tag(&stored.tag)
}

fn applied(result: OpResult) -> Outcome {
    Outcome::Applied { revision: Revision(0), results: vec![result] }
}

fn contended() -> StoreError {
    StoreError::Busy("others write the key all the time: it was never as it had been a moment before".to_owned())
}

/// The view of a keyspace whose pairs are not here: who reads it has taken the wrong way, and is told so.
#[derive(Debug)]
pub(crate) struct NotHere;

impl NotHere {
    fn error() -> EngineError {
        std::io::Error::other("the pairs are in a store outside").into()
    }
}

impl View for NotHere {
    fn applied(&self) -> u64 {
        0
    }

    fn revision(&self) -> u64 {
        0
    }

    fn get(&self, _table: Table, _key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Err(Self::error())
    }

    fn scan<'a>(&'a self, _: Table, _: &KeyRange, _: Direction) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        Box::new(std::iter::once(Err(Self::error())))
    }
}

/// A view that has nothing to say.
pub(crate) fn not_here() -> Arc<dyn View> {
    Arc::new(NotHere)
}
