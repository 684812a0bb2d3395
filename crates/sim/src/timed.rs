//! What the model knows of pairs that go: by their time, and with their leases; and when they may at the earliest.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_keyspace::{LeaseId, Op, Put, Write};

use crate::time::SimTime;
use crate::violation::{Step, Violation};

/// Ends of pairs and leases, by a second, simple reading of what they are.
#[derive(Debug, Default)]
pub(crate) struct Timed {
    log_time_ms: u64,
    ends: BTreeMap<Bytes, u64>,
    held: BTreeMap<Bytes, LeaseId>,
    /// Each with the index of its grant.
    leases: BTreeMap<LeaseId, u64>,
    /// Leases that ended because their time was up.
    expired_leases: Vec<LeaseId>,
    /// Revisions at which pairs went because their time was up, or that of their lease.
    expiries: BTreeSet<u64>,
}

/// What a write does to keys, in order: what it sets, and what it removes.
pub(crate) type Changes = Vec<(Bytes, Option<Bytes>)>;

/// More go with the next entries.
const MAX_EXPIRED: usize = 1000;

impl Timed {
    /// An entry of this log time begins: the keys that go, in order.
    pub(crate) fn begin(&mut self, log_time_ms: u64, revision: u64) -> Vec<Bytes> {
        self.log_time_ms = self.log_time_ms.max(log_time_ms);
        let mut due: Vec<(u64, Bytes)> = self
            .ends
            .iter()
            .filter(|(_, end_ms)| **end_ms <= self.log_time_ms)
            .map(|(key, end_ms)| (*end_ms, key.clone()))
            .collect();
        due.sort();
        due.truncate(MAX_EXPIRED);
        let gone: Vec<Bytes> = due.into_iter().map(|(_, key)| key).collect();
        gone.iter().for_each(|key| self.forget(key));
        if !gone.is_empty() {
            self.expiries.insert(revision);
        }
        gone
    }

    /// Whether a write is about pairs that go, or leases.
    pub(crate) fn is_about(write: &Write) -> bool {
        write.ops.iter().any(|op| match op {
            Op::Put(put) => put.ttl_ms.is_some() || put.lease.is_some(),
            Op::LeaseGrant { .. } | Op::LeaseRevoke { .. } | Op::LeaseExpire { .. } => true,
            _ => false,
        })
    }

    /// What such a write does at an index; nothing, if it is refused.
    pub(crate) fn execute(&mut self, write: &Write, index: u64, revision: u64) -> Changes {
        let (mut changes, mut is_expiry) = (Changes::new(), false);
        let (ends, held, leases) = (self.ends.clone(), self.held.clone(), self.leases.clone());
        for op in &write.ops {
            let is_done = match op {
                Op::Put(put) => self.put(put, &mut changes),
                Op::Delete { key } => {
                    self.forget(key);
                    changes.push((key.clone(), None));
                    true
                }
                Op::LeaseGrant { id, .. } => !self.leases.contains_key(id) && self.leases.insert(*id, index).is_none(),
                Op::LeaseRevoke { id } => self.leases.contains_key(id) && self.end(&[*id], &mut changes),
                Op::LeaseExpire { leases } => {
                    let there = leases.iter().filter(|(id, grant)| self.leases.get(id) == Some(grant));
                    let there: Vec<LeaseId> = there.map(|(id, _)| *id).collect();
                    self.expired_leases.extend(&there);
                    is_expiry = true;
                    self.end(&there, &mut changes)
                }
                _ => true,
            };
            if !is_done {
                (self.ends, self.held, self.leases) = (ends, held, leases);
                return Changes::new();
            }
        }
        if is_expiry && !changes.is_empty() {
            self.expiries.insert(revision);
        }
        changes
    }

    fn put(&mut self, put: &Put, changes: &mut Changes) -> bool {
        self.forget(&put.key);
        if let Some(ttl_ms) = put.ttl_ms {
            self.ends.insert(put.key.clone(), self.log_time_ms + ttl_ms);
        }
        if let Some(lease) = put.lease {
            self.held.insert(put.key.clone(), lease);
        }
        changes.push((put.key.clone(), Some(put.value.clone())));
        put.lease.is_none_or(|lease| self.leases.contains_key(&lease))
    }

    fn end(&mut self, leases: &[LeaseId], changes: &mut Changes) -> bool {
        let gone: Vec<Bytes> = self.held.iter().filter(|(_, lease)| leases.contains(lease)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.forget(&key);
            changes.push((key, None));
        }
        self.leases.retain(|lease, _| !leases.contains(lease));
        true
    }

    fn forget(&mut self, key: &Bytes) {
        self.ends.remove(key);
        self.held.remove(key);
    }

    /// Whether the keys that a revision removed went because of the time.
    pub(crate) fn is_expiry(&self, revision: u64) -> bool {
        self.expiries.contains(&revision)
    }

    /// Leases that ended by time since this was last asked.
    pub(crate) fn take_expired_leases(&mut self) -> Vec<LeaseId> {
        std::mem::take(&mut self.expired_leases)
    }

    /// Whether anything is there that is to go.
    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.leases.is_empty()
    }
}

/// When what clients were promised to live may end at the earliest, by true time.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// Since when each lease has its full time, as its client knows, and how long that is.
    leases: BTreeMap<LeaseId, (SimTime, u64)>,
    /// Leases that ended by time, and when that was first seen.
    ended: BTreeMap<LeaseId, SimTime>,
    /// The same of pairs, by their values, of which each is put once.
    pairs: BTreeMap<Bytes, (SimTime, u64)>,
    /// When clocks jumped.
    jumps: Vec<SimTime>,
}

/// What a jump of a clock may cost, and what is lost where milliseconds are counted.
const JUMP_MS: u64 = 200;
const ROUNDING_MS: u64 = 10;

/// Clocks run fast by up to this much.
const DRIFT_PERCENT: u64 = 2;

impl Promises {
    pub(crate) fn on_jump(&mut self, now: SimTime) {
        self.jumps.push(now);
    }

    /// A client asked for a lease, or to keep it alive, at that time, and was told that it was done.
    pub(crate) fn on_kept_alive(&mut self, lease: LeaseId, asked: SimTime, ttl_ms: u64) -> Step {
        if let Some(ended) = self.ended.get(&lease)
            && self.is_early(asked, ttl_ms, *ended)
        {
            let detail = format!("lease {lease} was kept alive at {asked} for {ttl_ms} ms, and ended at {ended}");
            return Err(Violation::new("leases live their full time", detail));
        }
        let since = self.leases.entry(lease).or_insert((asked, ttl_ms));
        since.0 = since.0.max(asked);
        Ok(())
    }

    /// A client was told that there is no such lease, which it has not revoked.
    pub(crate) fn on_missing(&self, lease: LeaseId, now: SimTime) -> Step {
        match self.leases.get(&lease) {
            Some((since, ttl_ms)) if self.is_early(*since, *ttl_ms, now) => {
                let detail = format!("lease {lease} was kept alive at {since} for {ttl_ms} ms, and is said to be gone at {now}");
                Err(Violation::new("leases live their full time", detail))
            }
            _ => Ok(()),
        }
    }

    /// A lease has ended by time, as the first replica shows now.
    pub(crate) fn on_lease_expired(&mut self, lease: LeaseId, now: SimTime) -> Step {
        self.ended.insert(lease, now);
        self.on_missing(lease, now)
    }

    /// A client asks for the end of a lease: from now on it may be gone.
    pub(crate) fn on_revoke(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
    }

    /// A client puts a value that lives for so long.
    pub(crate) fn on_put(&mut self, value: Bytes, asked: SimTime, ttl_ms: u64) {
        self.pairs.insert(value, (asked, ttl_ms));
    }

    /// A value has gone by time, as the first replica shows now.
    pub(crate) fn on_pair_expired(&mut self, value: &Bytes, now: SimTime) -> Step {
        match self.pairs.get(value) {
            Some((asked, ttl_ms)) if self.is_early(*asked, *ttl_ms, now) => {
                let detail = format!("{value:?} was put at {asked} for {ttl_ms} ms, and went at {now}");
                Err(Violation::new("pairs live their full time", detail))
            }
            _ => Ok(()),
        }
    }

    fn is_early(&self, since: SimTime, ttl_ms: u64, end: SimTime) -> bool {
        let jumps = self.jumps.iter().filter(|jump| (since..=end).contains(jump)).count() as u64;
        let least_ms = (ttl_ms - ttl_ms * DRIFT_PERCENT / 100).saturating_sub(ROUNDING_MS + JUMP_MS * jumps);
        end < since.plus_ms(least_ms)
    }
}
