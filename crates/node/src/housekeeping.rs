//! What a leader proposes by itself because of the time.
//!
//! A shard says from which log time on it has something to do before the commands of an entry; see
//! [`quorate_keyspace::Shard::due_at_ms`]. Every entry does it, whatever is in it. Where none comes, the leader proposes one
//! without commands. A group at rest is woken for it by a table of all groups that will have something to do, by time: one that
//! has nothing costs nothing.
//!
//! Time here is *steady*: it goes on with the node's clock, but a step of that clock of more than [`MAX_STEP_MS`] counts as that
//! much. So nothing goes early because a clock jumped, or because a process stood still and others could not reach it.

use std::collections::{BTreeMap, BTreeSet};

use quorate_keyspace::{Lease, LeaseId, Op, Shard, ShardError, Write};
use quorate_log::Disk;

use crate::io::Monotonic;
use crate::jobs::Job;
use crate::node::Node;
use crate::outbox::{Outbox, Proposal};
use crate::replica::Replica;

/// The longest step of a clock that is believed. Two polls are a tick apart at most, unless the process stands still.
const MAX_STEP_MS: u64 = 200;

/// Time that makes no jumps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Steady(Monotonic);

impl Steady {
    pub(crate) fn now(self) -> Monotonic {
        self.0
    }

    /// The clock went on by this much.
    pub(crate) fn advance(&mut self, elapsed_ms: u64) {
        self.0 = self.0.plus_ms(elapsed_ms.min(MAX_STEP_MS));
    }
}

/// The group's time while a replica leads: where it stood, and since when it runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogClock {
    base_ms: u64,
    since: Monotonic,
}

impl LogClock {
    /// One that shows `base_ms` now.
    pub(crate) fn new(base_ms: u64, now: Monotonic) -> Self {
        Self { base_ms, since: now }
    }

    /// What it shows.
    pub(crate) fn at(self, now: Monotonic) -> u64 {
        self.base_ms + now.since(self.since)
    }

    /// When it shows a log time.
    fn when(self, log_time_ms: u64) -> Monotonic {
        self.since.plus_ms(log_time_ms.saturating_sub(self.base_ms))
    }
}

/// When groups that this node leads have something to do.
///
/// *Invariant*: both maps hold the same.
#[derive(Debug, Default)]
pub(crate) struct Dues {
    by_time: BTreeSet<(Monotonic, u64)>,
    by_group: BTreeMap<u64, Monotonic>,
}

impl Dues {
    /// Takes note of when a group has; never, if there is no time.
    pub(crate) fn set(&mut self, group: u64, due: Option<Monotonic>) {
        if self.by_group.get(&group).copied() == due {
            return;
        }
        let before = match due {
            Some(due) => self.by_group.insert(group, due),
            None => self.by_group.remove(&group),
        };
        self.by_time.extend(due.map(|due| (due, group)));
        if let Some(before) = before {
            self.by_time.remove(&(before, group));
        }
    }

    /// When the first of them has.
    pub(crate) fn first(&self) -> Option<Monotonic> {
        self.by_time.first().map(|(due, _)| *due)
    }

    /// The groups that have something to do now.
    pub(crate) fn at(&self, now: Monotonic) -> Vec<u64> {
        self.by_time.range(..=(now, u64::MAX)).map(|(_, group)| *group).collect()
    }
}

/// What a replica has on its way because of the time.
///
/// *Life cycle*: begun anew whenever the leader changes, or the term.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct House {
    /// What was proposed for it waits to be packed.
    is_proposed: bool,
    /// The index of the entry that it went into last.
    index: u64,
    /// The first of the leases whose end it was.
    lease: Option<(LeaseId, u64)>,
}

impl House {
    /// What was proposed was packed: up to this index, if it was taken.
    pub(crate) fn on_packed(&mut self, last_index: u64, is_taken: bool) {
        if std::mem::take(&mut self.is_proposed) {
            self.index = if is_taken { last_index } else { 0 };
            self.lease = self.lease.filter(|_| is_taken);
        }
    }
}

impl<D: Disk> Node<D> {
    /// Wakes the groups that have something to propose by now.
    pub(crate) fn wake_due(&mut self) {
        let now = self.steady.now();
        for group in self.dues.at(now) {
            let Some(replica) = self.replicas.get_mut(&group) else { continue };
            replica.leases.advance(now);
            let due = replica.due();
            if due.is_some_and(|due| due <= now) {
                self.dirty.insert(group);
            }
            self.dues.set(group, due);
        }
    }
}

impl<D: Disk> Replica<D> {
    /// When it has something to propose by itself, or to look whether it has. None while what was proposed for that is on its
    /// way: when it is applied the group is looked at again.
    pub(crate) fn due(&self) -> Option<Monotonic> {
        if !self.is_leader() || self.header().applied_index < self.house.index {
            return None;
        }
        let shard = self.machine.shard()?;
        [self.shard_due(shard), self.leases.due()].into_iter().flatten().min()
    }

    fn shard_due(&self, shard: &Shard) -> Option<Monotonic> {
        shard.due_at_ms().map(|due_at_ms| self.clock.when(due_at_ms))
    }

    /// Proposes what is due by now, if nothing for that is on its way. Returns whether it did.
    pub(crate) fn keep_house(&mut self, now: Monotonic) -> bool {
        if self.is_handing_over() || self.due().is_none_or(|due| due > now) {
            return false;
        }
        let is_shard_due = self.machine.shard().and_then(|shard| self.shard_due(shard)).is_some_and(|due| due <= now);
        if let Some(first) = self.house.lease.take() {
            self.leases.on_ended(first);
        }
        self.leases.advance(now);
        let leases = self.leases.to_be_ended();
        self.house.lease = leases.first().copied();
        let ops = if leases.is_empty() { Vec::new() } else { vec![Op::LeaseExpire { leases }] };
        if ops.is_empty() && !is_shard_due {
            return false;
        }
        // An entry without commands would do for what the shard has to do: any one does that.
        self.propose(Proposal::nameless(&Write { ops, ..Write::default() }));
        self.house.is_proposed = true;
        true
    }

    /// Leases were read.
    pub(crate) fn on_leases_read(
        &mut self,
        round: u64,
        leases: Result<Vec<Lease>, ShardError>,
        now: Monotonic,
        out: &mut Outbox,
    ) {
        match leases {
            Ok(leases) => self.leases.take_in(round, &leases, now),
            Err(error) => {
                if self.leases.on_unread(round) && self.machine.may_stall() {
                    self.on_engine_failed(&error, out);
                }
            }
        }
    }

    /// Takes note of what became of leases, and reads on if not all are known.
    pub(crate) fn follow_leases(&mut self, now: Monotonic, out: &mut Outbox) {
        if !self.is_leader() {
            return;
        }
        self.leases.catch_up(now);
        let Some(shard) = self.machine.shard().filter(|_| self.machine.is_whole()) else { return };
        self.leases.begin_to_fill(shard.may_have_leases());
        if let Some((after, round)) = self.leases.next_to_read() {
            let view = shard.engine().view();
            out.jobs.push(Job::ReadLeases { group: self.spec.group, view, after, round });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_time_does_not_jump() {
        let mut steady = Steady::default();
        for elapsed_ms in [3, 5000, 0, MAX_STEP_MS] {
            steady.advance(elapsed_ms);
        }
        assert_eq!(steady.now(), Monotonic(3 + 2 * MAX_STEP_MS));
    }

    #[test]
    fn groups_are_due_once_and_in_order() {
        let mut dues = Dues::default();
        for (group, due) in [(1, 30), (2, 10), (3, 20), (1, 5), (2, 40)] {
            dues.set(group, Some(Monotonic(due)));
        }
        assert!(dues.at(Monotonic(4)).is_empty());
        assert_eq!(dues.at(Monotonic(20)), [1, 3]);
        dues.set(3, None);
        dues.set(9, None);
        assert_eq!(dues.at(Monotonic(40)), [1, 2]);
        assert_eq!((dues.by_time.len(), dues.by_group.len()), (2, 2));
    }

    #[test]
    fn a_log_clock_says_when_it_will_show_a_time() {
        let clock = LogClock::new(1000, Monotonic(50));
        assert_eq!((clock.at(Monotonic(57)), clock.when(1007)), (1007, Monotonic(57)));
        assert_eq!(clock.when(900), Monotonic(50));
    }
}
