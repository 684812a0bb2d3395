//! The time of a group's leases, as its leader keeps it.
//!
//! Leases lie in the state machine; when each ends is known to the leader alone, and to nobody while there is none. Whoever
//! begins to lead reads all leases from the engine, a piece at a time and beside the loop, and gives each its full time from then
//! on: so none ends early whatever the leader before knew. Grants and ends that are applied meanwhile come from the state
//! machine.
//!
//! To keep a lease alive is no log entry. The leader is asked (`lease_asks.rs`), waits for a read-index round that began after
//! that (so no other leads that could have let the lease go), and begins the lease's time anew. A lease whose time is up is
//! *ending*: it is not kept alive any more, and the leader proposes its end until that is applied. A leader that is deposed in
//! between has done no harm: whatever of that gets into the log is applied before the next leader answers anything about leases.
//!
//! What it costs: a lease that is kept alive is looked up and given another time. The order by time is brought up to date when
//! that time comes, once per lifetime.

use std::collections::{BTreeMap, BTreeSet};

use quorate_keyspace::{Lease, LeaseChange, LeaseId};

use crate::io::{LeaseTime, Monotonic};

/// Leases that are looked at in one step because their time may be up: some milliseconds of work.
const MAX_LOOKED_AT: usize = 20_000;

/// Leases whose ends are proposed at once.
const MAX_ENDED_AT_ONCE: usize = 1000;

/// Leases that are read at once by who begins to lead: some milliseconds of work, for the job and for the loop.
pub(crate) const MAX_READ_LEASES: usize = 10_000;

/// The time of a group's leases.
///
/// *Life cycle*: begun anew whenever the leader changes, or the term; of use only where this replica leads.
///
/// *Invariants*: every lease in `by_id` that is not ending is in `by_time` once, at a time that is not after its end; nothing
/// else is there.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_id: BTreeMap<LeaseId, Timed>,
    by_time: BTreeSet<(Monotonic, LeaseId)>,
    /// Those whose time is up, each with its grant.
    ending: BTreeMap<LeaseId, u64>,
    filling: Filling,
    /// What became of leases, and is not taken note of yet.
    heard: Vec<LeaseChange>,
    /// Counts the times that this was begun anew.
    round: u64,
    /// None ends: the keyspace is being restored, and pairs that hang on them may be yet to come.
    is_held: bool,
}

#[derive(Clone, Copy, Debug)]
struct Timed {
    ttl_ms: u64,
    granted_at: u64,
    ends: Monotonic,
    /// Where it is in the order by time.
    looked_at: Monotonic,
}

/// How far the leases of the state machine are read.
#[derive(Debug, Default)]
enum Filling {
    /// Nothing is known: this replica does not lead, or has not begun to read.
    #[default]
    No,
    /// Those behind this one come next.
    Behind(Option<LeaseId>),
    /// Those behind this one are being read. These have ended since.
    Reading(Option<LeaseId>, BTreeSet<LeaseId>),
    /// All.
    Done,
}

impl Leases {
    /// Forgets everything. All that was asked to be read before is of no use.
    pub(crate) fn begin_anew(&mut self) {
        let (round, is_held) = (self.round + 1, self.is_held);
        *self = Self { round, is_held, ..Self::default() };
    }

    /// Keeps all leases from ending. When they are not kept any more, all have their full time from then on. Whether that is
    /// news.
    pub(crate) fn hold(&mut self, is_held: bool) -> bool {
        let was_held = std::mem::replace(&mut self.is_held, is_held);
        if was_held && !is_held {
            self.begin_anew();
        }
        was_held != is_held
    }

    /// Begins to read, if that was not done yet. Where there are no leases at all, that is all there is to do.
    pub(crate) fn begin_to_fill(&mut self, has_leases: bool) {
        if matches!(self.filling, Filling::No) {
            self.filling = if has_leases { Filling::Behind(None) } else { Filling::Done };
        }
    }

    /// What to read next, if it is time: from behind which lease, and the round to be told with what was found. What is read must
    /// be as it is now.
    pub(crate) fn next_to_read(&mut self) -> Option<(Option<LeaseId>, u64)> {
        let Filling::Behind(after) = self.filling else { return None };
        self.filling = Filling::Reading(after, BTreeSet::new());
        Some((after, self.round))
    }

    /// Takes in leases that were read.
    pub(crate) fn take_in(&mut self, round: u64, leases: &[Lease], now: Monotonic) {
        if round != self.round {
            return;
        }
        let Filling::Reading(_, ended) = &mut self.filling else { return };
        let ended = std::mem::take(ended);
        for lease in leases.iter().filter(|lease| !ended.contains(&lease.id)) {
            // One that is there was granted since, or granted anew.
            if !self.by_id.contains_key(&lease.id) {
                self.grant(lease, now);
            }
        }
        self.filling = match leases.last() {
            Some(last) if leases.len() >= MAX_READ_LEASES => Filling::Behind(Some(last.id)),
            _ => Filling::Done,
        };
    }

    /// They could not be read: tried again, once the engine serves. False if nobody waits for them any more.
    pub(crate) fn on_unread(&mut self, round: u64) -> bool {
        match self.filling {
            Filling::Reading(after, _) if round == self.round => {
                self.filling = Filling::Behind(after);
                true
            }
            _ => false,
        }
    }

    /// Whether it is known if there is a lease of this name.
    pub(crate) fn knows(&self, id: LeaseId) -> bool {
        match self.filling {
            Filling::No => false,
            Filling::Done => true,
            Filling::Behind(after) | Filling::Reading(after, _) => {
                after.is_some_and(|after| id <= after) || self.by_id.contains_key(&id)
            }
        }
    }

    /// The state machine granted leases, or ended them.
    pub(crate) fn hear(&mut self, changes: Vec<LeaseChange>) {
        self.heard.extend(changes);
    }

    /// Takes note of what was heard.
    pub(crate) fn catch_up(&mut self, now: Monotonic) {
        for change in std::mem::take(&mut self.heard) {
            match change {
                LeaseChange::Granted(lease) => self.grant(&lease, now),
                LeaseChange::Ended(id) => {
                    self.remove(id);
                    if let Filling::Reading(_, ended) = &mut self.filling {
                        ended.insert(id);
                    }
                }
            }
        }
    }

    fn grant(&mut self, lease: &Lease, now: Monotonic) {
        self.remove(lease.id);
        let Lease { id, ttl_ms, granted_at, .. } = *lease;
        let ends = now.plus_ms(ttl_ms);
        self.by_id.insert(id, Timed { ttl_ms, granted_at, ends, looked_at: ends });
        self.by_time.insert((ends, id));
    }

    fn remove(&mut self, id: LeaseId) {
        if let Some(timed) = self.by_id.remove(&id)
            && self.ending.remove(&id).is_none()
        {
            self.by_time.remove(&(timed.looked_at, id));
        }
    }

    /// A lease's time begins anew. None: there is no such lease, or it is ending.
    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Monotonic) -> Option<LeaseTime> {
        let timed = self.by_id.get_mut(&id).filter(|_| !self.ending.contains_key(&id))?;
        timed.ends = timed.ends.max(now.plus_ms(timed.ttl_ms));
        Some(LeaseTime { ttl_ms: timed.ttl_ms, left_ms: timed.ends.since(now) })
    }

    /// How long a lease lives. None: there is no such lease, or it is ending.
    pub(crate) fn time_of(&self, id: LeaseId, now: Monotonic) -> Option<LeaseTime> {
        let timed = self.by_id.get(&id).filter(|_| !self.ending.contains_key(&id))?;
        Some(LeaseTime { ttl_ms: timed.ttl_ms, left_ms: timed.ends.since(now) })
    }

    /// Looks at leases whose time may be up, and lets those end whose time is.
    pub(crate) fn advance(&mut self, now: Monotonic) {
        if self.is_held {
            return;
        }
        for _ in 0..MAX_LOOKED_AT {
            let Some((_, id)) = self.by_time.first().copied().filter(|(due, _)| *due <= now) else { break };
            self.by_time.pop_first();
            let Some(timed) = self.by_id.get_mut(&id) else { continue };
            if timed.ends > now {
                timed.looked_at = timed.ends;
                self.by_time.insert((timed.ends, id));
            } else {
                self.ending.insert(id, timed.granted_at);
            }
        }
    }

    /// When it is time to look again.
    pub(crate) fn due(&self) -> Option<Monotonic> {
        if self.is_held {
            return None;
        }
        if self.ending.is_empty() { self.by_time.first().map(|(due, _)| *due) } else { Some(Monotonic::default()) }
    }

    /// Leases whose end is to be proposed, each with its grant.
    pub(crate) fn to_be_ended(&self) -> Vec<(LeaseId, u64)> {
        self.ending.iter().take(MAX_ENDED_AT_ONCE).map(|(id, granted_at)| (*id, *granted_at)).collect()
    }

    /// What was proposed to end `first` and others is applied: if `first` is still ending, the state machine has no such lease.
    pub(crate) fn on_ended(&mut self, first: (LeaseId, u64)) {
        if self.ending.get(&first.0) == Some(&first.1) {
            self.remove(first.0);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_id.len()
    }
}

#[cfg(test)]
mod tests;
