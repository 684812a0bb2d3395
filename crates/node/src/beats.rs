//! Heartbeats of a thousand groups, as one frame per pair of nodes and tick.
//!
//! A [`Beat`] says what raft-rs' heartbeat says: group, replicas, term, commit index. Each group beats by itself and each beat is
//! answered, so election timeouts, check-quorum, pre-vote and the ways out of a partition are those of raft-rs, for every group.
//! What is spared is the way through raft-rs, wherever all that raft-rs would do is known beforehand:
//!
//! | who | raft-rs is not asked where | it would have |
//! |---|---|---|
//! | a leader at a tick | nothing waits to be done, no read waits, nothing is handed over | sent heartbeats |
//! | a follower with a beat | it follows the sender in this term, and has committed as much | waited anew, and answered |
//! | a leader with an answer | it leads in this term, and the follower has its whole log | noted that it heard of it |
//!
//! In all other cases (another term, a follower that is behind, a candidate) the beat is turned into the message that it stands
//! for, and raft-rs takes that. So a beat that is lost, late, doubled or overtaken is what such a heartbeat would be.
//!
//! A leader whose followers have all there is, know that it is committed, and have answered lately beats a few times per election
//! timeout only; as soon as one of them is silent it beats at each tick again.
//!
//! The other way is to let idle groups sleep, and to trust in the life of the leader's node. Then a group learns nothing of what
//! concerns it alone: a leader that stepped down, a follower that does not know the newest term, a connection that is cut one way
//! only. TiKV, which does that, has needed corrections of such cases for years (its issues 16368, 16429 and 18916).

use std::collections::BTreeMap;

use quorate_api::peer::{Beat, Frame, Lane};
use quorate_log::Disk;
use raft::eraftpb::{Message, MessageType};
use raft::{INVALID_ID, INVALID_INDEX, Progress, ProgressState, StateRole};

use crate::io::Effect;
use crate::limits::Config;
use crate::node::Node;
use crate::replica::Replica;

/// Beats in one frame at most: far below what a frame takes, and a small part of what the control lane's queue does.
const MAX_FRAME_BEATS: usize = 8 << 10;

/// A group at rest beats so many times per election timeout at least: all but one of them may be lost.
const BEATS_PER_TIMEOUT: usize = 3;

/// How many ticks a leader at rest lets pass between two beats.
fn beat_ticks(election_ticks: usize) -> usize {
    (election_ticks / BEATS_PER_TIMEOUT).max(1)
}

impl Config {
    /// How many ticks pass between two beats of a group at rest.
    pub(crate) fn beat_ticks(&self) -> usize {
        beat_ticks(self.election_ticks)
    }
}

/// Which way a beat goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From a leader.
    Out,
    /// From a follower that heard of its leader.
    Back,
}

impl<D: Disk> Node<D> {
    /// Beats came from a node, or answers to beats.
    pub(crate) fn on_beats(&mut self, from: u64, direction: Direction, beats: Vec<Beat>) {
        let mut answers = Vec::new();
        for beat in beats {
            let is_done = match direction {
                Direction::Out => self.answer_beat(&beat).map(|answer| answers.push(answer)).is_some(),
                Direction::Back => self.hear(&beat),
            };
            self.beat_counts.count(is_done);
            if !is_done {
                self.step_beat(from, &beat, direction);
            }
        }
        self.send_beats(BTreeMap::from([(from, answers)]), Frame::BeatAnswers);
    }

    /// The answer to a leader's beat, if nothing but an answer follows from it.
    fn answer_beat(&mut self, beat: &Beat) -> Option<Beat> {
        if let Some(answer) = self.resting.get_mut(&beat.group).and_then(|resting| resting.answer(beat)) {
            return Some(answer);
        }
        // What waits to be carried out may have to be durable before anything is said.
        if self.dirty.contains(&beat.group) {
            return None;
        }
        self.wake(beat.group);
        self.replicas.get_mut(&beat.group)?.answer(beat)
    }

    /// Takes the answer to a beat; false if more follows from it.
    fn hear(&mut self, answer: &Beat) -> bool {
        if self.resting.get_mut(&answer.group).is_some_and(|resting| resting.hear(answer)) {
            return true;
        }
        self.wake(answer.group);
        self.replicas.get_mut(&answer.group).is_some_and(|replica| replica.hear(answer))
    }

    /// Gives raft-rs the message that a beat stands for.
    fn step_beat(&mut self, from: u64, beat: &Beat, direction: Direction) {
        self.wake(beat.group);
        if let Some(replica) = self.replicas.get_mut(&beat.group).filter(|replica| replica.spec.id == beat.to) {
            self.routes.entry((beat.group, beat.from)).or_insert(from);
            replica.step(message(beat, direction));
            self.dirty.insert(beat.group);
        }
    }

    /// Sends beats to the nodes that they are for.
    pub(crate) fn send_beats(&mut self, beats: BTreeMap<u64, Vec<Beat>>, frame: fn(Vec<Beat>) -> Frame) {
        for (to, beats) in beats {
            let frames = beats.chunks(MAX_FRAME_BEATS).map(|beats| frame(beats.to_vec()));
            self.effects.extend(frames.map(|frame| Effect::Send { to, lane: Lane::Control, frame }));
        }
    }
}

impl<D: Disk> Replica<D> {
    /// Time passes for raft-rs. Beats go to `beats`; `is_at_rest` says that nothing waits to be carried out. Returns whether
    /// something may be ready now.
    ///
    /// Time stands still while a snapshot is loaded: raft-rs looks for configuration changes between its applied and its commit
    /// index before it campaigns, and those entries are not in the log any more.
    pub(crate) fn tick(&mut self, is_at_rest: bool, beats: impl FnMut(Beat)) -> bool {
        if self.is_loading() && !self.is_leader() {
            return false;
        }
        if is_at_rest && self.may_beat() {
            return self.tick_leading(beats);
        }
        let stands = self.maybe_stand();
        let is_ready = self.raw.tick();
        self.draw_election_timeout();
        is_ready || stands
    }

    /// Whether raft-rs would send plain heartbeats at a tick, and could send them at once.
    pub(crate) fn may_beat(&self) -> bool {
        let raft = &self.raw.raft;
        raft.state == StateRole::Leader
            && raft.lead_transferee.is_none()
            && raft.read_only.read_index_queue.is_empty()
            && self.is_durable()
    }

    /// What raft-rs does at a leader's tick, with beats in the place of heartbeats.
    fn tick_leading(&mut self, mut beats: impl FnMut(Beat)) -> bool {
        if self.counts_anew() {
            let mut message = Message { from: self.spec.id, ..Message::default() };
            message.set_msg_type(MessageType::MsgCheckQuorum);
            self.raw.raft.election_elapsed = 0;
            // It refuses nothing of its own.
            let _ = self.raw.raft.step(message);
            self.draw_election_timeout();
        } else {
            self.raw.raft.election_elapsed += 1;
        }
        if !self.is_leader() {
            return true;
        }
        let raft = &self.raw.raft;
        let committed = raft.raft_log.committed;
        if !self.is_beat_due() {
            return false;
        }
        for (to, progress) in raft.prs().iter().filter(|(to, _)| **to != raft.id) {
            let (group, commit) = (self.spec.group.0, progress.matched.min(committed));
            beats(Beat { group, to: *to, from: raft.id, term: raft.term, commit });
        }
        false
    }

    /// Whether a follower lacks something, or has not been heard of since the leader began to count, or if it is time for all.
    fn is_beat_due(&self) -> bool {
        let raft = &self.raw.raft;
        let interval = beat_ticks(raft.election_timeout());
        let is_time =
            raft.election_elapsed.is_multiple_of(interval) && raft.election_elapsed + interval <= raft.election_timeout();
        is_time || raft.prs().iter().any(|(id, progress)| *id != raft.id && !self.has_all(progress))
    }

    /// Whether a follower has everything, knows that it is committed, and was heard of.
    pub(crate) fn has_all(&self, progress: &Progress) -> bool {
        let log = &self.raw.raft.raft_log;
        progress.recent_active && progress.matched == log.last_index() && progress.committed_index == log.committed
    }

    /// Whether this is the tick at which a leader looks whom it heard of, and begins to count anew.
    pub(crate) fn counts_anew(&self) -> bool {
        let raft = &self.raw.raft;
        raft.state == StateRole::Leader && raft.election_elapsed + 1 >= raft.election_timeout()
    }

    /// Takes a leader's beat. The answer, if raft-rs would do nothing but answer, and at once; else nothing happened.
    fn answer(&mut self, beat: &Beat) -> Option<Beat> {
        let is_durable = self.is_durable();
        let raft = &mut self.raw.raft;
        let is_mine = raft.id == beat.to && raft.term == beat.term;
        let is_followed = is_mine && raft.state == StateRole::Follower && raft.leader_id == beat.from;
        let committed = raft.raft_log.committed;
        if !is_followed
            || beat.from == INVALID_ID
            || !is_durable
            || beat.commit > committed
            || raft.pending_request_snapshot != INVALID_INDEX
        {
            return None;
        }
        raft.election_elapsed = 0;
        Some(Beat { group: beat.group, to: beat.from, from: beat.to, term: beat.term, commit: committed })
    }

    /// Takes the answer to a beat. False if raft-rs would do more than note that the follower is there; then nothing happened.
    fn hear(&mut self, answer: &Beat) -> bool {
        let raft = &mut self.raw.raft;
        let last_index = raft.raft_log.last_index();
        let is_mine = raft.id == answer.to && raft.term == answer.term && raft.id != answer.from;
        if !is_mine || raft.state != StateRole::Leader {
            return false;
        }
        let Some(progress) = raft.mut_prs().get_mut(answer.from) else {
            return false;
        };
        let is_behind = progress.matched < last_index || progress.pending_request_snapshot != INVALID_INDEX;
        if is_behind || (progress.state == ProgressState::Replicate && progress.ins.full()) {
            return false;
        }
        progress.update_committed(answer.commit);
        progress.recent_active = true;
        progress.resume();
        true
    }
}

/// The message that a beat stands for.
fn message(beat: &Beat, direction: Direction) -> Message {
    let mut message = Message { to: beat.to, from: beat.from, term: beat.term, commit: beat.commit, ..Message::default() };
    message.set_msg_type(match direction {
        Direction::Out => MessageType::MsgHeartbeat,
        Direction::Back => MessageType::MsgHeartbeatResponse,
    });
    message
}
