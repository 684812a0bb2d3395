//! What members tell each other about how far they are: at once when something changes, and ever more rarely while nothing does.
//!
//! A report says when the next one comes at the latest, so silence is judged by what was promised. Who reports and has not heard
//! of the other lately asks for a report back: so a member that has just started need not wait for one.

use crate::io::{Effect, MemberState, Time};
use crate::message::Payload;
use crate::options::Options;
use crate::peer::Peer;
use crate::replica::Replica;
use crate::version::{Hlc, InstanceId};

/// When this replica reports.
#[derive(Debug, Default)]
pub(crate) struct Reporting {
    /// What was told last.
    told: Vec<(InstanceId, Hlc)>,
    /// When that was.
    told_ms: u64,
    /// How much later it reports again, if nothing changes.
    interval_ms: u64,
    /// Whether it reports as soon as it can.
    is_urgent: bool,
    /// The wall clock less the steady time, when it was looked at last: a jump changes it.
    wall_shift_ms: Option<i64>,
}

impl Reporting {
    /// Something happened that others should hear of at once.
    pub(crate) fn hurry(&mut self) {
        self.is_urgent = true;
    }

    /// Whether the last report is so young that no other comes whatever there is to say.
    fn is_young(&self, now_ms: u64, options: &Options) -> bool {
        !self.is_urgent && now_ms < self.told_ms + options.report_interval_ms
    }

    /// When the next report is due. `rows`: what it would say now.
    fn due_ms(&self, rows: &[(InstanceId, Hlc)], now_ms: u64, options: &Options) -> u64 {
        if self.is_urgent {
            now_ms
        } else if rows == self.told {
            self.told_ms + self.interval_ms
        } else {
            self.told_ms + options.report_interval_ms
        }
    }
}

fn shift_ms(now: Time) -> i64 {
    now.wall_ms.cast_signed().wrapping_sub(now.mono_ms.cast_signed())
}

impl Replica {
    /// The stamp up to which a peer has all own writes.
    pub(crate) fn reached(&self, peer: &Peer) -> Hlc {
        let streamed = peer.stream.as_ref().filter(|_| peer.is_synced);
        let streamed = streamed.map(|stream| self.outbox.complete_to(stream.acked).unwrap_or_else(|| self.clock.promised()));
        peer.floor.max(streamed.unwrap_or_default()).min(self.clock.promised())
    }

    /// What a report says now.
    fn rows(&self) -> Vec<(InstanceId, Hlc)> {
        let own = self.keeping.own_complete_to().unwrap_or_else(|| self.clock.promised()).min(self.clock.promised());
        // What one wrote that was the source once is where the source of now has it.
        let mirrored_to = self.mirrored_to().map(|at| at.min(self.clock.promised()));
        let peers = self.peers.iter().map(|(id, peer)| (*id, mirrored_to.unwrap_or_else(|| self.reached(peer))));
        peers.chain([(self.instance, own)]).collect()
    }

    fn is_member(&self) -> bool {
        self.members.states.contains_key(&self.instance)
    }

    /// When the next report is due.
    pub(crate) fn report_due_ms(&self) -> Option<u64> {
        self.is_member().then(|| self.reporting.due_ms(&self.rows(), self.now.mono_ms, &self.options))
    }

    /// Reports, and what follows from them.
    pub(crate) fn keep_members(&mut self) {
        let has_jumped = self.has_clock_jumped();
        if has_jumped {
            self.reporting.hurry();
        }
        if self.reporting.is_young(self.now.mono_ms, &self.options) {
            return;
        }
        if self.report_due_ms().is_none_or(|due_ms| due_ms > self.now.mono_ms) {
            return;
        }
        let rows = self.rows();
        self.watermark.report(self.instance, self.members.epoch, &rows);
        self.look_at_clocks(has_jumped);
        let interval_ms = if rows == self.reporting.told { self.longer_interval_ms() } else { self.options.report_interval_ms };
        let wall_shift_ms = Some(shift_ms(self.now));
        self.reporting = Reporting { told: rows, told_ms: self.now.mono_ms, interval_ms, is_urgent: false, wall_shift_ms };
        for id in self.other_members() {
            self.send_report(id);
        }
        self.follow_state();
    }

    fn send_report(&mut self, to: InstanceId) {
        let Some(peer) = self.peers.get(&to) else { return };
        let wants_answer = !peer.is_reachable(self.now.mono_ms, self.silent_ms());
        let Reporting { told, interval_ms, .. } = &self.reporting;
        let payload = Payload::Report { rows: told.clone(), interval_ms: *interval_ms, wants_answer };
        self.send(to, payload);
    }

    /// A peer reports.
    pub(crate) fn on_report(&mut self, from: InstanceId, epoch: u64, wall_ms: u64, report: &Report) {
        self.watermark.report(from, epoch, &report.rows);
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.wall_shift_ms = wall_ms.cast_signed().wrapping_sub(self.now.mono_ms.cast_signed());
        peer.interval_ms = report.interval_ms.min(self.options.max_report_interval_ms);
        if report.wants_answer && self.is_member() {
            self.send_report(from);
        }
    }

    /// How long nothing need be said after one more report that says nothing new. While this replica has not come up, its clock
    /// is off, or one of the others is away, what they hear matters: then it is not long.
    fn longer_interval_ms(&self) -> u64 {
        let base_ms = self.options.report_interval_ms;
        let (now_ms, silent_ms) = (self.now.mono_ms, self.silent_ms());
        let max_ms = if !self.is_up() || self.skew.is_doubtful() {
            base_ms
        } else if self.peers.values().all(|peer| peer.is_reachable(now_ms, silent_ms)) {
            self.options.max_report_interval_ms
        } else {
            2 * base_ms
        };
        (2 * self.reporting.interval_ms).min(max_ms).max(base_ms)
    }

    /// Whether the wall clock was set since it was looked at last.
    fn has_clock_jumped(&self) -> bool {
        let shift_ms = shift_ms(self.now);
        let moved_ms = self.reporting.wall_shift_ms.map_or(0, |last_ms| shift_ms.wrapping_sub(last_ms).unsigned_abs());
        moved_ms > self.options.max_clock_offset_ms / 2
    }

    /// A clock that has jumped by itself needs no second look: no late message can be the cause.
    fn look_at_clocks(&mut self, has_jumped: bool) {
        let (now, silent_ms) = (self.now, self.silent_ms());
        let reachable = self.peers.values().filter(|peer| peer.is_reachable(now.mono_ms, silent_ms));
        let offsets = reachable.map(|peer| peer.clock_offset_ms(now)).collect();
        self.skew.look_at(offsets, self.options.max_clock_offset_ms, has_jumped);
    }

    /// Says when a replica that joins has everything, and when one that leaves is not needed any more.
    fn follow_state(&mut self) {
        let (now_ms, silent_ms) = (self.now.mono_ms, self.silent_ms());
        let is_done = |peer: &Peer| peer.is_compared;
        match self.members.states.get(&self.instance) {
            Some(MemberState::Joining) if now_ms > self.joined_ms => {
                let mut reachable = self.peers.values().filter(|peer| peer.is_reachable(now_ms, silent_ms));
                // Who leaves may be the only one that has something.
                let mut sources = self.peers.values().filter(|peer| peer.state != MemberState::Joining).peekable();
                // An empty replica that knows nobody who is up must not look like one that serves.
                let has_source = sources.peek().is_none() || sources.any(is_done);
                let is_filled = match self.source().filter(|source| *source != self.instance) {
                    Some(source) => self.peers.get(&source).is_some_and(is_done),
                    None => has_source && reachable.all(is_done),
                };
                if is_filled || self.is_cache() {
                    self.out.push(Effect::Joined);
                }
            }
            Some(MemberState::Leaving) => {
                let at = self.leaves_at.unwrap_or_default();
                let others = || self.peers.values().filter(|peer| peer.state == MemberState::Up);
                // As long as all who stay are still being filled, what is here is nowhere else.
                let is_succeeded =
                    others().next().is_some() || self.peers.values().all(|peer| peer.state == MemberState::Leaving);
                let has_all = self.is_read_only() || self.is_cache() || others().all(|peer| self.reached(peer) >= at);
                let is_there = is_succeeded && has_all;
                if self.keeping.is_all_durable() && self.delayed.is_empty() && is_there {
                    self.out.push(Effect::Drained);
                }
            }
            _ => {}
        }
    }
}

/// What a peer reports.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) rows: Vec<(InstanceId, Hlc)>,
    pub(crate) interval_ms: u64,
    pub(crate) wants_answer: bool,
}
