//! Members, rounds with them, and who waits for those.

use std::collections::BTreeSet;

use crate::io::{Answer, MemberState, Members, Refusal};
use crate::lookup::Then;
use crate::options::{CopyWhen, MAX_WAITS, ROUND_PAUSE_MS, Trigger};
use crate::peer::{Peer, Stream};
use crate::replica::Replica;
use crate::round::{Round, Step};
use crate::store::ReplicaError;
use crate::version::{Hlc, InstanceId};

/// Somebody waits for a flush or a comparison.
#[derive(Debug)]
pub(crate) struct Wait {
    token: u64,
    deadline_ms: u64,
    /// What all others must have, or must have ended.
    until: Until,
    others: u32,
}

/// What ends a wait, for each peer. A round that goes on already may have passed by what was written since: one that begins later
/// counts.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// It has what is at a place of the outbox, and before.
    Has(u64),
    /// A round with it has ended that began after this one: it has what is here.
    Told(u64),
    /// A comparison with it has: and what it had is here.
    Compared(u64),
}

impl Until {
    fn is_over(self, peer: &Peer) -> bool {
        match self {
            // What is older than its stream a peer has by a round.
            Self::Has(place) => peer.is_synced && peer.stream.as_ref().is_some_and(|stream| stream.acked >= place),
            Self::Told(round) => peer.last_round > round,
            Self::Compared(round) => peer.last_comparison > round,
        }
    }
}

impl Replica {
    /// A new epoch: what was known of how far others are counts no more, until they were compared with.
    pub(crate) fn on_members(&mut self, members: Members) {
        if members.epoch < self.members.epoch {
            return;
        }
        let is_new = members.epoch > self.members.epoch;
        let now_ms = self.now.mono_ms;
        self.peers.retain(|id, _| members.states.contains_key(id));
        // The source of a mirror tells others what they have, and learns nothing from them.
        let is_told = !self.is_mirrored();
        let others = members.states.iter().filter(|(id, _)| **id != self.instance);
        for (id, state) in others {
            let peer = self.peers.entry(*id).or_insert_with(|| Peer::new(*state, now_ms));
            if is_told && peer.state == MemberState::Joining && *state == MemberState::Up {
                // What was compared with was one that had next to nothing. A copy it has no use for: it has asked for everything.
                peer.begin_anew(now_ms);
                peer.wants_copy = false;
            }
            peer.state = *state;
        }
        let is_leaving = members.states.get(&self.instance) == Some(&MemberState::Leaving);
        if is_leaving {
            self.release.all(self.outbox.last());
        }
        if is_leaving && self.leaves_at.is_none() {
            // What it wrote goes to the others, at once.
            self.peers.values_mut().for_each(|peer| peer.sync_due_ms = Some(now_ms));
        }
        self.leaves_at = is_leaving.then(|| self.leaves_at.unwrap_or_else(|| self.clock.promised()));
        self.newest = members.states.keys().copied().chain([self.newest]).max().unwrap_or(self.newest);
        self.members = members;
        let is_cache = self.is_cache();
        if is_new {
            self.watermark.begin(self.members.epoch, self.members.states.keys().copied().collect());
            self.joined_ms = now_ms;
            // Who is asked may be another now, and was compared with before it had what it has.
            self.levels.iter_mut().for_each(|wait| wait.after_round = self.next_round);
            self.reporting.hurry();
            for peer in self.peers.values_mut() {
                peer.is_synced = is_cache && peer.stream.is_some();
                peer.floor = Hlc::ZERO;
                peer.begin_anew(now_ms);
            }
            for id in self.other_members() {
                self.begin_stream(id);
            }
            self.trim_outbox();
        }
    }

    /// Begins rounds that are due, lets those under way go on, and ends those that are done.
    pub(crate) fn keep_rounds(&mut self) -> Result<(), ReplicaError> {
        let (now_ms, silent_ms) = (self.now.mono_ms, self.silent_ms());
        self.maybe_copy();
        self.maybe_compare_with_somebody();
        // A mirror is told what it has, and a cache need not have anything.
        let begins_rounds = !self.is_cache() && (self.merges() || self.is_mirrored());
        let mut others: Vec<InstanceId> = self.other_members().into_iter().collect();
        // Replicas of several keyspaces that join ask different ones first.
        let first = (self.instance.0 as usize).checked_rem(others.len()).unwrap_or(0);
        others.rotate_left(first);
        for id in &others {
            let Some(peer) = self.peers.get(id) else { continue };
            let is_due = peer.sync_due_ms.is_some_and(|due_ms| due_ms <= now_ms);
            let is_reachable = peer.is_reachable(now_ms, silent_ms);
            // Who joins has nothing that it could copy to others, and no time for it.
            let is_wanted = is_due || (peer.wants_copy && !self.is_joining());
            if begins_rounds && is_reachable && is_wanted && self.may_begin_round(peer) {
                self.begin_round(*id);
            }
        }
        let is_copied_to = |peer: &&Peer| peer.round.as_ref().is_some_and(|round| round.is_copy && round.paused_ms().is_none());
        let count = self.peers.values().filter(is_copied_to).count();
        self.copies.advance(&self.options, count, now_ms);
        let first = self.copies.pace.first_of(others.len());
        others.rotate_left(first);
        for id in others {
            self.drive_round(id)?;
        }
        Ok(())
    }

    /// When there is more to do for rounds, streams, and those who wait for them.
    pub(crate) fn rounds_due_ms(&self) -> Option<u64> {
        let (now_ms, silent_ms) = (self.now.mono_ms, self.silent_ms());
        let begins_rounds = !self.is_cache() && (self.merges() || self.is_mirrored());
        let of_peer = |peer: &Peer| {
            let is_reachable = peer.is_reachable(now_ms, silent_ms);
            let next = peer.sync_due_ms.filter(|_| begins_rounds && is_reachable && self.may_begin_round(peer));
            let again = peer.stream.as_ref().and_then(Stream::resend_due_ms).filter(|_| is_reachable);
            [next, again, peer.round.as_ref().map(|round| round.due_ms(&self.copies.pace))].into_iter().flatten().min()
        };
        let peers = self.peers.values().filter_map(of_peer);
        let waits = self.waits.iter().map(|wait| wait.deadline_ms);
        let compares = self.options.sync_interval_ms > 0 && !self.peers.is_empty() && self.source().is_none() && !self.is_cache();
        let next = compares.then_some(self.next_sync_ms);
        peers.chain(waits).chain(next).min()
    }

    /// Whether a round with it may begin now, if there is a reason to. Who joins lacks everything, and would be sent it by each
    /// of the others at once. So it asks one after the other, and those it asks later bring no more than what is new there; what
    /// it has to be told is compared once it has come up. One that does not answer holds up nobody for long.
    fn may_begin_round(&self, peer: &Peer) -> bool {
        let is_asked = |other: &Peer| other.round.as_ref().is_some_and(|round| !round.is_held_up(self.now.mono_ms));
        // What its engine has no room for is dropped, and would be asked for again.
        let is_free = !self.is_joining() || !(self.store.has_full_backlog() || self.peers.values().any(is_asked));
        peer.round.is_none() && is_free && !self.is_filled_by_itself(peer)
    }

    /// Whether it joins, and asks by itself for what it lacks. What is copied to mirrors nobody asks for.
    fn is_filled_by_itself(&self, peer: &Peer) -> bool {
        peer.state == MemberState::Joining && self.merges() && !self.is_joining()
    }

    fn begin_round(&mut self, id: InstanceId) {
        self.begin_stream(id);
        self.next_round += 1;
        let (round, started, now_ms) = (self.next_round, self.clock.promised(), self.now.mono_ms);
        let is_mirrored = self.is_mirrored();
        if let Some(peer) = self.peers.get_mut(&id) {
            // A copy is no comparison: it brings nothing here. Copies that come one upon another hold up no comparison.
            let is_due = peer.sync_due_ms.is_some_and(|due_ms| due_ms <= now_ms);
            let round = if is_mirrored {
                peer.sync_due_ms = None;
                peer.wants_copy = false;
                Round::mirror(round, started, now_ms, &self.store)
            } else if is_due {
                peer.sync_due_ms = None;
                Round::compare(round, started, now_ms)
            } else {
                peer.wants_copy = false;
                Round::copy(round, started, now_ms, &self.store)
            };
            peer.round = Some(round);
            peer.figures.begin_round();
        }
    }

    fn drive_round(&mut self, id: InstanceId) -> Result<(), ReplicaError> {
        let now_ms = self.now.mono_ms;
        let (silent_ms, can_pause) = (self.silent_ms(), self.is_mirrored());
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let is_reachable = peer.is_reachable(now_ms, silent_ms);
        let heard_ms = peer.heard_ms.filter(|_| is_reachable);
        let Some(mut round) = peer.round.take() else { return Ok(()) };
        if round.paused_ms().is_some_and(|paused_ms| heard_ms.is_some_and(|heard_ms| heard_ms >= paused_ms + ROUND_PAUSE_MS)) {
            round.resume(now_ms);
            self.counts.resumed += 1;
        }
        while let Some(step) = round.next((&self.store, self.can_look_up()), &mut self.copies, now_ms)? {
            match step {
                Step::Send(payload) => self.send(id, payload),
                Step::LookUp(number, lookup) => self.look_up(lookup, Then::Send { to: id, round: round.id, number }),
            }
        }
        let must_wait = round.paused_ms().is_some() || round.is_stalled(now_ms);
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        if round.is_done() {
            peer.floor = peer.floor.max(round.started);
            peer.is_synced = peer.stream.is_some();
            peer.stream.iter_mut().for_each(|stream| stream.base = 0);
            peer.is_compared |= !round.is_copy;
            peer.rounds += 1;
            peer.last_round = round.id;
            if !round.is_copy {
                peer.last_comparison = round.id;
            }
            peer.compared_ms = now_ms;
            self.counts.rounds += 1;
            self.counts.pulled += round.pulled;
            self.counts.put += round.pushed;
            peer.figures.end_round(&round, self.now.wall_ms);
        } else if round.is_refused() || (must_wait && !(can_pause && round.pause(now_ms))) {
            peer.wants_copy |= round.is_copy;
            peer.figures.give_up_round();
            peer.sync_due_ms = Some(now_ms + ROUND_PAUSE_MS);
            self.counts.stalled_rounds += 1;
        } else {
            peer.round = Some(round);
        }
        Ok(())
    }

    pub(crate) fn round_of(&mut self, from: InstanceId, round: u64) -> Option<&mut Round> {
        self.peers.get_mut(&from)?.round.as_mut().filter(|own| own.is(round))
    }

    /// Now and then two members compare what they have, whether or not there is a reason to.
    fn maybe_compare_with_somebody(&mut self) {
        let interval_ms = self.options.sync_interval_ms;
        // A copy that is wanted is made, sooner or later: a mirror needs no other reason.
        if interval_ms == 0 || self.now.mono_ms < self.next_sync_ms || self.source().is_some() || self.is_cache() {
            return;
        }
        // Spread by a quarter, or all members would begin at once.
        let is_first = self.next_sync_ms == 0;
        self.next_sync_ms = self.now.mono_ms + interval_ms - interval_ms / 8 + self.draw(interval_ms / 4 + 1);
        let (now_ms, silent_ms) = (self.now.mono_ms, self.silent_ms());
        let may_be_asked = |peer: &Peer| peer.is_reachable(now_ms, silent_ms) && !self.is_filled_by_itself(peer);
        let reachable = self.peers.iter().filter(|(_, peer)| may_be_asked(peer));
        // Whose turn it is, not whom chance chooses: so everybody's comes within a known time.
        let next = reachable.min_by_key(|(_, peer)| peer.compared_ms).map(|(id, _)| *id).filter(|_| !is_first);
        if let Some(peer) = next.and_then(|next| self.peers.get_mut(&next)) {
            peer.sync_due_ms.get_or_insert(now_ms);
        }
    }

    fn maybe_copy(&mut self) {
        let Trigger::Copy(when) = &self.options.trigger else { return };
        let is_due = self.release.due_ms(&self.options).is_some_and(|due_ms| due_ms <= self.now.mono_ms);
        if *when != CopyWhen::Manual && is_due {
            self.copy_to_all();
        }
    }

    pub(crate) fn copy_to_all(&mut self) {
        self.release.copied(self.now.mono_ms);
        self.peers.values_mut().for_each(|peer| peer.wants_copy = true);
    }

    pub(crate) fn on_flush(&mut self, token: u64, deadline_ms: u64) {
        if self.refuses_to_wait(token) {
            return;
        }
        match self.options.trigger {
            Trigger::Write(_) => {
                let place = self.outbox.last();
                self.release.all(place);
                self.wait(token, deadline_ms, Until::Has(place));
            }
            Trigger::Copy(_) => {
                self.copy_to_all();
                self.wait(token, deadline_ms, Until::Told(self.next_round));
            }
            Trigger::Read { .. } => self.compare_with_all(token, deadline_ms),
        }
    }

    pub(crate) fn on_sync(&mut self, token: u64, deadline_ms: u64) {
        if self.refuses_to_wait(token) {
            return;
        }
        if self.is_mirrored() {
            self.copy_to_all();
            self.wait(token, deadline_ms, Until::Told(self.next_round));
        } else {
            self.compare_with_all(token, deadline_ms);
        }
    }

    /// Refuses if too many wait already, or if it mirrors another one. Whether it did.
    fn refuses_to_wait(&mut self, token: u64) -> bool {
        if let Some(source) = self.source().filter(|_| self.is_read_only()) {
            self.reply(token, Answer::Refused(Refusal::ReadOnly { source }));
            return true;
        }
        let is_full = self.waits.len() >= MAX_WAITS;
        if is_full {
            self.reply(token, Answer::Refused(Refusal::Overloaded));
        }
        is_full
    }

    fn compare_with_all(&mut self, token: u64, deadline_ms: u64) {
        if self.is_cache() {
            // Caches are as they are.
            self.reply(token, Answer::Done { reached: 0, others: 0 });
            return;
        }
        let now_ms = self.now.mono_ms;
        self.peers.values_mut().for_each(|peer| peer.sync_due_ms = Some(now_ms));
        self.wait(token, deadline_ms, Until::Compared(self.next_round));
    }

    fn wait(&mut self, token: u64, deadline_ms: u64, until: Until) {
        let others = self.asked().count() as u32;
        self.waits.push(Wait { token, deadline_ms, until, others });
    }

    /// Who can be waited for: those that join ask by themselves, and have everything once they are up.
    fn asked(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values().filter(|peer| !self.is_filled_by_itself(peer))
    }

    pub(crate) fn answer_waits(&mut self) {
        for wait in std::mem::take(&mut self.waits) {
            let reached = self.asked().filter(|peer| wait.until.is_over(peer)).count() as u32;
            if reached >= wait.others || self.now.mono_ms >= wait.deadline_ms {
                self.reply(wait.token, Answer::Done { reached, others: wait.others });
            } else {
                self.waits.push(wait);
            }
        }
    }

    /// Members that are up, without this one.
    pub(crate) fn others_up(&self) -> BTreeSet<InstanceId> {
        let up = self.peers.iter().filter(|(_, peer)| peer.state == MemberState::Up);
        up.map(|(id, _)| *id).collect()
    }
}
