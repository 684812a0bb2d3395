//! What a tick does, and to which groups.
//!
//! Of a thousand groups nearly all are at rest at nearly all times: all that a tick has for them is raft-rs' time, and a beat for
//! their followers (see `beats.rs`). The rest of a tick's work is done for groups that are *busy* only, where it may come to
//! something. A group is busy at a tick
//!
//! - if it was polled since the last one: something came in for it, or became ready, or durable;
//! - if the catalog changed: the group may be another than its descriptor says;
//! - if it was busy at the last tick, and waits for time to pass, or is not what the catalog wants it to be.
//!
//! A leader is busy, too, at the tick at which it looks whom it heard of: until then the log is kept for a follower that is gone.
//! When the log or the disk is full, all groups are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quorate_api::peer::{Beat, Frame};
use quorate_log::Disk;

use crate::io::Effect;
use crate::node::{Node, no_leader};
use crate::reads::Reader;
use crate::status::NodeStatus;

impl<D: Disk> Node<D> {
    pub(crate) fn on_tick(&mut self) {
        let is_forced = self.log.usage().is_above_cap() || self.is_disk_full;
        let busy = std::mem::take(&mut self.busy);
        let mut looked_at = self.let_time_pass(&busy, is_forced);
        self.locals.values().for_each(|local| local.advance(self.now.0));
        self.expire_requests();
        self.resend_silent();
        self.drive_asks();
        self.drive_members(&busy);
        self.drive_settings(&busy);
        self.drive_moves(&busy);
        self.on_eventuals_tick(is_forced);
        self.forget_nodes();
        self.hand_over_if_slow();
        self.on_copies_tick(&busy);
        self.ask_for_snapshots(&busy);
        self.go_on_draining();
        self.finish_stopping();
        self.wake_due();
        looked_at.extend(&self.dirty);
        let status = Arc::new(self.status_after(&looked_at));
        self.effects.push(Effect::Status(status));
    }

    /// One tick for every replica, and whatever is due with it. Returns the groups for which more than a beat was done.
    fn let_time_pass(&mut self, busy: &BTreeSet<u64>, is_forced: bool) -> BTreeSet<u64> {
        let mut beats: BTreeMap<u64, Vec<Beat>> = BTreeMap::new();
        self.let_rest(|node, beat| beats.entry(node).or_default().push(beat));
        let all_or_awake = if is_forced { self.replicas.keys().copied().collect() } else { &self.awake | busy };
        let mut looked_at = BTreeSet::new();
        for group in all_or_awake {
            let Some(replica) = self.replicas.get_mut(&group) else {
                self.awake.remove(&group);
                continue;
            };
            let is_busy = is_forced || busy.contains(&group) || replica.counts_anew();
            if is_busy {
                self.do_chores(group, is_forced);
                looked_at.insert(group);
            }
            if !self.resting.contains_key(&group) {
                self.tick_awake(group, is_busy, &mut beats);
            }
        }
        self.send_beats(beats, Frame::Beats);
        looked_at
    }

    /// What is due for a replica now and then.
    fn do_chores(&mut self, group: u64, is_forced: bool) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        // Before raft-rs' tick: it forgets now and then whom it heard of lately, and begins to count anew.
        replica.maybe_make_durable(&self.config, is_forced, &mut self.out);
        replica.maybe_purge(is_forced, &mut self.out);
        replica.go_on_reopening(&mut self.out);
        replica.moves.tick();
        replica.repeat_reads(self.now, 3 * self.config.tick_ms);
        let expired = replica.reads.take_expired(self.now);
        for read in expired {
            match read.reader {
                Reader::Client(token) => self.effects.push(no_leader(token)),
                Reader::Leases(number) => replica.questions.forget(number),
                Reader::Itself => {}
            }
        }
    }

    /// raft-rs' time, for a replica that does not rest; perhaps it can from now on.
    fn tick_awake(&mut self, group: u64, is_busy: bool, beats: &mut BTreeMap<u64, Vec<Beat>>) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let routes = &self.routes;
        let is_at_rest = !self.dirty.contains(&group);
        let is_ready = replica.tick(is_at_rest, |beat| {
            if let Some(node) = routes.get(&(beat.group, beat.to)) {
                beats.entry(*node).or_default().push(beat);
            }
        });
        if is_ready || (is_busy && replica.is_restless()) {
            self.dirty.insert(group);
        } else if is_at_rest
            && !is_busy
            && let Some(resting) = replica.rest(routes, self.config.beat_ticks())
        {
            self.awake.remove(&group);
            self.resting.insert(group, resting);
        }
    }

    /// How the node is, if only these groups can have changed since it was last asked.
    fn status_after(&mut self, looked_at: &BTreeSet<u64>) -> NodeStatus {
        for group in looked_at {
            match self.replicas.get(group).map(|replica| Arc::new(self.replica_status(replica))) {
                Some(status) => self.statuses.insert(*group, status),
                None => self.statuses.remove(group),
            };
        }
        if self.statuses.len() > self.replicas.len() {
            self.statuses.retain(|group, _| self.replicas.contains_key(group));
        }
        let reads = looked_at.iter().filter_map(|group| self.replicas.get(group)).map(|replica| replica.reads.len()).sum();
        if !looked_at.is_empty() {
            self.told = Arc::new(self.statuses.values().cloned().collect());
        }
        let status = self.status_of(Arc::clone(&self.told), reads);
        debug_assert_eq!(status, self.status(), "the groups that were not looked at are as they were");
        status
    }
}
